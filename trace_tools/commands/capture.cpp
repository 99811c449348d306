// kvreplay capture: reads a text with a model and writes the trace.
#include "core/model/capture.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <system_error>

#include "core/base/text.h"
#include "core/model/chat_template.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

namespace fs = std::filesystem;

std::string read_file(const std::string& path, const char* option) {
  std::error_code failure;
  if (!fs::is_regular_file(path, failure))
    throw Error(path, "is not a file", std::string("give ") + option + " a file that can be read");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    if (fs::file_size(path, failure) != 0 || failure) throw Error(path, "cannot be read");
  }
  return text.str();
}

// Numbers between white space.
std::vector<std::int32_t> read_ids(const std::string& path) {
  const std::string text = read_file(path, "--ids");
  std::vector<std::int32_t> ids;
  constexpr std::string_view space = " \t\r\n\v\f";
  for (std::size_t at = text.find_first_not_of(space); at != std::string::npos; at = text.find_first_not_of(space, at)) {
    const std::size_t end = std::min(text.find_first_of(space, at), text.size());
    std::int32_t id = 0;
    const auto [stop, code] = std::from_chars(text.data() + at, text.data() + end, id);
    if (code != std::errc() || stop != text.data() + end)
      throw Error(path, "\"" + printable(text.substr(at, std::min<std::size_t>(end - at, 32))) + "\" is not a token id",
                  "a file of ids holds whole numbers between white space");
    ids.push_back(id);
    at = end;
  }
  if (ids.empty()) throw Error(path, "has no token ids");
  return ids;
}

// [{"start": 0, "end": 12, "label": "needle"}, ...], in token positions.
std::vector<TextSpan> read_spans(const std::string& path) {
  const auto json = nlohmann::json::parse(read_file(path, "--spans"), nullptr, false);
  if (!json.is_array())
    throw Error(path, "is not a JSON list", "spans are [{\"start\": 0, \"end\": 12, \"label\": \"needle\"}, ...]");
  std::vector<TextSpan> spans;
  for (const auto& entry : json) {
    const std::string where = path + ": span " + std::to_string(spans.size());
    const auto position = [&](const char* key) {
      const bool given = entry.is_object() && entry.contains(key) && entry.at(key).is_number_integer();
      const std::int64_t value = given ? entry.at(key).get<std::int64_t>() : -1;
      if (value < 0 || value > std::numeric_limits<int>::max())
        throw Error(where, "needs \"" + std::string(key) + "\", a token position");
      return static_cast<int>(value);
    };
    TextSpan span{position("start"), position("end"), ""};
    if (!entry.contains("label") || !entry.at("label").is_string()) throw Error(where, "needs \"label\", a string");
    span.label = entry.at("label").get<std::string>();
    spans.push_back(std::move(span));
  }
  return spans;
}

// "3" or "0-7", both ends included.
std::vector<int> parse_layers(const std::string& text) {
  int first = 0, last = 0;
  const char* end = text.data() + text.size();
  auto result = std::from_chars(text.data(), end, first);
  last = first;
  if (result.ec == std::errc() && result.ptr != end && *result.ptr == '-')
    result = std::from_chars(result.ptr + 1, end, last);
  if (result.ec != std::errc() || result.ptr != end || first < 0 || last < first || last > 999)
    throw Error("--layers", "\"" + text + "\" is not understood", "give one layer, or the first and the last: 0-7");
  std::vector<int> layers;
  for (int layer = first; layer <= last; ++layer) layers.push_back(layer);
  return layers;
}

ElementType parse_dtype(const std::string& text) {
  if (text == "f16" || text == "float16") return ElementType::float16;
  if (text == "f32" || text == "float32") return ElementType::float32;
  if (text == "bf16" || text == "bfloat16") return ElementType::bfloat16;
  throw Error("--dtype", "\"" + text + "\" is not understood", "give f16, f32 or bf16");
}

// The command as it would be given for the first time: a resumed capture gives the same file.
std::string without_resume(std::string command) {
  const std::string flag = " --resume";
  const std::size_t at = command.find(flag);
  if (at != std::string::npos) command.erase(at, flag.size());
  return command;
}

bool has_tokenizer_files(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name == "tokenizer.json" || name == "vocab.json" || name.find("tokenizer.model") != std::string::npos) return true;
  }
  return false;
}

class Announcement final : public CaptureStart {
 public:
  Announcement(const std::string& out, bool silent) : out_(out), silent_(silent) {}
  void on_start(const TraceLayout& layout, std::int64_t predicted_bytes) override {
    if (silent_) return;
    std::printf("%s: %lld tokens, %zu layers, %s\n", out_.c_str(), static_cast<long long>(layout.tokens),
                layout.layers.size(), format_bytes(static_cast<double>(predicted_bytes)).c_str());
    std::fflush(stdout);
  }

 private:
  std::string out_;
  bool silent_;
};

class CaptureCommand final : public Command {
 public:
  std::string_view name() const override { return "capture"; }
  std::string_view summary() const override { return "read a text with a model and write what attention saw to a trace"; }
  std::string_view usage() const override {
    return "--model DIR (--prompt FILE | --text S | --ids FILE) --out T.h5 [options]";
  }
  std::string_view description() const override {
    return "Runs a model from a Hugging Face directory (config.json, *.safetensors, a tokenizer) on the CPU and writes "
           "keys,\n"
           "values and queries after RoPE, log-sum-exps, head outputs, column sums of the attention, the loss of every "
           "token\n"
           "and W_o to a trace file. Size and free space are checked first. While it runs, everything is in T.h5.partial;\n"
           "a capture that was cut off goes on with --resume. An existing T.h5 is replaced when the capture is done.\n"
           "\n"
           "  kvreplay capture --model models/m --prompt story.txt --generate 64 --out t.h5\n"
           "  kvreplay capture --model models/m --prompt story.txt --repeat-pass --out t.h5\n"
           "  kvreplay capture --model models/m --ids ids.txt --prompt-length 1000 --queries window:64 --out t.h5\n";
  }

  void declare(options::options_description& visible, options::options_description&,
               options::positional_options_description&) const override {
    const auto text = [](const char* value) { return options::value<std::string>()->value_name(value); };
    visible.add_options()("model", text("DIR"), "the model's directory");
    visible.add_options()("prompt", text("FILE"), "the text to read, UTF-8");
    visible.add_options()("text", text("S"), "the text itself");
    visible.add_options()("ids", text("FILE"),
                          "token ids between white space instead of a text: no BOS is added, no tokenizer is needed");
    visible.add_options()(
        "prompt-length", options::value<std::int64_t>()->value_name("P"),
        "the first P tokens are the prompt, the others are given as if generated (default: all are the prompt)");
    visible.add_options()("generate", options::value<std::int64_t>()->value_name("N")->default_value(0),
                          "let the model add up to N tokens, the most likely one each time");
    visible.add_options()("chat", "put the text into the model's chat template as the user's message");
    visible.add_options()("queries", text("all|window:W")->default_value("all"),
                          "whose queries to record: all, or the last W of the prompt and every later one");
    visible.add_options()("attention", text("none|window:W|all")->default_value("none"),
                          "whose rows of attention weights to record (all: T x T a head)");
    visible.add_options()(
        "dtype", text("f16|f32|bf16")->default_value("f16"),
        "of keys, values, queries and W_o; with f32 attention and head outputs are float32 too, else float16");
    visible.add_options()("layers", text("A-B"), "capture these layers only, counted from 0 (default: all)");
    visible.add_options()(
        "spans", text("FILE"),
        "marked stretches of the text: JSON, [{\"start\": 0, \"end\": 12, \"label\": \"needle\"}, ...] in token positions");
    visible.add_options()(
        "repeat-pass",
        "let the model read the context once more while it is asked to repeat it, and record that: for the "
        "policy kvzip. The context is what is marked \"context\" (--spans), else the text without the chat "
        "template or BOS");
    visible.add_options()("repeat-chunk", options::value<std::int64_t>()->value_name("N")->default_value(2048),
                          "tokens that it is asked to repeat at a time");
    visible.add_options()("out", text("T.h5"), "the trace to write");
    visible.add_options()("resume", "go on with T.h5.partial of a capture that was cut off");
  }

  int run(const Invocation& call) const override {
    const auto text = [&](const char* key) { return call.values.count(key) != 0 ? call.values[key].as<std::string>() : ""; };
    check_usage(call);
    CaptureRequest request = request_of(call);
    const std::string directory = text("model"), out = text("out");
    const Engine engine = Engine::load(directory);
    const bool by_ids = call.values.count("ids") != 0;
    std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(directory, by_ids, call.job);
    request.stop_ids = engine.config().end_of_text_ids;
    if (by_ids) {
      request.ids = read_ids(text("ids"));
    } else {
      encode_text(call.values.count("text") != 0 ? text("text") : read_file(text("prompt"), "--prompt"), directory,
                  call.values.count("chat") != 0, *tokenizer, request);
    }
    request.prompt_length = std::ssize(request.ids);
    if (call.values.count("prompt-length") != 0) request.prompt_length = call.values["prompt-length"].as<std::int64_t>();
    if (std::ssize(request.ids) + request.generate > engine.config().max_positions)
      call.job.warn("the model was made for " + std::to_string(engine.config().max_positions) + " positions; this is " +
                    std::to_string(std::ssize(request.ids) + request.generate));
    if (call.values.count("repeat-pass") != 0) add_repeat_pass(call, directory, tokenizer.get(), request);
    Announcement announcement(out, call.json);
    const CaptureResult result =
        capture(engine, tokenizer.get(), request, out, call.values.count("resume") != 0, &announcement, call.job);
    call.json ? print_json(out, request, tokenizer.get(), result) : print_summary(out, request, tokenizer.get(), result);
    return 0;
  }

 private:
  static void check_usage(const Invocation& call) {
    const std::string help = "`kvreplay capture --help` lists the options";
    for (const char* needed : {"model", "out"})
      if (call.values.count(needed) == 0)
        throw UsageError("kvreplay capture", std::string("--") + needed + " is missing", help);
    std::size_t sources = 0;
    for (const char* source : {"prompt", "text", "ids"}) sources += call.values.count(source);
    if (sources != 1)
      throw UsageError("kvreplay capture", sources == 0 ? "a text is missing" : "more than one text is given",
                       "give one of --prompt FILE, --text S and --ids FILE");
    if (call.values.count("chat") != 0 && call.values.count("ids") != 0)
      throw UsageError("kvreplay capture", "--chat needs a text, and --ids gives none");
  }

  static CaptureRequest request_of(const Invocation& call) {
    const auto text = [&](const char* key) { return call.values[key].as<std::string>(); };
    CaptureRequest request;
    request.generate = call.values["generate"].as<std::int64_t>();
    constexpr std::int64_t most = 1 << 24;
    if (request.generate < 0 || request.generate > most)
      throw Error("--generate", "must be from 0 to " + std::to_string(most));
    request.queries = PositionSelection::parse("--queries", text("queries"), false);
    request.attention = PositionSelection::parse("--attention", text("attention"), true);
    request.dtype = parse_dtype(text("dtype"));
    if (call.values.count("layers") != 0) request.layers = parse_layers(text("layers"));
    if (call.values.count("spans") != 0) request.spans = read_spans(text("spans"));
    request.command = without_resume(call.command_line);
    return request;
  }

  // With --ids a tokenizer only adds the texts of the tokens.
  static std::unique_ptr<Tokenizer> load_tokenizer(const std::string& directory, bool optional, Job& job) {
    if (!optional) return Tokenizer::load(directory);
    if (!has_tokenizer_files(directory)) return nullptr;
    try {
      return Tokenizer::load(directory);
    } catch (const Error& error) {
      job.warn(std::string("the trace will have no texts of tokens: ") + error.what());
      return nullptr;
    }
  }

  static void encode_text(const std::string& text, const std::string& directory, bool chat, const Tokenizer& tokenizer,
                          CaptureRequest& request) {
    if (!chat) {
      request.ids = tokenizer.encode(text, tokenizer.adds_bos());
      return;
    }
    const ChatTemplate form = ChatTemplate::detect(directory, tokenizer);
    if (form.family == ChatFamily::none)
      throw Error("--chat", "the model has no chat template that is known", "leave --chat out for a base model");
    request.ids = form.apply({{"user", text}}, tokenizer);
    request.prompt_template = chat_family_name(form.family);
    for (const auto id : form.stop_tokens(tokenizer))
      if (std::ranges::find(request.stop_ids, id) == request.stop_ids.end()) request.stop_ids.push_back(id);
  }

  static void add_repeat_pass(const Invocation& call, const std::string& directory, const Tokenizer* tokenizer,
                              CaptureRequest& request) {
    if (tokenizer == nullptr)
      throw Error("--repeat-pass", "needs a tokenizer, to ask the model", "add one to the model's directory");
    RepeatRequest repeat = RepeatRequest::with_tokenizer(*tokenizer);
    repeat.chunk = call.values["repeat-chunk"].as<std::int64_t>();
    if (repeat.chunk < 1) throw Error("--repeat-chunk", "must be at least 1");
    repeat.context_end = request.prompt_length;
    const bool begins_with_bos = tokenizer->bos() && !request.ids.empty() && request.ids.front() == *tokenizer->bos();
    repeat.context_begin = begins_with_bos && request.prompt_length > 1 ? 1 : 0;
    if (call.values.count("chat") != 0) {
      const ChatTemplate form = ChatTemplate::detect(directory, *tokenizer);
      const auto [head, tail] = template_around(form, *tokenizer);
      repeat.context_begin = std::ssize(head);
      repeat.context_end = std::max<std::int64_t>(repeat.context_begin, std::ssize(request.ids) - std::ssize(tail));
      repeat.suffix = tail;
    } else {
      repeat.suffix = tokenizer->encode("\n\n", false);
    }
    for (const TextSpan& span : request.spans)
      if (span.label == "context") {
        repeat.context_begin = span.start;
        repeat.context_end = std::min<std::int64_t>(span.end, request.prompt_length);
        break;
      }
    request.repeat = repeat;
  }

  // The ids that a chat template puts before and after the user's text: what two conversations have in common.
  static std::pair<std::vector<std::int32_t>, std::vector<std::int32_t>> template_around(const ChatTemplate& form,
                                                                                         const Tokenizer& tokenizer) {
    const auto a = form.apply({{"user", "1"}}, tokenizer), b = form.apply({{"user", "x"}}, tokenizer);
    const auto head = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
    const auto tail = std::mismatch(a.rbegin(), a.rend() - (head - a.begin()), b.rbegin(), b.rend()).first;
    return {{a.begin(), head}, {tail.base(), a.end()}};
  }

  static std::string generated_text(const Tokenizer* tokenizer, const CaptureResult& result) {
    std::string text;
    if (tokenizer != nullptr)
      for (const auto id : result.generated)
        if (!tokenizer->is_special(id)) text += tokenizer->token_bytes(id);
    return text;
  }

  static void print_summary(const std::string& out, const CaptureRequest& request, const Tokenizer* tokenizer,
                            const CaptureResult& result) {
    const double given = static_cast<double>(request.ids.size()), added = static_cast<double>(result.generated.size());
    std::printf("read %zu tokens in %s (%.0f tokens/s)", request.ids.size(), format_seconds(result.prompt_seconds).c_str(),
                given / std::max(1e-9, result.prompt_seconds));
    if (added > 0)
      std::printf(", generated %zu in %s (%.0f tokens/s)%s", result.generated.size(),
                  format_seconds(result.generation_seconds).c_str(), added / std::max(1e-9, result.generation_seconds),
                  result.stopped_early ? ", ended by the model" : "");
    std::printf("\n%s: %s\n", out.c_str(), format_bytes(static_cast<double>(result.bytes)).c_str());
    if (added > 0 && tokenizer != nullptr)
      std::printf("generated: %s\n", printable(generated_text(tokenizer, result)).c_str());
    if (added > 0 && tokenizer == nullptr) {
      std::printf("generated ids:");
      for (const auto id : result.generated) std::printf(" %d", id);
      std::printf("\n");
    }
  }

  static void print_json(const std::string& out, const CaptureRequest& request, const Tokenizer* tokenizer,
                         const CaptureResult& result) {
    nlohmann::ordered_json json;
    json["out"] = out;
    json["tokens"] = request.ids.size() + result.generated.size();
    json["prompt_length"] = request.prompt_length;
    json["resumed_at"] = result.resumed_at;
    json["predicted_bytes"] = result.predicted_bytes;
    json["bytes"] = result.bytes;
    json["prompt_seconds"] = result.prompt_seconds;
    json["generation_seconds"] = result.generation_seconds;
    json["tokens_per_second"] = static_cast<double>(request.ids.size()) / std::max(1e-9, result.prompt_seconds);
    json["generated_ids"] = result.generated;
    if (tokenizer != nullptr) json["generated_text"] = generated_text(tokenizer, result);
    json["stopped_early"] = result.stopped_early;
    std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
};

}  // namespace

const Command& capture_command() {
  static const CaptureCommand command;
  return command;
}

}  // namespace kvreplay::cli

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "core/trace/synthetic.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {
namespace {

ElementType parse_type(const std::string& text) {
  if (text == "f16") return ElementType::float16;
  if (text == "f32") return ElementType::float32;
  if (text == "bf16") return ElementType::bfloat16;
  throw Error("--dtype", "\"" + text + "\" is no element type", "give f16, f32 or bf16");
}

SyntheticParameters::OutputProjection parse_projection(const std::string& text) {
  using OutputProjection = SyntheticParameters::OutputProjection;
  if (text == "full") return OutputProjection::full;
  if (text == "gram") return OutputProjection::gram;
  if (text == "none") return OutputProjection::none;
  throw Error("--output-projection", "\"" + text + "\" is no form of W_o", "give full, gram or none");
}

std::optional<std::int64_t> parse_queries(const std::string& text) {
  if (text == "all") return std::nullopt;
  if (text.starts_with("window:")) {
    std::int64_t window = -1;
    const char* end = text.data() + text.size();
    const auto [parsed, error] = std::from_chars(text.data() + 7, end, window);
    if (error == std::errc() && parsed == end && window >= 0) return window;
  }
  throw Error("--queries", "\"" + text + "\" names no queries", "give all, or window:W for the last W of the prompt");
}

class SynthCommand final : public Command {
 public:
  std::string_view name() const override { return "synth"; }
  std::string_view summary() const override { return "make a trace of any size without a model"; }
  std::string_view usage() const override { return "--out T.h5 [options]"; }
  std::string_view description() const override {
    return "Writes a trace whose attention looks like a language model's: sinks, heavy hitters, locality, a focus that "
           "drifts\n"
           "between topics, a needle that only the question at the end of the prompt looks for, and groups of near copies. "
           "Each\n"
           "draws a share of the attention that is an option; what is left is spread over all tokens. The same seed gives "
           "the\n"
           "same numbers, whatever the number of threads.\n"
           "\n"
           "  kvreplay synth --out small.h5\n"
           "      8 layers, 8 query heads over 2 KV heads, 4,096 tokens and 64 generated ones: 55 MB, a second\n"
           "  kvreplay synth --out needle.h5 --needle 16 --needle-depth 0.1 --needle-mass 0.7\n"
           "      which policies keep a needle early in the text? replay with --metrics evidence_recall\n"
           "  kvreplay synth --out copies.h5 --copy-groups 16 --copies 8 --heavy-mass 0.3\n"
           "      facts that stand in the text eight times: evicting some costs nothing, evicting all does\n"
           "  kvreplay synth --out drift.h5 --decode 512 --drift 12 --focus-mass 0.4\n"
           "      the focus moves on while generating, so that what the prompt's end pointed at goes stale\n"
           "  kvreplay synth --out large.h5 --layers 32 --query-heads 32 --kv-heads 8 --head-dim 128 --prompt 131072 \\\n"
           "                 --queries window:512 --output-projection gram\n"
           "      the size of an 8-billion model's cache at 128k tokens: 18 GB, written with 200 MB of memory\n"
           "\n"
           "The size is told before the first byte is written (--dry-run: told alone). Query positions are `all`, or "
           "`window:W`\n"
           "for the last W of the prompt; generated tokens always have theirs. Policies that add up all of the prompt's "
           "attention\n"
           "(H2O) need all. The spans \"needle\" and \"question\" are marked, and each token's text says what it is "
           "(\"heavy\",\n"
           "\"topic3\", \"copy0\", ...), so that reports show what was evicted.";
  }

  void declare(options::options_description& visible, options::options_description&,
               options::positional_options_description&) const override {
    const SyntheticParameters p;
    const auto integer = [](auto value, const char* name) {
      return options::value<std::int64_t>()->default_value(static_cast<std::int64_t>(value))->value_name(name);
    };
    const auto real = [](double value, const char* name) {
      return options::value<double>()->default_value(value, format_number(value))->value_name(name);
    };
    const auto text = [](const char* value, const char* name) {
      return options::value<std::string>()->default_value(value)->value_name(name);
    };
    visible.add_options()                                                                                        //
        ("out", options::value<std::string>()->value_name("T.h5"), "the trace to write")                         //
        ("dry-run", "say how large the file would be, and write nothing")                                        //
        ("seed", integer(p.seed, "N"), "another seed, another trace")                                            //
        ("layers", integer(p.layers, "L"), "layers")                                                             //
        ("query-heads", integer(p.query_heads, "Hq"), "query heads, a multiple of --kv-heads")                   //
        ("kv-heads", integer(p.kv_heads, "Hk"), "key-value heads")                                               //
        ("head-dim", integer(p.head_dim, "d"), "dimension of a head, even")                                      //
        ("hidden", integer(p.hidden_size, "C"), "hidden size; 0: Hq * d")                                        //
        ("prompt", integer(p.prompt, "P"), "tokens of the prompt")                                               //
        ("decode", integer(p.decode, "S"), "generated tokens")                                                   //
        ("queries", text("all", "WHICH"), "recorded queries: all, or window:W")                                  //
        ("dtype", text("f16", "TYPE"), "f16, f32 or bf16")                                                       //
        ("output-projection", text("full", "FORM"), "full, gram (enough for reconstruction scores), none")       //
        ("attention-statistics", "compute log_sum_exp, column sums and head outputs: time grows with T * T")     //
        ("sinks", integer(p.sinks, "N"), "first tokens that are sinks")                                          //
        ("sink-mass", real(p.sink_mass, "X"), "share of the attention that sinks draw")                          //
        ("local-mass", real(p.local_mass, "X"), "share of the tokens just before the query")                     //
        ("heavy-mass", real(p.heavy_mass, "X"), "share of the heavy hitters")                                    //
        ("heavy-share", real(p.heavy_share, "X"), "which share of the tokens are heavy hitters")                 //
        ("focus-mass", real(p.focus_mass, "X"), "share of the tokens of the topic in focus")                     //
        ("topics", integer(p.topics, "N"), "topics of the text")                                                 //
        ("segment", integer(p.segment, "N"), "tokens before the topic changes, on average")                      //
        ("drift", integer(p.drift, "N"), "topics that the focus moves through while generating")                 //
        ("needle", integer(p.needle, "N"), "tokens of the needle; 0: none")                                      //
        ("needle-depth", real(p.needle_depth, "X"), "where in the prompt it is, 0 to 1")                         //
        ("needle-mass", real(p.needle_mass, "X"), "share that it draws in heads that retrieve, once asked for")  //
        ("question", integer(p.question, "N"), "last tokens of the prompt, which ask for it")                    //
        ("copy-groups", integer(p.copy_groups, "N"), "groups of near copies; 0: none")                           //
        ("copies", integer(p.copies, "N"), "tokens in each group");
  }

  int run(const Invocation& call) const override {
    if (call.values.count("out") == 0) throw UsageError("--out", "is missing", "name the trace to write: --out T.h5");
    const SyntheticParameters parameters = parse(call.values);
    check(parameters);
    const std::string path = call.values["out"].as<std::string>();
    const bool writes = call.values.count("dry-run") == 0;
    std::int64_t bytes = 0;
    const auto tell = [&](std::int64_t predicted_bytes) {
      bytes = predicted_bytes;
      if (call.json) return;
      std::printf("%s: %lld tokens, %lld of them generated, %d layers, %d query heads over %d KV heads, seed %llu, %s%s\n",
                  path.c_str(), static_cast<long long>(parameters.prompt + parameters.decode),
                  static_cast<long long>(parameters.decode), parameters.layers, parameters.query_heads, parameters.kv_heads,
                  static_cast<unsigned long long>(parameters.seed), format_bytes(static_cast<double>(bytes)).c_str(),
                  writes ? "" : " (not written)");
      std::fflush(stdout);
    };
    if (writes) {
      write_synthetic(path, parameters, call.job, call.command_line, tell);
    } else {
      tell(TraceWriter::predicted_size(synthetic_layout(parameters)));
    }
    if (call.json) {
      const nlohmann::json out = {{"out", path},
                                  {"predicted_bytes", bytes},
                                  {"written", writes},
                                  {"tokens", parameters.prompt + parameters.decode},
                                  {"prompt_length", parameters.prompt},
                                  {"seed", parameters.seed}};
      std::printf("%s\n", out.dump(2).c_str());
    }
    return 0;
  }

 private:
  static SyntheticParameters parse(const options::variables_map& values) {
    const auto integer = [&](const char* name) { return values[name].as<std::int64_t>(); };
    const auto small = [&](const char* name) {
      const std::int64_t value = integer(name);
      if (value < 0 || value > 1 << 24) throw Error(std::string("--") + name, "is out of range");
      return static_cast<int>(value);
    };
    const auto real = [&](const char* name) { return values[name].as<double>(); };
    SyntheticParameters p;
    p.layers = small("layers");
    p.query_heads = small("query-heads");
    p.kv_heads = small("kv-heads");
    p.head_dim = small("head-dim");
    p.hidden_size = small("hidden");
    p.prompt = integer("prompt");
    p.decode = integer("decode");
    p.query_window = parse_queries(values["queries"].as<std::string>());
    p.type = parse_type(values["dtype"].as<std::string>());
    p.seed = static_cast<std::uint64_t>(integer("seed"));
    p.sinks = small("sinks");
    p.sink_mass = real("sink-mass");
    p.local_mass = real("local-mass");
    p.heavy_mass = real("heavy-mass");
    p.heavy_share = real("heavy-share");
    p.focus_mass = real("focus-mass");
    p.topics = small("topics");
    p.segment = integer("segment");
    p.drift = small("drift");
    p.needle = integer("needle");
    p.needle_depth = real("needle-depth");
    p.needle_mass = real("needle-mass");
    p.question = integer("question");
    p.copy_groups = small("copy-groups");
    p.copies = small("copies");
    p.output_projection = parse_projection(values["output-projection"].as<std::string>());
    p.attention_statistics = values.count("attention-statistics") != 0;
    return p;
  }
};

}  // namespace

const Command& synth_command() {
  static const SynthCommand command;
  return command;
}

}  // namespace kvreplay::cli

#include "core/model/capture.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t commit_every = 16;  // generated tokens; each commit rewrites the last chunk of every dataset

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string selection_text(const PositionSelection& selection) {
  switch (selection.kind) {
    case PositionSelection::Kind::none: return "none";
    case PositionSelection::Kind::window: return "window:" + std::to_string(selection.window);
    case PositionSelection::Kind::all: break;
  }
  return "all";
}

std::string ids_sha256(std::span<const std::int32_t> ids) {
  Sha256 hash;
  hash.update(ids.data(), ids.size_bytes());
  return hash.hex();
}

std::string make_manifest(const Engine& engine, const Tokenizer* tokenizer, const CaptureRequest& request,
                          const std::string& weights_sha256) {
  const ModelConfig& config = engine.config();
  nlohmann::ordered_json manifest;
  manifest["model"] = {{"name", config.name}, {"architecture", config.architecture}, {"weights_sha256", weights_sha256}};
  manifest["tokenizer"] = nullptr;
  if (tokenizer != nullptr)
    manifest["tokenizer"] = {{"description", tokenizer->description()}, {"sha256", tokenizer->sha256()}};
  manifest["prompt_template"] = request.prompt_template;
  manifest["given_ids_sha256"] = ids_sha256(request.ids);  // of the ids as little-endian int32
  manifest["end_of_text_ids"] = request.stop_ids;
  manifest["truncation"] = "none";
  manifest["generation"] = {{"method", "greedy"}, {"requested", request.generate}};
  manifest["dtype"] = element_type_name(request.dtype);
  manifest["compute_dtype"] = "float32";
  manifest["attention_path"] = "exact softmax of each row, blocks of " + std::to_string(ReadOptions{}.block) + " queries, " +
                               kernels::instruction_set();
  manifest["queries"] = selection_text(request.queries);
  manifest["attention"] = selection_text(request.attention);
  if (request.repeat)
    manifest["repeat_pass"] = {{"context", {request.repeat->context_begin, request.repeat->context_end}},
                               {"chunk", request.repeat->chunk},
                               {"first", request.repeat->first},
                               {"next", request.repeat->next},
                               {"postfix", request.repeat->postfix},
                               {"suffix", request.repeat->suffix}};
  manifest["seed"] = nullptr;  // nothing is random
  manifest["program"] = program_version();
  manifest["command"] = request.command;
  return manifest.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::int64_t longest_token(const Tokenizer& tokenizer) {
  std::size_t longest = 1;
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id)
    longest = std::max(longest, tokenizer.token_bytes(id).size());
  return static_cast<std::int64_t>(longest);
}

// Exact for the given tokens, the longest token's length for each that is generated.
std::int64_t text_bytes(const Tokenizer& tokenizer, const CaptureRequest& request) {
  std::int64_t bytes = request.generate > 0 ? request.generate * longest_token(tokenizer) : 0;
  for (const auto id : request.ids) bytes += static_cast<std::int64_t>(tokenizer.token_bytes(id).size());
  return bytes;
}

std::vector<std::int32_t> prompt_of(const CaptureRequest& request) {
  return {request.ids.begin(), request.ids.begin() + request.prompt_length};
}

void check_request(const ModelConfig& config, const CaptureRequest& request) {
  const auto given = static_cast<std::int64_t>(request.ids.size());
  if (given == 0) throw Error("the prompt", "has no tokens");
  if (request.prompt_length < 1 || request.prompt_length > given)
    throw Error("--prompt-length", "must be from 1 to " + std::to_string(given) + ", the number of given tokens");
  for (const auto id : request.ids)
    if (id < 0 || id >= config.vocabulary_size)
      throw Error("token " + std::to_string(id),
                  "is outside the model's vocabulary of " + std::to_string(config.vocabulary_size) + " tokens");
  for (const int layer : request.layers)
    if (layer < 0 || layer >= config.num_layers)
      throw Error("--layers", "layer " + std::to_string(layer) + " is not in the model, which has layers 0 to " +
                                  std::to_string(config.num_layers - 1));
  const std::int64_t tokens = given + request.generate;
  for (const auto& span : request.spans)
    if (span.start < 0 || span.end <= span.start || span.end > tokens)
      throw Error("--spans", "\"" + printable(span.label) + "\" (" + std::to_string(span.start) + " to " +
                                 std::to_string(span.end) + ") is no stretch of the " + std::to_string(tokens) + " tokens");
}

// Rows [from, n) of [heads, n, columns], copied only where that is not everything.
class RowSlice {
 public:
  TensorView<const float, 3> operator()(TensorView<const float, 3> rows, std::int64_t from) {
    if (from <= 0) return rows;
    const std::int64_t count = rows.dim(1) - from;
    copy_ = Tensor<float, 3>({rows.dim(0), count, rows.dim(2)});
    for (std::int64_t h = 0; h < rows.dim(0); ++h) std::copy_n(&rows(h, from, 0), count * rows.dim(2), &copy_(h, 0, 0));
    return copy_.view();
  }

 private:
  Tensor<float, 3> copy_;
};

// Hands what the engine shows to the writer, from the first token on that the file does not hold yet.
class CaptureObserver final : public EngineObserver {
 public:
  CaptureObserver(TraceWriter& writer, const TraceLayout& layout, const Tokenizer* tokenizer,
                  std::vector<std::int32_t> known_ids, Job& job)
      : writer_(writer),
        layout_(layout),
        tokenizer_(tokenizer),
        known_ids_(std::move(known_ids)),
        held_(writer.committed()),
        job_(job),
        first_query_(layout.query_positions.front()),
        first_attention_(layout.attention_positions.empty() ? layout.tokens : layout.attention_positions.front()) {
    index_.resize(static_cast<std::size_t>(layout.model.num_layers), -1);
    for (std::size_t i = 0; i < layout.layers.size(); ++i)
      index_[static_cast<std::size_t>(layout.layers[i])] = static_cast<int>(i);
    for (std::size_t i = 0; i < layout.layers.size(); ++i)
      column_sums_.push_back(Tensor<float, 3>({1, layout.model.num_query_heads, layout.tokens}, 0.0F));
  }

  bool wants_layer(int layer) const override { return index_[static_cast<std::size_t>(layer)] >= 0; }
  bool wants_attention(std::int64_t position) const override { return position >= std::max(first_attention_, held_); }
  std::int64_t column_sum_end() const override { return layout_.prompt_length; }
  bool wants_nll() const override { return true; }

  void on_layer(const LayerBlock& block) override {
    const auto index = static_cast<std::size_t>(index_[static_cast<std::size_t>(block.layer)]);
    write_rows(block, LayerDataset::key, block.key, 0);
    write_rows(block, LayerDataset::value, block.value, 0);
    write_rows(block, LayerDataset::query, block.query, first_query_);
    write_rows(block, LayerDataset::head_output, block.head_output, first_query_);
    write_log_sum_exp(block);
    if (block.first + block.count > std::max(first_attention_, held_))
      writer_.append(block.layer, LayerDataset::attention, block.attention);
    if (block.first < layout_.prompt_length)
      for (std::int64_t h = 0; h < block.query.dim(0); ++h)
        kernels::add_scaled(&column_sums_[index](0, h, 0), &block.attention_column_sum(h, 0), block.first + block.count, 1);
    const double share = static_cast<double>(block.layer + 1) / layout_.model.num_layers;
    job_.advance_to(static_cast<double>(block.first) + share * static_cast<double>(block.count));
  }

  void on_tokens(std::int64_t first, std::span<const std::int32_t> ids, std::span<const float> nll) override {
    const auto count = static_cast<std::int64_t>(ids.size());
    check_known(first, ids);
    if (first < layout_.prompt_length && first + count >= layout_.prompt_length) write_column_sums();
    const auto skipped = static_cast<std::size_t>(std::clamp<std::int64_t>(held_ - first, 0, count));
    if (skipped == ids.size()) return;
    std::vector<std::string> texts;
    if (tokenizer_ != nullptr)
      for (const auto id : ids.subspan(skipped)) texts.push_back(tokenizer_->token_bytes(id));
    writer_.append_tokens(first + static_cast<std::int64_t>(skipped), ids.subspan(skipped), nll.subspan(skipped), texts);
  }

  // Everything up to `tokens`, unless the file holds more already.
  void commit(std::int64_t tokens) {
    if (tokens > held_) writer_.commit(tokens);
  }

 private:
  void write_rows(const LayerBlock& block, LayerDataset which, TensorView<const float, 3> rows, std::int64_t first_stored) {
    check_storable(block, which, rows);
    const std::int64_t from = std::max(first_stored, held_) - block.first;
    if (from < block.count) writer_.append(block.layer, which, slice_(rows, from));
  }

  // A value that is not finite, or would not be as stored, ends the capture: no replay could use the trace.
  void check_storable(const LayerBlock& block, LayerDataset which, TensorView<const float, 3> rows) const {
    const bool half =
        (which == LayerDataset::head_output ? layout_.head_output_type : layout_.tensor_type) == ElementType::float16;
    constexpr float becomes_infinite_in_half = 65520;
    const float limit = half ? becomes_infinite_in_half : std::numeric_limits<float>::infinity();
    for (std::int64_t h = 0; h < rows.dim(0); ++h)
      for (std::int64_t i = 0; i < rows.dim(1); ++i) {
        if (std::ranges::all_of(rows[h][i].flat(), [limit](float x) { return std::abs(x) < limit; })) continue;
        const bool finite = std::ranges::all_of(rows[h][i].flat(), [](float x) { return std::isfinite(x); });
        throw Error(layout_.model.name + ": layer " + std::to_string(block.layer),
                    std::string(layer_dataset_name(which)) + " of token " + std::to_string(block.first + i) + ", head " +
                        std::to_string(h) + (finite ? " is too large for float16" : " is not a finite number"),
                    finite ? "capture with --dtype f32" : "the weights may be damaged");
      }
  }

  void write_log_sum_exp(const LayerBlock& block) {
    const std::int64_t from = std::max<std::int64_t>(0, std::max(first_query_, held_) - block.first);
    if (from >= block.count) return;
    const std::int64_t heads = block.log_sum_exp.dim(0);
    Tensor<float, 3> rows({1, heads, block.count - from});
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = from; i < block.count; ++i) rows(0, h, i - from) = block.log_sum_exp(h, i);
    writer_.append(block.layer, LayerDataset::log_sum_exp, rows);
  }

  void write_column_sums() {
    for (std::size_t i = 0; i < layout_.layers.size(); ++i)
      writer_.write_whole(layout_.layers[i], LayerDataset::attention_column_sum, column_sums_[i]);
    column_sums_.clear();
  }

  // A capture that goes on must repeat what was there; on other hardware a generation may take another turn.
  void check_known(std::int64_t first, std::span<const std::int32_t> ids) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto position = static_cast<std::size_t>(first) + i;
      if (position < known_ids_.size() && known_ids_[position] != ids[i])
        throw Error("--resume",
                    "token " + std::to_string(position) + " is " + std::to_string(ids[i]) + " now and was " +
                        std::to_string(known_ids_[position]),
                    "remove the .partial file and capture again");
    }
  }

  TraceWriter& writer_;
  const TraceLayout& layout_;
  const Tokenizer* tokenizer_;
  std::vector<std::int32_t> known_ids_;
  std::int64_t held_;
  Job& job_;
  std::int64_t first_query_, first_attention_;
  std::vector<int> index_;                     // of a layer among those captured, -1: not captured
  std::vector<Tensor<float, 3>> column_sums_;  // a captured layer: [1, Hq, T]
  RowSlice slice_;
};

// The ids that OUT.partial holds, once it is sure that the same request began it.
std::vector<std::int32_t> check_resumable(const std::string& out, const TraceLayout& layout) {
  const std::string partial = out + ".partial";
  std::error_code ignored;
  if (!std::filesystem::exists(partial, ignored))
    throw Error(partial, "does not exist: there is nothing to resume", "leave --resume out to begin a capture");
  const auto trace = open_trace(partial);
  auto before = nlohmann::json::parse(trace->manifest(), nullptr, false);
  auto now = nlohmann::json::parse(layout.manifest);
  if (!before.is_object()) throw Error(partial, "has no manifest", "remove it and capture again");
  std::vector<std::string> different;
  for (const auto& [key, value] : now.items())
    if (key != "command" && (!before.contains(key) || before.at(key) != value)) different.push_back(key);
  if (!different.empty())
    throw Error(partial, "was begun with another " + join(different, ", ", " and "),
                "repeat the command that began it, or remove it and capture again");
  return trace->token_ids();
}

TraceWriter open_writer(const std::string& out, const TraceLayout& layout, bool resume) {
  return resume ? TraceWriter::resume(out, layout) : TraceWriter::create(out, layout);
}

void write_projections(const Engine& engine, const TraceLayout& layout, TraceWriter& writer) {
  for (const int layer : layout.layers)
    writer.write_whole(layer, LayerDataset::output_projection, engine.output_projection(layer));
}

// The model's own continuation. Returns the tokens, the one that stops it included.
std::vector<std::int32_t> generate(const Engine& engine, const CaptureRequest& request, Sequence& sequence,
                                   CaptureObserver& observer, Job& job) {
  std::vector<std::int32_t> generated;
  while (static_cast<std::int64_t>(generated.size()) < request.generate) {
    const std::int32_t next = sequence.best_token();
    engine.read(sequence, {&next, 1}, observer, job);
    generated.push_back(next);
    if (sequence.size() % commit_every == 0) observer.commit(sequence.size());
    if (std::ranges::find(request.stop_ids, next) != request.stop_ids.end()) break;
  }
  return generated;
}

}  // namespace

PositionSelection PositionSelection::parse(const std::string& option, const std::string& text, bool none_allowed) {
  if (text == "all") return {Kind::all, 0};
  if (text == "none" && none_allowed) return {Kind::none, 0};
  constexpr std::string_view prefix = "window:";
  if (text.starts_with(prefix)) {
    const std::string number = text.substr(prefix.size());
    const bool digits = !number.empty() && number.size() < 10 && number.find_first_not_of("0123456789") == std::string::npos;
    if (digits && std::stoll(number) > 0) return {Kind::window, std::stoll(number)};
  }
  throw Error(option, "\"" + text + "\" is not understood",
              std::string("give ") + (none_allowed ? "none, " : "") + "window:W (W at least 1) or all");
}

std::vector<std::int32_t> PositionSelection::positions(std::int64_t prompt_length, std::int64_t tokens) const {
  std::vector<std::int32_t> result;
  if (kind == Kind::none) return result;
  const std::int64_t first = kind == Kind::all ? 0 : std::max<std::int64_t>(0, prompt_length - window);
  for (std::int64_t t = first; t < tokens; ++t) result.push_back(static_cast<std::int32_t>(t));
  return result;
}

TraceLayout capture_layout(const Engine& engine, const Tokenizer* tokenizer, const CaptureRequest& request) {
  const ModelConfig& config = engine.config();
  check_request(config, request);
  TraceLayout layout;
  layout.model = config.info();
  layout.model.weights_sha256 = engine.weights_sha256();
  layout.tokens = static_cast<std::int64_t>(request.ids.size()) + request.generate;
  layout.prompt_length = request.prompt_length;
  layout.layers = request.layers;
  if (layout.layers.empty())
    for (int layer = 0; layer < config.num_layers; ++layer) layout.layers.push_back(layer);
  for (const int layer : layout.layers)
    layout.sliding_window.push_back(config.sliding_window[static_cast<std::size_t>(layer)]);
  layout.query_positions = request.queries.positions(request.prompt_length, layout.tokens);
  layout.attention_positions = request.attention.positions(request.prompt_length, layout.tokens);
  layout.tensor_type = request.dtype;
  const bool exact = request.dtype == ElementType::float32;
  layout.attention_type = layout.head_output_type = exact ? ElementType::float32 : ElementType::float16;
  layout.text_bytes = tokenizer != nullptr ? text_bytes(*tokenizer, request) : -1;
  layout.spans = request.spans;
  if (request.repeat) layout.extension_bytes = repeat_bytes(repeat_readings(prompt_of(request), *request.repeat), layout);
  layout.manifest = make_manifest(engine, tokenizer, request, layout.model.weights_sha256);
  layout.created_by = program_version();
  layout.created_utc = utc_now();
  layout.command = request.command;
  return layout;
}

CaptureResult capture(const Engine& engine, const Tokenizer* tokenizer, const CaptureRequest& request,
                      const std::string& out, bool resume, CaptureStart* start, Job& job) {
  const TraceLayout layout = capture_layout(engine, tokenizer, request);
  std::vector<std::int32_t> known_ids;
  if (resume) known_ids = check_resumable(out, layout);
  TraceWriter writer = open_writer(out, layout, resume);
  CaptureResult result;
  result.resumed_at = writer.committed();
  known_ids.resize(static_cast<std::size_t>(std::min<std::int64_t>(result.resumed_at, std::ssize(known_ids))));
  result.predicted_bytes = TraceWriter::predicted_size(layout);
  if (start != nullptr) start->on_start(layout, result.predicted_bytes);

  job.begin("capturing", static_cast<double>(layout.tokens), "tokens");
  CaptureObserver observer(writer, layout, tokenizer, std::move(known_ids), job);
  write_projections(engine, layout, writer);
  std::vector<RepeatReading> readings;
  if (request.repeat) readings = repeat_readings(prompt_of(request), *request.repeat);
  std::int64_t room = layout.tokens;
  for (const RepeatReading& reading : readings)
    room = std::max<std::int64_t>(room, request.prompt_length + std::ssize(reading.ids));
  Sequence sequence = engine.start(room);
  const std::span<const std::int32_t> given(request.ids);
  const auto read = [&](std::span<const std::int32_t> ids) {
    const auto block = static_cast<std::size_t>(ReadOptions{}.block);
    for (std::size_t at = 0; at < ids.size(); at += block) {
      engine.read(sequence, ids.subspan(at, std::min(block, ids.size() - at)), observer, job);
      observer.commit(sequence.size());
    }
  };
  auto started = Clock::now();
  read(given.first(static_cast<std::size_t>(request.prompt_length)));
  read(given.subspan(static_cast<std::size_t>(request.prompt_length)));
  result.prompt_seconds = seconds_since(started);
  started = Clock::now();
  result.generated = generate(engine, request, sequence, observer, job);
  result.generation_seconds = seconds_since(started);
  result.stopped_early = std::ssize(result.generated) < request.generate;
  const std::int64_t tokens = sequence.size();
  if (request.repeat)
    capture_repeat_pass(engine, sequence, request.prompt_length, *request.repeat, readings, layout, writer, job);
  writer.finish(tokens);
  job.end();
  result.bytes = static_cast<std::int64_t>(std::filesystem::file_size(out));
  return result;
}

}  // namespace kvreplay

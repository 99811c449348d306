#include "core/trace/trace_structure_internal.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/memory_trace.h"

namespace kvreplay {
namespace {

constexpr std::int64_t max_tokens = std::int64_t{1} << 31;
constexpr std::int64_t max_count = 1 << 20;  // heads, layers, head_dim, hidden_size
constexpr std::int64_t max_text_bytes = std::int64_t{1} << 33;

std::string shape_text(std::span<const std::int64_t> shape) {
  std::vector<std::string> parts;
  for (const auto n : shape) parts.push_back(std::to_string(n));
  return "[" + join(parts, ", ") + "]";
}

class StructureReader {
 public:
  StructureReader(const Source& source, Problems& problems) : source_(source), problems_(problems) {}

  TraceStructure read() {
    if (!check_format()) return std::move(out_);
    out_.complete = optional_integer("/", "complete").value_or(0) == 1;
    out_.manifest = optional_text("/", "manifest");
    out_.created_by = optional_text("/", "created_by");
    out_.created_utc = optional_text("/", "created_utc");
    out_.command = optional_text("/", "command");
    if (!read_model() || !read_tokens() || !read_positions()) return std::move(out_);
    read_spans();
    read_text_and_nll();
    read_layers();
    return std::move(out_);
  }

 private:
  void problem(const std::string& node, const std::string& what, const std::string& remedy = {}) {
    problems_.push_back({node, what, remedy});
  }

  bool check_format() {
    const std::string format = optional_text("/", "format");
    if (format == "kvreplay-results") {
      problem("/", "is a results file, not a trace", "`kvreplay report` and `kvreplay inspect` read it");
      return false;
    }
    if (format != "kvreplay-trace") {
      problem("/", "is an HDF5 file, but not a trace: it has no attribute \"format\" with the value \"kvreplay-trace\"",
              "`kvreplay capture` and `kvreplay synth` write traces");
      return false;
    }
    const auto version = required_integer("/", "version", 1, 1 << 20);
    if (version && *version != 1) {
      problem("/", "has version " + std::to_string(*version) + " of the trace format; this program reads version 1",
              "use a newer kvreplay");
      return false;
    }
    return version.has_value();
  }

  std::optional<AttributeValue> attribute(const std::string& node, const std::string& name) {
    try {
      return source_.attribute(node, name);
    } catch (const Error& error) {
      problem(node, std::string("attribute \"") + name + "\" cannot be read: " + error.what());
      return std::nullopt;
    }
  }

  std::optional<std::int64_t> optional_integer(const std::string& node, const std::string& name) {
    const auto value = attribute(node, name);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<std::int64_t>(&*value)) return *number;
    if (const auto* list = std::get_if<std::vector<std::int64_t>>(&*value); list != nullptr && list->size() == 1)
      return list->front();
    problem(node, "attribute \"" + name + "\" is not an integer");
    return std::nullopt;
  }

  std::optional<std::int64_t> required_integer(const std::string& node, const std::string& name, std::int64_t low,
                                               std::int64_t high) {
    const std::size_t before = problems_.size();
    const auto value = optional_integer(node, name);
    if (!value) {
      if (problems_.size() == before) problem(node, "has no attribute \"" + name + "\"");
      return std::nullopt;
    }
    if (*value < low || *value > high) {
      problem(node, "attribute \"" + name + "\" is " + std::to_string(*value) + ", which is not from " +
                        std::to_string(low) + " to " + std::to_string(high));
      return std::nullopt;
    }
    return value;
  }

  std::optional<double> optional_number(const std::string& node, const std::string& name) {
    const auto value = attribute(node, name);
    if (!value) return std::nullopt;
    std::optional<double> number;
    if (const auto* real = std::get_if<double>(&*value)) number = *real;
    if (const auto* whole = std::get_if<std::int64_t>(&*value)) number = static_cast<double>(*whole);
    if (const auto* list = std::get_if<std::vector<double>>(&*value); list != nullptr && list->size() == 1)
      number = list->front();
    if (!number || !std::isfinite(*number)) {
      problem(node, "attribute \"" + name + "\" is not a finite number");
      return std::nullopt;
    }
    return number;
  }

  std::string optional_text(const std::string& node, const std::string& name) {
    const auto value = attribute(node, name);
    if (!value) return {};
    if (const auto* text = std::get_if<std::string>(&*value)) return *text;
    if (const auto* list = std::get_if<std::vector<std::string>>(&*value); list != nullptr && list->size() == 1)
      return list->front();
    problem(node, "attribute \"" + name + "\" is not a string");
    return {};
  }

  bool has_group(const std::string& node) {
    const NodeKind kind = kind_of(node);
    if (kind == NodeKind::group) return true;
    problem(node, kind == NodeKind::absent ? "is missing" : "is not a group");
    return false;
  }

  NodeKind kind_of(const std::string& node) {
    try {
      return source_.kind(node);
    } catch (const Error&) {
      return NodeKind::other;
    }
  }

  bool read_model() {
    if (!has_group("/model")) return false;
    ModelInfo& model = out_.model;
    model.name = optional_text("/model", "name");
    model.architecture = optional_text("/model", "architecture");
    const std::array<std::pair<const char*, int*>, 5> counts = {{{"num_layers", &model.num_layers},
                                                                 {"num_query_heads", &model.num_query_heads},
                                                                 {"num_kv_heads", &model.num_kv_heads},
                                                                 {"head_dim", &model.head_dim},
                                                                 {"hidden_size", &model.hidden_size}}};
    bool good = true;
    for (const auto& [name, target] : counts) {
      const auto value = required_integer("/model", name, 1, max_count);
      good = good && value.has_value();
      if (value) *target = static_cast<int>(*value);
    }
    if (!good) return false;
    if (model.num_query_heads % model.num_kv_heads != 0) {
      problem("/model", "has " + std::to_string(model.num_query_heads) + " query heads, which is no multiple of its " +
                            std::to_string(model.num_kv_heads) + " KV heads");
      return false;
    }
    const std::size_t before = problems_.size();
    const auto scale = optional_number("/model", "attention_scale");
    if (!scale && problems_.size() == before) problem("/model", "has no attribute \"attention_scale\"");
    if (scale && *scale <= 0) problem("/model", "attribute \"attention_scale\" is not positive");
    model.attention_scale = scale.value_or(0);
    model.logit_softcap = optional_number("/model", "logit_softcap");
    if (model.logit_softcap && *model.logit_softcap <= 0) problem("/model", "attribute \"logit_softcap\" is not positive");
    model.rope_theta = optional_number("/model", "rope_theta");
    model.rope_scaling = optional_text("/model", "rope_scaling");
    model.rope_layout = optional_text("/model", "rope_layout");
    if (!model.rope_layout.empty() && model.rope_layout != "half" && model.rope_layout != "interleaved")
      problem("/model", "attribute \"rope_layout\" is neither \"half\" nor \"interleaved\"");
    model.weights_sha256 = optional_text("/model", "weights_sha256");
    return problems_.size() == before;
  }

  // The info of a dataset that may be read; std::nullopt after noting a problem (or silently when optional and absent).
  std::optional<DatasetInfo> dataset(const std::string& node, bool required, const std::string& remedy = {}) {
    const NodeKind kind = kind_of(node);
    if (kind == NodeKind::absent) {
      if (required) problem(node, "is missing", remedy);
      return std::nullopt;
    }
    if (kind != NodeKind::dataset) {
      problem(node, kind == NodeKind::link ? "is a link, and traces hold datasets themselves" : "is not a dataset");
      return std::nullopt;
    }
    try {
      DatasetInfo info = source_.dataset(node);
      if (info.refusal.empty()) return info;
      problem(node, info.refusal);
    } catch (const Error& error) {
      problem(node, "cannot be read: " + std::string(error.what()));
    }
    return std::nullopt;
  }

  bool expect(const std::string& node, const DatasetInfo& info, StoredKind kind, std::int64_t size, std::size_t rank) {
    if (info.shape.size() != rank) {
      problem(node, "has shape " + shape_text(info.shape) + " where " + std::to_string(rank) +
                        (rank == 1 ? " dimension is" : " dimensions are") + " wanted");
      return false;
    }
    if (info.type.kind != kind || info.type.size != size) {
      problem(node, "is " + info.type.name() + ", not " + StoredType{kind, size}.name());
      return false;
    }
    return true;
  }

  template <class T>
  std::optional<std::vector<T>> values(const std::string& node, const DatasetInfo& info) {
    try {
      return source_.read_all<T>(node, info);
    } catch (const Error& error) {
      problem(node, "cannot be read: " + std::string(error.what()));
      return std::nullopt;
    }
  }

  bool read_tokens() {
    if (!has_group("/tokens")) return false;
    const auto info = dataset("/tokens/ids", true, "every trace has one id a token");
    if (!info || !expect("/tokens/ids", *info, StoredKind::signed_integer, 4, 1)) return false;
    const std::int64_t tokens = info->shape[0];
    if (tokens < 1 || tokens >= max_tokens) {
      problem("/tokens/ids", "has " + std::to_string(tokens) + " tokens");
      return false;
    }
    const auto prompt = required_integer("/tokens", "prompt_length", 1, max_tokens);
    if (!prompt) return false;
    out_.file_tokens = tokens;
    out_.prompt_length = out_.file_prompt_length = *prompt;
    if (*prompt > tokens) {
      problem("/tokens", "attribute \"prompt_length\" is " + std::to_string(*prompt) + ", more than the " +
                             std::to_string(tokens) + " tokens");
      return false;
    }
    if (!read_committed()) return false;
    auto ids = values<std::int32_t>("/tokens/ids", *info);
    if (!ids) return false;
    ids->resize(static_cast<std::size_t>(out_.tokens));
    out_.token_ids = std::move(*ids);
    const auto negative = std::find_if(out_.token_ids.begin(), out_.token_ids.end(), [](std::int32_t id) { return id < 0; });
    if (negative != out_.token_ids.end())
      problem("/tokens/ids", "has the negative id " + std::to_string(*negative) + " at position " +
                                 std::to_string(negative - out_.token_ids.begin()));
    return true;
  }

  bool read_committed() {
    out_.tokens = out_.file_tokens;
    const auto info = dataset("/committed_tokens", false);
    if (!info) {
      if (out_.complete) return true;
      problem("/", "is not complete, and nothing says how much of it was committed", "capture it again");
      return false;
    }
    if (!expect("/committed_tokens", *info, StoredKind::signed_integer, 8, 1) || info->shape[0] != 1) {
      if (info->shape.size() == 1 && info->shape[0] != 1) problem("/committed_tokens", "does not hold exactly one number");
      return false;
    }
    const auto mark = values<std::int64_t>("/committed_tokens", *info);
    if (!mark) return false;
    const std::int64_t committed = mark->front();
    if (out_.complete) {
      if (committed == out_.file_tokens) return true;
      problem("/committed_tokens", "says " + std::to_string(committed) + " in a complete file of " +
                                       std::to_string(out_.file_tokens) + " tokens");
      return false;
    }
    if (committed < 0 || committed > out_.file_tokens) {
      problem("/committed_tokens",
              "is " + std::to_string(committed) + ", which is not from 0 to " + std::to_string(out_.file_tokens));
      return false;
    }
    if (committed == 0) {
      out_.nothing_committed = true;
      problem("/", "is a capture that was cut off before anything was committed", "remove it and capture again");
      return false;
    }
    out_.tokens = committed;
    prompt_done_ = committed >= out_.prompt_length;
    out_.prompt_length = std::min(out_.prompt_length, committed);
    return true;
  }

  // Positions below what is committed. Wants them increasing and below T.
  std::optional<std::vector<std::int32_t>> positions(const std::string& node, bool required) {
    const auto info = dataset(node, required, "every trace says which queries it recorded");
    if (!info || !expect(node, *info, StoredKind::signed_integer, 4, 1)) return std::nullopt;
    if (info->shape[0] > (out_.complete ? out_.tokens : max_tokens)) {
      problem(node, "has " + std::to_string(info->shape[0]) + " positions for " + std::to_string(out_.tokens) + " tokens");
      return std::nullopt;
    }
    auto list = values<std::int32_t>(node, *info);
    if (!list) return std::nullopt;
    std::int64_t last = -1;
    for (std::size_t i = 0; i < list->size(); ++i) {
      const std::int64_t position = (*list)[i];
      // A capture killed while its early end was being cut off: what follows the committed tokens may be half gone.
      if (!out_.complete && last + 1 >= out_.tokens) {
        list->resize(i);
        break;
      }
      if (position <= last || (out_.complete && position >= out_.tokens)) {
        problem(node, "holds " + std::to_string(position) + " at index " + std::to_string(i) +
                          (position <= last ? ", and positions must increase from 0" : ", past the last token"));
        break;  // the length is known all the same, and the layers can be checked against it
      }
      last = position;
    }
    return list;
  }

  void clamp(std::vector<std::int32_t>& list) const {
    std::erase_if(list, [this](std::int32_t position) { return position >= out_.tokens; });
  }

  bool read_positions() {
    if (!has_group("/queries")) return false;
    auto queries = positions("/queries/positions", true);
    if (!queries) return false;
    out_.query_positions = std::move(*queries);
    clamp(out_.query_positions);
    if (kind_of("/queries/attention_positions") != NodeKind::absent) {
      auto attention = positions("/queries/attention_positions", false);
      if (!attention) return false;
      has_attention_positions_ = true;
      out_.attention_positions = std::move(*attention);
      clamp(out_.attention_positions);
    }
    return true;
  }

  void read_spans() {
    const bool any = kind_of("/tokens/span_start") != NodeKind::absent || kind_of("/tokens/span_end") != NodeKind::absent ||
                     kind_of("/tokens/span_label") != NodeKind::absent;
    if (!any) return;
    const auto start = dataset("/tokens/span_start", true), end = dataset("/tokens/span_end", true),
               label = dataset("/tokens/span_label", true);
    if (!start || !end || !label) return;
    if (!expect("/tokens/span_start", *start, StoredKind::signed_integer, 4, 1) ||
        !expect("/tokens/span_end", *end, StoredKind::signed_integer, 4, 1))
      return;
    if (label->type.kind != StoredKind::text || label->shape.size() != 1) {
      problem("/tokens/span_label", "is " + label->type.name() + ", not a list of fixed-length text");
      return;
    }
    if (out_.complete && (start->shape != end->shape || start->shape != label->shape)) {
      problem("/tokens/span_start", "and span_end and span_label have different lengths");
      return;
    }
    const auto starts = values<std::int32_t>("/tokens/span_start", *start),
               ends = values<std::int32_t>("/tokens/span_end", *end);
    const auto labels = values<char>("/tokens/span_label", *label);
    if (!starts || !ends || !labels) return;
    const auto size = static_cast<std::size_t>(label->type.size);
    // In a capture killed while its early end was being cut off the lists may differ: what all three hold counts.
    const std::size_t count = std::min({starts->size(), ends->size(), labels->size() / std::max<std::size_t>(1, size)});
    for (std::size_t i = 0; i < count; ++i) {
      TextSpan span{(*starts)[i], (*ends)[i], {}};
      const char* text = labels->data() + i * size;
      span.label.assign(text, std::find(text, text + size, '\0'));
      if (span.start < 0 || span.end <= span.start || (out_.complete && span.end > out_.tokens)) {
        if (!out_.complete) continue;
        problem("/tokens/span_start", "span " + std::to_string(i) + " (\"" + span.label + "\") is " +
                                          std::to_string(span.start) + " to " + std::to_string(span.end) +
                                          ", not a stretch of the " + std::to_string(out_.tokens) + " tokens");
        continue;
      }
      if (span.start >= out_.tokens) continue;
      span.end = static_cast<int>(std::min<std::int64_t>(span.end, out_.tokens));
      out_.spans.push_back(std::move(span));
    }
  }

  void read_text_and_nll() {
    const bool text = kind_of("/tokens/text") != NodeKind::absent,
               offsets = kind_of("/tokens/text_offsets") != NodeKind::absent;
    if (text != offsets)
      problem(text ? "/tokens/text" : "/tokens/text_offsets", "is there without the other of text and text_offsets");
    if (text && offsets) out_.has_text = check_text();
    const auto nll = dataset("/tokens/nll", false);
    if (nll && expect("/tokens/nll", *nll, StoredKind::floating, 4, 1)) {
      out_.has_nll = long_enough(nll->shape[0], out_.tokens);
      if (!out_.has_nll) problem("/tokens/nll", wrong_shape(*nll, {out_.tokens}));
    }
  }

  bool check_text() {
    const auto bytes = dataset("/tokens/text", true), offsets = dataset("/tokens/text_offsets", true);
    if (!bytes || !offsets || !expect("/tokens/text", *bytes, StoredKind::unsigned_integer, 1, 1) ||
        !expect("/tokens/text_offsets", *offsets, StoredKind::signed_integer, 8, 1))
      return false;
    if (!long_enough(offsets->shape[0], out_.tokens + 1) || offsets->shape[0] > max_tokens) {
      problem("/tokens/text_offsets", wrong_shape(*offsets, {out_.tokens + 1}));
      return false;
    }
    if (bytes->shape[0] > max_text_bytes) {
      problem("/tokens/text", "is too long");
      return false;
    }
    const auto list = values<std::int64_t>("/tokens/text_offsets", *offsets);
    if (!list) return false;
    for (std::size_t i = 0; i <= static_cast<std::size_t>(out_.tokens); ++i) {
      const std::int64_t before = i == 0 ? 0 : (*list)[i - 1];
      if ((*list)[i] < before || (*list)[i] > bytes->shape[0] || (i == 0 && (*list)[i] != 0)) {
        problem("/tokens/text_offsets", "holds " + std::to_string((*list)[i]) + " at index " + std::to_string(i) +
                                            ": offsets rise from 0 to at most " + std::to_string(bytes->shape[0]));
        return false;
      }
    }
    return true;
  }

  static std::string wrong_shape(const DatasetInfo& info, const std::vector<std::int64_t>& wanted) {
    return "has shape " + shape_text(info.shape) + ", not " + shape_text(wanted);
  }

  std::optional<std::vector<int>> captured_layers() {
    const auto value = attribute("/layers", "captured");
    std::vector<std::int64_t> list;
    if (!value) {
      for (int layer = 0; layer < out_.model.num_layers; ++layer) list.push_back(layer);
    } else if (const auto* several = std::get_if<std::vector<std::int64_t>>(&*value)) {
      list = *several;
    } else if (const auto* one = std::get_if<std::int64_t>(&*value)) {
      list = {*one};
    } else {
      problem("/layers", "attribute \"captured\" is not a list of integers");
      return std::nullopt;
    }
    std::vector<int> layers;
    for (const auto layer : list) {
      if (layer < 0 || layer >= out_.model.num_layers || (!layers.empty() && layer <= layers.back())) {
        problem("/layers", "attribute \"captured\" holds " + std::to_string(layer) + ": it lists layers of the model's " +
                               std::to_string(out_.model.num_layers) + ", ascending");
        return std::nullopt;
      }
      layers.push_back(static_cast<int>(layer));
    }
    if (layers.empty()) problem("/layers", "has no layers");
    return layers;
  }

  void read_layers() {
    if (!has_group("/layers")) return;
    const auto layers = captured_layers();
    if (!layers) return;
    for (const int layer : *layers) {
      const std::string node = layer_node(layer);
      if (kind_of(node) != NodeKind::group) {
        problem(node, "is missing", "a trace of some layers lists them in the attribute \"captured\" of /layers");
        if (problems_.size() > 100) return;
        continue;
      }
      LayerStructure entry;
      entry.layer = layer;
      const std::int64_t window = optional_integer(node, "sliding_window").value_or(0);
      if (window < 0 || window > max_tokens) problem(node, "attribute \"sliding_window\" is " + std::to_string(window));
      entry.sliding_window = static_cast<int>(std::clamp<std::int64_t>(window, 0, max_tokens - 1));
      for (const auto which : all_layer_datasets) read_tensor(entry, which);
      out_.layers.push_back(std::move(entry));
    }
    if (!out_.attention_positions.empty() && out_.complete) check_attention_present();
  }

  void check_attention_present() {
    const auto index = static_cast<std::size_t>(LayerDataset::attention);
    for (const auto& layer : out_.layers)
      if (layer.tensors[index]) return;
    // Positions without rows say nothing wrong, but a reader would look for the rows.
    problem("/queries/attention_positions", "is there, but no layer has attention");
  }

  // The part of a dataset that may be believed, as [heads, rows, columns], and which of these axes are as long as the
  // sequence or its queries. In a complete file the dataset has just this shape; in one that was cut off those axes may
  // be longer. `rank` 2: without the first axis.
  struct Shape {
    std::array<std::int64_t, 3> view;
    std::array<bool, 3> grows;
    std::size_t rank;
  };
  Shape shape_of(LayerDataset which) const {
    const auto queries = static_cast<std::int64_t>(out_.query_positions.size());
    const auto attention = static_cast<std::int64_t>(out_.attention_positions.size());
    const auto view = expected_shape(out_.model, which, out_.tokens, queries, attention);
    switch (which) {
      case LayerDataset::key:
      case LayerDataset::value:
      case LayerDataset::query:
      case LayerDataset::head_output: return {view, {false, true, false}, 3};
      case LayerDataset::attention: return {view, {false, true, true}, 3};
      case LayerDataset::output_gram: return {view, {false, false, false}, 3};
      case LayerDataset::output_projection: return {view, {false, false, false}, 2};
      case LayerDataset::log_sum_exp:
      case LayerDataset::attention_column_sum: return {view, {false, false, true}, 2};
    }
    return {};
  }

  bool fits(const std::vector<std::int64_t>& found, const Shape& wanted) const {
    if (found.size() != wanted.rank) return false;
    for (std::size_t axis = 0; axis < found.size(); ++axis) {
      const std::size_t of_view = axis + 3 - wanted.rank;
      const bool longer = !out_.complete && wanted.grows[of_view] && found[axis] > wanted.view[of_view];
      if (found[axis] != wanted.view[of_view] && !longer) return false;
    }
    return true;
  }

  // Lengths along the sequence: exact in a complete file, at least that long in one that was cut off.
  bool long_enough(std::int64_t found, std::int64_t wanted) const {
    return found == wanted || (!out_.complete && found > wanted);
  }

  static bool type_allowed(LayerDataset which, ElementType type) {
    switch (which) {
      case LayerDataset::key:
      case LayerDataset::value:
      case LayerDataset::query:
      case LayerDataset::output_projection: return true;
      case LayerDataset::attention:
      case LayerDataset::head_output: return type != ElementType::bfloat16;
      default: return type == ElementType::float32;
    }
  }

  void read_tensor(LayerStructure& entry, LayerDataset which) {
    const bool required = which == LayerDataset::key || which == LayerDataset::value || which == LayerDataset::query;
    const std::string node = layer_dataset_node(entry.layer, which);
    auto info = dataset(node, required, produced_by(which));
    if (!info) return;
    const Shape shape = shape_of(which);
    if (!fits(info->shape, shape)) {
      const std::vector<std::int64_t> wanted(shape.view.end() - static_cast<std::ptrdiff_t>(shape.rank), shape.view.end());
      const bool no_positions = which == LayerDataset::attention && !has_attention_positions_;
      problem(node, no_positions ? "is there without /queries/attention_positions" : wrong_shape(*info, wanted));
      return;
    }
    const auto type = info->element_type();
    if (!type || !type_allowed(which, *type)) {
      problem(node, "is " + (type ? std::string(element_type_name(*type)) : info->type.name()) + ", which " +
                        std::string(layer_dataset_name(which)) + " must not be");
      return;
    }
    const bool whole = which == LayerDataset::output_projection || which == LayerDataset::output_gram ||
                       which == LayerDataset::attention_column_sum;
    if (!out_.complete) {
      // Written in one go at some moment of the capture: all there or not at all.
      if (whole && info->filters.empty() && info->stored_bytes < info->logical_bytes()) return;
      if (which == LayerDataset::attention_column_sum && !prompt_done_) return;
    }
    if (!check_stored(node, *info, shape.view)) return;
    entry.tensors[static_cast<std::size_t>(which)] = StoredTensor{node, *type, shape.view, std::move(*info)};
  }

  // Nobody allocates memory for a shape that the file's bytes do not back.
  bool check_stored(const std::string& node, const DatasetInfo& info, const std::array<std::int64_t, 3>& view) {
    if (!info.filters.empty()) return true;
    std::int64_t wanted = info.type.size;
    for (const auto n : view) wanted *= n;
    if (info.stored_bytes >= wanted) return true;
    problem(node,
            "holds " + format_bytes(static_cast<double>(info.stored_bytes)) + " of the " +
                format_bytes(static_cast<double>(wanted)) + " that its shape " + shape_text(info.shape) + " needs",
            "it was never written whole; capture it again");
    return false;
  }

  const Source& source_;
  Problems& problems_;
  TraceStructure out_;
  bool has_attention_positions_ = false;
  bool prompt_done_ = true;
};

}  // namespace

TraceStructure read_trace_structure(const Source& source, Problems& problems) {
  return StructureReader(source, problems).read();
}

std::string produced_by(LayerDataset which) {
  switch (which) {
    case LayerDataset::attention: return "`kvreplay capture --attention window:W` or `--attention all` records it";
    case LayerDataset::output_gram:
      return "it is optional and stands in for output_projection; `kvreplay capture` writes the latter";
    case LayerDataset::output_projection:
    case LayerDataset::log_sum_exp:
    case LayerDataset::attention_column_sum:
    case LayerDataset::head_output: return "`kvreplay capture` records it in every trace that it finishes";
    default: return "every trace has it: the file is damaged, or another program wrote it";
  }
}

std::string layer_node(int layer) { return "/layers/" + layer_name(layer); }

std::string layer_dataset_node(int layer, LayerDataset which) {
  return layer_node(layer) + "/" + std::string(layer_dataset_name(which));
}

}  // namespace kvreplay

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/report/policy_label.h"
#include "core/trace/file_summary.h"
#include "core/trace/results.h"
#include "core/trace/trace.h"
#include "trace_tools/command.h"
#include "trace_tools/text_columns.h"

namespace kvreplay::cli {
namespace {

using nlohmann::json;

constexpr LayerDataset layer_datasets[] = {
    LayerDataset::key,         LayerDataset::value,     LayerDataset::query,       LayerDataset::output_projection,
    LayerDataset::output_gram, LayerDataset::attention, LayerDataset::log_sum_exp, LayerDataset::attention_column_sum,
    LayerDataset::head_output};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> parts;
  for (const auto n : shape) parts.push_back(std::to_string(n));
  return "[" + join(parts, ", ") + "]";
}

// "0-3, 5, 8-9".
template <class Number>
std::string ranges_text(const std::vector<Number>& numbers) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    parts.push_back(i == j ? std::to_string(numbers[i]) : std::to_string(numbers[i]) + "-" + std::to_string(numbers[j]));
    i = j + 1;
  }
  if (parts.size() > 12) {
    parts.resize(10);
    parts.emplace_back("...");
  }
  return join(parts, ", ");
}

void print_field(const char* name, const std::string& value) {
  if (!value.empty()) std::printf("  %-12s %s\n", name, value.c_str());
}

std::string attribute_text(const FileSummary& summary, const char* node, const char* name) {
  const auto group = summary.attributes.find(node);
  if (group == summary.attributes.end()) return {};
  const auto found = group->second.find(name);
  if (found == group->second.end()) return {};
  const auto* text = std::get_if<std::string>(&found->second);
  return text == nullptr ? std::string() : printable(*text);
}

json attribute_json(const AttributeValue& value) {
  return std::visit([](const auto& v) { return json(v); }, value);
}

json json_or_text(const std::string& text) {
  const json parsed = json::parse(text, nullptr, false);
  return parsed.is_discarded() ? json(text) : parsed;
}

json dataset_json(const DatasetSummary& d) {
  json out = {{"path", d.node},           {"shape", d.shape},    {"type", d.type}, {"stored_bytes", d.stored_bytes},
              {"bytes", d.logical_bytes}, {"filters", d.filters}};
  out["chunk"] = d.chunk.empty() ? json(nullptr) : json(d.chunk);
  if (!d.refusal.empty()) out["not_readable"] = d.refusal;
  return out;
}

// ---- datasets, with equal ones of several layers or runs on one line ----

struct DatasetLine {
  std::string pattern;  // "/layers/*/key"
  std::vector<int> numbers;
  DatasetSummary first;
  std::int64_t stored_bytes = 0;
};

// "/layers/007/key" is "/layers/*/key" and 7; other paths are themselves.
std::pair<std::string, std::optional<int>> pattern_of(const std::string& node) {
  for (const char* parent : {"/checksums/layers/", "/layers/", "/runs/"}) {
    const std::string prefix = parent;
    if (node.rfind(prefix, 0) != 0) continue;
    const auto slash = node.find('/', prefix.size());
    const std::string number = node.substr(prefix.size(), slash - prefix.size());
    if (slash == std::string::npos || number.empty() || number.size() > 6 ||
        number.find_first_not_of("0123456789") != std::string::npos)
      continue;
    return {prefix + "*" + node.substr(slash), std::stoi(number)};
  }
  return {node, std::nullopt};
}

std::vector<DatasetLine> dataset_lines(const FileSummary& summary) {
  std::vector<DatasetLine> lines;
  std::map<std::string, std::size_t> index;
  for (const auto& d : summary.datasets) {
    const auto [pattern, number] = pattern_of(d.node);
    // The checksums of a file are one line.
    const std::string name = pattern.rfind("/checksums", 0) == 0 ? "/checksums/..." : pattern;
    const std::string key = name == "/checksums/..." ? name : pattern + d.type + shape_text(d.shape) + shape_text(d.chunk);
    auto found = index.find(key);
    if (found == index.end()) {
      found = index.emplace(key, lines.size()).first;
      lines.push_back({name, {}, d, 0});
    }
    DatasetLine& line = lines[found->second];
    if (number && (line.numbers.empty() || line.numbers.back() != *number)) line.numbers.push_back(*number);
    line.stored_bytes += d.stored_bytes;
  }
  return lines;
}

bool is_known(const std::string& node) {
  for (const char* prefix : {"/layers/", "/tokens/", "/queries/", "/checksums/", "/runs/", "/committed_tokens"})
    if (node.rfind(prefix, 0) == 0) return true;
  return false;
}

void print_datasets(const FileSummary& summary) {
  std::vector<std::vector<std::string>> rows = {{"dataset", "of", "shape", "type", "chunk", "on disk"}};
  std::int64_t others = 0, other_bytes = 0;
  for (const auto& line : dataset_lines(summary)) {
    if (!is_known(line.first.node)) {
      ++others;
      other_bytes += line.stored_bytes;
      continue;
    }
    const bool sums = line.pattern == "/checksums/...";
    std::string chunk = line.first.chunk.empty() ? "contiguous" : shape_text(line.first.chunk);
    for (const auto& filter : line.first.filters) chunk += " " + filter;
    rows.push_back({printable(line.pattern), sums ? "" : ranges_text(line.numbers), sums ? "" : shape_text(line.first.shape),
                    line.first.type, sums ? "" : chunk, format_bytes(static_cast<double>(line.stored_bytes))});
  }
  std::printf("\n");
  std::printf("%s", in_columns(rows, {true, true, true, true, true, false}, 2).c_str());
  if (others > 0)
    std::printf("  and %lld datasets that are not part of the format, %s\n", static_cast<long long>(others),
                format_bytes(static_cast<double>(other_bytes)).c_str());
}

// ---- traces ----

struct TensorStatistics {
  double minimum = 0, maximum = 0, mean = 0, rms = 0;
};

// Block by block: a layer can be larger than memory.
TensorStatistics statistics_of(const Trace& trace, int layer, LayerDataset which) {
  const auto shape = trace.shape(layer, which);
  const std::int64_t rows = std::max<std::int64_t>(1, (std::int64_t{1} << 22) / std::max<std::int64_t>(1, shape[2]));
  double low = INFINITY, high = -INFINITY, sum = 0, squares = 0;
  for (std::int64_t head = 0; head < shape[0]; ++head)
    for (std::int64_t first = 0; first < shape[1]; first += rows) {
      const auto block = trace.read(layer, which, {head, head + 1}, {first, std::min(shape[1], first + rows)});
      for (const float value : block.flat()) {
        low = std::min(low, static_cast<double>(value));
        high = std::max(high, static_cast<double>(value));
        sum += value;
        squares += static_cast<double>(value) * value;
      }
    }
  const double count = static_cast<double>(std::max<std::int64_t>(1, shape[0] * shape[1] * shape[2]));
  return {low, high, sum / count, std::sqrt(squares / count)};
}

std::string model_line(const ModelInfo& m) {
  return printable(m.name) + " (" + printable(m.architecture) + "): " + std::to_string(m.num_layers) +
         (m.num_layers == 1 ? " layer, " : " layers, ") + std::to_string(m.num_query_heads) + " query heads over " +
         std::to_string(m.num_kv_heads) + " KV heads, head_dim " + std::to_string(m.head_dim) + ", hidden_size " +
         std::to_string(m.hidden_size);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string position_line(const ModelInfo& m) {
  std::string line = "scale " + short_number(m.attention_scale);
  if (m.logit_softcap) line += ", scores capped at " + short_number(*m.logit_softcap);
  if (m.rope_theta) line += ", RoPE theta " + short_number(*m.rope_theta);
  if (!m.rope_layout.empty()) line += " (" + m.rope_layout + ")";
  if (!m.rope_scaling.empty()) line += ", scaling " + printable(m.rope_scaling);
  return line;
}

std::string window_line(const Trace& trace) {
  std::map<int, std::vector<int>> by_window;
  for (const int layer : trace.layers())
    if (const int window = trace.sliding_window(layer); window > 0) by_window[window].push_back(layer);
  std::vector<std::string> parts;
  for (const auto& [window, layers] : by_window)
    parts.push_back(std::to_string(window) + " in layers " + ranges_text(layers));
  return join(parts, "; ");
}

std::string text_line(const Trace& trace) {
  std::string all;
  for (const auto& text : trace.token_texts()) {
    all += text;
    if (all.size() > 200) break;
  }
  if (all.empty()) return {};
  std::string shown = printable(all);
  constexpr std::size_t width = 72;
  if (shown.size() > width) {
    shown.resize(width);
    while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xc0U) == 0x80U) shown.pop_back();
    if (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0x80U) != 0) shown.pop_back();
    shown += "...";
  }
  return "\"" + shown + "\"";
}

std::optional<double> mean_nll(const Trace& trace, std::int64_t from, std::int64_t to) {
  const auto nll = trace.nll();
  if (nll.empty() || to <= from) return std::nullopt;
  double sum = 0;
  for (std::int64_t t = from; t < to; ++t) sum += nll[static_cast<std::size_t>(t)];
  return sum / static_cast<double>(to - from);
}

std::string nll_line(const Trace& trace) {
  std::string line;
  if (const auto prompt = mean_nll(trace, 1, trace.prompt_length()))
    line = short_number(*prompt) + " nats a token in the prompt";
  if (const auto generated = mean_nll(trace, std::max<std::int64_t>(1, trace.prompt_length()), trace.num_tokens()))
    line += (line.empty() ? "" : ", ") + short_number(*generated) + " in what was generated";
  return line;
}

void print_manifest(const std::string& manifest) {
  if (manifest.empty()) return;
  const json parsed = json::parse(manifest, nullptr, false);
  if (!parsed.is_object()) return print_field("manifest", printable(manifest));
  std::printf("  manifest\n");
  for (const auto& [name, value] : parsed.items()) {
    const std::string text =
        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
    std::printf("    %-22s %s\n", printable(name).c_str(), printable(text).c_str());
  }
}

class InspectCommand final : public Command {
 public:
  std::string_view name() const override { return "inspect"; }
  std::string_view summary() const override { return "what is in a trace or results file"; }
  std::string_view usage() const override { return "FILE [--layer N] [--trusted] [--json]"; }
  std::string_view description() const override {
    return "Shows the model, the tokens, which layers and queries were recorded, every dataset with its shape, type and "
           "size, and\n"
           "the manifest; of a results file its runs. --layer adds the range and the mean of each tensor of one layer.\n"
           "\n"
           "  kvreplay inspect trace.h5\n"
           "  kvreplay inspect trace.h5 --layer 3\n"
           "  kvreplay inspect results.h5 --json";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("layer", options::value<int>()->value_name("N"),
                          "the tensors of layer N of the model, with their ranges")(
        "trusted", "read the file in this process, without the sandbox");
    hidden.add_options()("file", options::value<std::string>()->required());
    positional.add("file", 1);
  }

  int run(const Invocation& call) const override {
    const Trust trust = call.values.count("trusted") != 0 ? Trust::trusted : Trust::automatic;
    const std::string file = call.values["file"].as<std::string>();
    const FileSummary summary = summarise_file(file, trust);
    std::optional<int> layer;
    if (call.values.count("layer") != 0) layer = call.values["layer"].as<int>();
    if (summary.format == "kvreplay-results") {
      if (layer) throw UsageError("--layer", "is for traces, and " + file + " is a results file");
      const auto results = open_results(file, trust);
      call.json ? print_json(results_json(file, *results, summary)) : print_results(file, *results, summary);
    } else {
      const auto trace = open_trace(file, trust);  // says so where it is no trace
      if (layer && !std::binary_search(trace->layers().begin(), trace->layers().end(), *layer))
        throw Error(file, "has no layer " + std::to_string(*layer), "it has layers " + ranges_text(trace->layers()));
      call.json ? print_json(trace_json(file, *trace, summary, layer)) : print_trace(file, *trace, summary, layer);
    }
    return 0;
  }

 private:
  static void print_json(const json& out) {
    std::printf("%s\n", out.dump(2, ' ', false, json::error_handler_t::replace).c_str());
  }

  static void print_trace(const std::string& file, const Trace& trace, const FileSummary& summary,
                          std::optional<int> layer) {
    std::printf("%s: a trace, %s, %s\n", printable(file).c_str(), trace.complete() ? "complete" : "CUT OFF",
                format_bytes(static_cast<double>(summary.file_size)).c_str());
    if (!trace.complete())
      print_field("cut off", "what was committed is shown; `kvreplay capture --resume` goes on with it");
    print_field("model", model_line(trace.model()));
    print_field("attention", position_line(trace.model()));
    print_field("windows", window_line(trace));
    print_field("tokens", std::to_string(trace.num_tokens()) + ": " + std::to_string(trace.prompt_length()) +
                              " of the prompt, " + std::to_string(trace.num_decode_steps()) + " generated");
    print_field("text", text_line(trace));
    print_field("likelihood", nll_line(trace));
    print_field("layers", ranges_text(trace.layers()) + (static_cast<int>(trace.layers().size()) < trace.model().num_layers
                                                             ? " of " + std::to_string(trace.model().num_layers)
                                                             : ""));
    print_field("queries",
                std::to_string(trace.query_positions().size()) + " recorded, at " + ranges_text(trace.query_positions()));
    if (!trace.attention_positions().empty())
      print_field("weights", "of " + std::to_string(trace.attention_positions().size()) + " queries, at " +
                                 ranges_text(trace.attention_positions()));
    for (const auto& span : trace.spans())
      print_field("span", std::to_string(span.start) + "-" + std::to_string(span.end - 1) + " " + printable(span.label));
    print_field("created", join(created(summary), ", "));
    print_field("command", attribute_text(summary, "/", "command"));
    print_manifest(trace.manifest());
    print_datasets(summary);
    if (layer) print_layer(trace, *layer);
  }

  static std::vector<std::string> created(const FileSummary& summary) {
    std::vector<std::string> parts;
    for (const char* name : {"created_by", "created_utc"})
      if (auto text = attribute_text(summary, "/", name); !text.empty()) parts.push_back(std::move(text));
    return parts;
  }

  static void print_layer(const Trace& trace, int layer) {
    std::vector<std::vector<std::string>> rows = {
        {"layer " + std::to_string(layer), "shape", "type", "smallest", "largest", "mean", "rms"}};
    for (const auto which : layer_datasets) {
      if (!trace.has(layer, which)) continue;
      const TensorStatistics s = statistics_of(trace, layer, which);
      const auto shape = trace.shape(layer, which);
      rows.push_back({std::string(layer_dataset_name(which)), shape_text({shape.begin(), shape.end()}),
                      std::string(element_type_name(trace.type(layer, which))), short_number(s.minimum),
                      short_number(s.maximum), short_number(s.mean), short_number(s.rms)});
    }
    std::printf("\n");
    std::printf("%s", in_columns(rows, {true, true, true, false, false, false, false}, 2).c_str());
  }

  static json trace_json(const std::string& file, const Trace& trace, const FileSummary& summary, std::optional<int> layer) {
    const ModelInfo& m = trace.model();
    json model = {{"name", m.name},
                  {"architecture", m.architecture},
                  {"num_layers", m.num_layers},
                  {"num_query_heads", m.num_query_heads},
                  {"num_kv_heads", m.num_kv_heads},
                  {"head_dim", m.head_dim},
                  {"hidden_size", m.hidden_size},
                  {"attention_scale", m.attention_scale}};
    if (m.logit_softcap) model["logit_softcap"] = *m.logit_softcap;
    if (m.rope_theta) model["rope_theta"] = *m.rope_theta;
    if (!m.rope_layout.empty()) model["rope_layout"] = m.rope_layout;
    if (!m.rope_scaling.empty()) model["rope_scaling"] = json_or_text(m.rope_scaling);
    if (!m.weights_sha256.empty()) model["weights_sha256"] = m.weights_sha256;
    json spans = json::array();
    for (const auto& span : trace.spans())
      spans.push_back({{"start", span.start}, {"end", span.end}, {"label", span.label}});
    json windows = json::object();
    for (const int l : trace.layers())
      if (trace.sliding_window(l) > 0) windows[std::to_string(l)] = trace.sliding_window(l);
    json out = {{"file", file},
                {"format", "kvreplay-trace"},
                {"complete", trace.complete()},
                {"file_bytes", summary.file_size},
                {"model", std::move(model)},
                {"tokens", trace.num_tokens()},
                {"prompt_length", trace.prompt_length()},
                {"generated", trace.num_decode_steps()},
                {"layers", trace.layers()},
                {"sliding_windows", std::move(windows)},
                {"recorded_queries", trace.query_positions().size()},
                {"attention_rows", trace.attention_positions().size()},
                {"query_ranges", ranges_text(trace.query_positions())},
                {"attention_ranges", ranges_text(trace.attention_positions())},
                {"spans", std::move(spans)},
                {"manifest", trace.manifest().empty() ? json(nullptr) : json_or_text(trace.manifest())},
                {"identity", trace.identity()}};
    add_file_facts(out, summary);
    if (const auto nll = mean_nll(trace, 1, trace.num_tokens())) out["mean_nll"] = *nll;
    if (layer) out["layer"] = layer_json(trace, *layer);
    return out;
  }

  static void add_file_facts(json& out, const FileSummary& summary) {
    for (const char* name : {"created_by", "created_utc", "command"}) {
      const auto& root = summary.attributes.at("/");
      if (const auto found = root.find(name); found != root.end()) out[name] = attribute_json(found->second);
    }
    json datasets = json::array();
    for (const auto& d : summary.datasets) datasets.push_back(dataset_json(d));
    out["datasets"] = std::move(datasets);
  }

  static json layer_json(const Trace& trace, int layer) {
    json tensors = json::object();
    for (const auto which : layer_datasets) {
      if (!trace.has(layer, which)) continue;
      const TensorStatistics s = statistics_of(trace, layer, which);
      tensors[std::string(layer_dataset_name(which))] = {{"shape", trace.shape(layer, which)},
                                                         {"type", element_type_name(trace.type(layer, which))},
                                                         {"minimum", s.minimum},
                                                         {"maximum", s.maximum},
                                                         {"mean", s.mean},
                                                         {"rms", s.rms}};
    }
    return {{"layer", layer}, {"sliding_window", trace.sliding_window(layer)}, {"tensors", std::move(tensors)}};
  }

  // ---- results ----

  static void print_results(const std::string& file, const Results& results, const FileSummary& summary) {
    std::printf("%s: results of %d run%s, %s\n", printable(file).c_str(), results.num_runs(),
                results.num_runs() == 1 ? "" : "s", format_bytes(static_cast<double>(summary.file_size)).c_str());
    if (results.num_runs() > 0) {
      print_field("trace", printable(results.info(0).trace));
      print_field("metrics",
                  results.info(0).summary_only ? "summaries only, no evictions" : join(results.metric_names(0), ", "));
      print_field("created", printable(results.info(0).created_by));
    }
    std::vector<std::vector<std::string>> rows = {{"run", "policy", "budget", "granularity", "cache", "of full", "seconds"}};
    for (int run = 0; run < results.num_runs(); ++run) {
      const RunInfo& info = results.info(run);
      const double share = info.full_cache_bytes > 0
                               ? 100.0 * static_cast<double>(info.cache_bytes) / static_cast<double>(info.full_cache_bytes)
                               : 0;
      const std::string variation = run_variation(info);
      rows.push_back({std::to_string(run), printable(info.policy + (variation.empty() ? "" : " [" + variation + "]")),
                      std::to_string(info.budget), printable(info.granularity),
                      format_bytes(static_cast<double>(info.cache_bytes)), short_number(std::round(share * 10) / 10) + " %",
                      short_number(info.seconds)});
    }
    std::printf("\n");
    std::printf("%s", in_columns(rows, {false, true, false, true, false, false, false}, 2).c_str());
    for (int run = 0; run < results.num_runs(); ++run)
      for (const auto& note : results.info(run).notes) std::printf("  run %d: %s\n", run, printable(note).c_str());
    print_datasets(summary);
  }

  static json results_json(const std::string& file, const Results& results, const FileSummary& summary) {
    json runs = json::array();
    for (int run = 0; run < results.num_runs(); ++run) {
      const RunInfo& info = results.info(run);
      runs.push_back({{"run", run},
                      {"policy", info.policy},
                      {"preset", info.preset},
                      {"parameters", json_or_text(info.parameters)},
                      {"budget", info.budget},
                      {"budget_text", info.budget_text},
                      {"equal_bytes", info.equal_bytes},
                      {"prompt_length", info.prompt_length},
                      {"scope", info.scope},
                      {"edit", info.edit},
                      {"edit_of", info.edit_of},
                      {"cache_bytes", info.cache_bytes},
                      {"full_cache_bytes", info.full_cache_bytes},
                      {"peak_cache_bytes", info.peak_cache_bytes},
                      {"kept_sha256", info.kept_sha256},
                      {"kept_prompt_sha256", info.kept_prompt_sha256},
                      {"summary_only", info.summary_only},
                      {"position_mode", info.position_mode},
                      {"granularity", info.granularity},
                      {"trace", info.trace},
                      {"trace_sha256", info.trace_sha256},
                      {"backend", info.backend},
                      {"created_by", info.created_by},
                      {"seconds", info.seconds},
                      {"peak_bytes", info.peak_bytes},
                      {"summary", info.summary},
                      {"notes", info.notes},
                      {"metrics", results.metric_names(run)},
                      {"scores", results.has_scores(run)}});
    }
    json out = {
        {"file", file}, {"format", "kvreplay-results"}, {"file_bytes", summary.file_size}, {"runs", std::move(runs)}};
    add_file_facts(out, summary);
    return out;
  }
};

}  // namespace

const Command& inspect_command() {
  static const InspectCommand command;
  return command;
}

}  // namespace kvreplay::cli

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/compare_internal.h"
#include "core/trace/file_summary.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

using nlohmann::json;

// Where a key of the manifest stands in the ranking, by the words in it.
int manifest_rank(const std::string& key) {
  static const std::vector<std::pair<int, std::vector<const char*>>> words = {
      {rank_provenance, {"command", "created", "time", "date", "host", "thread", "path", "file", "out"}},
      {rank_program, {"program", "version"}},
      {rank_tokens, {"tokenizer", "template", "eos", "bos", "trunc", "prompt", "special"}},
      {rank_model, {"model", "weight", "arch", "sha", "layers"}},
      {rank_computation, {"dtype", "attention", "seed", "queries", "kernel", "backend"}},
  };
  for (const auto& [rank, list] : words)
    for (const char* word : list)
      if (key.find(word) != std::string::npos) return rank;
  return rank_computation;
}

std::string value_text(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void compare_manifests(const std::string& a, const std::string& b, Differences& out) {
  const json left = json::parse(a, nullptr, false), right = json::parse(b, nullptr, false);
  if (!left.is_object() || !right.is_object()) return out.compare(rank_computation, "manifest", a, b);
  std::set<std::string> keys;
  for (const auto& [key, value] : left.items()) keys.insert(key);
  for (const auto& [key, value] : right.items()) keys.insert(key);
  for (const auto& key : keys) {
    const json x = left.contains(key) ? left[key] : json(), y = right.contains(key) ? right[key] : json();
    if (x != y) out.compare(manifest_rank(key), "manifest: " + printable(key), value_text(x), value_text(y));
  }
}

void compare_models(const ModelInfo& a, const ModelInfo& b, Differences& out) {
  const auto integer = [&](const char* name, int x, int y) {
    out.compare<std::int64_t>(rank_model, std::string("/model ") + name, x, y);
  };
  out.compare(rank_model, "/model weights_sha256", a.weights_sha256, b.weights_sha256);
  out.compare(rank_model, "/model architecture", a.architecture, b.architecture);
  out.compare(rank_model, "/model name", a.name, b.name);
  integer("num_layers", a.num_layers, b.num_layers);
  integer("num_query_heads", a.num_query_heads, b.num_query_heads);
  integer("num_kv_heads", a.num_kv_heads, b.num_kv_heads);
  integer("head_dim", a.head_dim, b.head_dim);
  integer("hidden_size", a.hidden_size, b.hidden_size);
  out.compare(rank_model, "/model attention_scale", a.attention_scale, b.attention_scale);
  out.compare(rank_model, "/model logit_softcap", a.logit_softcap, b.logit_softcap);
  out.compare(rank_model, "/model rope_theta", a.rope_theta, b.rope_theta);
  out.compare(rank_model, "/model rope_scaling", a.rope_scaling, b.rope_scaling);
  out.compare(rank_model, "/model rope_layout", a.rope_layout, b.rope_layout);
}

class TraceComparison {
 public:
  TraceComparison(const Trace& a, const Trace& b, const CompareOptions& options, Differences& out, Job& job)
      : a_(a), b_(b), options_(options), out_(out), job_(job) {}

  void run() {
    compare_manifests(a_.manifest(), b_.manifest(), out_);
    compare_models(a_.model(), b_.model(), out_);
    compare_tokens();
    out_.compare<std::int64_t>(rank_computation, "complete", a_.complete(), b_.complete());
    compare_list(rank_computation, "/queries/positions", a_.query_positions(), b_.query_positions());
    compare_list(rank_computation, "/queries/attention_positions", a_.attention_positions(), b_.attention_positions());
    compare_list(rank_computation, "captured layers", a_.layers(), b_.layers());
    compare_texts();
    compare_nll();
    compare_layers();
  }

 private:
  template <class T>
  void compare_list(int rank, const std::string& where, const std::vector<T>& a, const std::vector<T>& b) {
    if (a == b) return;
    if (a.size() != b.size()) out_.add(rank, where, std::to_string(a.size()) + " against " + std::to_string(b.size()));
    const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (x == a.end() || y == b.end()) return;
    out_.add(rank, where,
             "first differs at index " + std::to_string(x - a.begin()) + ": " + std::to_string(*x) + " against " +
                 std::to_string(*y));
  }

  void compare_tokens() {
    out_.compare(rank_tokens, "prompt_length", a_.prompt_length(), b_.prompt_length());
    compare_list(rank_tokens, "/tokens/ids", a_.token_ids(), b_.token_ids());
  }

  void compare_texts() {
    if (a_.token_texts() != b_.token_texts()) out_.add(rank_text, "/tokens/text", "the tokens' bytes differ");
    const auto equal = [](const TextSpan& x, const TextSpan& y) {
      return x.start == y.start && x.end == y.end && x.label == y.label;
    };
    if (!std::equal(a_.spans().begin(), a_.spans().end(), b_.spans().begin(), b_.spans().end(), equal))
      out_.add(
          rank_text, "/tokens/span_start",
          std::to_string(a_.spans().size()) + " spans against " + std::to_string(b_.spans().size()) + ", or other ones");
  }

  void compare_nll() {
    const auto a = a_.nll(), b = b_.nll();
    if (a.empty() != b.empty())
      return out_.add(rank_values, "/tokens/nll", std::string("only in ") + (a.empty() ? "the second" : "the first"));
    if (a.size() != b.size() || a.empty()) return;
    ValueComparison values;
    values.add(a.data(), b.data(), a.size(), 0);
    report("/tokens/nll", values, {static_cast<std::int64_t>(a.size())});
  }

  void report(const std::string& where, const ValueComparison& values, const std::vector<std::int64_t>& shape) {
    if (!values.differs(options_.tolerance)) return;
    std::int64_t total = 1;
    for (const auto n : shape) total *= n;
    Difference d;
    d.rank = rank_values;
    d.where = where;
    d.max_absolute = values.max_absolute();
    d.max_relative = values.max_relative();
    d.first_position = position_text(values.first(), shape);
    d.what = std::to_string(values.count()) + " of " + std::to_string(total) + " values differ, by at most " +
             format_number(values.max_absolute()) + " (" + format_number(values.max_relative()) +
             " of the largest), first at " + d.first_position;
    out_.all.push_back(std::move(d));
  }

  void compare_layers() {
    std::vector<int> both;
    std::set_intersection(a_.layers().begin(), a_.layers().end(), b_.layers().begin(), b_.layers().end(),
                          std::back_inserter(both));
    job_.begin("comparing", static_cast<double>(both.size()), "layers");
    for (std::size_t i = 0; i < both.size(); ++i) {
      out_.compare<std::int64_t>(rank_model, layer_node(both[i]) + " sliding_window", a_.sliding_window(both[i]),
                                 b_.sliding_window(both[i]));
      for (const auto which : all_layer_datasets) compare_tensor(both[i], which);
      job_.advance_to(static_cast<double>(i + 1));
    }
    job_.end();
  }

  void compare_tensor(int layer, LayerDataset which) {
    const std::string where = layer_dataset_node(layer, which);
    const bool in_a = a_.has(layer, which), in_b = b_.has(layer, which);
    if (!in_a && !in_b) return;
    if (in_a != in_b)
      return out_.add(rank_computation, where, std::string("only in ") + (in_a ? "the first" : "the second"));
    if (a_.type(layer, which) != b_.type(layer, which))
      out_.add(rank_computation, where,
               std::string(element_type_name(a_.type(layer, which))) + " against " +
                   std::string(element_type_name(b_.type(layer, which))));
    const auto shape = a_.shape(layer, which);
    if (shape != b_.shape(layer, which)) return;  // follows from what was told already
    ValueComparison values;
    const std::int64_t rows = std::max<std::int64_t>(1, (std::int64_t{1} << 22) / std::max<std::int64_t>(1, shape[2]));
    for (std::int64_t head = 0; head < shape[0]; ++head)
      for (std::int64_t first = 0; first < shape[1]; first += rows) {
        job_.check();
        const IndexRange heads{head, head + 1}, range{first, std::min(shape[1], first + rows)};
        const auto x = a_.read(layer, which, heads, range), y = b_.read(layer, which, heads, range);
        values.add(x.data(), y.data(), static_cast<std::size_t>(x.size()), (head * shape[1] + first) * shape[2]);
      }
    const bool flat =
        shape[0] == 1 && which != LayerDataset::key && which != LayerDataset::value && which != LayerDataset::query;
    report(where, values,
           flat ? std::vector<std::int64_t>{shape[1], shape[2]} : std::vector<std::int64_t>{shape.begin(), shape.end()});
  }

  const Trace& a_;
  const Trace& b_;
  const CompareOptions& options_;
  Differences& out_;
  Job& job_;
};

void compare_provenance(const std::string& a, const std::string& b, Trust trust, Differences& out) {
  const auto left = open_source(a, trust), right = open_source(b, trust);
  for (const char* name : {"created_by", "created_utc", "command"}) {
    const auto x = left->attribute("/", name), y = right->attribute("/", name);
    const auto text = [](const auto& value) {
      const auto* found = value ? std::get_if<std::string>(&*value) : nullptr;
      return found == nullptr ? std::string() : *found;
    };
    out.compare(rank_provenance, name, text(x), text(y));
  }
}

}  // namespace

void compare_traces(const std::string& a, const std::string& b, const CompareOptions& options, Differences& out, Job& job) {
  const auto left = open_trace(a, options.trust), right = open_trace(b, options.trust);
  TraceComparison(*left, *right, options, out, job).run();
  compare_provenance(a, b, options.trust, out);
}

}  // namespace kvreplay

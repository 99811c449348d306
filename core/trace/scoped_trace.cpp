#include "core/trace/scoped_trace.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {
namespace {

bool inside(const std::vector<TextSpan>& spans, std::int64_t position) {
  return std::any_of(spans.begin(), spans.end(), [&](const TextSpan& span) { return span.contains(position); });
}

std::string span_text(const TextSpan& span) {
  return "\"" + printable(span.label) + "\" (" + std::to_string(span.start) + " to " + std::to_string(span.end - 1) + ")";
}

// Which of the recorded positions a view offers: rows of the file, ascending.
struct OfferedRows {
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> rows;
  bool all = true;

  OfferedRows(const std::vector<std::int32_t>& recorded, const TraceScope& scope) {
    for (std::size_t row = 0; row < recorded.size(); ++row) {
      if (!scope.score.empty() && recorded[row] < scope.prompt_length && !inside(scope.score, recorded[row])) {
        all = false;
        continue;
      }
      positions.push_back(recorded[row]);
      rows.push_back(static_cast<std::int64_t>(row));
    }
  }
};

class ScopedTrace final : public Trace {
 public:
  ScopedTrace(const Trace& trace, TraceScope scope)
      : trace_(trace),
        scope_(std::move(scope)),
        queries_(trace.query_positions(), scope_),
        attention_(trace.attention_positions(), scope_) {
    if (scope_.prompt_length < 1 || scope_.prompt_length > trace.num_tokens())
      throw Error(trace.path(), "has no prompt of " + std::to_string(scope_.prompt_length) + " tokens",
                  "it has " + std::to_string(trace.num_tokens()) + " tokens in all");
  }

  const std::string& path() const override { return trace_.path(); }
  const ModelInfo& model() const override { return trace_.model(); }
  std::int64_t num_tokens() const override { return trace_.num_tokens(); }
  std::int64_t prompt_length() const override { return scope_.prompt_length; }
  bool complete() const override { return trace_.complete(); }
  const std::vector<int>& layers() const override { return trace_.layers(); }
  int sliding_window(int layer) const override { return trace_.sliding_window(layer); }
  const std::vector<std::int32_t>& token_ids() const override { return trace_.token_ids(); }
  const std::vector<std::int32_t>& query_positions() const override { return queries_.positions; }
  const std::vector<std::int32_t>& attention_positions() const override { return attention_.positions; }
  std::int64_t text_position(int kv_head, std::int64_t slot) const override { return trace_.text_position(kv_head, slot); }
  const std::vector<TextSpan>& spans() const override { return trace_.spans(); }
  std::vector<std::string> token_texts() const override { return trace_.token_texts(); }
  std::vector<float> nll() const override { return trace_.nll(); }
  std::string manifest() const override { return trace_.manifest(); }
  std::string identity() const override { return trace_.identity(); }
  std::vector<std::string> extension_members(const std::string& group) const override {
    return trace_.extension_members(group);
  }
  std::string extension_text(const std::string& node, const std::string& attribute) const override {
    return trace_.extension_text(node, attribute);
  }
  std::optional<std::array<std::int64_t, 3>> extension_shape(const std::string& node) const override {
    return trace_.extension_shape(node);
  }
  Tensor<float, 3> read_extension(const std::string& node, IndexRange heads, IndexRange rows) const override {
    return trace_.read_extension(node, heads, rows);
  }

  bool has(int layer, LayerDataset which) const override {
    const bool same_sum = queries_.all && scope_.prompt_length == trace_.prompt_length();
    return trace_.has(layer, which) && (which != LayerDataset::attention_column_sum || same_sum);
  }
  ElementType type(int layer, LayerDataset which) const override { return trace_.type(layer, which); }

  std::array<std::int64_t, 3> shape(int layer, LayerDataset which) const override {
    auto shape = trace_.shape(layer, which);
    if (const OfferedRows* offered = rows_of(which))
      shape[which == LayerDataset::log_sum_exp ? 2 : 1] = static_cast<std::int64_t>(offered->rows.size());
    return shape;
  }

  Tensor<float, 3> read(int layer, LayerDataset which, IndexRange heads, IndexRange rows) const override {
    if (which == LayerDataset::attention_column_sum && trace_.has(layer, which) && !has(layer, which))
      throw Error(path() + ":/layers", "attention_column_sum is over other queries than those that may score");
    const OfferedRows* offered = rows_of(which);
    if (offered == nullptr || offered->all) return trace_.read(layer, which, heads, rows);
    if (which == LayerDataset::log_sum_exp) return columns(trace_.read(layer, which, heads, rows), offered->rows);
    return read_rows(layer, which, heads, rows, offered->rows);
  }

  void read_stored(int layer, LayerDataset which, void* out, IndexRange heads, IndexRange rows) const override {
    const OfferedRows* offered = rows_of(which);
    const bool as_it_is = which != LayerDataset::attention_column_sum && (offered == nullptr || offered->all);
    as_it_is ? trace_.read_stored(layer, which, out, heads, rows) : Trace::read_stored(layer, which, out, heads, rows);
  }

  Error missing_query(std::int64_t position, const std::string& purpose) const override {
    if (!trace_.has_query(position)) return trace_.missing_query(position, purpose);
    std::vector<std::string> spans;
    std::int64_t most = 0;
    for (const TextSpan& span : scope_.score) {
      spans.push_back(span_text(span));
      if (span.end == scope_.prompt_length) most = std::max<std::int64_t>(most, span.end - span.start);
    }
    return {path(),
            "the query of position " + std::to_string(position) + " may not score, which " + purpose +
                " needs: only those in " + join(spans, ", ", " and ") + " may",
            "a policy with a window takes at most " + std::to_string(most) + " queries here; or let more spans score"};
  }

 private:
  const OfferedRows* rows_of(LayerDataset which) const {
    switch (which) {
      case LayerDataset::query:
      case LayerDataset::head_output:
      case LayerDataset::log_sum_exp: return &queries_;
      case LayerDataset::attention: return &attention_;
      default: return nullptr;
    }
  }

  static Tensor<float, 3> columns(const Tensor<float, 3>& all, const std::vector<std::int64_t>& offered) {
    Tensor<float, 3> out({all.dim(0), all.dim(1), static_cast<std::int64_t>(offered.size())});
    for (std::int64_t h = 0; h < all.dim(0); ++h)
      for (std::int64_t r = 0; r < all.dim(1); ++r)
        for (std::size_t c = 0; c < offered.size(); ++c) out(h, r, static_cast<std::int64_t>(c)) = all(h, r, offered[c]);
    return out;
  }

  // Rows that lie side by side in the file are read at once.
  Tensor<float, 3> read_rows(int layer, LayerDataset which, IndexRange heads, IndexRange rows,
                             const std::vector<std::int64_t>& offered) const {
    const auto stored = trace_.shape(layer, which);
    if (heads.end < 0) heads.end = stored[0];
    if (rows.end < 0) rows.end = static_cast<std::int64_t>(offered.size());
    if (rows.begin < 0 || rows.begin > rows.end || rows.end > static_cast<std::int64_t>(offered.size()))
      throw Error(path() + ":" + std::string(layer_dataset_name(which)), "has fewer rows than were asked for");
    Tensor<float, 3> out({heads.end - heads.begin, rows.end - rows.begin, stored[2]});
    for (std::int64_t first = rows.begin; first < rows.end;) {
      std::int64_t end = first + 1;
      while (end < rows.end && row(offered, end) == row(offered, end - 1) + 1) ++end;
      const auto piece = trace_.read(layer, which, heads, {row(offered, first), row(offered, end - 1) + 1});
      for (std::int64_t h = 0; h < out.dim(0); ++h)
        std::copy_n(piece.data() + h * piece.dim(1) * stored[2], piece.dim(1) * stored[2],
                    out.data() + (h * out.dim(1) + first - rows.begin) * stored[2]);
      first = end;
    }
    return out;
  }
  static std::int64_t row(const std::vector<std::int64_t>& offered, std::int64_t i) {
    return offered[static_cast<std::size_t>(i)];
  }

  const Trace& trace_;
  TraceScope scope_;
  OfferedRows queries_, attention_;
};

// "question#2": the label and which of its spans, 0 for all.
std::pair<std::string, std::size_t> label_and_number(const std::string& name) {
  const auto hash = name.rfind('#');
  if (hash == std::string::npos) return {name, 0};
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(name.data() + hash + 1, name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size() || number == 0) return {name, 0};
  return {name.substr(0, hash), number};
}

}  // namespace

std::unique_ptr<Trace> scoped_trace(const Trace& trace, TraceScope scope) {
  return std::make_unique<ScopedTrace>(trace, std::move(scope));
}

std::vector<TextSpan> select_spans(const Trace& trace, const std::vector<std::string>& names, const std::string& option) {
  std::vector<TextSpan> all = trace.spans();
  const auto spans_of = [&](const std::string& label) {
    std::vector<TextSpan> found;
    std::copy_if(all.begin(), all.end(), std::back_inserter(found), [&](const TextSpan& s) { return s.label == label; });
    std::stable_sort(found.begin(), found.end(), [](const TextSpan& a, const TextSpan& b) { return a.start < b.start; });
    return found;
  };
  const int prompt = static_cast<int>(trace.prompt_length()), tokens = static_cast<int>(trace.num_tokens());
  if (spans_of("prompt").empty()) all.push_back({0, prompt, "prompt"});
  if (spans_of("generated").empty() && tokens > prompt) all.push_back({prompt, tokens, "generated"});

  std::vector<TextSpan> chosen;
  for (const std::string& name : names) {
    auto found = spans_of(name);
    if (found.empty()) {
      const auto [label, number] = label_and_number(name);
      found = spans_of(label);
      if (number > found.size() && !found.empty())
        throw Error(option, trace.path() + " has only " + std::to_string(found.size()) + " spans \"" + label + "\"",
                    "count from " + label + "#1");
      if (number > 0 && !found.empty()) found = {found[number - 1]};
    }
    if (found.empty()) {
      std::vector<std::string> labels;
      for (const TextSpan& span : all)
        if (std::find(labels.begin(), labels.end(), span.label) == labels.end()) labels.push_back(span.label);
      const std::string guess = closest(name, labels);
      throw Error(option, trace.path() + " has no marked span \"" + printable(name) + "\"",
                  guess.empty()
                      ? "it has " + printable(join(labels, ", ", " and ")) + "; `kvreplay capture --spans FILE` marks others"
                      : "did you mean \"" + printable(guess) + "\"?");
    }
    chosen.insert(chosen.end(), found.begin(), found.end());
  }
  std::stable_sort(chosen.begin(), chosen.end(), [](const TextSpan& a, const TextSpan& b) { return a.start < b.start; });
  return chosen;
}

}  // namespace kvreplay

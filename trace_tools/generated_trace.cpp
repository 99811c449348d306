#include "trace_tools/generated_trace.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "core/base/parallel.h"

namespace kvreplay::cli {
namespace {

// Quantiles of the normal distribution at the middles of 4,096 equal shares, as float16: 12 bits of a random integer become
// a normal number by one look.
class NormalTable {
 public:
  NormalTable() {
    std::array<float, size> quantile{};
    for (std::size_t i = 0; i < size; ++i) quantile[i] = quantile_of((static_cast<double>(i) + 0.5) / size);
    from_float32(ElementType::float16, quantile.data(), values_.data(), size);
  }
  std::uint16_t operator[](std::uint64_t bits) const { return values_[bits & (size - 1)]; }

 private:
  static constexpr std::size_t size = 4096;
  // By bisection of the distribution function: 4,096 times at start.
  static float quantile_of(double share) {
    double low = -6, high = 6;
    for (int i = 0; i < 40; ++i) {
      const double middle = (low + high) / 2;
      (std::erfc(-middle / std::sqrt(2.0)) / 2 < share ? low : high) = middle;
    }
    return static_cast<float>(low);
  }
  std::array<std::uint16_t, size> values_{};
};

// splitmix64 (Steele, Lea and Flood 2014) of a counter: every number by itself.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

class GeneratedTrace final : public Trace {
 public:
  explicit GeneratedTrace(const GeneratedShape& shape) : shape_(shape) {
    model_.name = model_.architecture = "generated";
    model_.num_layers = shape.layers;
    model_.num_query_heads = shape.query_heads;
    model_.num_kv_heads = shape.kv_heads;
    model_.head_dim = shape.head_dim;
    model_.hidden_size = shape.hidden_size;
    model_.attention_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    for (int layer = 0; layer < shape.layers; ++layer) layers_.push_back(layer);
    token_ids_.assign(static_cast<std::size_t>(shape.prompt + shape.steps), 0);
    for (std::int64_t t = shape.prompt - shape.query_window; t < shape.prompt + shape.steps; ++t)
      query_positions_.push_back(static_cast<std::int32_t>(t));
    if (shape.held) hold();
  }

  const std::string& path() const override { return path_; }
  const ModelInfo& model() const override { return model_; }
  std::int64_t num_tokens() const override { return shape_.prompt + shape_.steps; }
  std::int64_t prompt_length() const override { return shape_.prompt; }
  bool complete() const override { return true; }
  const std::vector<int>& layers() const override { return layers_; }
  int sliding_window(int) const override { return 0; }
  const std::vector<std::int32_t>& token_ids() const override { return token_ids_; }
  const std::vector<std::int32_t>& query_positions() const override { return query_positions_; }
  const std::vector<std::int32_t>& attention_positions() const override { return attention_positions_; }
  const std::vector<TextSpan>& spans() const override { return spans_; }
  std::vector<std::string> token_texts() const override { return {}; }
  std::vector<float> nll() const override { return {}; }
  std::string manifest() const override { return {}; }
  std::string identity() const override { return "generated"; }

  bool has(int, LayerDataset which) const override {
    switch (which) {
      case LayerDataset::key:
      case LayerDataset::value:
      case LayerDataset::query:
      case LayerDataset::output_projection: return true;
      case LayerDataset::log_sum_exp: return shape_.log_sum_exp;
      default: return false;
    }
  }
  ElementType type(int, LayerDataset which) const override {
    return which == LayerDataset::log_sum_exp ? ElementType::float32 : ElementType::float16;
  }
  std::array<std::int64_t, 3> shape(int, LayerDataset which) const override {
    const std::int64_t queries = static_cast<std::int64_t>(query_positions_.size()), d = shape_.head_dim;
    switch (which) {
      case LayerDataset::query: return {shape_.query_heads, queries, d};
      case LayerDataset::output_projection: return {1, shape_.hidden_size, shape_.query_heads * d};
      case LayerDataset::log_sum_exp: return {1, shape_.query_heads, queries};
      default: return {shape_.kv_heads, num_tokens(), d};
    }
  }

  void read_stored(int layer, LayerDataset which, void* out, IndexRange heads, IndexRange rows) const override {
    complete_ranges(layer, which, heads, rows);
    const auto held = held_.find({layer, which});
    const std::int64_t all_rows = shape(layer, which)[1], bytes = row_bytes(layer, which), count = rows.end - rows.begin;
    // What is only copied is cut coarsely: readers that take a few MiB at a time are several threads themselves.
    const std::int64_t grain_bytes = held == held_.end() ? 1 << 17 : 1 << 22;
    parallel_for((heads.end - heads.begin) * count, std::max<std::int64_t>(1, grain_bytes / bytes),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t r = begin; r < end; ++r) {
                     const std::int64_t head = heads.begin + r / count, row = rows.begin + r % count;
                     char* target = static_cast<char*>(out) + r * bytes;
                     if (held == held_.end())
                       write_row(layer, which, head, row, target);
                     else
                       std::memcpy(target, held->second.get() + (head * all_rows + row) * bytes,
                                   static_cast<std::size_t>(bytes));
                   }
                 });
  }

  Tensor<float, 3> read(int layer, LayerDataset which, IndexRange heads, IndexRange rows) const override {
    complete_ranges(layer, which, heads, rows);
    Tensor<float, 3> values({heads.end - heads.begin, rows.end - rows.begin, shape(layer, which)[2]});
    if (type(layer, which) == ElementType::float32) {
      read_stored(layer, which, values.data(), heads, rows);
      return values;
    }
    std::vector<std::uint16_t> stored(static_cast<std::size_t>(values.size()));
    read_stored(layer, which, stored.data(), heads, rows);
    to_float32(type(layer, which), stored.data(), values.data(), stored.size());
    return values;
  }

 private:
  void complete_ranges(int layer, LayerDataset which, IndexRange& heads, IndexRange& rows) const {
    if (heads.end < 0) heads.end = shape(layer, which)[0];
    if (rows.end < 0) rows.end = shape(layer, which)[1];
  }

  std::int64_t row_bytes(int layer, LayerDataset which) const {
    return shape(layer, which)[2] * static_cast<std::int64_t>(element_size(type(layer, which)));
  }

  void hold() {
    for (const int layer : layers_)
      for (const auto which :
           {LayerDataset::key, LayerDataset::value, LayerDataset::query, LayerDataset::output_projection}) {
        const auto extent = shape(layer, which);
        auto bytes = std::make_unique_for_overwrite<char[]>(
            static_cast<std::size_t>(extent[0] * extent[1] * row_bytes(layer, which)));
        read_stored(layer, which, bytes.get(), {}, {});
        held_[{layer, which}] = std::move(bytes);
      }
  }

  void write_row(int layer, LayerDataset which, std::int64_t head, std::int64_t row, void* out) const {
    const std::int64_t columns = shape(layer, which)[2];
    if (which == LayerDataset::log_sum_exp) {
      auto* sums = static_cast<float*>(out);
      for (std::int64_t i = 0; i < columns; ++i)
        sums[i] = std::log(static_cast<float>(query_positions_[static_cast<std::size_t>(i)]) + 1.0F) + 0.5F;
      return;
    }
    static const NormalTable normal;
    auto* values = static_cast<std::uint16_t*>(out);
    const std::uint64_t stream = mixed(mixed(static_cast<std::uint64_t>(layer) * 16 + static_cast<std::uint64_t>(which)) +
                                       static_cast<std::uint64_t>(head));
    const std::uint64_t first = stream + static_cast<std::uint64_t>(row * columns);
    // Five numbers of 12 bits from one of 64.
    for (std::int64_t i = 0; i < columns; i += 5) {
      std::uint64_t bits = mixed(first + static_cast<std::uint64_t>(i));
      for (std::int64_t k = i; k < std::min(columns, i + 5); ++k, bits >>= 12) values[k] = normal[bits];
    }
    // W_o has variance 1 / (Hq d), so that outputs keep their size: a power of two is one addition to the exponent.
    if (which == LayerDataset::output_projection)
      for (std::int64_t i = 0; i < columns; ++i) values[i] = scaled_down(values[i]);
  }

  std::uint16_t scaled_down(std::uint16_t half) const {
    const int halvings = static_cast<int>(std::log2(static_cast<double>(shape_.query_heads) * shape_.head_dim) / 2);
    const int exponent = (half >> 10 & 31) - halvings;
    return exponent <= 0 ? half & 0x8000U : static_cast<std::uint16_t>((half & 0x83ffU) | exponent << 10);
  }

  GeneratedShape shape_;
  std::string path_ = "<generated>";
  ModelInfo model_;
  std::vector<int> layers_;
  std::vector<std::int32_t> token_ids_, query_positions_, attention_positions_;
  std::vector<TextSpan> spans_;
  std::map<std::pair<int, LayerDataset>, std::unique_ptr<char[]>> held_;
};

}  // namespace

std::unique_ptr<Trace> make_generated_trace(const GeneratedShape& shape) { return std::make_unique<GeneratedTrace>(shape); }

}  // namespace kvreplay::cli

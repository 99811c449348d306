// Window attention, column sums and decode logits: products of queries with keys, and softmax over what each query sees.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/backend/cpu/cpu_backend.h"
#include "core/backend/describe_layer.h"
#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

constexpr std::int64_t key_tile = 2048;  // keys of one piece of work: 1 MiB at d = 128
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

const CpuLayer& cpu(const LoadedLayer& layer) { return static_cast<const CpuLayer&>(layer); }

struct SoftmaxRow {
  std::int64_t argmax = -1;
  double others = 0;  // Σ exp(z - max) without the largest: not a subtraction, so exact when the largest has nearly all
  double weight() const { return 1 / (1 + others); }
  double complement() const { return others / (1 + others); }
};

// logits [columns] become weights in place; columns outside [begin, end) become 0.
SoftmaxRow softmax_in_place(float* row, std::int64_t columns, std::int64_t begin, std::int64_t end, double softcap) {
  if (softcap > 0) kernels::soft_cap(row + begin, end - begin, static_cast<float>(softcap));
  const float top = kernels::maximum(row + begin, end - begin);
  SoftmaxRow result;
  result.argmax = std::find(row + begin, row + end, top) - row;
  row[result.argmax] = minus_infinity;
  result.others = kernels::exponentiate(row + begin, end - begin, top);
  row[result.argmax] = 1.0F;
  kernels::scale_in_place(row + begin, end - begin, static_cast<float>(result.weight()));
  std::fill(row, row + begin, 0.0F);
  std::fill(row + end, row + columns, 0.0F);
  return result;
}

}  // namespace

std::pair<std::int64_t, std::int64_t> CpuLayer::query_rows(std::int64_t begin, std::int64_t end) const {
  const auto& positions = trace->query_positions();
  const auto first = std::lower_bound(positions.begin(), positions.end(), begin);
  const auto row = first - positions.begin();
  if (positions.end() - first < end - begin || (end > begin && *first != begin)) return {-1, -1};
  if (end > begin && positions[static_cast<std::size_t>(row + end - begin - 1)] != end - 1) return {-1, -1};
  return {row, row + end - begin};
}

Tensor<float, 3> CpuLayer::queries(int first_head, int end_head, std::int64_t begin, std::int64_t end,
                                   const std::string& purpose) const {
  const auto [row, row_end] = query_rows(begin, end);
  if (row < 0) {
    std::int64_t missing = begin;
    while (trace->has_query(missing)) ++missing;
    throw trace->missing_query(missing, purpose);
  }
  return trace->read(layer, LayerDataset::query, {first_head, end_head}, {row, row_end});
}

std::shared_ptr<LoadedLayer> CpuBackend::load(const Trace& trace, int layer) {
  auto loaded = std::make_shared<CpuLayer>();
  describe_layer(*loaded, trace, layer);
  loaded->key = trace.read(layer, LayerDataset::key);
  loaded->value = trace.read(layer, LayerDataset::value);
  return loaded;
}

AttentionRows CpuBackend::window_attention(const LoadedLayer& base, int window, bool with_output) {
  const CpuLayer& layer = cpu(base);
  const std::int64_t w = window, d = layer.head_dim, group = layer.group();
  const std::int64_t first_query = layer.prompt - w;
  const std::int64_t low = layer.first_visible(std::max<std::int64_t>(0, first_query));  // column 0 of the full rows
  const std::int64_t columns = layer.prompt - low;
  const std::int64_t n = layer.candidates(), cut = layer.first_candidate - low;
  const auto query = layer.queries(0, layer.num_query_heads, first_query, layer.prompt,
                                   "a policy that scores with the last " + std::to_string(window) + " prompt queries");

  HostArrayBuilder weight(held_, {layer.num_query_heads, w, n}), dominant(held_, {layer.num_query_heads, w, 2});
  // Rows over every visible key. They are the result itself unless the sliding window hides some from the candidates.
  Tensor<float, 1> wide;
  if (cut > 0) wide = Tensor<float, 1>({layer.num_query_heads * w * columns});
  float* rows = cut > 0 ? wide.data() : weight.data();

  const std::int64_t tiles = (columns + key_tile - 1) / key_tile;
  const std::int64_t rows_per_group = group * w;
  parallel_for(layer.num_kv_heads * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t head = piece / tiles, first = piece % tiles * key_tile;
      kernels::gemm_nt(rows_per_group, std::min(key_tile, columns - first), d, static_cast<float>(layer.attention_scale),
                       query.data() + head * rows_per_group * d, d,
                       layer.key.data() + (head * layer.tokens + low + first) * d, d,
                       rows + head * rows_per_group * columns + first, columns);
    }
  });
  parallel_for(layer.num_query_heads * w, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t position = first_query + r % w;
      const SoftmaxRow row = softmax_in_place(rows + r * columns, columns, layer.first_visible(position) - low,
                                              position + 1 - low, layer.logit_softcap);
      const bool dominates = row.weight() > 0.5 && row.argmax >= cut;
      dominant.data()[2 * r] = dominates ? static_cast<float>(row.argmax - cut) : -1.0F;
      dominant.data()[2 * r + 1] = dominates ? static_cast<float>(row.complement()) : 1.0F;
      if (cut > 0) std::copy_n(rows + r * columns + cut, n, weight.data() + r * n);
    }
  });

  AttentionRows result;
  if (with_output) {
    // The dominant weight is left out of the product and added after it, so that what the others contribute keeps its
    // own relative precision.
    const auto dominant_cell = [&](std::int64_t r) -> float* {
      const float column = dominant.data()[2 * r];
      return column < 0 ? nullptr : rows + r * columns + cut + static_cast<std::int64_t>(column);
    };
    std::vector<float> dominant_weight(static_cast<std::size_t>(layer.num_query_heads * w), 0.0F);
    for (std::int64_t r = 0; r < layer.num_query_heads * w; ++r)
      if (float* cell = dominant_cell(r)) dominant_weight[static_cast<std::size_t>(r)] = std::exchange(*cell, 0.0F);

    Tensor<float, 1> partial({layer.num_kv_heads * tiles * rows_per_group * d});
    parallel_for(layer.num_kv_heads * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t head = piece / tiles, first = piece % tiles * key_tile;
        kernels::gemm_nn(rows_per_group, d, std::min(key_tile, columns - first), 1.0F,
                         rows + head * rows_per_group * columns + first, columns,
                         layer.value.data() + (head * layer.tokens + low + first) * d, d,
                         partial.data() + piece * rows_per_group * d, d);
      }
    });
    HostArrayBuilder output(held_, {layer.num_query_heads, w, d}), rest(held_, {layer.num_query_heads, w, d});
    for (std::int64_t r = 0; r < layer.num_query_heads * w; ++r) {
      const std::int64_t head = r / rows_per_group, row = r % rows_per_group;
      float* cell = dominant_cell(r);
      const float a = dominant_weight[static_cast<std::size_t>(r)];
      const float* value =
          cell == nullptr ? nullptr : layer.value.data() + (head * layer.tokens + low + (cell - rows - r * columns)) * d;
      for (std::int64_t i = 0; i < d; ++i) {
        double total = 0;
        for (std::int64_t tile = 0; tile < tiles; ++tile)
          total += partial[((head * tiles + tile) * rows_per_group + row) * d + i];
        rest.data()[r * d + i] = static_cast<float>(total);
        output.data()[r * d + i] = static_cast<float>(value == nullptr ? total : total + static_cast<double>(a) * value[i]);
      }
      if (cell != nullptr) *cell = a;
    }
    result.output = output.finish();
    result.rest = rest.finish();
  }
  result.weight = weight.finish();
  result.dominant = dominant.finish();
  return result;
}

Array CpuBackend::column_sums(const LoadedLayer& base, ColumnMask mask, int window) {
  const CpuLayer& layer = cpu(base);
  const std::int64_t n = layer.candidates(), d = layer.head_dim, tokens = layer.tokens, prompt = layer.prompt;
  HostArrayBuilder sums(held_, {layer.num_query_heads, n});
  if (mask == ColumnMask::causal && layer.trace->has(layer.layer, LayerDataset::attention_column_sum)) {
    const auto stored = layer.trace->read(layer.layer, LayerDataset::attention_column_sum);
    for (std::int64_t h = 0; h < layer.num_query_heads; ++h)
      std::copy_n(stored.data() + h * tokens + layer.first_candidate, n, sums.data() + h * n);
    return sums.finish();
  }

  // Rows of a block times its keys stay within half a megabyte where they can.
  const std::int64_t block = std::clamp<std::int64_t>((1 << 17) / std::max<std::int64_t>(1, prompt), 8, 64);
  const std::int64_t first_of_window = prompt - window;
  parallel_for(layer.num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Tensor<float, 1> logits({block * prompt});
    std::vector<double> total(static_cast<std::size_t>(prompt));
    for (std::int64_t h = begin; h < end; ++h) {
      std::fill(total.begin(), total.end(), 0.0);
      const auto query =
          layer.queries(static_cast<int>(h), static_cast<int>(h) + 1, 0, prompt,
                        "the attention that each token received from the whole prompt (no attention_column_sum either)");
      const float* key = layer.key.data() + h / layer.group() * tokens * d;
      for (std::int64_t first = 0; first < prompt; first += block) {
        const std::int64_t rows = std::min(block, prompt - first);
        const auto sees_all = [&](std::int64_t position) {
          return mask == ColumnMask::full_before_window && position < first_of_window;
        };
        const std::int64_t key_end = sees_all(first) ? prompt : first + rows;
        const std::int64_t low = layer.first_visible(first);
        const std::int64_t columns = key_end - low;
        kernels::gemm_nt(rows, columns, d, static_cast<float>(layer.attention_scale), query.data() + first * d, d,
                         key + low * d, d, logits.data(), columns);
        for (std::int64_t r = 0; r < rows; ++r) {
          float* row = logits.data() + r * columns;
          const std::int64_t position = first + r;
          softmax_in_place(row, columns, layer.first_visible(position) - low,
                           (sees_all(position) ? prompt : position + 1) - low, layer.logit_softcap);
          for (std::int64_t c = 0; c < columns; ++c) total[static_cast<std::size_t>(low + c)] += row[c];
        }
      }
      for (std::int64_t c = 0; c < n; ++c)
        sums.data()[h * n + c] = static_cast<float>(total[static_cast<std::size_t>(layer.first_candidate + c)]);
    }
  });
  return sums.finish();
}

Tensor<float, 2> CpuBackend::decode_logits(const LoadedLayer& base, int head) {
  return decode_logits(cpu(base), head, 0, base.steps());
}

Tensor<float, 2> CpuBackend::decode_logits(const CpuLayer& layer, int head, std::int64_t first_step, std::int64_t end_step) {
  const std::int64_t tokens = layer.tokens, d = layer.head_dim;
  Tensor<float, 2> logits({end_step - first_step, tokens});
  if (first_step >= end_step) return logits;
  const auto& positions = layer.trace->query_positions();
  const auto row_of = [&](std::int64_t step) {
    return std::lower_bound(positions.begin(), positions.end(), layer.prompt + step) - positions.begin();
  };
  const auto first = row_of(first_step), last = row_of(end_step);
  logits.fill(std::numeric_limits<float>::quiet_NaN());
  if (first == last) return logits;
  const auto query = layer.trace->read(layer.layer, LayerDataset::query, {head, head + 1}, {first, last});
  const float* key = layer.key.data() + head / layer.group() * tokens * d;
  for (std::int64_t row = 0; row < last - first; ++row) {
    const std::int64_t position = positions[static_cast<std::size_t>(first + row)];
    float* out = logits.data() + (position - layer.prompt - first_step) * tokens;
    const std::int64_t low = layer.first_visible(position);
    std::fill_n(out, low, minus_infinity);
    std::fill(out + position + 1, out + tokens, minus_infinity);
    kernels::gemm_nt(1, position + 1 - low, d, static_cast<float>(layer.attention_scale), query.data() + row * d, d,
                     key + low * d, d, out + low, tokens);
    if (layer.logit_softcap > 0) kernels::soft_cap(out + low, position + 1 - low, static_cast<float>(layer.logit_softcap));
  }
  return logits;
}

Array CpuBackend::decode_attention_sum(const LoadedLayer& base) {
  const CpuLayer& layer = cpu(base);
  const std::int64_t n = layer.candidates(), tokens = layer.tokens;
  HostArrayBuilder sums(held_, {layer.num_query_heads, n});
  parallel_for(layer.num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> total(static_cast<std::size_t>(n));
    for (std::int64_t h = begin; h < end; ++h) {
      std::fill(total.begin(), total.end(), 0.0);
      Tensor<float, 2> logits = decode_logits(layer, static_cast<int>(h));
      for (std::int64_t s = 0; s < layer.steps(); ++s) {
        float* row = logits.data() + s * tokens;
        const std::int64_t position = layer.prompt + s, low = layer.first_visible(position);
        if (std::isnan(row[position])) continue;  // not recorded
        const double z =
            kernels::exponentiate(row + low, position + 1 - low, kernels::maximum(row + low, position + 1 - low));
        for (std::int64_t c = std::max<std::int64_t>(0, low - layer.first_candidate); c < n; ++c)
          total[static_cast<std::size_t>(c)] += row[layer.first_candidate + c] / z;
      }
      for (std::int64_t c = 0; c < n; ++c) sums.data()[h * n + c] = static_cast<float>(total[static_cast<std::size_t>(c)]);
    }
  });
  return sums.finish();
}

}  // namespace kvreplay

#include "core/backend/half_precision.h"

#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

constexpr std::size_t round_tile = 1024;
constexpr std::int64_t value_tile = 256;

// Rounds to the nearest float16, in place; what overflows becomes infinite.
void round_half(float* values, std::size_t count) {
  std::uint16_t half[round_tile];
  for (std::size_t first = 0; first < count; first += round_tile) {
    const std::size_t part = std::min(round_tile, count - first);
    from_float32(ElementType::float16, values + first, half, part);
    to_float32(ElementType::float16, half, values + first, part);
  }
}
void round_half(std::vector<float>& values) { round_half(values.data(), values.size()); }

float half(float value) {
  round_half(&value, 1);
  return value;
}

// alpha when the weights are those of an exponential moving average whose first element is the seed; else -1.
double moving_average(const std::vector<double>& weights) {
  if (weights.size() < 2) return -1;
  const double alpha = weights.back();
  if (alpha <= 0 || alpha >= 1) return -1;
  double expected = alpha;
  for (std::size_t i = weights.size() - 1; i > 0; --i, expected *= 1 - alpha)
    if (std::abs(weights[i] - expected) > 1e-9 * expected) return -1;
  return std::abs(weights.front() - std::pow(1 - alpha, static_cast<double>(weights.size() - 1))) < 1e-9 ? alpha : -1;
}

// One head's averaged window [n], rounded as its terms are formed one after the other.
void average_window(const float* rows, std::int64_t window, std::int64_t n, const std::vector<double>& weights, float* out) {
  const std::vector<double> reversed(weights.rbegin(), weights.rend());
  const double forward = moving_average(weights), backward = moving_average(reversed);
  const auto width = static_cast<std::size_t>(n);
  if (forward < 0 && backward < 0) {
    for (std::int64_t j = 0; j < n; ++j) {
      float total = 0;
      for (std::int64_t w = 0; w < window; ++w)
        total += static_cast<float>(weights[static_cast<std::size_t>(w)]) * rows[w * n + j];
      out[j] = total;
    }
    round_half(out, width);
    return;
  }
  const auto alpha = static_cast<float>(forward >= 0 ? forward : backward);
  const auto row = [&](std::int64_t k) { return rows + (forward >= 0 ? k : window - 1 - k) * n; };
  std::vector<float> newer(width), older(width);
  std::copy_n(row(0), n, out);
  for (std::int64_t k = 1; k < window; ++k) {
    for (std::size_t j = 0; j < width; ++j) {
      newer[j] = alpha * row(k)[j];
      older[j] = (1 - alpha) * out[j];
    }
    round_half(newer);
    round_half(older);
    for (std::size_t j = 0; j < width; ++j) out[j] = newer[j] + older[j];
    round_half(out, width);
  }
}

// T of one query head: its block of W_o, or nothing.
struct HeadProjection {
  const Tensor<float, 3>* matrix = nullptr;  // [1, C, Hq · d], rounded; null: values as they are
  std::int64_t head = 0, dim = 0;

  std::int64_t width() const { return matrix == nullptr ? dim : matrix->dim(1); }
  // x [count, d] to out [count, width()], rounded.
  void apply(const float* x, std::int64_t count, float* out) const {
    if (matrix == nullptr) {
      std::copy_n(x, count * dim, out);
      return;
    }
    kernels::gemm_nt(count, width(), dim, 1.0F, x, dim, matrix->data() + head * dim, matrix->dim(2), out, width());
    round_half(out, static_cast<std::size_t>(count * width()));
  }
};

class HalfPrecisionBackend final : public Backend {
 public:
  explicit HalfPrecisionBackend(Backend& inner) : inner_(inner) {}
  std::string name() const override { return inner_.name(); }

  std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) override { return inner_.load(trace, layer); }
  std::vector<float> download(const Array& array) override { return inner_.download(array); }
  Array upload(const std::vector<std::int64_t>& shape, const std::vector<float>& values) override {
    std::vector<float> rounded = values;
    round_half(rounded);
    return inner_.upload(shape, rounded);
  }

  AttentionRows window_attention(const LoadedLayer& layer, int window, bool with_output) override;
  Array column_sums(const LoadedLayer& layer, ColumnMask mask, int window) override {
    return rounded(inner_.column_sums(layer, mask, window));
  }
  Array decode_attention_sum(const LoadedLayer& layer) override { return rounded(inner_.decode_attention_sum(layer)); }
  Tensor<float, 2> decode_logits(const LoadedLayer& layer, int query_head) override {
    return inner_.decode_logits(layer, query_head);
  }

  Array removal_error_rows(const LoadedLayer& layer, const AttentionRows& rows, const ReconstructionForm& form) override;
  Array removal_error_of_mean(const LoadedLayer& layer, const AttentionRows& rows, const std::vector<double>& weights,
                              const ReconstructionForm& form) override;
  Array reduce_rows(const Array& rows, const std::vector<double>& weights) override {
    const std::int64_t heads = rows.dim(0), window = rows.dim(1), n = rows.dim(2);
    const std::vector<float> values = download(rows);
    std::vector<float> out(static_cast<std::size_t>(heads * n));
    parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h)
        average_window(values.data() + h * window * n, window, n, weights, out.data() + h * n);
    });
    return inner_.upload({heads, n}, out);
  }
  Array reduce_group(const Array& scores, int group, Reduction how) override {
    return rounded(inner_.reduce_group(scores, group, how));
  }
  Array key_norms(const LoadedLayer& layer) override { return rounded(inner_.key_norms(layer)); }
  Array value_norms(const LoadedLayer& layer) override { return rounded(inner_.value_norms(layer)); }
  Array multiply(const Array& scores, const Array& factors, double factor) override {
    return rounded(inner_.multiply(scores, factors, factor));
  }
  Array prefix(const Array& scores, std::int64_t columns) override { return inner_.prefix(scores, columns); }

  Array average_pool(const Array& scores, const std::vector<int>& kernel, const std::vector<int>& shift,
                     Padding padding) override {
    return rounded(inner_.average_pool(scores, kernel, shift, padding));
  }
  Array max_pool(const Array& scores, int kernel) override { return inner_.max_pool(scores, kernel); }
  std::vector<std::vector<double>> mean_top_column(const Array& rows, std::int64_t count, Ties ties) override {
    return inner_.mean_top_column(rows, count, ties);
  }
  std::vector<std::vector<std::int32_t>> select_top(const Array& scores, const std::vector<std::int64_t>& count) override {
    return inner_.select_top(scores, count);
  }
  void evaluate(const LoadedLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                EvaluationSink& sink) override {
    inner_.evaluate(layer, runs, request, sink);
  }

 private:
  Array rounded(const Array& array) { return upload(array.shape(), download(array)); }

  // A dataset of the layer in float16.
  static Tensor<float, 3> read(const LoadedLayer& layer, LayerDataset which, IndexRange rows = {}) {
    Tensor<float, 3> values = layer.trace->read(layer.layer, which, {}, rows);
    round_half(values.data(), static_cast<std::size_t>(values.size()));
    return values;
  }

  // ‖T (o - v_j)‖ of the candidates: centers [count, d], out [count, n].
  static void distances(const HeadProjection& projection, const float* centers, std::int64_t count, const float* values,
                        std::int64_t n, float* out);
  // a / (1 - a) · norm, element by element.
  static void apply_odds(const float* weight, std::int64_t n, float* norm);

  Backend& inner_;
};

AttentionRows HalfPrecisionBackend::window_attention(const LoadedLayer& layer, int window, bool with_output) {
  const auto& recorded = layer.trace->query_positions();
  const std::int64_t first_query = layer.prompt - window, d = layer.head_dim, n = layer.candidates();
  const auto first = std::lower_bound(recorded.begin(), recorded.end(), first_query);
  if (first_query < 0 || recorded.end() - first < window || first[window - 1] != layer.prompt - 1)
    return inner_.window_attention(layer, window, with_output);  // which says what is missing
  const std::int64_t row = first - recorded.begin();
  const auto query = read(layer, LayerDataset::query, {row, row + window});
  const auto key = read(layer, LayerDataset::key), value = read(layer, LayerDataset::value);
  const std::int64_t low = layer.first_visible(std::max<std::int64_t>(0, first_query)), columns = layer.prompt - low;
  const std::int64_t heads = layer.num_query_heads;
  std::vector<float> weight(static_cast<std::size_t>(heads * window * n)),
      output(static_cast<std::size_t>(heads * window * d));
  std::vector<float> dominant;
  for (std::int64_t r = 0; r < heads * window; ++r) dominant.insert(dominant.end(), {-1.0F, 1.0F});
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> rows(static_cast<std::size_t>(window * columns));
    for (std::int64_t h = begin; h < end; ++h) {
      const float* keys = key.data() + (h / layer.group() * layer.tokens + low) * d;
      kernels::gemm_nt(window, columns, d, 1.0F, query.data() + h * window * d, d, keys, d, rows.data(), columns);
      round_half(rows);
      for (float& logit : rows) logit *= static_cast<float>(layer.attention_scale);
      round_half(rows);
      if (layer.logit_softcap > 0) {
        kernels::soft_cap(rows.data(), window * columns, static_cast<float>(layer.logit_softcap));
        round_half(rows);
      }
      for (std::int64_t w = 0; w < window; ++w) {
        float* z = rows.data() + w * columns;
        const std::int64_t from = layer.first_visible(first_query + w) - low, to = first_query + w + 1 - low;
        const float top = kernels::maximum(z + from, to - from);
        const double total = kernels::exponentiate(z + from, to - from, top);
        std::fill(z, z + from, 0.0F);
        std::fill(z + to, z + columns, 0.0F);
        kernels::scale_in_place(z + from, to - from, static_cast<float>(1 / total));
        round_half(z, static_cast<std::size_t>(columns));
        std::copy_n(z + columns - n, n, weight.data() + (h * window + w) * n);
      }
      if (with_output)
        kernels::gemm_nn(window, d, columns, 1.0F, rows.data(), columns,
                         value.data() + (h / layer.group() * layer.tokens + low) * d, d, output.data() + h * window * d, d);
    }
  });
  AttentionRows result;
  result.weight = inner_.upload({heads, window, n}, weight);
  result.dominant = inner_.upload({heads, window, 2}, dominant);
  if (with_output) {
    result.output = upload({heads, window, d}, output);
    result.rest = result.output;
  }
  return result;
}

void HalfPrecisionBackend::distances(const HeadProjection& projection, const float* centers, std::int64_t count,
                                     const float* values, std::int64_t n, float* out) {
  const std::int64_t width = projection.width(), d = projection.dim;
  std::vector<float> center(static_cast<std::size_t>(count * width)), point(static_cast<std::size_t>(value_tile * width)),
      difference(static_cast<std::size_t>(width));
  projection.apply(centers, count, center.data());
  for (std::int64_t first = 0; first < n; first += value_tile) {
    const std::int64_t tile = std::min(value_tile, n - first);
    projection.apply(values + first * d, tile, point.data());
    for (std::int64_t q = 0; q < count; ++q)
      for (std::int64_t j = 0; j < tile; ++j) {
        for (std::int64_t c = 0; c < width; ++c)
          difference[static_cast<std::size_t>(c)] =
              center[static_cast<std::size_t>(q * width + c)] - point[static_cast<std::size_t>(j * width + c)];
        round_half(difference);
        out[q * n + first + j] = std::sqrt(static_cast<float>(kernels::dot(difference.data(), difference.data(), width)));
      }
  }
  round_half(out, static_cast<std::size_t>(count * n));
}

void HalfPrecisionBackend::apply_odds(const float* weight, std::int64_t n, float* norm) {
  for (std::int64_t j = 0; j < n; ++j) norm[j] = half(half(weight[j] / half(1 - weight[j])) * norm[j]);
}

Array HalfPrecisionBackend::removal_error_rows(const LoadedLayer& layer, const AttentionRows& rows,
                                               const ReconstructionForm& form) {
  const std::int64_t heads = layer.num_query_heads, window = rows.weight.dim(1), n = rows.weight.dim(2), d = layer.head_dim;
  const std::vector<float> weight = download(rows.weight), output = download(rows.output);
  const auto value = read(layer, LayerDataset::value);
  Tensor<float, 3> projection;
  if (form.project) projection = read(layer, LayerDataset::output_projection);
  std::vector<float> error(weight.size());
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) {
      const HeadProjection head{form.project ? &projection : nullptr, h, d};
      const float* centers = output.data() + h * window * d;
      float* out = error.data() + h * window * n;
      distances(head, centers, window, value.data() + (h / layer.group() * layer.tokens + layer.first_candidate) * d, n,
                out);
      std::vector<float> center(static_cast<std::size_t>(window * head.width()));
      head.apply(centers, window, center.data());
      for (std::int64_t w = 0; w < window; ++w) {
        apply_odds(weight.data() + (h * window + w) * n, n, out + w * n);
        if (!form.normalize) continue;
        const float* o = center.data() + w * head.width();
        const float norm = half(std::sqrt(static_cast<float>(kernels::dot(o, o, head.width()))));
        for (std::int64_t j = 0; j < n; ++j) out[w * n + j] = half(out[w * n + j] / norm);
      }
    }
  });
  return inner_.upload({heads, window, n}, error);
}

Array HalfPrecisionBackend::removal_error_of_mean(const LoadedLayer& layer, const AttentionRows& rows,
                                                  const std::vector<double>& weights, const ReconstructionForm& form) {
  const std::int64_t heads = layer.num_query_heads, window = rows.weight.dim(1), n = rows.weight.dim(2), d = layer.head_dim;
  const Array average = reduce_rows(rows.weight, weights);
  const std::vector<float> mean = download(average), output = download(rows.output);
  const auto value = read(layer, LayerDataset::value);
  Tensor<float, 3> projection;
  if (form.project) projection = read(layer, LayerDataset::output_projection);
  std::vector<float> error(mean.size());
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> center(static_cast<std::size_t>(d));
    for (std::int64_t h = begin; h < end; ++h) {
      const float* values = value.data() + (h / layer.group() * layer.tokens + layer.first_candidate) * d;
      const float* a = mean.data() + h * n;
      std::fill(center.begin(), center.end(), 0.0F);
      if (form.prefix_output)
        kernels::gemm_nn(1, d, n - window, 1.0F, a, n - window, values, d, center.data(), d);
      else
        for (std::int64_t w = 0; w < window; ++w)
          for (std::int64_t c = 0; c < d; ++c)
            center[static_cast<std::size_t>(c)] += static_cast<float>(weights[static_cast<std::size_t>(w)]) *
                                                   output[static_cast<std::size_t>((h * window + w) * d + c)];
      round_half(center);
      float* out = error.data() + h * n;
      distances({form.project ? &projection : nullptr, h, d}, center.data(), 1, values, n, out);
      if (form.project && form.tau != 1)
        for (std::int64_t j = 0; j < n; ++j) out[j] = half(std::pow(out[j], static_cast<float>(form.tau)));
      apply_odds(a, n, out);
    }
  });
  return inner_.upload({heads, n}, error);
}

}  // namespace

std::unique_ptr<Backend> make_half_precision_backend(Backend& inner) {
  return std::make_unique<HalfPrecisionBackend>(inner);
}

}  // namespace kvreplay

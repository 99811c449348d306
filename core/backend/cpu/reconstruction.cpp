// The reconstruction error of removing one token: odds · ‖W_h (o - v)‖ (An et al., ReST-KV, ICLR 2026).
//
// ‖W_h x‖² = xᵀ G x with G = W_hᵀ W_h, a d × d matrix. With a factor R, G = Rᵀ R, the norm is ‖R x‖: the projected values
// [T, Hq, C] of the published code never exist, and nothing cancels as it would in the expanded square.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend/cpu/cpu_backend.h"
#include "core/backend/square_factor.h"
#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
constexpr std::int64_t value_tile = 256;  // values projected at a time: they stay in the second-level cache
// The least that 1 - a counts as: where every other weight underflows, odds stay finite.
constexpr float least_rest = 1e-37F;

const CpuLayer& cpu(const LoadedLayer& layer) { return static_cast<const CpuLayer&>(layer); }

// Adds the rows of a panel of W_o [rows, Hq · d] to the Gram matrix of one head: the product in float32, sums over panels
// in float64.
void add_to_gram(TensorView<const float, 2> panel, std::int64_t head, Matrix& gram) {
  const std::int64_t d = gram.rows(), rows = panel.dim(0), stride = panel.dim(1);
  // A row length that is no power of two: columns of the transposed panel then do not share cache sets.
  const std::int64_t length = rows + 16;
  Tensor<float, 2> transposed({d, length}), product({d, d});
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < d; ++i) transposed(i, r) = panel.data()[r * stride + head * d + i];
  kernels::gemm_nt(d, d, rows, 1.0F, transposed.data(), length, transposed.data(), length, product.data(), d);
  for (std::int64_t i = 0; i < d * d; ++i) gram.data()[i] += product.data()[i];
}

// The Gram matrices of all heads; W_o is read a panel of rows at a time and never held whole.
std::vector<Matrix> gram_of_heads(const CpuLayer& layer) {
  constexpr std::int64_t panel_rows = 256;
  const std::int64_t d = layer.head_dim, hidden = layer.hidden_size;
  std::vector<Matrix> grams(static_cast<std::size_t>(layer.num_query_heads), Matrix::Zero(d, d));
  for (std::int64_t first = 0; first < hidden; first += panel_rows) {
    const auto panel =
        layer.trace->read(layer.layer, LayerDataset::output_projection, {}, {first, std::min(hidden, first + panel_rows)});
    parallel_for(layer.num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) add_to_gram(panel.view()[0], h, grams[static_cast<std::size_t>(h)]);
    });
  }
  return grams;
}

struct Projection {
  const float* factor = nullptr;  // [r, d]; null: values as they are
  std::int64_t rows = 0;          // r, or d without a factor
};

Projection projection_of(const CpuLayer& layer, std::int64_t head, bool project) {
  if (!project) return {nullptr, layer.head_dim};
  const auto& factor = layer.projection_factor();
  return {factor.data() + head * factor.dim(1) * factor.dim(2), factor.dim(1)};
}

// R · x for `count` vectors; without a factor, x itself.
const float* project(const Projection& p, const float* x, std::int64_t count, std::int64_t d, Tensor<float, 2>& buffer) {
  if (p.factor == nullptr) return x;
  kernels::gemm_nt(count, p.rows, d, 1.0F, x, d, p.factor, d, buffer.data(), p.rows);
  return buffer.data();
}

// a / (1 - a) · ‖R (o - v)‖ of a weight a above 1/2 as a · ‖R (r - v)‖, r = Σ of the others / (1 - a): the same number, but
// neither 1 - a nor o - v is a difference of nearly equal ones.
float dominant_error(const Projection& p, float weight, float complement, const float* rest, const float* value,
                     std::int64_t d) {
  const double scale = 1.0 / std::max(complement, least_rest);
  Tensor<float, 2> difference({1, d}), projected({1, p.rows});
  for (std::int64_t i = 0; i < d; ++i) difference(0, i) = static_cast<float>(rest[i] * scale - value[i]);
  const float* x = project(p, difference.data(), 1, d, projected);
  return weight * std::sqrt(kernels::dot(x, x, p.rows));
}

}  // namespace

const Tensor<float, 3>& CpuLayer::projection_factor() const {
  const std::lock_guard lock(factor_mutex_);
  if (!factor_.empty()) return factor_;
  const std::int64_t d = head_dim;
  if (trace->has(layer, LayerDataset::output_projection) && hidden_size <= d) {
    const auto projection = trace->read(layer, LayerDataset::output_projection);
    factor_ = Tensor<float, 3>({num_query_heads, hidden_size, d});
    for (std::int64_t h = 0; h < num_query_heads; ++h)
      for (std::int64_t c = 0; c < hidden_size; ++c) std::copy_n(&projection(0, c, h * d), d, &factor_(h, c, 0));
    return factor_;
  }
  const auto store = [d](Tensor<float, 3>& factor, std::int64_t h, const Matrix& gram) {
    square_factor(gram.data(), d, factor.data() + h * d * d);
  };
  Tensor<float, 3> factor({num_query_heads, d, d});
  if (trace->has(layer, LayerDataset::output_projection)) {
    const std::vector<Matrix> grams = gram_of_heads(*this);
    parallel_for(num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) store(factor, h, grams[static_cast<std::size_t>(h)]);
    });
  } else {
    using Stored = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
    const auto gram = trace->read(layer, LayerDataset::output_gram);  // throws Error naming both when it is absent too
    for (std::int64_t h = 0; h < num_query_heads; ++h)
      store(factor, h, Stored(gram.data() + h * d * d, d, d).cast<double>());
  }
  factor_ = std::move(factor);
  return factor_;
}

Array CpuBackend::removal_error_rows(const LoadedLayer& base, const AttentionRows& rows, const ReconstructionForm& form) {
  const CpuLayer& layer = cpu(base);
  const std::int64_t d = layer.head_dim, w = rows.weight.dim(1), n = rows.weight.dim(2);
  if (form.project) layer.projection_factor();
  HostArrayBuilder error(held_, {layer.num_query_heads, w, n});
  const std::int64_t tiles = (n + value_tile - 1) / value_tile;
  parallel_for(layer.num_query_heads * tiles, 4, [&](std::int64_t begin, std::int64_t end) {
    Tensor<float, 2> outputs, values;
    Tensor<float, 1> norm({w});
    std::int64_t prepared = -1;
    const float* centers = nullptr;
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t h = piece / tiles, first = piece % tiles * value_tile, count = std::min(value_tile, n - first);
      const Projection p = projection_of(layer, h, form.project);
      if (prepared != h) {
        outputs = Tensor<float, 2>({w, p.rows});
        values = Tensor<float, 2>({value_tile, p.rows});
        centers = project(p, host_data(rows.output) + h * w * d, w, d, outputs);
        for (std::int64_t q = 0; q < w; ++q)
          norm[q] = form.normalize ? std::sqrt(kernels::dot(centers + q * p.rows, centers + q * p.rows, p.rows)) : 1.0F;
        prepared = h;
      }
      const float* value = layer.value.data() + (h / layer.group() * layer.tokens + layer.first_candidate + first) * d;
      const float* points = project(p, value, count, d, values);
      for (std::int64_t q = 0; q < w; ++q) {
        float* out = error.data() + (h * w + q) * n + first;
        kernels::squared_distances(points, count, p.rows, p.rows, centers + q * p.rows, out);
        const float* weight = host_data(rows.weight) + (h * w + q) * n + first;
        const float scale = 1.0F / norm[q];
        for (std::int64_t j = 0; j < count; ++j) out[j] = std::sqrt(out[j]) * scale * (weight[j] / (1.0F - weight[j]));
        const float* dominant = host_data(rows.dominant) + (h * w + q) * 2;
        const auto column = static_cast<std::int64_t>(dominant[0]) - first;
        if (dominant[0] >= 0 && column >= 0 && column < count)
          out[column] = scale * dominant_error(p, weight[column], dominant[1], host_data(rows.rest) + (h * w + q) * d,
                                               value + column * d, d);
      }
    }
  });
  return error.finish();
}

Array CpuBackend::removal_error_of_mean(const LoadedLayer& base, const AttentionRows& rows,
                                        const std::vector<double>& weights, const ReconstructionForm& form) {
  const CpuLayer& layer = cpu(base);
  const std::int64_t d = layer.head_dim, w = rows.weight.dim(1), n = rows.weight.dim(2), prefix_columns = n - w;
  if (form.project) layer.projection_factor();
  const Array mean = reduce_rows(rows.weight, weights);
  HostArrayBuilder error(held_, {layer.num_query_heads, n});
  parallel_for(layer.num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> output(static_cast<std::size_t>(d));
    Tensor<float, 1> center({d});
    for (std::int64_t h = begin; h < end; ++h) {
      const Projection p = projection_of(layer, h, form.project);
      const float* value = layer.value.data() + (h / layer.group() * layer.tokens + layer.first_candidate) * d;
      const float* a = host_data(mean) + h * n;
      std::fill(output.begin(), output.end(), 0.0);
      if (form.prefix_output) {
        accumulate_rows(value, d, nullptr, a, prefix_columns, output.data());
      } else {
        for (std::int64_t q = 0; q < w; ++q)
          for (std::int64_t i = 0; i < d; ++i)
            output[static_cast<std::size_t>(i)] +=
                weights[static_cast<std::size_t>(q)] * host_data(rows.output)[(h * w + q) * d + i];
      }
      for (std::int64_t i = 0; i < d; ++i) center[i] = static_cast<float>(output[static_cast<std::size_t>(i)]);
      Tensor<float, 2> projected({1, p.rows}), values({value_tile, p.rows});
      const float* o = project(p, center.data(), 1, d, projected);
      for (std::int64_t first = 0; first < n; first += value_tile) {
        const std::int64_t count = std::min(value_tile, n - first);
        const float* points = project(p, value + first * d, count, d, values);
        float* out = error.data() + h * n + first;
        kernels::squared_distances(points, count, p.rows, p.rows, o, out);
        for (std::int64_t j = 0; j < count; ++j) {
          float norm = std::sqrt(out[j]);
          if (form.project && form.tau != 1) norm = std::pow(norm, static_cast<float>(form.tau));
          const float weight = a[first + j];
          float rest = 1.0F - weight;
          if (weight > 0.5F) {  // 1 - Σ c a = Σ c (1 - a), each 1 - a exact where a is the row's dominant weight
            double sum = 0;
            for (std::int64_t q = 0; q < w; ++q) {
              const float* dominant = host_data(rows.dominant) + (h * w + q) * 2;
              const bool here = static_cast<std::int64_t>(dominant[0]) == first + j;
              const double one_minus = here ? dominant[1] : 1.0 - host_data(rows.weight)[(h * w + q) * n + first + j];
              sum += weights[static_cast<std::size_t>(q)] * one_minus;
            }
            rest = std::max(static_cast<float>(sum), least_rest);
          }
          out[j] = norm == 0 ? 0.0F : weight / rest * norm;
        }
      }
    }
  });
  return error.finish();
}

}  // namespace kvreplay

// Reductions over the window and over the group, and pooling along positions.
#include <algorithm>
#include <cmath>

#include "core/backend/cpu/cpu_backend.h"
#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

constexpr std::int64_t columns_per_piece = 2048;

// The larger of two, with NaN larger than everything: NaN must not vanish in a maximum.
float larger(float a, float b) { return a > b || std::isnan(a) ? a : b; }

}  // namespace

Array CpuBackend::reduce_rows(const Array& rows, const std::vector<double>& weights) {
  const std::int64_t heads = rows.dim(0), w = rows.dim(1), n = rows.dim(2);
  HostArrayBuilder out(held_, {heads, n});
  const std::int64_t pieces = (n + columns_per_piece - 1) / columns_per_piece;
  parallel_for(heads * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> total(columns_per_piece);
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t h = piece / pieces, first = piece % pieces * columns_per_piece;
      const std::int64_t count = std::min(columns_per_piece, n - first);
      std::fill(total.begin(), total.end(), 0.0);
      for (std::int64_t q = 0; q < w; ++q) {
        const float weight = static_cast<float>(weights[static_cast<std::size_t>(q)]);
        if (weight != 0)
          accumulate_rows(host_data(rows) + (h * w + q) * n + first, count, nullptr, &weight, 1, total.data());
      }
      for (std::int64_t c = 0; c < count; ++c)
        out.data()[h * n + first + c] = static_cast<float>(total[static_cast<std::size_t>(c)]);
    }
  });
  return out.finish();
}

Array CpuBackend::reduce_group(const Array& scores, int group, Reduction how) {
  if (group == 1) return scores;
  std::vector<std::int64_t> shape = scores.shape();
  shape[0] /= group;
  std::int64_t rest = 1;
  for (std::size_t axis = 1; axis < shape.size(); ++axis) rest *= shape[axis];
  HostArrayBuilder out(held_, shape);
  parallel_for(shape[0] * rest, columns_per_piece, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* first = host_data(scores) + i / rest * group * rest + i % rest;
      double total = first[0];
      float largest = first[0];
      for (int g = 1; g < group; ++g) {
        total += first[g * rest];
        largest = larger(first[g * rest], largest);
      }
      out.data()[i] = how == Reduction::max ? largest : static_cast<float>(how == Reduction::mean ? total / group : total);
    }
  });
  return out.finish();
}

namespace {

Array norms(const ArrayBytes& held, const CpuLayer& layer, const Tensor<float, 3>& rows) {
  const std::int64_t n = layer.candidates(), d = layer.head_dim;
  HostArrayBuilder out(held, {layer.num_kv_heads, n});
  parallel_for(layer.num_kv_heads * n, columns_per_piece, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* row = rows.data() + (i / n * layer.tokens + layer.first_candidate + i % n) * d;
      double squared = 0;
      for (std::int64_t k = 0; k < d; ++k) squared += static_cast<double>(row[k]) * row[k];
      out.data()[i] = static_cast<float>(std::sqrt(squared));
    }
  });
  return out.finish();
}

}  // namespace

Array CpuBackend::key_norms(const LoadedLayer& layer) {
  const auto& loaded = static_cast<const CpuLayer&>(layer);
  return norms(held_, loaded, loaded.key);
}

Array CpuBackend::value_norms(const LoadedLayer& layer) {
  const auto& loaded = static_cast<const CpuLayer&>(layer);
  return norms(held_, loaded, loaded.value);
}

Array CpuBackend::multiply(const Array& scores, const Array& factors, double factor) {
  const std::int64_t heads = scores.dim(0), n = scores.dim(1), group = heads / factors.dim(0);
  HostArrayBuilder out(held_, {heads, n});
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h)
      for (std::int64_t i = 0; i < n; ++i)
        out.data()[h * n + i] =
            static_cast<float>(factor * host_data(scores)[h * n + i] * host_data(factors)[h / group * n + i]);
  });
  return out.finish();
}

Array CpuBackend::prefix(const Array& scores, std::int64_t columns) {
  const std::int64_t heads = scores.dim(0), n = scores.dim(1);
  HostArrayBuilder out(held_, {heads, columns});
  for (std::int64_t h = 0; h < heads; ++h) std::copy_n(host_data(scores) + h * n, columns, out.data() + h * columns);
  return out.finish();
}

Array CpuBackend::average_pool(const Array& scores, const std::vector<int>& kernel, const std::vector<int>& shift,
                               Padding padding) {
  const std::int64_t heads = scores.dim(0), m = scores.dim(1);
  HostArrayBuilder out(held_, {heads, m});
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) {
      const float* in = host_data(scores) + h * m;
      const std::int64_t k = kernel[static_cast<std::size_t>(h)], left = k / 2 - shift[static_cast<std::size_t>(h)];
      for (std::int64_t i = 0; i < m; ++i) {
        // Summed afresh for every column: a running sum would carry an infinity, or rounding, along the row.
        double total = 0;
        for (std::int64_t u = 0; u < k; ++u) {
          const std::int64_t at = i - left + u;
          if (padding == Padding::replicate) {
            total += in[std::clamp<std::int64_t>(at, 0, m - 1)];
          } else if (at >= 0 && at < m) {
            total += in[at];
          }
        }
        out.data()[h * m + i] = static_cast<float>(total / static_cast<double>(k));
      }
    }
  });
  return out.finish();
}

Array CpuBackend::max_pool(const Array& scores, int kernel) {
  const std::int64_t heads = scores.dim(0), m = scores.dim(1), half = kernel / 2;
  HostArrayBuilder out(held_, {heads, m});
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) {
      const float* in = host_data(scores) + h * m;
      for (std::int64_t i = 0; i < m; ++i) {
        float largest = in[i];
        for (std::int64_t at = std::max<std::int64_t>(0, i - half); at <= std::min(m - 1, i + half); ++at)
          largest = larger(in[at], largest);
        out.data()[h * m + i] = largest;
      }
    }
  });
  return out.finish();
}

}  // namespace kvreplay

// The size of what a value adds to the layer's output. An L1 norm has no shortcut over W_oᵀ W_o, so this is the whole
// product of every value with the projection of every query head: Hq · n · d · C multiplications, bound by arithmetic.
#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

constexpr std::int64_t block = 256;  // tokens projected at a time

Array compute(LayerWorkspace& layer) {
  const LoadedLayer& loaded = layer.loaded();
  const std::int64_t heads = loaded.num_kv_heads, n = layer.candidates(), d = loaded.head_dim;
  const Tensor<float, 3> projection = layer.trace().read(layer.layer(), LayerDataset::output_projection);
  const std::int64_t hidden = projection.dim(1), stride = projection.dim(2);
  std::vector<float> norms(static_cast<std::size_t>(heads * n)), projected(static_cast<std::size_t>(block * hidden));
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto value =
        layer.trace().read(layer.layer(), LayerDataset::value, {h, h + 1}, {layer.first_candidate(), layer.prompt()});
    for (std::int64_t first = 0; first < n; first += block) {
      const std::int64_t count = std::min(block, n - first);
      std::vector<double> total(static_cast<std::size_t>(count), 0.0);
      for (std::int64_t q = h * loaded.group(); q < (h + 1) * loaded.group(); ++q) {
        kernels::parallel_gemm_nt(count, hidden, d, 1, value.data() + first * d, d, projection.data() + q * d, stride,
                                  projected.data(), hidden);
        parallel_for(count, 8, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t t = begin; t < end; ++t)
            for (std::int64_t c = 0; c < hidden; ++c)
              total[static_cast<std::size_t>(t)] += std::abs(projected[static_cast<std::size_t>(t * hidden + c)]);
        });
      }
      for (std::int64_t t = 0; t < count; ++t)
        norms[static_cast<std::size_t>(h * n + first + t)] =
            static_cast<float>(total[static_cast<std::size_t>(t)] / loaded.group());
    }
  }
  return layer.backend().upload({heads, n}, norms);
}

}  // namespace

const Array& projected_value_norms(LayerWorkspace& layer) {
  return layer.shared<Array>("projected_value_norms", [&] { return compute(layer); });
}

}  // namespace kvreplay

// A square R with RᵀR = G, for norms ‖W x‖² = xᵀ G x with G = Wᵀ W.
#pragma once

#include <cstdint>

namespace kvreplay {

// gram, factor [d, d] row-major. Cholesky where G is positive definite: R is upper triangular and true is returned; else
// from the eigen-decomposition, with the small negative eigenvalues that rounding makes set to 0.
bool square_factor(const double* gram, std::int64_t dim, float* factor);

}  // namespace kvreplay

#include "core/backend/square_factor.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>

namespace kvreplay {

bool square_factor(const double* gram, std::int64_t dim, float* factor) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Stored = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const Matrix> g(gram, dim, dim);
  Eigen::Map<Stored> out(factor, dim, dim);
  const Eigen::LLT<Matrix> cholesky(g);
  if (cholesky.info() == Eigen::Success) {
    out = Matrix(cholesky.matrixU()).cast<float>();
    return true;
  }
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(g);
  const Matrix root = eigen.eigenvalues().cwiseMax(0).cwiseSqrt().asDiagonal() * eigen.eigenvectors().transpose();
  out = root.cast<float>();
  return false;
}

}  // namespace kvreplay

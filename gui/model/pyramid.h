// A wide matrix at every zoom: what it looks like when many columns share a pixel, without touching every cell for it.
//
//   auto pyramid = std::make_shared<const Pyramid>(matrix, Reduction::maximum);
//   pyramid->render(0, 131072, 0, 32, 1400, 400, picture);     // all of it: one peak among 131,072 columns is there
//   Pyramid next(changed, Reduction::maximum, pyramid.get());  // rows that are the same are taken over
//
// Levels halve the columns. The finest that is stored stands for eight columns a cell; below that the matrix itself is read,
// so that a pyramid takes a quarter of what its matrix would as float32. NaN is "no value": it never hides a value.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace kvreplay::gui {

// Rows × columns of float32 that are computed as they are read. Immutable; read() may be called from any thread.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual std::int64_t rows() const = 0;
  virtual std::int64_t columns() const = 0;
  // Columns [begin, end) of a row to out[0 .. end - begin).
  virtual void read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const = 0;
  // Whether a row has the same values in `other`, known without reading them.
  virtual bool same_row(const Matrix& /*other*/, std::int64_t /*row*/) const { return false; }
};

// One that is in memory.
class StoredMatrix final : public Matrix {
 public:
  StoredMatrix(std::int64_t rows, std::int64_t columns, std::vector<float> values);  // [rows, columns], row-major
  std::int64_t rows() const override { return rows_; }
  std::int64_t columns() const override { return columns_; }
  void read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const override;

 private:
  std::int64_t rows_, columns_;
  std::vector<float> values_;
};

// What one cell of the picture shows of those that it stands for.
enum class Reduction : std::uint8_t {
  maximum,    // amounts: a single peak stays
  magnitude,  // differences: the one farthest from 0 stays, with its sign
  share,      // states in [-1, 1]: their mean, but 0, 1 and -1 only where every cell is, so that a single one that differs
              // shows; opposites that cancel stay above 0
};

class Pyramid {
 public:
  // Takes some milliseconds for 131,072 × 32: not in the window's thread. Throws Cancelled within a CancelScope that is to
  // end (core/base/parallel.h). Rows that previous->matrix() has, too (Matrix::same_row), are not computed again.
  Pyramid(std::shared_ptr<const Matrix> matrix, Reduction reduction, const Pyramid* previous = nullptr);

  const Matrix& matrix() const { return *matrix_; }
  Reduction reduction() const { return reduction_; }
  std::int64_t rows() const { return matrix_->rows(); }
  std::int64_t columns() const { return matrix_->columns(); }
  float value(std::int64_t row, std::int64_t column) const;

  // Of all values: NaN where there is none. `smallest` is the smallest magnitude above 0.
  struct Extent {
    float low, high, smallest;
    bool any_missing = false;
  };
  Extent extent() const;

  // The columns [left, right) × rows [top, bottom) as a picture of width × height cells, row-major. Several cells a pixel
  // are reduced; where a cell takes several pixels, it is repeated. Outside the matrix: NaN.
  void render(double left, double right, double top, double bottom, int width, int height, float* out) const;

 private:
  struct Row {
    std::vector<float> cells;  // all levels, the finest first
    Extent extent;
  };
  std::shared_ptr<const Row> make_row(std::int64_t row, std::vector<float>& scratch) const;
  // Cells of a level over [begin, end) of its columns. `scratch` is used for level 0, which is not stored.
  const float* cells(std::int64_t row, int level, std::int64_t begin, std::int64_t end, std::vector<float>& scratch) const;

  std::shared_ptr<const Matrix> matrix_;
  Reduction reduction_;
  std::vector<std::int64_t> level_begin_, level_size_;  // of stored levels, within Row::cells
  std::vector<std::shared_ptr<const Row>> rows_;
};

}  // namespace kvreplay::gui

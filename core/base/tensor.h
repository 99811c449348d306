// Row-major tensors: Tensor owns, TensorView looks. Both know their shape; nothing else in the project does index
// arithmetic by hand outside hot kernels.
//
//   Tensor<float, 3> key({num_kv_heads, tokens, head_dim});
//   key(0, 5, 2) = 1.0F;
//   TensorView<const float, 2> head = key.view()[0];   // [tokens, head_dim]
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <vector>

namespace kvreplay {

template <class T, int Rank>
class TensorView {
 public:
  using Shape = std::array<std::int64_t, Rank>;

  TensorView() = default;
  TensorView(T* data, const Shape& shape) : data_(data), shape_(shape) {}
  // A mutable view converts to a read-only one.
  template <class U>
  requires(std::is_same_v<const U, T>) TensorView(const TensorView<U, Rank>& other)
      : data_(other.data()), shape_(other.shape()) {}

  T* data() const { return data_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int axis) const { return shape_[static_cast<std::size_t>(axis)]; }
  std::int64_t size() const {
    std::int64_t n = 1;
    for (auto d : shape_) n *= d;
    return n;
  }
  std::span<T> flat() const { return {data_, static_cast<std::size_t>(size())}; }

  template <class... Index>
  requires(sizeof...(Index) == Rank) T& operator()(Index... index) const {
    std::int64_t offset = 0;
    int axis = 0;
    ((offset = offset * shape_[static_cast<std::size_t>(axis++)] + static_cast<std::int64_t>(index)), ...);
    return data_[offset];
  }

  // The i-th slice along the first axis.
  auto operator[](std::int64_t i) const requires(Rank > 1) {
    assert(i >= 0 && i < shape_[0]);
    typename TensorView<T, (Rank > 1 ? Rank - 1 : 1)>::Shape rest;
    std::int64_t stride = 1;
    for (int a = 1; a < Rank; ++a) {
      rest[static_cast<std::size_t>(a - 1)] = shape_[static_cast<std::size_t>(a)];
      stride *= shape_[static_cast<std::size_t>(a)];
    }
    return TensorView<T, (Rank > 1 ? Rank - 1 : 1)>(data_ + i * stride, rest);
  }
  T& operator[](std::int64_t i) const requires(Rank == 1) {
    assert(i >= 0 && i < shape_[0]);
    return data_[i];
  }

 private:
  T* data_ = nullptr;
  Shape shape_{};
};

// Memory aligned to a cache line, left uninitialised: what fills it says so.
template <class T>
struct AlignedDelete {
  void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

template <class T, int Rank>
class Tensor {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using Shape = typename TensorView<T, Rank>::Shape;

  Tensor() = default;
  explicit Tensor(const Shape& shape) : shape_(shape) {
    data_.reset(static_cast<T*>(::operator new[](static_cast<std::size_t>(size()) * sizeof(T) + 64, std::align_val_t{64})));
  }
  Tensor(const Shape& shape, T value) : Tensor(shape) { fill(value); }
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;
  Tensor(const Tensor& other) : Tensor(other.shape_) { std::copy(other.data(), other.data() + size(), data()); }
  Tensor& operator=(const Tensor& other) {
    if (this != &other) *this = Tensor(other);
    return *this;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int axis) const { return shape_[static_cast<std::size_t>(axis)]; }
  std::int64_t size() const {
    std::int64_t n = 1;
    for (auto d : shape_) n *= d;
    return n;
  }
  bool empty() const { return data_ == nullptr || size() == 0; }
  void fill(T value) {
    for (auto& x : flat()) x = value;
  }
  std::span<T> flat() { return {data(), static_cast<std::size_t>(size())}; }
  std::span<const T> flat() const { return {data(), static_cast<std::size_t>(size())}; }
  TensorView<T, Rank> view() { return {data(), shape_}; }
  TensorView<const T, Rank> view() const { return {data(), shape_}; }
  operator TensorView<const T, Rank>() const { return view(); }

  template <class... Index>
  T& operator()(Index... index) {
    return view()(index...);
  }
  template <class... Index>
  const T& operator()(Index... index) const {
    return view()(index...);
  }
  auto operator[](std::int64_t i) -> decltype(auto) { return view()[i]; }
  auto operator[](std::int64_t i) const -> decltype(auto) { return view()[i]; }

 private:
  Shape shape_{};
  std::unique_ptr<T[], AlignedDelete<T>> data_;
};

}  // namespace kvreplay

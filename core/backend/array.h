// A float32 tensor that lives where its backend lives: in this process's memory for the CPU, on the device for a GPU.
//
// Stages of a policy pass Arrays from one backend operation to the next and never look inside; Backend::download brings
// one back. Copies are cheap (the storage is shared and never changed once an operation returned it).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace kvreplay {

class Array {
 public:
  // What a backend keeps behind an Array. Each backend derives its own.
  struct Storage {
    virtual ~Storage() = default;
  };

  Array() = default;
  Array(std::vector<std::int64_t> shape, std::shared_ptr<const Storage> storage)
      : shape_(std::move(shape)), storage_(std::move(storage)) {}

  bool empty() const { return storage_ == nullptr; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t dim(std::size_t axis) const { return shape_.at(axis); }
  const Storage& storage() const { return *storage_; }

 private:
  std::vector<std::int64_t> shape_;
  std::shared_ptr<const Storage> storage_;
};

}  // namespace kvreplay

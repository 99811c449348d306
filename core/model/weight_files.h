// The weights of a Hugging Face model directory: one or several safetensors files, mapped and not copied.
//
//   WeightFiles weights = WeightFiles::open("models/llama-3-8b");
//   StoredTensor embedding = weights.require("model.embed_tokens.weight", {128256, 4096});
//
// The files are untrusted: every offset and shape is checked against the file before a tensor is handed out, and against
// what the caller expects by require(). Source of the format: github.com/huggingface/safetensors, README.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/element_type.h"

namespace kvreplay {

// A tensor as it lies in the file, row-major. `data` may be unaligned; it lives as long as the WeightFiles.
struct StoredTensor {
  ElementType type = ElementType::float32;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;

  std::int64_t count() const;
  // Elements [first, first + n) as float32. Any alignment of the file's data is fine.
  void read(std::int64_t first, std::int64_t n, float* target) const;
};

class WeightFiles {
 public:
  // Reads model.safetensors, or the files that model.safetensors.index.json lists. Throws Error naming the file (and the
  // tensor) that is missing, cut off or contradicts itself.
  static WeightFiles open(const std::string& directory);
  WeightFiles(WeightFiles&&) noexcept;
  WeightFiles& operator=(WeightFiles&&) noexcept;
  ~WeightFiles();

  bool has(const std::string& name) const { return tensors_.contains(name); }
  // Throws Error when the tensor is missing, is of a type other than F32, F16 and BF16, or has another shape.
  StoredTensor require(const std::string& name, const std::vector<std::int64_t>& shape) const;
  // SHA-256 of all files, one after the other in the order of their names: of a single file, what sha256sum prints.
  std::string sha256() const;
  std::int64_t bytes() const;

 private:
  struct File;
  struct Entry {
    const File* file = nullptr;
    std::string type;  // "F16"
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, end = 0;  // in the file's data part
  };
  WeightFiles();
  void add(const std::string& path);
  std::string directory_;
  std::vector<std::unique_ptr<File>> files_;  // in the order of their names
  std::map<std::string, Entry> tensors_;
};

}  // namespace kvreplay

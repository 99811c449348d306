// What the readers of trace and results files need from HDF5, and nothing else. Two implementations: one calls HDF5 in
// this process, the other asks a child process with limits on memory and time, for files that others made (HDF5 crashes
// on crafted files). Internal to core/trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/element_type.h"
#include "core/trace/file_summary.h"
#include "core/trace/trace.h"

namespace kvreplay {

enum class NodeKind : std::uint8_t {
  absent,
  group,
  dataset,
  link,   // soft, external or user-defined: never followed
  other,  // a named datatype
};

enum class StoredKind : std::uint8_t { floating, signed_integer, unsigned_integer, text, other };

struct StoredType {
  StoredKind kind = StoredKind::other;
  std::int64_t size = 0;     // bytes of one element; little-endian
  std::string name() const;  // "float16", "int32", "text of 8 bytes", "of a type that traces do not use"
};

struct DatasetInfo {
  std::vector<std::int64_t> shape;
  StoredType type;
  bool bfloat16 = false;            // unsigned 16-bit with the attribute `encoding` = "bfloat16"
  std::vector<std::int64_t> chunk;  // empty: contiguous
  std::vector<int> filters;         // HDF5's numbers, in order
  std::int64_t stored_bytes = 0;    // in the file, after filters; chunks that were never written do not count
  std::string refusal;              // why it must not be read ("is virtual"); empty: may be read

  std::int64_t elements() const;
  std::int64_t logical_bytes() const { return elements() * type.size; }
  // The element type of a tensor; empty when the dataset holds none of the three.
  std::optional<ElementType> element_type() const;
};

// Receives consecutive bytes of a slab, row-major, in pieces of a few MiB.
using ByteSink = std::function<void(std::span<const std::byte>)>;

class Source {
 public:
  virtual ~Source() = default;
  virtual const std::string& path() const = 0;
  virtual std::int64_t file_size() const = 0;
  // True when a writer left the file without closing it; then only what is below the committed mark may be believed.
  virtual bool left_open() const = 0;

  virtual NodeKind kind(const std::string& node) const = 0;
  virtual std::vector<std::string> children(const std::string& group) const = 0;  // names, ascending
  virtual std::vector<std::string> attribute_names(const std::string& node) const = 0;
  virtual std::optional<AttributeValue> attribute(const std::string& node, const std::string& name) const = 0;
  // Throws Error when absent or not a dataset.
  virtual DatasetInfo dataset(const std::string& node) const = 0;
  // Stored bytes of the slab [start, start + count); throws Error when info.refusal is set.
  virtual void read(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
                    const ByteSink& sink) const = 0;
  // The bytes of one chunk as stored (after filters); for a contiguous dataset chunk 0 is all of it. Empty: not written.
  virtual std::vector<std::byte> stored_chunk(const std::string& node, std::int64_t index) const = 0;

  // Everything of a small dataset, as T; throws Error unless it has that many bytes an element.
  template <class T>
  std::vector<T> read_all(const std::string& node, const DatasetInfo& info) const {
    std::vector<T> values(static_cast<std::size_t>(info.logical_bytes()) / sizeof(T));
    const std::vector<std::int64_t> start(info.shape.size(), 0);
    read_into(node, start, info.shape, values.data());
    return values;
  }
  // The slab of read(), to `target`, which holds that many bytes.
  virtual void read_into(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
                         void* target) const;
  // Whether read_into() is faster from several threads at once (it may always be called so).
  virtual bool reads_side_by_side() const { return false; }
};

std::unique_ptr<Source> open_direct_source(const std::string& path);
std::unique_ptr<Source> open_source(const std::string& path, Trust trust);

// "FILE:/layers/000/key", what an error says as its place.
std::string place(const Source& source, const std::string& node);

}  // namespace kvreplay

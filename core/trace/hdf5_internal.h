// HDF5 handles that close themselves, and HDF5's error stack turned into Error. Internal to core/trace: no other folder
// includes HDF5.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/element_type.h"

namespace kvreplay::hdf5 {

template <herr_t (*Close)(hid_t)>
class Id {
 public:
  Id() = default;
  explicit Id(hid_t id) : id_(id) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Id& operator=(Id&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
    }
    return *this;
  }
  ~Id() { reset(); }
  herr_t reset() { return id_ >= 0 ? Close(std::exchange(id_, H5I_INVALID_HID)) : 0; }
  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

using File = Id<H5Fclose>;
using Group = Id<H5Gclose>;
using Object = Id<H5Oclose>;
using Dataset = Id<H5Dclose>;
using Attribute = Id<H5Aclose>;
using Type = Id<H5Tclose>;
using Space = Id<H5Sclose>;
using Properties = Id<H5Pclose>;

// Held by every function that calls HDF5; may be held several times over. HDF5 has one global lock anyway; ours, unlike
// its own, can be held while a child process is forked, so that the child never inherits a lock that nobody will release.
// It also keeps HDF5 from printing its error stack (a setting that each thread has of its own).
class Guard {
 public:
  Guard();
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

// What HDF5 says went wrong, innermost reason, as one phrase. Empties the error stack.
std::string reason();

// Throws Error(where, what + HDF5's reason, remedy).
[[noreturn]] void fail(const std::string& where, const std::string& what, const std::string& remedy = {});

// The id, or an Error when HDF5 returned a negative one.
hid_t check_id(hid_t id, const std::string& where, const char* what);
void check(herr_t status, const std::string& where, const char* what);

Type float16_type();  // IEEE half, as h5py writes numpy.float16
Type stored_type(ElementType type);
Type text_type(std::size_t size);  // fixed length, UTF-8, padded with zeros
Type variable_text_type();         // for attributes: h5py gives these back as text, fixed ones as bytes

// Where the header of an open object begins in its file; false where HDF5 does not say.
bool object_address(hid_t file, hid_t object, std::uint64_t& address);

// File access: the format of HDF5 1.10, strong close, so that no forgotten handle keeps a file open.
Properties file_access();

void write_attribute(hid_t object, const std::string& where, const char* name, std::int64_t value);
void write_attribute(hid_t object, const std::string& where, const char* name, int value);
void write_attribute(hid_t object, const std::string& where, const char* name, double value);
void write_attribute(hid_t object, const std::string& where, const char* name, std::string_view value);  // variable length
void write_attribute(hid_t object, const std::string& where, const char* name, const std::vector<std::string>& value);
void write_attribute(hid_t object, const std::string& where, const char* name, const std::vector<int>& value);

}  // namespace kvreplay::hdf5

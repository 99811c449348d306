#include "core/trace/hdf5_internal.h"

#include <algorithm>
#include <cstdint>
#include <mutex>

#include "core/base/error.h"

namespace kvreplay::hdf5 {
namespace {

// A plain mutex and a count rather than a recursive mutex, which remembers its owner: a forked child is another owner.
std::mutex& global_mutex() {
  static std::mutex mutex;
  return mutex;
}
thread_local int guards = 0;
thread_local bool silenced = false;

herr_t keep_description(unsigned, const H5E_error2_t* entry, void* target) {
  auto& text = *static_cast<std::string*>(target);
  if (text.empty() && entry->desc != nullptr) text = entry->desc;
  return 0;
}

void write_attribute_of(hid_t object, const std::string& where, const char* name, hid_t type, hid_t space,
                        const void* value) {
  if (H5Aexists(object, name) > 0) check(H5Adelete(object, name), where, "cannot replace an attribute");
  const Attribute attribute(
      check_id(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), where, "cannot create an attribute"));
  check(H5Awrite(attribute, type, value), where, "cannot write an attribute");
}

void write_scalar(hid_t object, const std::string& where, const char* name, hid_t type, const void* value) {
  const Space space(H5Screate(H5S_SCALAR));
  write_attribute_of(object, where, name, type, space, value);
}

Space list_space(std::size_t count) {
  const hsize_t dimension = count;
  return Space(H5Screate_simple(1, &dimension, nullptr));
}

}  // namespace

// When a disk is full a file cannot be closed either, and HDF5 1.10 then crashes in its own clean-up as the program
// exits. Nothing needs that clean-up: every handle here closes itself.
const bool without_exit_handler = H5dont_atexit() >= 0;

Guard::Guard() {
  if (guards++ == 0) global_mutex().lock();
  if (!silenced) H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  silenced = true;
}

Guard::~Guard() {
  if (--guards == 0) global_mutex().unlock();
}

std::string reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_description, &text);
  H5Eclear2(H5E_DEFAULT);
  // Of a failed system call the interesting part: "..., errno = 28, error message = 'No space left on device', buf = ..."
  constexpr std::string_view before = "error message = '";
  const auto begin = text.find(before);
  if (begin == std::string::npos) return text;
  const auto end = text.find('\'', begin + before.size());
  return text.substr(begin + before.size(), end - begin - before.size());
}

void fail(const std::string& where, const std::string& what, const std::string& remedy) {
  const std::string why = reason();
  throw Error(where, why.empty() ? what : what + " (" + why + ")", remedy);
}

hid_t check_id(hid_t id, const std::string& where, const char* what) {
  if (id < 0) fail(where, what);
  return id;
}

void check(herr_t status, const std::string& where, const char* what) {
  if (status < 0) fail(where, what);
}

Type float16_type() {
  Type type(H5Tcopy(H5T_IEEE_F32LE));
  H5Tset_fields(type, 15, 10, 5, 0, 10);
  H5Tset_precision(type, 16);
  H5Tset_size(type, 2);
  H5Tset_ebias(type, 15);
  return type;
}

Type stored_type(ElementType type) {
  switch (type) {
    case ElementType::float32: return Type(H5Tcopy(H5T_IEEE_F32LE));
    case ElementType::float16: return float16_type();
    case ElementType::bfloat16: break;
  }
  return Type(H5Tcopy(H5T_STD_U16LE));
}

Type variable_text_type() {
  Type type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

Type text_type(std::size_t size) {
  Type type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, std::max<std::size_t>(1, size));
  H5Tset_cset(type, H5T_CSET_UTF8);
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  return type;
}

bool object_address([[maybe_unused]] hid_t file, hid_t object, std::uint64_t& address) {
#if H5_VERSION_GE(1, 12, 0)
  H5O_info2_t info{};
  haddr_t found = HADDR_UNDEF;
  if (H5Oget_info3(object, &info, H5O_INFO_BASIC) < 0 || H5VLnative_token_to_addr(file, info.token, &found) < 0)
    return false;
#else
  H5O_info_t info{};
  if (H5Oget_info2(object, &info, H5O_INFO_BASIC) < 0) return false;
  const haddr_t found = info.addr;
#endif
  address = found;
  return found != HADDR_UNDEF;
}

Properties file_access() {
  Properties access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  return access;
}

void write_attribute(hid_t object, const std::string& where, const char* name, std::int64_t value) {
  write_scalar(object, where, name, H5T_STD_I64LE, &value);
}

void write_attribute(hid_t object, const std::string& where, const char* name, int value) {
  write_scalar(object, where, name, H5T_STD_I32LE, &value);
}

void write_attribute(hid_t object, const std::string& where, const char* name, double value) {
  write_scalar(object, where, name, H5T_IEEE_F64LE, &value);
}

void write_attribute(hid_t object, const std::string& where, const char* name, std::string_view value) {
  // Variable length, as h5py writes it: h5py then gives text back instead of bytes.
  const std::string terminated(value);
  const char* text = terminated.c_str();
  write_scalar(object, where, name, variable_text_type(), &text);
}

void write_attribute(hid_t object, const std::string& where, const char* name, const std::vector<std::string>& value) {
  std::vector<const char*> texts;
  for (const auto& text : value) texts.push_back(text.c_str());
  write_attribute_of(object, where, name, variable_text_type(), list_space(value.size()), texts.data());
}

void write_attribute(hid_t object, const std::string& where, const char* name, const std::vector<int>& value) {
  write_attribute_of(object, where, name, H5T_STD_I32LE, list_space(value.size()), value.data());
}

}  // namespace kvreplay::hdf5

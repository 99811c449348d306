#include "core/model/weight_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/model/json_file_internal.h"

namespace kvreplay {
namespace {

// The largest header that the reference implementation accepts.
constexpr std::uint64_t largest_header = 100'000'000;

struct TypeName {
  std::string_view name;
  int bytes;
};
// All types of the format, so that the sizes of tensors that the engine does not use can be checked too.
constexpr TypeName type_names[] = {{"F64", 8},  {"F32", 4}, {"F16", 2},     {"BF16", 2},    {"I64", 8},    {"I32", 4},
                                   {"I16", 2},  {"I8", 1},  {"U64", 8},     {"U32", 4},     {"U16", 2},    {"U8", 1},
                                   {"BOOL", 1}, {"C64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};

std::optional<ElementType> element_type(std::string_view name) {
  if (name == "F32") return ElementType::float32;
  if (name == "F16") return ElementType::float16;
  if (name == "BF16") return ElementType::bfloat16;
  return {};
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> parts;
  for (const auto n : shape) parts.push_back(std::to_string(n));
  return "[" + join(parts, ", ") + "]";
}

std::int64_t as_size(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    throw Error(where, "a shape or offset is not a whole number that is 0 or more");
  return static_cast<std::int64_t>(value.get<std::uint64_t>());
}

const nlohmann::json& list(const nlohmann::json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object.at(key).is_array()) throw Error(where, "\"" + std::string(key) + "\" is missing");
  return object.at(key);
}

}  // namespace

struct WeightFiles::File {
  std::string path;
  const std::byte* map = nullptr;
  std::size_t size = 0;
  std::size_t data = 0;  // where the data part begins

  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (map != nullptr) munmap(const_cast<std::byte*>(map), size);
  }

  void open() {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw Error(path, std::string("cannot be read: ") + std::strerror(errno));
    struct stat status {};
    const bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size = regular ? static_cast<std::size_t>(status.st_size) : 0;
    void* memory = size >= 8 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
    const int failure = errno;
    close(descriptor);
    if (size < 8) throw Error(path, "is not a safetensors file: it is too short");
    if (memory == MAP_FAILED) throw Error(path, std::string("cannot be mapped: ") + std::strerror(failure));
    map = static_cast<const std::byte*>(memory);
  }

  std::string_view header() {
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = (length << 8) | std::to_integer<std::uint64_t>(map[i]);
    if (length > largest_header || length > size - 8)
      throw Error(path, "is not a safetensors file, or is cut off: the header's length is " + std::to_string(length) +
                            " bytes and the file's " + std::to_string(size));
    data = 8 + static_cast<std::size_t>(length);
    return {reinterpret_cast<const char*>(map + 8), static_cast<std::size_t>(length)};
  }
};

std::int64_t StoredTensor::count() const {
  std::int64_t n = 1;
  for (const auto dim : shape) n *= dim;
  return n;
}

void StoredTensor::read(std::int64_t first, std::int64_t n, float* target) const {
  const std::size_t size = element_size(type);
  const std::byte* source = data + static_cast<std::size_t>(first) * size;
  if (type == ElementType::float32 || reinterpret_cast<std::uintptr_t>(source) % size == 0) {
    to_float32(type, source, target, static_cast<std::size_t>(n));
    return;
  }
  std::uint16_t aligned[512];
  for (std::int64_t i = 0; i < n; i += 512) {
    const auto piece = static_cast<std::size_t>(std::min<std::int64_t>(512, n - i));
    std::memcpy(aligned, source + static_cast<std::size_t>(i) * size, piece * size);
    to_float32(type, aligned, target + i, piece);
  }
}

WeightFiles::WeightFiles() = default;
WeightFiles::WeightFiles(WeightFiles&&) noexcept = default;
WeightFiles& WeightFiles::operator=(WeightFiles&&) noexcept = default;
WeightFiles::~WeightFiles() = default;

void WeightFiles::add(const std::string& path) {
  auto file = std::make_unique<File>();
  file->path = path;
  file->open();
  const nlohmann::json header = nlohmann::json::parse(file->header(), nullptr, false);
  if (!header.is_object()) throw Error(path, "is not a safetensors file: its header is not a JSON object");
  const auto data_bytes = static_cast<std::int64_t>(file->size - file->data);
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (const auto& [name, description] : header.items()) {
    if (name == "__metadata__") continue;
    const std::string where = path + ": tensor " + printable(name);
    if (!description.is_object()) throw Error(where, "is not described by an object");
    Entry entry;
    entry.file = file.get();
    if (!description.contains("dtype") || !description.at("dtype").is_string()) throw Error(where, "\"dtype\" is missing");
    entry.type = description.at("dtype").get<std::string>();
    const auto* known = std::ranges::find_if(type_names, [&](const TypeName& type) { return type.name == entry.type; });
    if (known == std::end(type_names)) throw Error(where, "has the unknown type \"" + printable(entry.type) + "\"");
    std::int64_t expected = known->bytes;
    for (const auto& dim : list(description, "shape", where)) {
      entry.shape.push_back(as_size(dim, where));
      if (__builtin_mul_overflow(expected, entry.shape.back(), &expected)) throw Error(where, "is impossibly large");
    }
    const auto& offsets = list(description, "data_offsets", where);
    if (offsets.size() != 2) throw Error(where, "\"data_offsets\" must be two numbers");
    entry.begin = as_size(offsets[0], where);
    entry.end = as_size(offsets[1], where);
    if (entry.begin > entry.end || entry.end > data_bytes)
      throw Error(where,
                  "ends at byte " + std::to_string(entry.end) + " of " + std::to_string(data_bytes) + " bytes of data",
                  "the file may be cut off: download it again");
    if (entry.end - entry.begin != expected)
      throw Error(where, "takes " + std::to_string(entry.end - entry.begin) + " bytes; its shape " +
                             shape_text(entry.shape) + " needs " + std::to_string(expected));
    ranges.emplace_back(entry.begin, entry.end);
    if (!tensors_.emplace(name, std::move(entry)).second) throw Error(where, "is in two files");
  }
  std::ranges::sort(ranges);
  for (std::size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].first < ranges[i - 1].second)
      throw Error(path, "two tensors overlap at byte " + std::to_string(ranges[i].first) + " of the data");
  files_.push_back(std::move(file));
}

WeightFiles WeightFiles::open(const std::string& directory) {
  namespace fs = std::filesystem;
  WeightFiles weights;
  weights.directory_ = directory;
  const std::string single = directory + "/model.safetensors";
  const std::string index_path = directory + "/model.safetensors.index.json";
  std::error_code ignored;
  if (fs::exists(single, ignored)) {
    weights.add(single);
    return weights;
  }
  if (!fs::exists(index_path, ignored)) {
    const bool pickled = fs::exists(directory + "/pytorch_model.bin", ignored) ||
                         fs::exists(directory + "/pytorch_model.bin.index.json", ignored);
    throw Error(directory, "has neither model.safetensors nor model.safetensors.index.json",
                pickled ? "convert pytorch_model.bin to safetensors (save_pretrained does)" : "");
  }
  const nlohmann::json index = json_file::read_object(index_path);
  if (!index.contains("weight_map") || !index.at("weight_map").is_object())
    throw Error(index_path, "\"weight_map\" is missing");
  std::set<std::string> names;
  for (const auto& [tensor, file] : index.at("weight_map").items()) {
    // A name is a file beside the index, not a path to anywhere.
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos || file.get<std::string>().empty())
      throw Error(index_path, "tensor " + printable(tensor) + " has no file name");
    names.insert(file.get<std::string>());
  }
  for (const auto& name : names) weights.add(directory + "/" + name);
  for (const auto& [tensor, file] : index.at("weight_map").items())
    if (!weights.has(tensor))
      throw Error(directory + "/" + file.get<std::string>(), "tensor " + printable(tensor) + " is missing");
  return weights;
}

StoredTensor WeightFiles::require(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const auto found = tensors_.find(name);
  const std::string place = files_.size() == 1 ? files_.front()->path : directory_;
  if (found == tensors_.end()) throw Error(place, "tensor " + name + " is missing");
  const Entry& entry = found->second;
  const std::string where = entry.file->path + ": tensor " + name;
  const auto type = element_type(entry.type);
  if (!type) throw Error(where, "has type " + entry.type, "F32, F16 and BF16 can be read");
  if (entry.shape != shape)
    throw Error(where, "has shape " + shape_text(entry.shape) + "; config.json asks for " + shape_text(shape));
  return {*type, entry.shape, entry.file->map + entry.file->data + entry.begin};
}

std::string WeightFiles::sha256() const {
  Sha256 hash;
  for (const auto& file : files_) hash.update(file->map, file->size);
  return hash.hex();
}

std::int64_t WeightFiles::bytes() const {
  std::int64_t total = 0;
  for (const auto& file : files_) total += static_cast<std::int64_t>(file->size);
  return total;
}

}  // namespace kvreplay

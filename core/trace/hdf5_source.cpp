// Source over HDF5 in this process. Every limit is checked before anything is allocated or read.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>

#include "core/base/error.h"
#include "core/trace/chunk_decoding_internal.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/parallel_reading_internal.h"
#include "core/trace/source_internal.h"

namespace kvreplay {
namespace {

constexpr int max_rank = 4;
constexpr std::int64_t max_dimension = std::int64_t{1} << 40;
constexpr std::int64_t max_elements = std::int64_t{1} << 44;
constexpr std::int64_t max_decoded_chunk = std::int64_t{256} << 20;
constexpr std::int64_t max_attribute_bytes = std::int64_t{16} << 20;
constexpr std::int64_t piece_bytes = std::int64_t{4} << 20, decoded_piece_bytes = std::int64_t{32} << 20;
constexpr std::size_t most_known_chunks = std::size_t{1} << 24;
constexpr std::size_t max_known_infos = 100'000;
constexpr std::size_t max_children = 1'000'000;

// HDF5 searches for its signature at 0, 512, 1024, ...; a trace has it at 0.
bool has_signature(const std::string& path) {
  std::array<char, 8> head{};
  std::ifstream file(path, std::ios::binary);
  file.read(head.data(), head.size());
  return file.gcount() == 8 && std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", 8) == 0;
}

std::int64_t check_path(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    const int code = errno;
    if (code == ENOENT && access((path + ".partial").c_str(), F_OK) == 0)
      throw Error(path, "no such file", "\"" + path + ".partial\" is what a capture that was cut off has left");
    throw Error(path, code == ENOENT ? "no such file" : std::strerror(code));
  }
  if (S_ISDIR(status.st_mode)) throw Error(path, "is a directory", "give a trace or results file");
  if (!S_ISREG(status.st_mode)) throw Error(path, "is not a regular file");
  if (access(path.c_str(), R_OK) != 0) throw Error(path, std::strerror(errno));
  if (status.st_size == 0) throw Error(path, "is empty", "it should be an HDF5 file that kvreplay wrote");
  if (!has_signature(path)) throw Error(path, "is not an HDF5 file", "it should be a trace or results file of kvreplay");
  return status.st_size;
}

// A writer that was killed leaves its mark in the file. Single-writer reading ignores the mark of a single writer (few
// attempts: nobody is writing any more, so a bad checksum stays bad); the last way ignores any mark.
hdf5::File open_file(const std::string& path, bool& left_open) {
  hdf5::Properties access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  left_open = false;
  hdf5::File file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access));
  if (file.valid()) return file;
  const std::string why = hdf5::reason();
  left_open = true;
  H5Pset_metadata_read_attempts(access, 2);
  file = hdf5::File(H5Fopen(path.c_str(), H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, access));
  if (file.valid()) return file;
  hdf5::reason();
  if (why.find("already open for write") != std::string::npos) {
    const hdf5::Properties ignoring(H5Pcreate(H5P_FILE_ACCESS));
    const hbool_t yes = 1;
    H5Pset_fclose_degree(ignoring, H5F_CLOSE_STRONG);
    H5Pset(ignoring, "clear_status_flags", &yes);
    H5Pset(ignoring, "skip_eof_check", &yes);
    file = hdf5::File(H5Fopen(path.c_str(), H5F_ACC_RDONLY, ignoring));
    if (file.valid()) return file;
    hdf5::reason();
  }
  if (why.find("truncated") != std::string::npos)
    throw Error(path, "is cut off: the file ends before its contents do (" + why + ")", "copy or capture it again");
  throw Error(path, "cannot be opened as HDF5 (" + why + ")", "it is damaged, or was not written by kvreplay");
}

StoredType describe(hid_t type) {
  const auto size = static_cast<std::int64_t>(H5Tget_size(type));
  const auto is = [&](hid_t other) { return H5Tequal(type, other) > 0; };
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      if (is(H5T_IEEE_F32LE) || is(H5T_IEEE_F64LE) || is(hdf5::float16_type())) return {StoredKind::floating, size};
      break;
    case H5T_INTEGER:
      if (is(H5T_STD_I8LE) || is(H5T_STD_I16LE) || is(H5T_STD_I32LE) || is(H5T_STD_I64LE))
        return {StoredKind::signed_integer, size};
      if (is(H5T_STD_U8LE) || is(H5T_STD_U16LE) || is(H5T_STD_U32LE) || is(H5T_STD_U64LE))
        return {StoredKind::unsigned_integer, size};
      break;
    case H5T_STRING:
      if (H5Tis_variable_str(type) == 0 && size <= 65536) return {StoredKind::text, size};
      break;
    default: break;
  }
  return {StoredKind::other, size};
}

std::int64_t product(std::span<const std::int64_t> values) {
  std::int64_t n = 1;
  for (const auto v : values) n *= v;
  return n;
}

}  // namespace

class Hdf5Source final : public Source {
 public:
  explicit Hdf5Source(const std::string& path) : path_(path), file_size_(check_path(path)) {
    const hdf5::Guard guard;
    // A file must not be able to make HDF5 load a filter from a plugin folder.
    unsigned none = 0;
    H5PLset_loading_state(none);
    file_ = open_file(path, left_open_);
  }
  ~Hdf5Source() override {
    const hdf5::Guard guard;
    opened_.reset();
    file_.reset();
  }

  const std::string& path() const override { return path_; }
  std::int64_t file_size() const override { return file_size_; }
  bool left_open() const override { return left_open_; }

  NodeKind kind(const std::string& node) const override {
    const hdf5::Guard guard;
    return kind_of(node);
  }

  std::vector<std::string> children(const std::string& group) const override {
    const hdf5::Guard guard;
    const hdf5::Group id(hdf5::check_id(H5Gopen2(file_, group.c_str(), H5P_DEFAULT), where(group), "cannot be opened"));
    H5G_info_t info{};
    hdf5::check(H5Gget_info(id, &info), where(group), "cannot be listed");
    if (info.nlinks > max_children) throw Error(where(group), "has too many members");
    std::vector<std::string> names;
    hsize_t position = 0;
    hdf5::check(H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, &position, add_name, &names), where(group), "cannot be listed");
    return names;
  }

  std::vector<std::string> attribute_names(const std::string& node) const override {
    const hdf5::Guard guard;
    const hdf5::Object id(hdf5::check_id(H5Oopen(file_, node.c_str(), H5P_DEFAULT), where(node), "cannot be opened"));
    std::vector<std::string> names;
    hsize_t position = 0;
    hdf5::check(H5Aiterate2(id, H5_INDEX_NAME, H5_ITER_INC, &position, add_attribute, &names), where(node),
                "its attributes cannot be listed");
    return names;
  }

  std::optional<AttributeValue> attribute(const std::string& node, const std::string& name) const override {
    const hdf5::Guard guard;
    const hdf5::Object object(hdf5::check_id(H5Oopen(file_, node.c_str(), H5P_DEFAULT), where(node), "cannot be opened"));
    if (H5Aexists(object, name.c_str()) <= 0) return std::nullopt;
    const std::string at = where(node) + " attribute \"" + name + "\"";
    const hdf5::Attribute id(hdf5::check_id(H5Aopen(object, name.c_str(), H5P_DEFAULT), at, "cannot be opened"));
    return read_attribute(id, at);
  }

  DatasetInfo dataset(const std::string& node) const override {
    const hdf5::Guard guard;
    return open_dataset(node)->info;
  }

  void read(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
            const ByteSink& sink) const override {
    const auto found = readable(node);
    const DatasetInfo& info = found->info;
    check_slab(node, info, start, count);
    if (product(count) == 0) return;
    std::vector<std::byte> staging;
    std::vector<std::int64_t> at(start.begin(), start.end()), extent(count.begin(), count.end());
    read_pieces(node, info, at, extent, 0, staging, sink);
  }

  void read_into(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
                 void* target) const override {
    const auto found = readable(node);
    check_slab(node, found->info, start, count);
    if (!read_directly(*found, node, start, count, static_cast<std::byte*>(target)))
      Source::read_into(node, start, count, target);
  }
  bool reads_side_by_side() const override { return true; }

  std::vector<std::byte> stored_chunk(const std::string& node, std::int64_t index) const override {
    const hdf5::Guard guard;
    const auto kept = open_dataset(node);
    const Opened& opened = *kept;
    const DatasetInfo& info = opened.info;
    if (!info.refusal.empty()) throw Error(where(node), info.refusal);
    if (info.chunk.empty()) {
      std::vector<std::byte> all(static_cast<std::size_t>(info.stored_bytes == 0 ? 0 : info.logical_bytes()));
      if (!all.empty())
        hdf5::check(H5Dread(opened.id, opened.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, all.data()), where(node),
                    "cannot be read");
      return all;
    }
    std::array<hsize_t, max_rank> offset{};
    for (std::size_t axis = info.shape.size(); axis-- > 0;) {
      const std::int64_t chunks = (info.shape[axis] + info.chunk[axis] - 1) / info.chunk[axis];
      if (chunks == 0) throw Error(where(node), "has no chunks");
      offset[axis] = static_cast<hsize_t>(index % chunks * info.chunk[axis]);
      index /= chunks;
    }
    if (index != 0) throw Error(where(node), "has fewer chunks than asked for");
    hsize_t bytes = 0;
    hdf5::check(H5Dget_chunk_storage_size(opened.id, offset.data(), &bytes), where(node), "a chunk cannot be found");
    // A filter may make a chunk a little larger, not much.
    if (bytes > static_cast<hsize_t>(product(info.chunk) * info.type.size * 2 + 4096))
      throw Error(where(node), "has a chunk of an impossible size");
    std::vector<std::byte> chunk(bytes);
    std::uint32_t mask = 0;
    if (bytes > 0)
      hdf5::check(H5Dread_chunk(opened.id, H5P_DEFAULT, offset.data(), &mask, chunk.data()), where(node),
                  "a chunk cannot be read");
    return chunk;
  }

 private:
  struct Opened {
    std::string node;
    hdf5::Dataset id;
    hdf5::Type type;
    DatasetInfo info;

    Opened() = default;
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;
    ~Opened() {
      const hdf5::Guard guard;
      id.reset();
      type.reset();
    }
  };

  std::string where(const std::string& node) const { return path_ + ":" + node; }

  static herr_t add_name(hid_t, const char* name, const H5L_info_t*, void* target) {
    static_cast<std::vector<std::string>*>(target)->emplace_back(name);
    return 0;
  }
  static herr_t add_attribute(hid_t, const char* name, const H5A_info_t*, void* target) {
    auto& names = *static_cast<std::vector<std::string>*>(target);
    names.emplace_back(name);
    return names.size() > 10'000 ? -1 : 0;
  }

  // Looks at each part of the path before following it, so that no link leads elsewhere.
  NodeKind kind_of(const std::string& node) const {
    for (std::size_t slash = 0; slash != std::string::npos && node.size() > 1;) {
      slash = node.find('/', slash + 1);
      const std::string prefix = node.substr(0, slash);
      H5L_info_t link{};
      if (H5Lexists(file_, prefix.c_str(), H5P_DEFAULT) <= 0) {
        H5Eclear2(H5E_DEFAULT);
        return NodeKind::absent;
      }
      if (H5Lget_info(file_, prefix.c_str(), &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD) return NodeKind::link;
    }
    const hdf5::Object object(hdf5::check_id(H5Oopen(file_, node.c_str(), H5P_DEFAULT), where(node), "cannot be opened"));
    switch (H5Iget_type(object)) {
      case H5I_GROUP: return NodeKind::group;
      case H5I_DATASET: return NodeKind::dataset;
      default: return NodeKind::other;
    }
  }

  std::shared_ptr<const Opened> open_dataset(const std::string& node) const {
    if (opened_ && opened_->node == node) return opened_;
    switch (kind_of(node)) {
      case NodeKind::dataset: break;
      case NodeKind::absent: throw Error(where(node), "is missing");
      case NodeKind::link:
        throw Error(where(node), "is a soft, external or user-defined link", "traces hold datasets themselves");
      default: throw Error(where(node), "is not a dataset");
    }
    auto opened = std::make_shared<Opened>();
    opened->node = node;
    const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
    opened->id = hdf5::Dataset(hdf5::check_id(H5Dopen2(file_, node.c_str(), access), where(node), "cannot be opened"));
    opened->type = hdf5::Type(hdf5::check_id(H5Dget_type(opened->id), where(node), "has no readable type"));
    // Once a file: HDF5 goes through a whole chunk index to say how many bytes are stored.
    auto known = infos_.find(node);
    if (known == infos_.end()) {
      if (infos_.size() > max_known_infos) infos_.clear();
      known = infos_.emplace(node, describe_dataset(opened->id, opened->type)).first;
    }
    opened->info = known->second;
    opened_ = std::move(opened);
    return opened_;
  }

  DatasetInfo describe_dataset(hid_t id, hid_t type) const {
    DatasetInfo info;
    info.type = describe(type);
    const hdf5::Space space(H5Dget_space(id));
    const int rank = H5Sget_simple_extent_ndims(space);
    if (rank < 0 || rank > max_rank) {
      info.refusal = "has " + std::to_string(rank) + " dimensions, which no dataset of a trace has";
      return info;
    }
    std::array<hsize_t, max_rank> dims{};
    H5Sget_simple_extent_dims(space, dims.data(), nullptr);
    std::int64_t elements = 1;
    for (int axis = 0; axis < rank; ++axis) {
      const auto n = static_cast<std::int64_t>(dims[static_cast<std::size_t>(axis)]);
      if (n < 0 || n > max_dimension || (n > 0 && elements > max_elements / n)) {
        info.refusal = "has an impossible shape";
        return info;
      }
      elements *= n;
      info.shape.push_back(n);
    }
    if (info.type.kind == StoredKind::other) {
      info.refusal = "is " + info.type.name();
      return info;
    }
    info.stored_bytes = static_cast<std::int64_t>(H5Dget_storage_size(id));
    const hdf5::Properties creation(H5Dget_create_plist(id));
    info.refusal = layout_refusal(creation, info);
    if (info.type.kind == StoredKind::unsigned_integer && info.type.size == 2) info.bfloat16 = has_bfloat16_mark(id);
    return info;
  }

  std::string layout_refusal(hid_t creation, DatasetInfo& info) const {
    if (H5Pget_external_count(creation) > 0) return "keeps its data in other files, which traces must not";
    const H5D_layout_t layout = H5Pget_layout(creation);
    if (layout == H5D_VIRTUAL) return "is a virtual dataset, which traces must not hold";
    if (layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) return "has an unknown layout";
    if (layout == H5D_CHUNKED) {
      std::array<hsize_t, max_rank> chunk{};
      const int rank = H5Pget_chunk(creation, max_rank, chunk.data());
      if (rank != static_cast<int>(info.shape.size())) return "has chunks of another rank than its own";
      std::int64_t elements = 1;
      for (int axis = 0; axis < rank; ++axis) {
        const auto n = static_cast<std::int64_t>(chunk[static_cast<std::size_t>(axis)]);
        if (n < 1 || n > max_dimension || elements > max_elements / n) return "has impossible chunks";
        elements *= n;
        info.chunk.push_back(n);
      }
    }
    const int filters = H5Pget_nfilters(creation);
    bool compressed = false;
    for (int i = 0; i < filters; ++i) {
      unsigned flags = 0, config = 0;
      std::size_t parameters = 0;
      const auto filter =
          H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &parameters, nullptr, 0, nullptr, &config);
      info.filters.push_back(filter);
      compressed = compressed || filter == H5Z_FILTER_DEFLATE;
      if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32)
        return "uses filter " + std::to_string(filter) + "; traces use shuffle, deflate and Fletcher-32 only";
    }
    return size_refusal(info, compressed);
  }

  std::string size_refusal(const DatasetInfo& info, bool compressed) const {
    if (info.stored_bytes > file_size_ && !left_open_) return "claims more bytes than the file has";
    // Nothing that deflate makes can grow by more than 1,032 times.
    const std::int64_t possible = compressed ? info.stored_bytes * 1040 + 65536 : info.stored_bytes;
    if (!left_open_ && info.chunk.empty() && info.stored_bytes > 0 && info.logical_bytes() > possible)
      return "has a shape that does not fit its bytes";
    if (!info.chunk.empty() && !info.filters.empty()) {
      if (product(info.chunk) * info.type.size > max_decoded_chunk) return "has compressed chunks above 256 MiB";
      if (info.logical_bytes() > possible) return "has a shape that its bytes cannot fill";
    }
    return {};
  }

  static bool has_bfloat16_mark(hid_t id) {
    if (H5Aexists(id, "encoding") <= 0) return false;
    const hdf5::Attribute attribute(H5Aopen(id, "encoding", H5P_DEFAULT));
    if (!attribute.valid()) return false;
    const auto value = read_attribute(attribute, "encoding");
    const auto* text = std::get_if<std::string>(&value);
    return text != nullptr && *text == "bfloat16";
  }

  static AttributeValue read_attribute(hid_t id, const std::string& at) {
    const hdf5::Type type(H5Aget_type(id));
    const hdf5::Space space(H5Aget_space(id));
    const hssize_t count = H5Sget_simple_extent_npoints(space);
    const bool scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
    const auto size = static_cast<std::int64_t>(H5Tget_size(type));
    if (count < 0 || size <= 0 || count > max_attribute_bytes / size) throw Error(at, "is too large");
    const auto n = static_cast<std::size_t>(count);
    switch (H5Tget_class(type)) {
      case H5T_STRING: return read_strings(id, type, n, scalar, at);
      case H5T_ENUM:  // h5py's bool
        if (size != 1) break;
        {
          std::vector<std::int8_t> raw(n);
          hdf5::check(H5Aread(id, type, raw.data()), at, "cannot be read");
          return of_list(std::vector<std::int64_t>(raw.begin(), raw.end()), scalar);
        }
      case H5T_INTEGER: {
        std::vector<std::int64_t> values(n);
        hdf5::check(H5Aread(id, H5T_NATIVE_INT64, values.data()), at, "cannot be read");
        return of_list(std::move(values), scalar);
      }
      case H5T_FLOAT: {
        std::vector<double> values(n);
        hdf5::check(H5Aread(id, H5T_NATIVE_DOUBLE, values.data()), at, "cannot be read");
        return of_list(std::move(values), scalar);
      }
      default: break;
    }
    throw Error(at, "is of a type that traces do not use");
  }

  template <class T>
  static AttributeValue of_list(std::vector<T> values, bool scalar) {
    if (scalar && !values.empty()) return values.front();
    return values;
  }

  static AttributeValue read_strings(hid_t id, hid_t type, std::size_t count, bool scalar, const std::string& at) {
    std::vector<std::string> texts(count);
    if (H5Tis_variable_str(type) > 0) {
      std::vector<char*> raw(count, nullptr);
      hdf5::check(H5Aread(id, type, raw.data()), at, "cannot be read");
      for (std::size_t i = 0; i < count; ++i) {
        if (raw[i] != nullptr) texts[i].assign(raw[i], strnlen(raw[i], static_cast<std::size_t>(max_attribute_bytes)));
        H5free_memory(raw[i]);
      }
    } else {
      const std::size_t size = H5Tget_size(type);
      std::vector<char> raw(size * count + 1);
      hdf5::check(H5Aread(id, type, raw.data()), at, "cannot be read");
      for (std::size_t i = 0; i < count; ++i) texts[i].assign(raw.data() + i * size, strnlen(raw.data() + i * size, size));
    }
    return of_list(std::move(texts), scalar);
  }

  void check_slab(const std::string& node, const DatasetInfo& info, std::span<const std::int64_t> start,
                  std::span<const std::int64_t> count) const {
    if (!info.refusal.empty()) throw Error(where(node), info.refusal);
    if (start.size() != info.shape.size() || count.size() != info.shape.size())
      throw Error(where(node),
                  "has " + std::to_string(info.shape.size()) + " dimensions, not " + std::to_string(count.size()));
    for (std::size_t axis = 0; axis < start.size(); ++axis)
      if (start[axis] < 0 || count[axis] < 0 || start[axis] > info.shape[axis] - count[axis])
        throw Error(where(node), "has fewer rows than asked for");
  }

  // Splits the slab along its axes, outermost first, into pieces of at most piece_bytes.
  void read_pieces(const std::string& node, const DatasetInfo& info, std::vector<std::int64_t>& start,
                   std::vector<std::int64_t>& count, std::size_t axis, std::vector<std::byte>& staging,
                   const ByteSink& sink) const {
    const std::int64_t bytes = product(count) * info.type.size;
    // A compressed chunk is decoded whole, so pieces are large enough to hold several.
    const std::int64_t limit = info.filters.empty() ? piece_bytes : decoded_piece_bytes;
    if (bytes <= limit || axis >= count.size()) {
      read_piece(node, start, count, staging, static_cast<std::size_t>(bytes));
      sink(staging);
      return;
    }
    const std::int64_t first = start[axis], total = count[axis];
    const std::int64_t row = bytes / total;
    // A whole chunk at a time, so that none is read twice.
    const std::int64_t unit = info.chunk.empty() ? 1 : info.chunk[axis];
    std::int64_t step = std::max<std::int64_t>(1, limit / row);
    if (step > unit) step -= step % unit;
    for (std::int64_t done = 0; done < total;) {
      std::int64_t n = std::min(total - done, step);
      if (const std::int64_t past = (first + done) % unit; past != 0 && step >= unit) n = std::min(n, unit - past);
      start[axis] = first + done;
      count[axis] = n;
      read_pieces(node, info, start, count, axis + 1, staging, sink);
      done += n;
    }
    start[axis] = first;
    count[axis] = total;
  }

  void read_piece(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
                  std::vector<std::byte>& staging, std::size_t bytes) const {
    staging.resize(bytes);
    if (read_directly(*readable(node), node, start, count, staging.data())) return;
    const hdf5::Guard guard;
    const std::shared_ptr<const Opened> opened = open_dataset(node);
    std::array<hsize_t, max_rank> from{}, extent{};
    std::copy(start.begin(), start.end(), from.begin());
    std::copy(count.begin(), count.end(), extent.begin());
    const auto rank = static_cast<int>(count.size());
    const hdf5::Space file_space(H5Dget_space(opened->id));
    const hdf5::Space memory_space(rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, extent.data(), nullptr));
    if (rank > 0)
      hdf5::check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, from.data(), nullptr, extent.data(), nullptr), where(node),
                  "a slice cannot be selected");
    hdf5::check(H5Dread(opened->id, opened->type, memory_space, file_space, H5P_DEFAULT, staging.data()), where(node),
                "cannot be read");
  }

  bool read_directly(const ReadableDataset& found, const std::string& node, std::span<const std::int64_t> start,
                     std::span<const std::int64_t> count, std::byte* target) const {
    return found.file >= 0 && read_slab(found, where(node), start, count, target);
  }

  // What is known of a dataset, found once; afterwards without HDF5's lock, which a writer of results may hold for long.
  // Its file is -1 where HDF5 has to read it.
  std::shared_ptr<const ReadableDataset> readable(const std::string& node) const {
    if (auto known = known_dataset(node)) return known;
    const hdf5::Guard guard;
    if (auto known = known_dataset(node)) return known;  // another thread has found it
    const auto opened = open_dataset(node);
    auto found = std::make_shared<ReadableDataset>();
    found->info = opened->info;
    if (auto places = places_of(*opened)) {
      found->places = std::move(*places);
      found->file = descriptor();
    }
    const std::lock_guard lock(readable_mutex_);
    if (readable_chunks_ > most_known_chunks) readable_.clear(), readable_chunks_ = 0;
    readable_chunks_ += 1 + found->places.offset.size();
    readable_.emplace(node, found);
    return found;
  }

  std::shared_ptr<const ReadableDataset> known_dataset(const std::string& node) const {
    const std::lock_guard lock(readable_mutex_);
    const auto known = readable_.find(node);
    return known != readable_.end() ? known->second : nullptr;
  }

  // None where HDF5 has to find the chunks. A file that is still written, or was when its writer died, is read HDF5's own
  // way.
  std::optional<ChunkPlaces> places_of(const Opened& opened) const {
    const DatasetInfo& info = opened.info;
    if (!info.refusal.empty() || left_open_ || descriptor() < 0) return {};
    if (!info.filters.empty() && !can_decode(info.filters)) return {};
    std::uint64_t object = 0;
    std::vector<std::int64_t> most(info.shape.size(), -1);
    if (!hdf5::object_address(file_, opened.id, object)) return {};
    const hdf5::Space space(H5Dget_space(opened.id));
    std::array<hsize_t, max_rank> limit{};
    if (H5Sget_simple_extent_dims(space, nullptr, limit.data()) < 0) return {};
    for (std::size_t axis = 0; axis < most.size(); ++axis)
      if (limit[axis] != H5S_UNLIMITED) most[axis] = static_cast<std::int64_t>(std::min<hsize_t>(limit[axis], INT64_MAX));
    return find_chunks(descriptor(), file_size_, object, info, most);
  }

  // That HDF5 has the file open with; -1 where it does not say, or where its own offsets are not the file's.
  int descriptor() const {
    if (descriptor_) return *descriptor_;
    descriptor_ = -1;
    void* handle = nullptr;
    const hdf5::Properties access(H5Fget_access_plist(file_)), creation(H5Fget_create_plist(file_));
    std::size_t address_bytes = 0, length_bytes = 0;
    hsize_t user_block = 0;
    if (!access.valid() || H5Pget_driver(access) != H5FD_SEC2) return -1;
    if (H5Pget_sizes(creation, &address_bytes, &length_bytes) < 0 || address_bytes != 8 || length_bytes != 8) return -1;
    if (H5Pget_userblock(creation, &user_block) < 0 || user_block != 0) return -1;
    if (H5Fget_vfd_handle(file_, access, &handle) >= 0 && handle != nullptr) descriptor_ = *static_cast<int*>(handle);
    hdf5::reason();
    return *descriptor_;
  }

  std::string path_;
  std::int64_t file_size_ = 0;
  bool left_open_ = false;
  hdf5::File file_;
  mutable std::optional<int> descriptor_;
  mutable std::shared_ptr<const Opened> opened_;  // the last one, ready for the next slice
  mutable std::map<std::string, DatasetInfo> infos_;
  mutable std::mutex readable_mutex_;
  mutable std::map<std::string, std::shared_ptr<const ReadableDataset>> readable_;
  mutable std::size_t readable_chunks_ = 0;
};

std::unique_ptr<Source> open_direct_source(const std::string& path) { return std::make_unique<Hdf5Source>(path); }

}  // namespace kvreplay

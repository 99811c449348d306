// Are chunks found where HDF5 finds them, and read to the caller's memory as HDF5 reads them, whatever the layout?
#include "core/trace/parallel_reading_internal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "core/base/error.h"
#include "core/trace/hdf5_blocks_internal.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/source_internal.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

using Three = std::array<hsize_t, 3>;
constexpr Three shape = {3, 1000, 40};

struct Stored {
  const char* name;
  bool latest;         // format of HDF5 1.10 with its newer chunk indices, or the oldest
  Three chunk;         // 0: contiguous
  Three most;          // of each dimension; 0: unlimited
  bool holes;          // some chunks are never written
  bool compress;       // shuffle and deflate
  bool early = false;  // all chunks get their place before anything is written
  bool found = true;   // whether the index is read without HDF5
};

std::vector<Stored> layouts() {
  const Three chunk = {1, 256, 40}, odd = {2, 333, 16}, none = {0, 0, 0}, small = {1, 2, 5};
  return {{"contiguous", true, none, shape, false, false},
          {"contiguous_old", false, none, shape, false, false},
          {"fixed_array", true, chunk, shape, false, false},
          {"fixed_array_odd_chunks", true, odd, shape, false, false},
          {"fixed_array_with_holes", true, chunk, shape, true, false},
          {"fixed_array_in_pages", true, small, shape, false, false},
          {"fixed_array_in_pages_with_holes", true, small, shape, true, false},
          {"fixed_array_larger_than_its_shape", true, chunk, {5, 3000, 40}, false, false},
          {"fixed_array_compressed", true, chunk, shape, false, true},
          {"fixed_array_in_pages_compressed", true, small, shape, false, true},
          {"extensible_array_by_rows", true, chunk, {3, 0, 40}, false, false},
          {"extensible_array_by_columns", true, odd, {3, 1000, 0}, false, false},
          {"extensible_array_of_small_chunks", true, small, {3, 0, 40}, false, false},
          {"extensible_array_with_holes", true, chunk, {0, 1000, 40}, true, false},
          {"extensible_array_compressed", true, small, {0, 1000, 40}, false, true},
          {"implicit", true, odd, shape, false, false, true},
          {"implicit_larger_than_its_shape", true, chunk, {5, 3000, 40}, false, false, true},
          {"second_btree", true, odd, {0, 0, 40}, true, false, false, false},
          {"first_btree", false, odd, {3, 0, 40}, false, false},
          {"first_btree_of_small_chunks", false, small, {0, 0, 0}, false, false},
          {"first_btree_with_holes", false, odd, {3, 0, 40}, true, false},
          {"first_btree_compressed", false, small, shape, false, true},
          {"single_chunk", true, shape, shape, false, false},
          {"single_chunk_larger_than_its_shape", true, {4, 1024, 64}, {4, 1024, 64}, false, false},
          {"single_chunk_compressed", true, shape, shape, false, true}};
}

std::string write(const samples::TemporaryFolder& folder, const Stored& how) {
  const std::string path = folder.file("t.h5");
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_DATASET_CREATE);
  if (how.latest) H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  Three most = how.most;
  for (hsize_t& n : most)
    if (n == 0) n = H5S_UNLIMITED;
  if (how.chunk[0] > 0) H5Pset_chunk(creation, 3, how.chunk.data());
  if (how.early) H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  if (how.compress) H5Pset_shuffle(creation), H5Pset_deflate(creation, 1);
  const std::uint16_t fill = 77;
  H5Pset_fill_value(creation, H5T_NATIVE_UINT16, &fill);
  const hid_t space = H5Screate_simple(3, shape.data(), most.data());
  const hid_t dataset = H5Dcreate2(file, "/x", H5T_STD_U16LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  std::vector<std::uint16_t> values(shape[0] * shape[1] * shape[2]);
  std::iota(values.begin(), values.end(), std::uint16_t{1});
  // With holes, the rows from 600 on are not written, nor is the last head.
  const Three start = {0, 0, 0}, count = how.holes ? Three{2, 600, 40} : shape;
  const hid_t memory = H5Screate_simple(3, shape.data(), nullptr);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  H5Sselect_hyperslab(memory, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT16, memory, space, H5P_DEFAULT, values.data()), 0);
  for (const hid_t id : {memory, space}) H5Sclose(id);
  H5Dclose(dataset);
  H5Pclose(creation);
  H5Fclose(file);
  H5Pclose(access);
  return path;
}

struct Slab {
  std::array<std::int64_t, 3> start, count;
  std::size_t elements() const { return static_cast<std::size_t>(count[0] * count[1] * count[2]); }
};
constexpr std::array slabs = {Slab{{0, 0, 0}, {3, 1000, 40}}, Slab{{1, 0, 0}, {1, 1000, 40}},
                              Slab{{0, 255, 0}, {3, 2, 40}},  Slab{{1, 333, 0}, {2, 419, 40}},
                              Slab{{0, 13, 7}, {3, 700, 11}}, Slab{{2, 999, 39}, {1, 1, 1}}};

// A dataset "/x" as HDF5 describes it, and HDF5's own reading of it.
class Opened {
 public:
  explicit Opened(const std::string& path) : source(open_direct_source(path)), descriptor_(open(path.c_str(), O_RDONLY)) {
    struct stat status {};
    fstat(descriptor_, &status);
    const hdf5::Properties access(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);  // as the source has it open
    file_ = hdf5::File(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access));
    data_ = H5Dopen2(file_, "/x", H5P_DEFAULT);
    const hid_t space = H5Dget_space(data_);
    std::vector<hsize_t> most(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
    H5Sget_simple_extent_dims(space, nullptr, most.data());
    H5Sclose(space);
    for (const hsize_t n : most) limits.push_back(n == H5S_UNLIMITED ? -1 : static_cast<std::int64_t>(n));
    EXPECT_TRUE(hdf5::object_address(file_, data_, object));
    const DatasetInfo info = source->dataset("/x");
    places = find_chunks(descriptor_, status.st_size, object, info, limits);
    if (places) readable = {descriptor_, info, *places};
  }
  ~Opened() {
    H5Dclose(data_);
    close(descriptor_);
  }
  Opened(const Opened&) = delete;

  std::vector<std::uint16_t> by_hdf5(const Slab& slab) const {
    Three start{}, count{};
    std::copy(slab.start.begin(), slab.start.end(), start.begin());
    std::copy(slab.count.begin(), slab.count.end(), count.begin());
    std::vector<std::uint16_t> values(slab.elements());
    const hid_t space = H5Dget_space(data_), memory = H5Screate_simple(3, count.data(), nullptr);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
    EXPECT_GE(H5Dread(data_, H5T_NATIVE_UINT16, memory, space, H5P_DEFAULT, values.data()), 0);
    for (const hid_t id : {memory, space}) H5Sclose(id);
    return values;
  }

  // Where no chunk below the shape is.
  std::vector<std::uint64_t> metadata(std::uint64_t file_bytes) const {
    std::vector<bool> data(file_bytes + 2, false);
    data[file_bytes - 1] = true;
    std::uint64_t chunk_bytes = 2;
    for (const auto extent : places->chunk) chunk_bytes *= static_cast<std::uint64_t>(extent);
    for (std::size_t i = 0; i < places->offset.size(); ++i)
      for (std::uint64_t k = 0; k < (places->bytes.empty() ? chunk_bytes : places->bytes[i]); ++k)
        if (places->offset[i] != ChunkPlaces::not_written) data[places->offset[i] + k] = true;
    std::vector<std::uint64_t> rest;
    for (std::uint64_t at = 0; at < file_bytes; ++at)
      if (!data[at]) rest.push_back(at);
    return rest;
  }

  std::unique_ptr<Source> source;
  std::uint64_t object = 0;
  std::vector<std::int64_t> limits;
  std::optional<ChunkPlaces> places;
  ReadableDataset readable;

 private:
  int descriptor_;
  hdf5::File file_;
  hid_t data_;
};

class ParallelReading : public testing::TestWithParam<Stored> {};
INSTANTIATE_TEST_SUITE_P(Layouts, ParallelReading, testing::ValuesIn(layouts()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(ParallelReading, GivesWhatHdf5Gives) {
  const samples::TemporaryFolder folder;
  const Opened opened(write(folder, GetParam()));
  EXPECT_EQ(opened.places.has_value(), GetParam().found);
  for (const Slab& slab : slabs) {
    const std::vector<std::uint16_t> want = opened.by_hdf5(slab);
    std::vector<std::uint16_t> got(slab.elements() + 2, 9);
    opened.source->read_into("/x", slab.start, slab.count, got.data() + 1);
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin() + 1)) << slab.start[0] << ", " << slab.start[1];
    EXPECT_EQ(got.front(), 9) << "nothing is written before the slab";
    EXPECT_EQ(got.back(), 9) << "nor behind it";
    std::vector<std::uint16_t> piecewise(want.size());
    opened.source->Source::read_into("/x", slab.start, slab.count, piecewise.data());
    EXPECT_EQ(piecewise, want);
  }
}

// Past 131,060 chunks the blocks of an extensible array come in pages, the last of which is partly used.
TEST(ParallelReadingOfManyChunks, ReadsTheExtensibleArraysPages) {
  const samples::TemporaryFolder folder;
  const std::string path = folder.file("t.h5");
  constexpr hsize_t rows = 140003, chunk = 1, unlimited = H5S_UNLIMITED;
  std::vector<std::uint16_t> values(rows);
  std::iota(values.begin(), values.end(), std::uint16_t{1});
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_chunk(creation, 1, &chunk);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  const hid_t space = H5Screate_simple(1, &rows, &unlimited);
  const hid_t dataset = H5Dcreate2(file, "/x", H5T_STD_U16LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  H5Dclose(dataset);
  H5Sclose(space);
  for (const hid_t list : {access, creation}) H5Pclose(list);
  H5Fclose(file);

  const Opened opened(path);
  ASSERT_TRUE(opened.places.has_value());
  const std::array<std::int64_t, 1> start = {0}, count = {static_cast<std::int64_t>(rows)};
  std::vector<std::uint16_t> got(rows);
  EXPECT_TRUE(read_slab(opened.readable, "/x", start, count, reinterpret_cast<std::byte*>(got.data())));
  EXPECT_EQ(got, values);
}

// The same without HDF5 to fall back on: what has no holes is read by read_slab alone.
TEST_P(ParallelReading, NeedsHdf5ForHolesOnly) {
  const samples::TemporaryFolder folder;
  const Opened opened(write(folder, GetParam()));
  if (!opened.places) GTEST_SKIP() << "the index is HDF5's alone";
  for (const Slab& slab : slabs) {
    // Rows from 600 on are not written, nor is the last head.
    const bool holes = GetParam().holes && (slab.start[0] + slab.count[0] > 2 || slab.start[1] + slab.count[1] > 768);
    const auto run = static_cast<std::size_t>(slab.count[2] < 40 ? slab.count[2] : slab.count[1] * slab.count[2]);
    const bool short_runs = GetParam().chunk[0] == 0 && 2 * run < 4096 && slab.elements() > run;
    std::vector<std::uint16_t> got(slab.elements());
    const bool read = read_slab(opened.readable, "x", slab.start, slab.count, reinterpret_cast<std::byte*>(got.data()));
    EXPECT_EQ(read, !holes && !short_runs) << slab.start[0] << ", " << slab.start[1];
    EXPECT_TRUE(!read || got == opened.by_hdf5(slab));
  }
}

void check_places(const ChunkPlaces& places, const Opened& whole, int file, std::uint64_t file_bytes) {
  for (std::size_t i = 0; i < places.offset.size(); ++i) {
    const std::uint64_t length = places.bytes.empty() ? 1 : places.bytes[i];
    EXPECT_TRUE(places.offset[i] == ChunkPlaces::not_written || places.offset[i] + length <= file_bytes);
  }
  std::vector<std::uint16_t> got(slabs[0].elements());
  try {
    read_slab({file, whole.readable.info, places}, "x", slabs[0].start, slabs[0].count,
              reinterpret_cast<std::byte*>(got.data()));
  } catch (const Error&) {  // a chunk that cannot be decompressed
  }
}

// Whatever byte of the file is wrong, the places that are found lie in the file, and what comes out is an error or data.
TEST_P(ParallelReading, DamagedBytesLeadNowhere) {
  const samples::TemporaryFolder folder;
  const std::string path = write(folder, GetParam());
  const Opened whole(path);
  if (!whole.places) GTEST_SKIP() << "the index is HDF5's alone";
  std::mt19937 random(5);
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path));
  const std::vector<std::uint64_t> metadata = whole.metadata(static_cast<std::uint64_t>(bytes));
  const int file = open(path.c_str(), O_RDWR);
  int refused = 0;
  for (int round = 0; round < 60; ++round) {
    // The object's header one time in two, since it is small.
    const std::uint64_t at = round % 2 == 0 ? whole.object + random() % 300 : metadata[random() % metadata.size()];
    std::array<unsigned char, 2> was{}, now{};
    ASSERT_EQ(pread(file, was.data(), 2, static_cast<off_t>(at)), 2);
    now = round % 4 < 2 ? std::array<unsigned char, 2>{0xff, 0xff} : now;
    if (round % 4 == 2) now = {static_cast<unsigned char>(random()), was[1]};
    ASSERT_EQ(pwrite(file, now.data(), 2, static_cast<off_t>(at)), 2);
    const auto places = find_chunks(file, bytes, whole.object, whole.readable.info, whole.limits);
    refused += places ? 0 : 1;
    if (places) check_places(*places, whole, file, static_cast<std::uint64_t>(bytes));
    ASSERT_EQ(pwrite(file, was.data(), 2, static_cast<off_t>(at)), 2);
  }
  close(file);
  EXPECT_GT(refused, 0) << "no damage hit the index";
}

TEST(ParallelReadingErrors, AFileThatWasCutAfterItWasOpenedIsAnError) {
  const samples::TemporaryFolder folder;
  const std::string path = write(folder, layouts()[2]);
  const Opened opened(path);
  std::vector<std::byte> out(shape[0] * shape[1] * shape[2] * 2);
  const std::array<std::int64_t, 3> start = {0, 0, 0}, all = {3, 1000, 40};
  ASSERT_TRUE(read_slab(opened.readable, "x", start, all, out.data()));
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(out.size() / 2)), 0);
  try {
    read_slab(opened.readable, "t.h5:/x", start, all, out.data());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("t.h5:/x: is cut off"), std::string::npos) << error.what();
  }
}

// The oldest files have an index without checksums: a B-tree that leads back to itself.
TEST(ParallelReadingErrors, ATreeThatLeadsInCirclesEnds) {
  const samples::TemporaryFolder folder;
  const Stored* small = nullptr;
  const auto all = layouts();
  for (const Stored& layout : all)
    if (std::string(layout.name) == "first_btree_of_small_chunks") small = &layout;
  const std::string path = write(folder, *small);
  const Opened whole(path);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  std::string contents((std::istreambuf_iterator<char>(file)), {});
  const std::size_t key_bytes = 8 + 8 * 4;
  int changed = 0;
  // Every node that is not a leaf points to itself everywhere.
  for (std::size_t at = contents.find("TREE"); at != std::string::npos; at = contents.find("TREE", at + 4)) {
    if (contents[at + 4] != 1 || contents[at + 5] == 0) continue;
    const auto entries = static_cast<unsigned char>(contents[at + 6]);
    const std::uint64_t self = at;
    for (std::size_t i = 0; i < entries; ++i)
      std::memcpy(contents.data() + at + 24 + i * (key_bytes + 8) + key_bytes, &self, 8);
    ++changed;
  }
  ASSERT_GT(changed, 0) << "the tree has one level";
  file.clear();
  file.seekp(0);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  file.close();
  EXPECT_FALSE(find_chunks(whole.readable.file, static_cast<std::int64_t>(contents.size()), whole.object,
                           whole.readable.info, whole.limits));
}

TEST(MetadataChecksum, IsJenkins) {
  const std::string text = "Four score and seven years ago";  // the example of lookup3.c
  EXPECT_EQ(blocks::metadata_checksum(std::as_bytes(std::span(text))), 0x17770551U);
  EXPECT_EQ(blocks::metadata_checksum({}), 0xdeadbeefU);
}

// A capture of this program, large enough that its tensors are read by threads; values seen through Trace::read.
TEST(ParallelReadingOfTraces, StoredElementsAreThoseOfTheOtherWay) {
  const samples::TemporaryFolder folder;
  TraceLayout layout = samples::small_layout(12'345, 12'300);
  layout.model.head_dim = 64;
  layout.layers = {2};
  layout.sliding_window = {0};
  layout.attention_positions.clear();
  layout.tensor_type = ElementType::bfloat16;
  const samples::TraceMaker maker(layout, 5);
  const std::string path = folder.file("t.h5");
  maker.write(path, 3000);
  for (const Trust trust : {Trust::trusted, Trust::sandboxed}) {
    const auto trace = open_trace(path, trust);
    for (const auto which : {LayerDataset::key, LayerDataset::query})
      for (const auto& [heads, rows] :
           {std::pair<IndexRange, IndexRange>{{}, {}}, {{1, 4}, {7, 12'001}}, {{0, 2}, {12'344, 12'345}}}) {
        if (which == LayerDataset::key && heads.end > 2) continue;
        const Tensor<float, 3> want = trace->read(2, which, heads, rows);
        std::vector<std::uint16_t> stored(static_cast<std::size_t>(want.size()));
        trace->read_stored(2, which, stored.data(), heads, rows);
        std::vector<float> got(stored.size());
        to_float32(ElementType::bfloat16, reinterpret_cast<const std::byte*>(stored.data()), got.data(), got.size());
        EXPECT_TRUE(std::equal(got.begin(), got.end(), want.flat().begin(), want.flat().end()));
      }
  }
}

}  // namespace
}  // namespace kvreplay

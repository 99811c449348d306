// Do threads read to the caller's memory exactly what HDF5 reads, whatever the layout of the dataset?
#include "core/trace/parallel_reading_internal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <numeric>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/trace/source_internal.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

using Three = std::array<hsize_t, 3>;
constexpr Three shape = {3, 1000, 40};

struct Stored {
  const char* name;
  bool latest;    // format of HDF5 1.10 with its newer chunk indices, or the oldest
  Three chunk;    // 0: contiguous
  Three most;     // of each dimension; 0: unlimited
  bool holes;     // some chunks are never written
  bool compress;  // shuffle and deflate
};

std::vector<Stored> layouts() {
  const Three chunk = {1, 256, 40}, odd = {2, 333, 16}, none = {0, 0, 0};
  return {{"contiguous", true, none, shape, false, false},
          {"contiguous_old", false, none, shape, false, false},
          {"fixed_array", true, chunk, shape, false, false},
          {"fixed_array_odd_chunks", true, odd, shape, false, false},
          {"fixed_array_with_holes", true, chunk, shape, true, false},
          {"extensible_array_by_rows", true, chunk, {3, 0, 40}, false, false},
          {"extensible_array_by_columns", true, odd, {3, 1000, 0}, false, false},
          {"second_btree", true, odd, {0, 0, 40}, true, false},
          {"first_btree", false, odd, {3, 0, 40}, true, false},
          {"single_chunk", true, shape, shape, false, false},
          {"compressed", true, chunk, shape, false, true}};
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
};
constexpr std::array slabs = {Slab{{0, 0, 0}, {3, 1000, 40}}, Slab{{1, 0, 0}, {1, 1000, 40}},
                              Slab{{0, 255, 0}, {3, 2, 40}},  Slab{{1, 333, 0}, {2, 419, 40}},
                              Slab{{0, 13, 7}, {3, 700, 11}}, Slab{{2, 999, 39}, {1, 1, 1}}};

class Opened {
 public:
  explicit Opened(const std::string& path) : file_(open(path.c_str(), O_RDONLY)) {
    struct stat status {};
    fstat(file_, &status);
    reader = ParallelReader::open(path, file_, status.st_size);
  }
  ~Opened() {
    reader.reset();
    close(file_);
  }
  Opened(const Opened&) = delete;
  std::unique_ptr<ParallelReader> reader;

 private:
  int file_;
};

class ParallelReading : public testing::TestWithParam<Stored> {};
INSTANTIATE_TEST_SUITE_P(Layouts, ParallelReading, testing::ValuesIn(layouts()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(ParallelReading, GivesWhatHdf5Gives) {
  const samples::TemporaryFolder folder;
  const std::string path = write(folder, GetParam());
  const auto source = open_direct_source(path);
  const Opened opened(path);
  ASSERT_NE(opened.reader, nullptr);
  for (const Slab& slab : slabs) {
    const auto n = static_cast<std::size_t>(slab.count[0] * slab.count[1] * slab.count[2]);
    std::vector<std::uint16_t> want(n), got(n + 2, 9);
    source->Source::read_into("/x", slab.start, slab.count, want.data());  // through HDF5, piece by piece
    ASSERT_TRUE(opened.reader->read("/x", "x", slab.start, slab.count, reinterpret_cast<std::byte*>(got.data() + 1), 2 * n));
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin() + 1)) << slab.start[0] << ", " << slab.start[1];
    EXPECT_EQ(got.front(), 9) << "nothing is written before the slab";
    EXPECT_EQ(got.back(), 9) << "nor behind it";
  }
}

TEST(ParallelReadingErrors, WhatHdf5CannotLocateIsLeftToTheOtherWay) {
  const samples::TemporaryFolder folder;
  const std::string path = write(folder, layouts()[2]);
  const Opened opened(path);
  std::array<std::uint16_t, 40> out{};
  auto* bytes = reinterpret_cast<std::byte*>(out.data());
  const std::array<std::int64_t, 3> start = {0, 0, 0}, one = {1, 1, 40}, outside = {3, 0, 0};
  EXPECT_FALSE(opened.reader->read("/none", "x", start, one, bytes, sizeof out));
  EXPECT_FALSE(opened.reader->read("/x", "x", outside, one, bytes, sizeof out));
  EXPECT_TRUE(opened.reader->read("/x", "x", start, one, bytes, sizeof out));
  EXPECT_EQ(out[39], 40);
}

TEST(ParallelReadingErrors, AFileThatWasCutAfterItWasOpenedIsAnError) {
  const samples::TemporaryFolder folder;
  const std::string path = write(folder, layouts()[2]);
  const Opened opened(path);
  std::vector<std::byte> out(shape[0] * shape[1] * shape[2] * 2);
  const std::array<std::int64_t, 3> start = {0, 0, 0}, all = {3, 1000, 40};
  ASSERT_TRUE(opened.reader->read("/x", "x", start, all, out.data(), out.size()));
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(out.size() / 2)), 0);
  try {
    opened.reader->read("/x", "t.h5:/x", start, all, out.data(), out.size());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("t.h5:/x: is cut off"), std::string::npos) << error.what();
  }
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

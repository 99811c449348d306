// May a trace keep each of its datasets in an element type of its own? The same numbers in other types replay the same.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/replay/replay.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/synthetic.h"
#include "core/trace/validate.h"
#include "tests/unit/trace_samples.h"

namespace kvreplay {
namespace {

using samples::TemporaryFolder;

std::string write_float16(const TemporaryFolder& folder) {
  SyntheticParameters parameters;
  parameters.layers = 2;
  parameters.query_heads = 4;
  parameters.kv_heads = 2;
  parameters.head_dim = 32;
  parameters.prompt = 600;
  parameters.decode = 8;
  Job job;
  const std::string path = folder.file("float16.h5");
  write_synthetic(path, parameters, job);
  return path;
}

// The dataset again in float32, which has every number of float16. Its place in the file is taken by a new one, in chunks or
// contiguous.
void widen(hid_t file, const std::string& node, bool chunked) {
  const hid_t old = H5Dopen2(file, node.c_str(), H5P_DEFAULT), space = H5Dget_space(old);
  std::array<hsize_t, 3> shape{};
  ASSERT_LE(H5Sget_simple_extent_ndims(space), 3);
  const int rank = H5Sget_simple_extent_dims(space, shape.data(), nullptr);
  std::vector<float> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  ASSERT_GE(H5Dread(old, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  H5Dclose(old);
  ASSERT_GE(H5Ldelete(file, node.c_str(), H5P_DEFAULT), 0);
  const hid_t fixed = H5Screate_simple(rank, shape.data(), nullptr), creation = H5Pcreate(H5P_DATASET_CREATE);
  const std::array<hsize_t, 3> chunk = {1, 100, shape[2]};
  if (chunked) H5Pset_chunk(creation, rank, chunk.data());
  const hid_t made = H5Dcreate2(file, node.c_str(), H5T_IEEE_F32LE, fixed, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(H5Dwrite(made, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  // Checksums are of the bytes as stored.
  H5Ldelete(file, ("/checksums" + node).c_str(), H5P_DEFAULT);
  H5Dclose(made);
  H5Pclose(creation);
  for (const hid_t id : {fixed, space}) H5Sclose(id);
}

struct Widened {
  const char* name;
  std::vector<std::string> datasets;
  bool chunked;
};

class MixedTypes : public testing::TestWithParam<Widened> {};
INSTANTIATE_TEST_SUITE_P(Datasets, MixedTypes,
                         testing::Values(Widened{"queries", {"query"}, true}, Widened{"keys", {"key"}, true},
                                         Widened{"values_contiguous", {"value"}, false},
                                         Widened{"projection", {"output_projection"}, false},
                                         Widened{"all_but_keys", {"query", "value", "output_projection"}, false}),
                         [](const auto& test) { return std::string(test.param.name); });

std::vector<RunInfo> replayed(const TemporaryFolder& folder, const Trace& trace) {
  ReplayRequest request;
  for (const char* policy : {"snapkv", "restkv", "h2o", "tova", "lagkv"}) request.policies.push_back(parse_policy(policy));
  request.budgets = {Budget::parse("100")};
  ResultsWriter results(folder.file("r.h5"));
  Job job;
  auto runs = replay(trace, request, *make_cpu_backend(), results, job);
  results.finish();
  return runs;
}

TEST_P(MixedTypes, SameNumbersReplayTheSame) {
  const TemporaryFolder folder;
  const std::string plain = write_float16(folder), mixed = folder.file("mixed.h5");
  std::filesystem::copy_file(plain, mixed);
  const hid_t file = H5Fopen(mixed.c_str(), H5F_ACC_RDWR, hdf5::file_access());
  for (const char* layer : {"000", "001"})
    for (const std::string& name : GetParam().datasets)
      widen(file, "/layers/" + std::string(layer) + "/" + name, GetParam().chunked);
  H5Fclose(file);

  const auto a = open_trace(plain, Trust::trusted), b = open_trace(mixed, Trust::trusted);
  for (const auto which : {LayerDataset::key, LayerDataset::value, LayerDataset::query, LayerDataset::output_projection}) {
    const auto& widened = GetParam().datasets;
    const bool wide = std::find(widened.begin(), widened.end(), layer_dataset_name(which)) != widened.end();
    EXPECT_EQ(b->type(1, which), wide ? ElementType::float32 : ElementType::float16);
    const auto want = a->read(1, which), got = b->read(1, which);
    EXPECT_TRUE(std::equal(want.flat().begin(), want.flat().end(), got.flat().begin(), got.flat().end()));
  }
  Job job;
  EXPECT_TRUE(validate_file(mixed, Trust::trusted, job).problems.empty());
  const auto want = replayed(folder, *a), got = replayed(folder, *b);
  ASSERT_EQ(want.size(), got.size());
  for (std::size_t r = 0; r < want.size(); ++r) {
    EXPECT_EQ(want[r].kept_sha256, got[r].kept_sha256) << want[r].policy;
    EXPECT_EQ(want[r].summary.at("output_error"), got[r].summary.at("output_error")) << want[r].policy;
  }
}

}  // namespace
}  // namespace kvreplay

// What published implementations chose, on the tested backend: the golden files of tests/golden with the expectations that
// they carry under /expected/<case> (see tests/golden/check_golden.py), read with HDF5 itself, so that it runs where no
// Python is. Kept sets must be equal; scores are check_golden.py's concern.
#include <hdf5.h>

#include <algorithm>
#include <filesystem>

#include "core/policy/policy.h"
#include "core/replay/replay.h"
#include "tests/gpu/comparison.h"
#include "tests/unit/replay_runs.h"

namespace kvreplay::gpu_test {
namespace {

namespace fs = std::filesystem;

// Closes what it holds.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

std::string text_attribute(hid_t object, const char* name) {
  const Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose), type(H5Aget_type(attribute), H5Tclose);
  if (H5Tis_variable_str(type) > 0) {
    char* text = nullptr;
    H5Aread(attribute, type, &text);
    std::string out = text == nullptr ? "" : text;
    H5free_memory(text);
    return out;
  }
  std::string text(H5Tget_size(type), '\0');
  H5Aread(attribute, type, text.data());
  return text.substr(0, text.find('\0'));
}

std::int64_t integer_attribute(hid_t object, const char* name) {
  const Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  std::int64_t value = 0;
  H5Aread(attribute, H5T_NATIVE_INT64, &value);
  return value;
}

std::vector<std::string> members(hid_t group) {
  H5G_info_t info{};
  H5Gget_info(group, &info);
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[256];
    H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    names.emplace_back(name);
  }
  return names;
}

struct Integers {
  std::array<hsize_t, 2> shape{};
  std::vector<std::int32_t> values;
  bool empty() const { return values.empty(); }
};

Integers read_integers(hid_t group, const char* name) {
  Integers out;
  if (H5Lexists(group, name, H5P_DEFAULT) <= 0) return out;
  const Handle dataset(H5Dopen2(group, name, H5P_DEFAULT), H5Dclose), space(H5Dget_space(dataset), H5Sclose);
  if (H5Sget_simple_extent_ndims(space) != 2) return out;
  H5Sget_simple_extent_dims(space, out.shape.data(), nullptr);
  out.values.resize(static_cast<std::size_t>(out.shape[0] * out.shape[1]));
  const Handle type(H5Dget_type(dataset), H5Tclose);
  if (H5Tget_class(type) == H5T_ENUM) {  // h5py's booleans
    std::vector<std::int8_t> flags(out.values.size());
    H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, flags.data());
    std::copy(flags.begin(), flags.end(), out.values.begin());
  } else {
    H5Dread(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.values.data());
  }
  return out;
}

// evicted_at [H, T] of one layer of a case; empty when it expects none.
std::vector<std::int32_t> expected_evictions(hid_t layer, std::int64_t heads, std::int64_t prompt, std::int64_t tokens) {
  if (const Integers at = read_integers(layer, "evicted_at"); !at.empty()) return at.values;
  std::vector<std::int32_t> out(static_cast<std::size_t>(heads * tokens), -1);
  for (std::int64_t h = 0; h < heads; ++h) std::fill_n(out.begin() + h * tokens, prompt, 0);
  if (const Integers mask = read_integers(layer, "kept_mask"); !mask.empty()) {
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < prompt; ++t)
        if (mask.values[static_cast<std::size_t>(h * prompt + t)] != 0) out[static_cast<std::size_t>(h * tokens + t)] = -1;
    return out;
  }
  const Integers kept = read_integers(layer, "kept");
  if (kept.empty()) return {};
  for (std::size_t i = 0; i < kept.values.size(); ++i)
    out[i / kept.shape[1] * static_cast<std::size_t>(tokens) + static_cast<std::size_t>(kept.values[i])] = -1;
  return out;
}

bool is_known(const std::string& policy) {
  return reference::refusal_of([&] { parse_policy(policy); }).empty();
}

std::vector<std::string> golden_files() {
  std::vector<std::string> files;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(KVREPLAY_SOURCE_DIR "/tests/golden", missing))
    if (entry.path().extension() == ".h5") files.push_back(entry.path().stem().string());
  std::sort(files.begin(), files.end());
  return files;
}

class Golden : public GpuTest, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Files, Golden, testing::ValuesIn(golden_files()), [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Golden);

TEST_F(GpuTest, GoldenFilesAreThere) {
  EXPECT_GE(golden_files().size(), 10U) << "start this program in the folder that has tests/golden";
}

TEST_P(Golden, CasesKeepWhatThePublishedCodeKept) {
  const std::string path = std::string(KVREPLAY_SOURCE_DIR) + "/tests/golden/" + GetParam() + ".h5";
  const auto trace = open_trace(path, Trust::trusted);
  // The way in which the trace's own reader has it open: HDF5 insists on one.
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  ASSERT_GE(file, 0);
  if (H5Lexists(file, "expected", H5P_DEFAULT) <= 0) return;
  const Handle expected(H5Gopen2(file, "expected", H5P_DEFAULT), H5Gclose);
  const replay_runs::Folder folder;
  int checked = 0;
  for (const auto& name : members(expected)) {
    const Handle group(H5Gopen2(expected, name.c_str(), H5P_DEFAULT), H5Gclose);
    const std::string policy = text_attribute(group, "policy");
    if (!is_known(policy)) continue;
    ReplayRequest request;
    request.policies = {parse_policy(policy)};
    request.budgets = {Budget::parse(std::to_string(integer_attribute(group, "budget")))};
    request.all_metrics = false;
    replay_runs::Collected job;
    ResultsWriter writer(folder.path + "/r.h5");
    const auto runs = replay(*trace, request, tested(), writer, job);
    writer.finish();
    const auto results = open_results(folder.path + "/r.h5", Trust::trusted);
    const auto layers = members(group);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const Handle layer(H5Gopen2(group, layers[l].c_str(), H5P_DEFAULT), H5Gclose);
      const auto got = results->evicted_at(0, static_cast<std::int64_t>(l));
      const auto want = expected_evictions(layer, got.dim(0), trace->prompt_length(), trace->num_tokens());
      if (want.empty()) continue;
      ASSERT_EQ(static_cast<std::size_t>(got.size()), want.size()) << name << ", layer " << layers[l];
      std::int64_t differing = 0;
      for (std::size_t i = 0; i < want.size(); ++i) differing += got.data()[i] != want[i] ? 1 : 0;
      EXPECT_EQ(differing, 0) << GetParam() << "/" << name << " (" << policy << "), layer " << layers[l];
      ++checked;
    }
  }
  EXPECT_GT(checked, 0) << "no case of this file was compared";
}

}  // namespace
}  // namespace kvreplay::gpu_test

// Does open_trace read what others wrote?
#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/error.h"
#include "core/trace/memory_trace.h"
#include "core/trace/trace.h"

namespace kvreplay {
namespace {

std::vector<std::string> golden_files() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(KVREPLAY_SOURCE_DIR) + "/tests/golden"))
    if (entry.path().extension() == ".h5") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(TraceReader, OpensEveryGoldenTrace) {
  const auto files = golden_files();
  ASSERT_GE(files.size(), 10U);
  for (const auto& file : files) {
    SCOPED_TRACE(file);
    const auto trace = open_trace(file);
    EXPECT_TRUE(trace->complete());
    const auto& m = trace->model();
    for (const int layer : trace->layers()) {
      const auto key = trace->read(layer, LayerDataset::key);
      EXPECT_EQ(key.shape(), (std::array<std::int64_t, 3>{m.num_kv_heads, trace->num_tokens(), m.head_dim}));
      const auto slice = trace->read(layer, LayerDataset::key, {0, 1}, {10, 12});
      EXPECT_EQ(slice(0, 1, m.head_dim - 1), key(0, 11, m.head_dim - 1));
      EXPECT_EQ(trace->read(layer, LayerDataset::query).dim(1), static_cast<std::int64_t>(trace->query_positions().size()));
    }
  }
}

}  // namespace
}  // namespace kvreplay

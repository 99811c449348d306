// Does what a loader brings to the device equal what the host reads, whatever the pieces it comes in?
#include "gpu/loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "core/base/error.h"
#include "core/trace/memory_trace.h"
#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

using cuda::DeviceTensor;

// What distinguishes the ways in which a dataset is cut into pieces: total size, heads beside each other, length of a row.
MemoryTraceContents contents(int kv_heads, std::int64_t tokens, int head_dim, ElementType type) {
  MemoryTraceContents made;
  made.model.num_layers = 1;
  made.model.num_query_heads = made.model.num_kv_heads = kv_heads;
  made.model.head_dim = head_dim;
  made.model.hidden_size = 8;
  made.model.attention_scale = 1;
  made.prompt_length = tokens;
  made.token_ids.assign(static_cast<std::size_t>(tokens), 1);
  made.layers = {0};
  made.type = type;
  made.query_positions = {static_cast<std::int32_t>(tokens - 1)};
  const auto fill = [](std::array<std::int64_t, 3> shape) {
    Tensor<float, 3> values(shape);
    for (std::int64_t i = 0; i < values.size(); ++i)  // exact in every type; no period that a wrong offset could hide in
      values.data()[i] = static_cast<float>((i * 2654435761LL >> 7) % 251 - 125) / 64.0F;
    return values;
  };
  made.tensors[{0, LayerDataset::key}] = fill({kv_heads, tokens, head_dim});
  made.tensors[{0, LayerDataset::value}] = fill({kv_heads, tokens, head_dim});
  made.tensors[{0, LayerDataset::query}] = fill({kv_heads, 1, head_dim});
  made.tensors[{0, LayerDataset::attention_column_sum}] =
      fill(expected_shape(made.model, LayerDataset::attention_column_sum, tokens, 1, 0));
  return made;
}

class LoaderTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (!IsSkipped() && !tested_name().starts_with("cuda")) GTEST_SKIP() << "the tested backend is not CUDA's";
  }

  static void expect_same(cuda::Device& device, const DeviceTensor& got, const Tensor<float, 3>& want) {
    ASSERT_EQ(got.shape, want.shape());
    if (want.size() == 0) return;
    std::vector<std::byte> bytes(got.bytes.bytes());
    device.download(bytes.data(), got.data(), bytes.size());
    std::vector<float> values(static_cast<std::size_t>(want.size()));
    to_float32(got.type, bytes.data(), values.data(), values.size());
    EXPECT_TRUE(std::equal(values.begin(), values.end(), want.flat().begin(), want.flat().end()));
  }
};

TEST_F(LoaderTest, EveryPieceGoesToItsPlace) {
  cuda::Device device(0);
  cuda::Loader loader(device);
  struct Shape {
    int kv_heads;
    std::int64_t tokens;
    int head_dim;
    ElementType type;
  };
  for (const Shape& shape :
       {Shape{3, 20'011, 96, ElementType::float16},     // all heads of some rows
        Shape{16, 701, 320, ElementType::float32},      // some heads of all rows
        Shape{1, 1'100'003, 2, ElementType::bfloat16},  // a row that is longer than a piece, in the sums
        Shape{2, 5, 8, ElementType::float32}}) {
    const auto trace = make_memory_trace(contents(shape.kv_heads, shape.tokens, shape.head_dim, shape.type));
    SCOPED_TRACE(shape.tokens);
    const IndexRange last_head{shape.kv_heads - 1, shape.kv_heads}, inner{2, shape.tokens - 1}, none{1, 1};
    for (const auto& [heads, rows] : {std::pair<IndexRange, IndexRange>{{}, {}}, {last_head, {}}, {{}, inner}, {{}, none}})
      expect_same(device, loader.load(*trace, 0, LayerDataset::key, heads, rows),
                  trace->read(0, LayerDataset::key, heads, rows));
    const auto sums = LayerDataset::attention_column_sum;
    expect_same(device, loader.load(*trace, 0, sums), trace->read(0, sums));
  }
}

TEST_F(LoaderTest, SeveralThreadsLoadSideBySide) {
  cuda::Device device(0);
  cuda::Loader loader(device);
  const auto trace = make_memory_trace(contents(4, 12'289, 128, ElementType::float16));
  std::vector<std::thread> threads;
  for (const auto which : {LayerDataset::key, LayerDataset::query, LayerDataset::value, LayerDataset::query})
    threads.emplace_back([&, which] {
      for (int round = 0; round < 5; ++round) expect_same(device, loader.load(*trace, 0, which), trace->read(0, which));
    });
  for (auto& thread : threads) thread.join();
}

TEST_F(LoaderTest, SaysWhereANumberIsNotOneAndGoesOn) {
  cuda::Device device(0);
  cuda::Loader loader(device);
  MemoryTraceContents damaged = contents(2, 40'000, 128, ElementType::float32);
  damaged.tensors[{0, LayerDataset::key}](1, 39'999, 127) = NAN;
  const auto trace = make_memory_trace(std::move(damaged));
  // A trace in memory does not say where it is: the loader then has to.
  EXPECT_THROW(loader.load(*trace, 0, LayerDataset::key), Error);
  expect_same(device, loader.load(*trace, 0, LayerDataset::value), trace->read(0, LayerDataset::value));
  EXPECT_THROW(loader.load(*trace, 0, LayerDataset::log_sum_exp), Error) << "which is not in the trace";
}

}  // namespace
}  // namespace kvreplay::gpu_test

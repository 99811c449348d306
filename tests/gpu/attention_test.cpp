// Attention: window rows, column sums, decode logits.
#include <algorithm>

#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

class Attention : public GpuTest, public testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Attention, testing::ValuesIn(every_case()), name_of);

double largest(std::span<const float> values) {
  double top = 0;
  for (const float x : values) top = std::max<double>(top, std::abs(x));
  return top;
}

double largest_value(const Loaded& loaded) { return largest(loaded.trace->read(0, LayerDataset::value).flat()); }

// Columns of dominant weights are equal unless the weight is so near 1/2 that rounding decides; 1 - weight keeps its own
// relative precision, since it is summed from the others.
void expect_same_dominant(const std::string& where, const std::vector<float>& got, const std::vector<float>& want,
                          const std::vector<float>& weight, std::int64_t n, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t r = 0; r < want.size() / 2; ++r) {
    const std::string row = where + ", row " + std::to_string(r);
    if (got[2 * r] != want[2 * r]) {
      const float column = std::max(got[2 * r], want[2 * r]);
      ASSERT_TRUE(column >= 0 && column < static_cast<float>(n)) << row << ": column " << got[2 * r];
      EXPECT_NEAR(weight[r * static_cast<std::size_t>(n) + static_cast<std::size_t>(column)], 0.5, tolerance) << row;
      continue;
    }
    expect_close("window attention, 1 - dominant weight", row, got[2 * r + 1], want[2 * r + 1], tolerance * want[2 * r + 1]);
  }
}

TEST_P(Attention, WindowRowsAreTheReferences) {
  const Loaded loaded(GetParam());
  const double tolerance = weight_tolerance(GetParam()), value = largest_value(loaded);
  const auto d = static_cast<std::size_t>(GetParam().shape.head_dim);
  for (const int window : loaded.windows()) {
    const std::string where = GetParam().name + ", W " + std::to_string(window);
    const AttentionRows want = reference_backend().window_attention(*loaded.reference, window, true);
    const AttentionRows got = tested().window_attention(*loaded.tested, window, true);
    EXPECT_EQ(got.weight.shape(), want.weight.shape());
    EXPECT_EQ(got.output.shape(), want.output.shape());
    const auto weight = reference_backend().download(want.weight);
    // The backend may promise its arrays: the small ones first, so that they cannot rely on the rows having been made.
    const auto dominant = reference_backend().download(want.dominant);
    expect_same_dominant(where, tested().download(got.dominant), dominant, weight, loaded.n(), tolerance);
    // Weights below 1e-9 of the largest owe their digits to exp() of large negative numbers.
    const double top = largest(weight);
    expect_close("window attention, weights", where, tested().download(got.weight), weight,
                 [&](std::size_t i) { return tolerance * weight[i] + 1e-9 * top; });
    // Σ a v errs by what the weights err, which sum to 1.
    expect_close("window attention, outputs", where, tested().download(got.output),
                 reference_backend().download(want.output), [&](std::size_t) { return tolerance * value; });
    // What is left without the dominant column has only 1 - weight of the mass.
    expect_close("window attention, outputs without the dominant", where, tested().download(got.rest),
                 reference_backend().download(want.rest),
                 [&](std::size_t i) { return tolerance * value * dominant[2 * (i / d) + 1] + 1e-30; });
  }
}

TEST_P(Attention, RowsWithoutOutputsAreTheSame) {
  const Loaded loaded(GetParam());
  const int window = loaded.windows().back();
  const AttentionRows with = tested().window_attention(*loaded.tested, window, true);
  const AttentionRows without = tested().window_attention(*loaded.tested, window, false);
  EXPECT_TRUE(without.output.empty());
  const auto want = tested().download(with.weight);
  expect_close("window attention, without outputs", GetParam().name, tested().download(without.weight), want,
               [&](std::size_t i) { return weight_tolerance(GetParam()) * want[i] + 1e-9; });
}

TEST_P(Attention, AWindowThatWasNotRecordedIsRefusedInTheReferencesWords) {
  if (GetParam().first_query == 0) return;
  const Loaded loaded(GetParam());
  const int window = GetParam().shape.prompt - GetParam().first_query + 5;
  const auto refusal = [&](Backend& backend, const LoadedLayer& layer) {
    return reference::refusal_of([&] { backend.download(backend.window_attention(layer, window, false).weight); });
  };
  EXPECT_NE(refusal(tested(), *loaded.tested), "");
  EXPECT_EQ(refusal(tested(), *loaded.tested), refusal(reference_backend(), *loaded.reference));
}

TEST_P(Attention, ColumnSumsAreTheReferences) {
  const Loaded loaded(GetParam());
  for (const ColumnMask mask : {ColumnMask::causal, ColumnMask::full_before_window}) {
    const int window = std::min(8, GetParam().shape.prompt);
    const std::string where = GetParam().name + (mask == ColumnMask::causal ? ", causal" : ", full before the window");
    if (GetParam().first_query > 0) {
      const auto refusal = [&](Backend& backend, const LoadedLayer& layer) {
        return reference::refusal_of([&] { backend.download(backend.column_sums(layer, mask, window)); });
      };
      EXPECT_EQ(refusal(tested(), *loaded.tested), refusal(reference_backend(), *loaded.reference)) << where;
      continue;
    }
    const auto want = reference_backend().download(reference_backend().column_sums(*loaded.reference, mask, window));
    const double top = largest(want);
    // Sums of up to P weights of either sign of error: each errs by the weights' share; a column that got next to nothing,
    // by what the float32 sum of a tile can lose.
    expect_close("column sums", where, tested().download(tested().column_sums(*loaded.tested, mask, window)), want,
                 [&](std::size_t i) { return weight_tolerance(GetParam()) * want[i] + 1e-7 * top; });
  }
}

TEST_P(Attention, StoredColumnSumsAreTaken) {
  MemoryTraceContents contents = contents_of(GetParam());
  const std::int64_t tokens = static_cast<std::int64_t>(contents.token_ids.size());
  Tensor<float, 3> stored({1, GetParam().shape.query_heads, tokens});
  const auto values = random_values(stored.size(), 5);
  std::copy(values.begin(), values.end(), stored.data());
  contents.tensors[{0, LayerDataset::attention_column_sum}] = std::move(stored);
  const auto trace = make_memory_trace(std::move(contents));
  const auto got = tested().load(*trace, 0), want = reference_backend().load(*trace, 0);
  expect_same(GetParam().name, tested().download(tested().column_sums(*got, ColumnMask::causal, 0)),
              reference_backend().download(reference_backend().column_sums(*want, ColumnMask::causal, 0)));
}

TEST_P(Attention, DecodeAttentionIsTheReferences) {
  const Loaded loaded(GetParam());
  const auto want = reference_backend().download(reference_backend().decode_attention_sum(*loaded.reference));
  const double top = largest(want);
  expect_close("decode attention sum", GetParam().name, tested().download(tested().decode_attention_sum(*loaded.tested)),
               want, [&](std::size_t i) { return weight_tolerance(GetParam()) * want[i] + 1e-7 * top; });
}

TEST_P(Attention, DecodeLogitsAreTheReferences) {
  const Loaded loaded(GetParam());
  for (int h = 0; h < GetParam().shape.query_heads; ++h) {
    const Tensor<float, 2> want = reference_backend().decode_logits(*loaded.reference, h);
    const Tensor<float, 2> got = tested().decode_logits(*loaded.tested, h);
    ASSERT_EQ(got.shape(), want.shape());
    // -inf where the query does not see, NaN where it was not recorded: equal by element.
    expect_close("decode logits", GetParam().name + ", head " + std::to_string(h), got.flat(), want.flat(),
                 [&](std::size_t) { return logit_tolerance(GetParam()); });
  }
}

TEST_P(Attention, LoadedLayersDescribeThemselvesAlike) {
  const Loaded loaded(GetParam());
  const LoadedLayer &got = *loaded.tested, &want = *loaded.reference;
  EXPECT_EQ(got.trace, want.trace);
  EXPECT_EQ(
      std::tuple(got.layer, got.num_query_heads, got.num_kv_heads, got.head_dim, got.hidden_size, got.attention_scale,
                 got.logit_softcap, got.sliding_window, got.tokens, got.prompt, got.first_candidate),
      std::tuple(want.layer, want.num_query_heads, want.num_kv_heads, want.head_dim, want.hidden_size, want.attention_scale,
                 want.logit_softcap, want.sliding_window, want.tokens, want.prompt, want.first_candidate));
}

}  // namespace
}  // namespace kvreplay::gpu_test

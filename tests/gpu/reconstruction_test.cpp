// Removal errors in every form, and the chains in which policies use them.
#include <algorithm>

#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

class Reconstruction : public GpuTest, public testing::WithParamInterface<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Reconstruction, testing::ValuesIn(every_case()), name_of);

std::string text_of(const ReconstructionForm& form) {
  return std::string(form.project ? "projected" : "values") + (form.normalize ? ", normalised" : "") + ", tau " +
         std::to_string(form.tau).substr(0, 3) + (form.prefix_output ? ", prefix output" : "");
}

// What an error may differ by: the odds' and the factor's relative error, and what cancels in o - v, a difference of
// vectors as long as the longest distance of the row (float32 in both; or, behind a rounded factor, a quarter of its unit).
//
// Where every other weight underflows, a row of tokens that share one value shows no distance: o is that value, in the
// reference to the last bit (weights of exactly 1/2, added in float64), elsewhere to float32: weights are off by 2^-22, and
// the products by 2^-24 a step. There ‖R (o - v)‖ may be 2^-19 of the longest distance of any row; a difference of squares
// in float32 would leave 2^-11.
class Allowed {
 public:
  Allowed(const Case& test, const std::vector<float>& want, const std::vector<float>& weight, std::int64_t columns,
          double tau)
      : want_(want), weight_(weight), columns_(static_cast<std::size_t>(columns)), tau_(tau) {
    relative_ = tau * factor_tolerance(test) + 2 * weight_tolerance(test);
    cancelling_ = test.type == ElementType::float32 ? 2e-6 : 0x1p-13;
    // A singular Gram matrix in float32 leaves an error of √2^-24 in its factor, on either side another.
    if (test.gram && test.shape.hidden < test.shape.head_dim) cancelling_ += 1e-3;
    for (std::size_t r = 0; r < want.size() / columns_; ++r) {
      double longest = 0;
      for (std::size_t c = 0; c < columns_; ++c)
        if (const double odds = odds_of(r * columns_ + c); odds > 0)
          longest = std::max(longest, want[r * columns_ + c] / odds);
      longest_.push_back(longest);
    }
    const double any = *std::max_element(longest_.begin(), longest_.end());
    for (const double longest : longest_)
      slack_.push_back(longest > 0 ? cancelling_ * std::pow(longest, 1 / tau) : 0x1p-19 * std::pow(any, 1 / tau));
  }
  double operator()(std::size_t i) const {
    const double slack = slack_[i / columns_];
    if (tau_ == 1) return relative_ * std::abs(want_[i]) + slack * odds_of(i) + 1e-30;
    // ‖·‖^τ of a distance that is off by the slack.
    const double distance = std::pow(want_[i] / std::max(odds_of(i), 1e-30), 1 / tau_);
    return relative_ * want_[i] +
           odds_of(i) * (std::pow(distance + slack, tau_) - std::pow(std::max(0.0, distance - slack), tau_)) + 1e-30;
  }

 private:
  double odds_of(std::size_t i) const { return weight_[i] / std::max(1e-7, 1.0 - weight_[i]); }
  const std::vector<float>&want_, &weight_;
  std::size_t columns_;
  double relative_ = 0, cancelling_ = 0, tau_ = 1;
  std::vector<double> longest_, slack_;  // of each row: longest ‖·‖^τ; what cancels, before the exponent
};

TEST_P(Reconstruction, RowsAreTheReferences) {
  const Loaded loaded(GetParam());
  for (const int window : loaded.windows()) {
    const AttentionRows cpu = reference_backend().window_attention(*loaded.reference, window, true);
    const AttentionRows gpu = tested().window_attention(*loaded.tested, window, true);
    const auto weight = reference_backend().download(cpu.weight);
    for (const bool project : {true, false})
      for (const bool normalize : {false, true}) {
        ReconstructionForm form;
        form.project = project;
        form.normalize = normalize;
        const auto want = reference_backend().download(reference_backend().removal_error_rows(*loaded.reference, cpu, form));
        const Array got = tested().removal_error_rows(*loaded.tested, gpu, form);
        expect_close("removal errors, rows", GetParam().name + ", W " + std::to_string(window) + ", " + text_of(form),
                     tested().download(got), want, Allowed(GetParam(), want, weight, loaded.n(), 1));
      }
  }
}

std::vector<double> temporal_weights(int window) {
  std::vector<double> weights;
  double total = 0;
  for (int w = 0; w < window; ++w) total += weights.emplace_back(std::pow(0.7, window - 1 - w));
  for (double& weight : weights) weight /= total;
  return weights;
}

TEST_P(Reconstruction, OfTheMeanIsTheReferencesInEveryForm) {
  const Loaded loaded(GetParam());
  for (const int window : loaded.windows()) {
    if (window >= loaded.n()) continue;  // no prefix before the window
    const AttentionRows cpu = reference_backend().window_attention(*loaded.reference, window, true);
    const AttentionRows gpu = tested().window_attention(*loaded.tested, window, true);
    const auto weights = temporal_weights(window);
    const auto mean = reference_backend().download(reference_backend().reduce_rows(cpu.weight, weights));
    for (const bool project : {true, false})
      for (const bool prefix_output : {false, true})
        for (const double tau : {1.0, 0.5, 2.0}) {
          if (!project && tau != 1) continue;  // the exponent belongs to the projected form
          ReconstructionForm form{.project = project, .normalize = false, .tau = tau, .prefix_output = prefix_output};
          const auto want =
              reference_backend().download(reference_backend().removal_error_of_mean(*loaded.reference, cpu, weights, form));
          const Array got = tested().removal_error_of_mean(*loaded.tested, gpu, weights, form);
          expect_close("removal errors, of the mean",
                       GetParam().name + ", W " + std::to_string(window) + ", " + text_of(form), tested().download(got),
                       want, Allowed(GetParam(), want, mean, loaded.n(), tau));
        }
  }
}

// A weight of the whole window's mean above 1/2 needs 1 - weight from the rows: sinks that take nearly everything.
TEST_P(Reconstruction, SinksStayFiniteAndKeepTheirPrecision) {
  if (GetParam().shape.prompt < 40 || GetParam().first_query > 0 || GetParam().shape.softcap > 0) return;
  MemoryTraceContents contents = contents_of(GetParam());
  auto& key = contents.tensors.at({0, LayerDataset::key});
  const auto& query = contents.tensors.at({0, LayerDataset::query});
  const int prompt = GetParam().shape.prompt, d = GetParam().shape.head_dim;
  const int sink = GetParam().shape.sliding_window > 0 ? prompt - std::min(20, GetParam().shape.sliding_window - 1) : 0;
  double squared = 0;
  for (int i = 0; i < d; ++i) squared += query(0, prompt - 1, i) * query(0, prompt - 1, i);
  for (const double logit : {8.0, 16.0, 40.0}) {
    for (int i = 0; i < d; ++i) {
      std::uint16_t half[1];
      float value = static_cast<float>(logit * GetParam().shape.sharpness / contents.model.attention_scale / squared) *
                    query(0, prompt - 1, i);
      from_float32(GetParam().type == ElementType::float32 ? ElementType::bfloat16 : GetParam().type, &value, half, 1);
      to_float32(GetParam().type == ElementType::float32 ? ElementType::bfloat16 : GetParam().type, half, &value, 1);
      key(0, sink, i) = value;
    }
    const auto trace = make_memory_trace(contents);
    const auto want_layer = reference_backend().load(*trace, 0), got_layer = tested().load(*trace, 0);
    const AttentionRows cpu = reference_backend().window_attention(*want_layer, 1, true);
    const AttentionRows gpu = tested().window_attention(*got_layer, 1, true);
    const auto weight = reference_backend().download(cpu.weight);
    const auto want = reference_backend().download(reference_backend().removal_error_rows(*want_layer, cpu, {}));
    const auto got = tested().download(tested().removal_error_rows(*got_layer, gpu, {}));
    const auto column = static_cast<std::size_t>(sink - want_layer->first_candidate);
    EXPECT_TRUE(std::isfinite(got[column]));
    // The sink's row alone: its distance is that of the mean of all others, so nothing is lost.
    expect_close("removal errors, of a sink", GetParam().name + ", logit " + std::to_string(logit), got[column],
                 want[column], (factor_tolerance(GetParam()) + 4 * weight_tolerance(GetParam()) * logit) * want[column]);
  }
}

// Every other weight underflows: 1 - a is exactly 0 on either side, and counts as 1e-37.
TEST_P(Reconstruction, OddsStayFiniteWhereEveryOtherWeightUnderflows) {
  const reference::Shape& shape = GetParam().shape;
  if (shape.prompt < 2 || GetParam().first_query > 0 || shape.softcap > 0) return;
  MemoryTraceContents contents = contents_of(GetParam());
  auto& key = contents.tensors.at({0, LayerDataset::key});
  auto& query = contents.tensors.at({0, LayerDataset::query});
  auto& value = contents.tensors.at({0, LayerDataset::value});
  const int last = shape.prompt - 1, d = shape.head_dim;
  // A power of two, so that every type has it: a logit of at least 200 · sharpness.
  const auto amplitude =
      static_cast<float>(std::exp2(std::ceil(std::log2(200 * shape.sharpness / (d * contents.model.attention_scale)) / 2)));
  for (int i = 0; i < d; ++i) {
    for (int h = 0; h < shape.query_heads; ++h) query(h, last, i) = amplitude;
    for (int h = 0; h < shape.kv_heads; ++h) {
      key(h, last, i) = amplitude;
      value(h, last, i) *= 0x1p-7F;  // 1e37 · ‖R v‖ stays below the largest float
    }
  }
  const auto trace = make_memory_trace(contents);
  const auto want_layer = reference_backend().load(*trace, 0), got_layer = tested().load(*trace, 0);
  for (const bool prefix_output : {false, true}) {
    const ReconstructionForm form{.prefix_output = prefix_output};
    const auto errors = [&](Backend& backend, const LoadedLayer& layer) {
      const AttentionRows rows = backend.window_attention(layer, 1, true);
      return backend.download(backend.removal_error_of_mean(layer, rows, {1.0}, form));
    };
    const auto want = errors(reference_backend(), *want_layer), got = errors(tested(), *got_layer);
    const auto n = static_cast<std::size_t>(want_layer->candidates());
    for (std::size_t i = n - 1; i < got.size(); i += n) {
      EXPECT_TRUE(std::isfinite(got[i])) << GetParam().name;
      // With the prefix alone the output is 0; else o - v is nothing but rounding.
      if (prefix_output)
        expect_close(
            "removal errors, of the mean", GetParam().name + ", nothing beside it", got[i], want[i],
            (factor_tolerance(GetParam()) + 2 * weight_tolerance(GetParam()) + (shape.hidden < d ? 5e-3 : 0)) * want[i]);
    }
  }
}

// Two tokens with one value that share a query's attention: o - v is nearly nothing, though neither dominates.
TEST_P(Reconstruction, TwinsThatShareAttentionAreTheReferences) {
  const reference::Shape& shape = GetParam().shape;
  if (shape.prompt < 40 || GetParam().first_query > 0 || shape.softcap > 0) return;
  MemoryTraceContents contents = contents_of(GetParam());
  auto& key = contents.tensors.at({0, LayerDataset::key});
  auto& query = contents.tensors.at({0, LayerDataset::query});
  auto& value = contents.tensors.at({0, LayerDataset::value});
  const int d = shape.head_dim, token = shape.prompt - 15;
  const auto amplitude =
      static_cast<float>(std::exp2(std::ceil(std::log2(20 * shape.sharpness / (d * contents.model.attention_scale)) / 2)));
  for (int i = 0; i < d; ++i) {
    for (int w = 0; w < 3; ++w)
      for (int h = 0; h < shape.query_heads; ++h) query(h, shape.prompt - 1 - w, i) = amplitude;
    for (int twin = 0; twin < 2; ++twin)
      for (int h = 0; h < shape.kv_heads; ++h) {
        key(h, token + twin, i) = amplitude;
        value(h, token + twin, i) = value(h, token, i);
      }
  }
  const auto trace = make_memory_trace(contents);
  const auto want_layer = reference_backend().load(*trace, 0), got_layer = tested().load(*trace, 0);
  constexpr int window = 8;
  const AttentionRows cpu = reference_backend().window_attention(*want_layer, window, true);
  const AttentionRows gpu = tested().window_attention(*got_layer, window, true);
  const auto weight = reference_backend().download(cpu.weight);
  const auto want = reference_backend().download(reference_backend().removal_error_rows(*want_layer, cpu, {}));
  const auto got = tested().download(tested().removal_error_rows(*got_layer, gpu, {}));
  // Exactly 1/2 each would leave their errors to the last bit of 1 - a, on either side another.
  expect_close("removal errors, of twins", GetParam().name, got, want,
               Allowed(GetParam(), want, weight, want_layer->candidates(), 1));
}

TEST_P(Reconstruction, NormsOfKeysAndValuesAreTheReferences) {
  const Loaded loaded(GetParam());
  // d squares summed in float32: each addition rounds to 2^-24.
  const double relative = GetParam().shape.head_dim * 0x1p-24;
  const auto keys = reference_backend().download(reference_backend().key_norms(*loaded.reference));
  expect_close("norms", GetParam().name + ", keys", tested().download(tested().key_norms(*loaded.tested)), keys,
               [&](std::size_t i) { return relative * keys[i]; });
  const auto values = reference_backend().download(reference_backend().value_norms(*loaded.reference));
  expect_close("norms", GetParam().name + ", values", tested().download(tested().value_norms(*loaded.tested)), values,
               [&](std::size_t i) { return relative * values[i]; });
}

// ---- chains as policies use them -----------------------------------------------------------------------------------------

// window_attention -> reduce_rows -> reduce_group -> average_pool -> select_top, with nothing downloaded on the way: what a
// backend that only promises rows must compute without them.
TEST_P(Reconstruction, SnapKvChainSelectsWhatTheReferenceDoes) {
  const Loaded loaded(GetParam());
  const auto group = loaded.reference->group();
  for (const int window : loaded.windows()) {
    if (loaded.n() - window < 4) continue;
    const auto scores_of = [&](Backend& backend, const LoadedLayer& layer) {
      const AttentionRows rows = backend.window_attention(layer, window, false);
      const Array sum = backend.reduce_rows(rows.weight, std::vector<double>(static_cast<std::size_t>(window), 1.0));
      const Array kv = backend.reduce_group(backend.prefix(sum, loaded.n() - window), group, Reduction::mean);
      const std::vector<int> kernel(static_cast<std::size_t>(layer.num_kv_heads), 7);
      return backend.average_pool(kv, kernel, std::vector<int>(kernel.size(), 0), Padding::zero);
    };
    const Array cpu = scores_of(reference_backend(), *loaded.reference), gpu = scores_of(tested(), *loaded.tested);
    const auto want = reference_backend().download(cpu);
    const std::vector<std::int64_t> count(static_cast<std::size_t>(loaded.reference->num_kv_heads),
                                          (loaded.n() - window) / 3);
    const auto kept = reference_backend().select_top(cpu, count), got = tested().select_top(gpu, count);
    const auto columns = static_cast<std::size_t>(loaded.n() - window);
    for (std::size_t h = 0; h < kept.size(); ++h)
      expect_same_selection(GetParam().name + ", W " + std::to_string(window) + ", head " + std::to_string(h), got[h],
                            kept[h], std::span(want).subspan(h * columns, columns), weight_tolerance(GetParam()) + 1e-7);
    expect_close("snapkv chain, scores", GetParam().name, tested().download(gpu), want,
                 [&](std::size_t i) { return weight_tolerance(GetParam()) * want[i] + 1e-9; });
  }
}

// removal_error_rows -> reduce_group -> reduce_rows -> select_top (ReST-KV), and the same with the rows downloaded first: a
// promise that was kept early must give the same scores.
TEST_P(Reconstruction, RestKvChainSelectsWhatTheReferenceDoes) {
  const Loaded loaded(GetParam());
  const auto group = loaded.reference->group();
  const int window = loaded.windows().back();
  const auto weights = temporal_weights(window);
  const auto scores_of = [&](Backend& backend, const LoadedLayer& layer, bool look) {
    const AttentionRows rows = backend.window_attention(layer, window, true);
    if (look) backend.download(rows.weight);
    const Array errors = backend.removal_error_rows(layer, rows, {});
    if (look) backend.download(errors);
    const Array of_group = backend.reduce_group(errors, group, Reduction::mean);
    if (look) backend.download(of_group);
    return backend.reduce_rows(of_group, weights);
  };
  const Array cpu = scores_of(reference_backend(), *loaded.reference, false);
  const auto want = reference_backend().download(cpu);
  double longest = 0;
  for (const float x : want) longest = std::max<double>(longest, x);
  const double relative = factor_tolerance(GetParam()) + 4 * weight_tolerance(GetParam()) +
                          (GetParam().gram && GetParam().shape.hidden < GetParam().shape.head_dim ? 5e-3 : 0);
  const std::vector<std::int64_t> count(static_cast<std::size_t>(loaded.reference->num_kv_heads), (loaded.n() + 2) / 3);
  const auto kept = reference_backend().select_top(cpu, count);
  for (const bool look : {false, true}) {
    const Array gpu = scores_of(tested(), *loaded.tested, look);
    // Means over heads and queries of errors; the cancelling part is a share of the largest.
    expect_close("restkv chain, scores", GetParam().name + (look ? ", downloaded on the way" : ""), tested().download(gpu),
                 want, [&](std::size_t i) { return relative * want[i] + 1e-6 * longest; });
    const auto got = tested().select_top(gpu, count);
    for (std::size_t h = 0; h < kept.size(); ++h)
      expect_same_selection(
          GetParam().name + ", head " + std::to_string(h), got[h], kept[h],
          std::span(want).subspan(h * static_cast<std::size_t>(loaded.n()), static_cast<std::size_t>(loaded.n())),
          relative + 1e-6);
  }
  // Query heads on their own, in the other order: reduce_rows of the errors, then the group.
  const auto other = [&](Backend& backend, const LoadedLayer& layer) {
    const AttentionRows rows = backend.window_attention(layer, window, true);
    return backend.download(backend.reduce_group(backend.reduce_rows(backend.removal_error_rows(layer, rows, {}), weights),
                                                 group, Reduction::max));
  };
  const auto want_max = other(reference_backend(), *loaded.reference);
  expect_close("restkv chain, scores", GetParam().name + ", largest of the group", other(tested(), *loaded.tested), want_max,
               [&](std::size_t i) { return relative * want_max[i] + 1e-6 * longest * group; });
}

// What adaptive pooling asks: the mean column of the largest weights of every row, from rows that are promised.
TEST_P(Reconstruction, MeanTopColumnOfTheWindowIsTheReferences) {
  const Loaded loaded(GetParam());
  const int window = loaded.windows().back();
  const AttentionRows cpu = reference_backend().window_attention(*loaded.reference, window, false);
  const AttentionRows gpu = tested().window_attention(*loaded.tested, window, false);
  const auto group = loaded.reference->group();
  for (const bool of_group : {false, true}) {
    const Array rows = of_group ? reference_backend().reduce_group(cpu.weight, group, Reduction::mean) : cpu.weight;
    const Array promised = of_group ? tested().reduce_group(gpu.weight, group, Reduction::mean) : gpu.weight;
    const auto weight = reference_backend().download(rows);
    const auto n = static_cast<std::size_t>(loaded.n());
    for (const std::int64_t count : {std::int64_t{1}, loaded.n() / 3 + 1, loaded.n()})
      for (const Ties ties : {Ties::lowest, Ties::highest}) {
        const auto want = reference_backend().mean_top_column(rows, count, ties);
        const auto got = tested().mean_top_column(promised, count, ties);
        ASSERT_EQ(got.size(), want.size());
        for (std::size_t h = 0; h < want.size(); ++h)
          for (std::size_t w = 0; w < want[h].size(); ++w) {
            // Columns whose weights lie within rounding of the cut may change places: each moves the mean by n / count.
            std::vector<float> row(weight.begin() + static_cast<std::ptrdiff_t>((h * want[h].size() + w) * n),
                                   weight.begin() + static_cast<std::ptrdiff_t>((h * want[h].size() + w + 1) * n));
            const std::vector<float> unsorted = row;
            std::nth_element(row.begin(), row.begin() + (count - 1), row.end(), std::greater<>());
            const double cut = row[static_cast<std::size_t>(count - 1)];
            const auto near = std::count_if(unsorted.begin(), unsorted.end(), [&](float x) {
              return x != 0 && std::abs(x - cut) <= 2 * weight_tolerance(GetParam()) * cut;
            });
            expect_close("mean top column of the window", GetParam().name, got[h][w], want[h][w],
                         1e-9 + (near > 1 ? static_cast<double>((near - 1) * loaded.n()) / static_cast<double>(count) : 0));
          }
      }
  }
}

}  // namespace
}  // namespace kvreplay::gpu_test

// What a run costs a replay beside the backend's own work: a sweep over a backend whose operations return at once. 32,768
// tokens, 32 query heads over 8, 64 decode steps; 10 alphas × 10 scales × 10 budgets of ReST-KV, from 64 to 2,048 tokens.
//
//   kvreplay_benchmarks --benchmark_filter=Sweep
//
// The last argument is the number of layers: from one to the next, the time that a run takes in a layer; what is left with
// one layer is mostly the results file.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <numeric>

#include "core/replay/replay.h"
#include "core/trace/memory_trace.h"

namespace kvreplay {
namespace {

constexpr int query_heads = 32, kv_heads = 8, head_dim = 128, steps = 64;
constexpr int stored_dim = 2;  // of the trace, whose tensors nobody looks at
constexpr std::int64_t prompt = 32768;

// Knows shapes, not numbers.
class IdleBackend final : public Backend {
 public:
  // results: evaluate() hands one value to each cell, so that forming the metrics is measured too.
  explicit IdleBackend(bool results) : results_(results) {}
  std::string name() const override { return "cpu"; }
  BackendPlan plan(const Trace&, std::size_t, const EvaluationRequest&) const override {
    BackendPlan plan;
    plan.runs_at_once = 256;
    return plan;
  }
  std::shared_ptr<LoadedLayer> load(const Trace& trace, int layer) override {
    auto loaded = std::make_shared<LoadedLayer>();
    loaded->trace = &trace;
    loaded->layer = layer;
    loaded->num_query_heads = query_heads;
    loaded->num_kv_heads = kv_heads;
    loaded->head_dim = head_dim;
    loaded->tokens = prompt + steps;
    loaded->prompt = prompt;
    return loaded;
  }
  std::vector<float> download(const Array& array) override {
    return std::vector<float>(static_cast<std::size_t>(
        std::accumulate(array.shape().begin(), array.shape().end(), std::int64_t{1}, std::multiplies<>())));
  }
  Array upload(const std::vector<std::int64_t>& shape, const std::vector<float>&) override { return of(shape); }
  AttentionRows window_attention(const LoadedLayer&, int window, bool) override {
    return {of({query_heads, window, prompt}), of({query_heads, window, 2}), of({query_heads, window, head_dim}),
            of({query_heads, window, head_dim})};
  }
  Array column_sums(const LoadedLayer&, ColumnMask, int) override { return of({query_heads, prompt}); }
  Array decode_attention_sum(const LoadedLayer&) override { return of({query_heads, prompt}); }
  Tensor<float, 2> decode_logits(const LoadedLayer&, int) override { return {}; }
  Array removal_error_rows(const LoadedLayer&, const AttentionRows& rows, const ReconstructionForm&) override {
    return rows.weight;
  }
  Array removal_error_of_mean(const LoadedLayer&, const AttentionRows&, const std::vector<double>&,
                              const ReconstructionForm&) override {
    return of({query_heads, prompt});
  }
  Array reduce_rows(const Array& rows, const std::vector<double>&) override { return of({rows.dim(0), rows.dim(2)}); }
  Array reduce_group(const Array& scores, int group, Reduction) override {
    auto shape = scores.shape();
    shape[0] /= group;
    return of(shape);
  }
  Array key_norms(const LoadedLayer&) override { return of({kv_heads, prompt}); }
  Array value_norms(const LoadedLayer&) override { return of({kv_heads, prompt}); }
  Array multiply(const Array& scores, const Array&, double) override { return scores; }
  Array prefix(const Array& scores, std::int64_t columns) override { return of({scores.dim(0), columns}); }
  Array average_pool(const Array& scores, const std::vector<int>&, const std::vector<int>&, Padding) override {
    return scores;
  }
  Array max_pool(const Array& scores, int) override { return scores; }
  std::vector<std::vector<double>> mean_top_column(const Array& rows, std::int64_t, Ties) override {
    return std::vector<std::vector<double>>(static_cast<std::size_t>(rows.dim(0)),
                                            std::vector<double>(static_cast<std::size_t>(rows.dim(1)), 1000.0));
  }
  std::vector<std::vector<std::int32_t>> select_top(const Array&, const std::vector<std::int64_t>& count) override {
    std::vector<std::vector<std::int32_t>> sets;
    for (const std::int64_t n : count) {
      sets.emplace_back(static_cast<std::size_t>(n));
      std::iota(sets.back().begin(), sets.back().end(), 0);
    }
    return sets;
  }
  void evaluate(const LoadedLayer&, const std::vector<RunEvictions>& runs, const EvaluationRequest&,
                EvaluationSink& sink) override {
    if (!results_) return;
    HeadStep head;
    head.visible = prompt;
    head.evicted = prompt - 512;
    head.output_norm = head.difference_norm = 1;
    for (std::size_t run = 0; run < runs.size(); ++run)
      for (std::int64_t step = 0; step < steps; ++step) {
        for (int h = 0; h < query_heads; ++h) sink.head(run, h, step, head);
        sink.layer(run, step, {});
      }
  }

 private:
  static Array of(std::vector<std::int64_t> shape) { return {std::move(shape), std::make_shared<Array::Storage>()}; }
  bool results_;
};

std::unique_ptr<Trace> shapes_alone(int layers) {
  MemoryTraceContents contents;
  ModelInfo& model = contents.model;
  model.name = model.architecture = "shapes";
  model.num_layers = layers;
  model.num_query_heads = query_heads;
  model.num_kv_heads = kv_heads;
  model.head_dim = stored_dim;
  model.hidden_size = 16;
  model.attention_scale = 0.1;
  contents.prompt_length = prompt;
  contents.token_ids.assign(static_cast<std::size_t>(prompt + steps), 0);
  for (std::int64_t t = prompt - 32; t < prompt + steps; ++t)
    contents.query_positions.push_back(static_cast<std::int32_t>(t));
  for (int layer = 0; layer < layers; ++layer) {
    contents.layers.push_back(layer);
    contents.tensors[{layer, LayerDataset::key}] = Tensor<float, 3>({kv_heads, prompt + steps, stored_dim}, 0.0F);
    contents.tensors[{layer, LayerDataset::value}] = Tensor<float, 3>({kv_heads, prompt + steps, stored_dim}, 0.0F);
    contents.tensors[{layer, LayerDataset::query}] = Tensor<float, 3>({query_heads, 32 + steps, stored_dim}, 0.0F);
    contents.tensors[{layer, LayerDataset::output_projection}] =
        Tensor<float, 3>({1, model.hidden_size, query_heads * stored_dim}, 0.0F);
  }
  return make_memory_trace(std::move(contents));
}

void SweepOverhead(benchmark::State& state, bool results) {
  const auto trace = shapes_alone(static_cast<int>(state.range(0)));
  ReplayRequest request;
  request.summary_only = true;
  for (int alpha = 1; alpha <= 10; ++alpha)
    for (int scale = 1; scale <= 10; ++scale)
      request.policies.push_back(parse_policy("restkv@released:pooling=adaptive,alpha=0." + std::to_string(alpha + 10) +
                                              ",scale=" + std::to_string(scale * 200)));
  for (const int budget : {64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048})
    request.budgets.push_back(Budget::parse(std::to_string(budget)));
  IdleBackend backend(results);
  std::string folder = (std::filesystem::temp_directory_path() / "kvreplay-sweep-XXXXXX").string();
  folder = mkdtemp(folder.data());
  for (auto _ : state) {
    Job job;
    ResultsWriter writer(folder + "/r.h5");
    replay(*trace, request, backend, writer, job);
    writer.finish();
  }
  std::filesystem::remove_all(folder);
}
BENCHMARK_CAPTURE(SweepOverhead, evictions, false)->Arg(1)->Arg(17)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(SweepOverhead, evictions_and_metrics, true)->Arg(1)->Arg(17)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kvreplay

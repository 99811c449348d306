// How long until a changed parameter shows: one layer of 32,768 tokens and 8 KV heads (8 or 32 query heads, 64 decode steps)
// on as many threads as there are. The bar is 250 ms on two cores for the first picture: evictions, and the values of the
// step on screen. All steps follow.
#include <benchmark/benchmark.h>

#include <map>

#include "core/backend/backend.h"
#include "core/replay/live.h"
#include "core/trace/synthetic.h"

namespace kvreplay {
namespace {

struct Bench {
  explicit Bench(int query_heads) {
    SyntheticParameters parameters;
    parameters.layers = 1;
    parameters.query_heads = query_heads;
    parameters.kv_heads = 8;
    parameters.head_dim = 128;
    parameters.hidden_size = 2048;
    parameters.prompt = 32768 - 64;
    parameters.decode = 64;
    parameters.query_window = 128;
    trace = make_synthetic(parameters);
  }
  std::unique_ptr<Trace> trace;
  std::unique_ptr<Backend> backend = make_cpu_backend();
};

Bench& bench(int query_heads) {
  static std::map<int, std::unique_ptr<Bench>> all;
  auto& made = all[query_heads];
  if (made == nullptr) made = std::make_unique<Bench>(query_heads);
  return *made;
}

enum Moved { budget, kernel, window, nothing_kept };

// One change after another, as a slider makes them; but for nothing_kept the layer has been looked at before.
void moved(benchmark::State& state, const char* policy, Moved what, bool all_steps) {
  Bench& b = bench(static_cast<int>(state.range(0)));
  LiveReplay live(*b.trace, *b.backend, {});
  int at = 0;
  const auto change = [&] {
    ++at;
    std::string spec = policy;
    if (what == kernel) spec += ":kernel=" + std::to_string(3 + 2 * (at % 5));
    if (what == window) spec += ":window=" + std::to_string(16 + at % 48);
    const std::string tokens = std::to_string(what == budget ? 2000 + 100 * (at % 30) : 3276);
    const LiveRun run = live.plan(parse_policy(spec), Budget::parse(tokens));
    LiveLayer layer = live.evict(run, 0, true);
    live.measure(layer, all_steps ? IndexRange{0, -1} : IndexRange{0, 1});
    benchmark::DoNotOptimize(layer.evictions->evicted_at.data());
  };
  if (what != nothing_kept) change();
  for (auto _ : state) change();
}

void add(const std::string& name, const char* policy, Moved what, bool all_steps) {
  auto* timed = benchmark::RegisterBenchmark((std::string(policy) + "/" + name).c_str(), moved, policy, what, all_steps);
  timed->ArgName("query_heads")->Arg(8)->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();
  if (what == nothing_kept) timed->Iterations(1);
}

[[maybe_unused]] const bool added = [] {
  for (const char* policy : {"snapkv", "restkv"}) {
    add("live_first_request", policy, nothing_kept, false);
    add("live_budget", policy, budget, false);
    add("live_kernel", policy, kernel, false);
    add("live_window", policy, window, false);
    add("live_budget_all_steps", policy, budget, true);
  }
  return true;
}();

}  // namespace
}  // namespace kvreplay

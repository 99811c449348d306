// Q-Filters: for each layer and KV head the direction against which the queries of a model lie (Godey et al. 2025). They
// belong to a model, not to a text: derived once, from any texts, and read by the policy qfilter.
//
//   QueryFilters filters = derive_query_filters({&first_trace, &second_trace}, 3000, 0, job);
//   write_query_filters("filters.json", filters);
//   QueryFilters again = read_query_filters("filters.json");
//
// The file is one JSON object: format "kvreplay-query-filters", version 1, model, num_kv_heads, head_dim, samples, seed,
// sequences, and "layers": {"0": [[head_dim numbers], one list a KV head], ...} by the model's own layer index.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/base/tensor.h"
#include "core/trace/trace.h"

namespace kvreplay {

struct QueryFilters {
  std::string model;  // name
  int num_kv_heads = 0, head_dim = 0;
  int samples = 0, seed = 0, sequences = 0;  // how they were derived
  std::map<int, Tensor<float, 2>> layers;    // [Hk, d]
};

// The authors' recipe: the recorded queries (after RoPE) of all traces, `samples` of them chosen at random for each query
// head, their first right singular vector, turned against most of them; the mean over the heads of a group. The same for
// the same traces, samples and seed. Throws Error when the traces are of different models or layers.
QueryFilters derive_query_filters(const std::vector<const Trace*>& traces, int samples, int seed, Job& job);
// Of one layer, from queries [Hq, n, d] alone.
Tensor<float, 2> query_filters_of(TensorView<const float, 3> queries, int num_kv_heads);

void write_query_filters(const std::string& path, const QueryFilters& filters);
// Throws Error naming the file and what is wrong with it.
QueryFilters read_query_filters(const std::string& path);

}  // namespace kvreplay

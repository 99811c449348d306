// A trace that is computed when it is read: layers of any size with no file and no copy in memory, for measuring speed.
//
// Keys, values and queries are independent normal numbers in float16, each a function of seed, layer, dataset, head, row and
// column alone. Attention over them is spread out over all tokens, as no model's is, but costs the same.
#pragma once

#include <cstdint>
#include <memory>

#include "core/trace/trace.h"

namespace kvreplay::cli {

struct GeneratedShape {
  int layers = 1;
  int query_heads = 32, kv_heads = 8, head_dim = 128, hidden_size = 4096;
  std::int64_t prompt = 131072, steps = 64;
  std::int64_t query_window = 32;  // prompt queries that are recorded, the last ones; prompt: all
  // log_sum_exp of every recorded query: what the logits of normal numbers have on average, ln(t + 1) + 1/2. Near enough for
  // column sums to be sums of weights that add up to about 1 a query.
  bool log_sum_exp = false;
  // Keys, values, queries and W_o are computed once and kept in memory: reading then costs what copying costs, as from a
  // file in the page cache. All bytes of all layers.
  bool held = false;
};

std::unique_ptr<Trace> make_generated_trace(const GeneratedShape& shape);

}  // namespace kvreplay::cli

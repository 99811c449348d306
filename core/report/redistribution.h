// Where the attention of one query goes when tokens are gone: the numbers of data/metrics.md for a single head and step,
// with the weight of every token.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/metric/metric.h"
#include "core/trace/trace.h"

namespace kvreplay {

struct Redistribution {
  int layer = 0;  // the model's own index
  int query_head = 0;
  std::int64_t step = 1;      // decode step of the query, from 1
  std::int64_t position = 0;  // of the query
  // By position, [position + 1]; 0 where the query does not see the token.
  std::vector<double> before;     // a
  std::vector<double> after;      // a'; 0 for evicted tokens
  std::vector<bool> evicted;      // visible to the query, but evicted before it
  double evicted_mass = 0;        // 1 - m
  double value_displacement = 0;  // ‖o' - o_E‖; 0 where nothing was evicted
  double output_norm = 0;         // ‖o‖
  double head_output_error = 0;   // ‖o' - o‖ / ‖o‖ = evicted_mass · value_displacement / ‖o‖
  std::array<double, num_regions> region_before{}, region_after{};
  std::array<std::int64_t, num_regions + 1> bounds{};  // of the regions
};

// evicted_at: [T] of the stored head that this query head reads. Keys and values are the recorded ones: of runs that merge
// rows or turn keys the caller has to refuse. Throws Error where the trace lacks keys, values or this query, and for a
// layer, head or step that it does not have.
Redistribution redistribution_of(const Trace& trace, int layer, int query_head, std::int64_t step,
                                 std::span<const std::int32_t> evicted_at);

}  // namespace kvreplay

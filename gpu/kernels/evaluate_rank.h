// Ranks of attention weights at decode steps: which tokens an ideal set of every size would hold.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/kernels/evaluate_block.h"

namespace kvreplay::cuda {

// The rank of a token that is beyond those asked for.
constexpr std::int32_t no_rank = 0x7f7f7f7f;

// rank [columns, rows] of one KV head's logits [rows, columns]: 0 for the largest, by order_key, ties to the lowest position
// (core/backend/order_key.h); no_rank from rank `needed` on. scratch: rank_scratch_bytes().
//
// Segmented radix sort (CUB) of as many rows at a time as the scratch holds. Where `needed` is at most a quarter of the
// columns, the largest are selected first (selection.h) and they alone are sorted: a sweep keeps a few percent of the
// tokens. Selected columns are ascending and the sort is stable, so ties come out as from the whole row.
std::size_t rank_scratch_bytes(const EvaluationBlock& block, int needed);
void launch_ranks(const float* logits, const EvaluationBlock& block, int needed, void* scratch, std::int32_t* rank,
                  cudaStream_t stream);

}  // namespace kvreplay::cuda

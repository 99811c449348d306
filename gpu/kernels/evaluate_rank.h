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
// Segmented radix sort (CUB) of as many rows at a time as the scratch holds. It sorts every row as a whole and is meant for
// sets of any size.
std::size_t rank_scratch_bytes(const EvaluationBlock& block);
void launch_ranks(const float* logits, const EvaluationBlock& block, int needed, void* scratch, std::int32_t* rank,
                  cudaStream_t stream);

}  // namespace kvreplay::cuda

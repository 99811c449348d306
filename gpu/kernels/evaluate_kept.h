// What each run's kept sets do to the decode queries of a block: many runs, KV heads, query heads and steps in one launch.
// Work scales with the kept tokens: what is evicted follows by subtraction from the sums over all tokens, in float64, but
// where it has almost no mass.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/evaluate_block.h"

namespace kvreplay::cuda {

struct KeptArguments {
  EvaluationBlock block;
  int runs = 0;
  // Lists of run r: lists[first_list[r]] on; list_heads[r] of them: Hq, Hk or 1.
  const KeptList* lists = nullptr;
  const std::int32_t *first_list = nullptr, *list_heads = nullptr;
  const std::int32_t* positions = nullptr;
  bool by_query_head = false;  // some run keeps sets of its own for every query head of a group

  const RowSummary* summary = nullptr;          // [KV heads, rows]
  const float* exponential = nullptr;           // [KV heads, columns, rows]
  const float* single = nullptr;                // the same shape; null: not asked for
  const std::int32_t* rank = nullptr;           // the same shape; null: not asked for
  const double* sum = nullptr;                  // [KV heads, rows, d]; null: outputs not asked for
  const void *key = nullptr, *value = nullptr;  // of the block's first KV head, position 0
  ElementType key_type = ElementType::float32, value_type = ElementType::float32;
  std::int64_t head_stride = 0;  // elements from one KV head's keys (or values) to the next one's
  const float* query = nullptr;  // [KV heads, rows, d]
  float scale = 1, cap = 0;

  KeptCell* cells = nullptr;   // [runs, KV heads, rows]
  double* kept_sum = nullptr;  // the same shape: Σ exp(z - top) over the kept tokens
  // [runs, steps, Hq · d]: o' - o; of the block's query heads alone. 0 for queries that were not recorded.
  float* difference = nullptr;
  // Cells that need their own terms instead of a difference: count, then cell · 8 + reasons.
  unsigned long long* repairs = nullptr;

  std::int64_t cell_count() const { return static_cast<std::int64_t>(runs) * block.kv_heads * block.rows(); }
};

// Fills cells, kept_sum and difference. repairs: 1 + cell_count() numbers.
void launch_kept(const KeptArguments& arguments, int multiprocessors, cudaStream_t stream);

}  // namespace kvreplay::cuda

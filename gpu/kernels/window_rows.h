// Attention rows of the window's queries, written out: softmax, outputs, sums over rows. The plain forms.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"

namespace kvreplay::cuda {

// Which of the columns a row sees: row r belongs to position first_query + r % window; column c to position low + c.
struct RowShape {
  std::int64_t rows = 0;  // Hq · W
  int window = 0;
  std::int64_t columns = 0;  // over every visible key
  std::int64_t first_query = 0, low = 0;
  int sliding_window = 0;  // 0: none
  std::int64_t cut = 0;    // columns that are no candidates: candidate c is column cut + c
};

// logits [rows, columns] become weights in place, 0 where the row sees nothing. dominant [rows, 2] as AttentionRows has it
// (column of a candidate, or -1; 1 - weight). One block a row: four passes over it, bound by memory.
void launch_softmax_rows(float* rows, const RowShape& shape, float* dominant, cudaStream_t stream);

// rest [rows, d]: Σ weight · value without the dominant column; output the same with it; both summed in float64. partial
// holds output_partial_count() doubles. value: of the first KV head's position `low`, heads value_head_stride elements
// apart; rows_per_kv_head: G · W.
std::int64_t output_partial_count(std::int64_t rows, std::int64_t columns, int dim);
void launch_row_outputs(const float* rows, const RowShape& shape, const float* dominant, const void* value, ElementType type,
                        std::int64_t value_head_stride, std::int64_t rows_per_kv_head, int dim, double* partial,
                        float* output, float* rest, cudaStream_t stream);

// out [heads, n] = Σ_w weights[w] · rows[h, w, :] in float64.
void launch_reduce_rows(const float* rows, std::int64_t heads, int window, std::int64_t columns, const float* weights,
                        float* out, cudaStream_t stream);

}  // namespace kvreplay::cuda

// What decode queries see with the full cache: weights, outputs, errors of single removals. Computed once for all runs.
// Each launcher works on one KV head of a block; pointers are of that head.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/base/element_type.h"
#include "gpu/kernels/evaluate_block.h"

namespace kvreplay::cuda {

// exponential [columns, rows] of logits [rows, columns]: exp(z - top), 0 where the row sees nothing or was not recorded; and
// summary [rows]: all but single_total and output_norm, which become 0. top [rows]: of launch_decode_logits(). One pass over
// the logits by blocks of 32 rows × 1,024 columns, bound by memory: read once, written once. partial: weight_partial_count()
// doubles.
std::int64_t weight_partial_count(const EvaluationBlock& block);
void launch_weights(const float* logits, const unsigned long long* top, const EvaluationBlock& block, float* exponential,
                    double* partial, RowSummary* summary, cudaStream_t stream);

// sum [rows, d] float64: Σ exp(z - top) · v over every visible key; output [rows, d] float32: o. others [rows, d]: the sum
// without the largest weight. partial: full_partial_count() doubles. single_of_largest [rows]: the error of removing the key
// with the largest weight, a · ‖r - v‖ with r the mean of the others, which needs no subtraction. Fills output_norm.
// value: of position 0.
std::int64_t full_partial_count(const EvaluationBlock& block);
void launch_full_outputs(const float* exponential, const void* value, ElementType type, const EvaluationBlock& block,
                         double* partial, double* sum, float* output, float* single_of_largest, RowSummary* summary,
                         cudaStream_t stream);

// single [columns, rows]: a / (1 - a) · ‖o - v‖, the distance from direct differences in float32. partial:
// single_partial_count() doubles. Fills single_total.
std::int64_t single_partial_count(const EvaluationBlock& block);
void launch_single_removals(const float* exponential, const void* value, ElementType type, const EvaluationBlock& block,
                            const float* output, const float* single_of_largest, float* single, double* partial,
                            RowSummary* summary, cudaStream_t stream);

// total [G, candidates] float64 += Σ over the block's steps of attention. exponential [columns, rows]; first: position of
// candidate 0.
void launch_add_attention(const float* exponential, const RowSummary* summary, const EvaluationBlock& block, int first,
                          int candidates, double* total, cudaStream_t stream);
// out[i] = total[i]
void launch_narrow(const double* total, std::int64_t count, float* out, cudaStream_t stream);

}  // namespace kvreplay::cuda

// Exact, tie-stable selection of the largest scores of each row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvreplay::cuda {

// For each row h of scores [rows, columns] the min(count[h], columns) columns with the largest scores, ascending, at
// kept + h · capacity; NaN ranks first, ties go to the lowest column. count [rows] on the device, none above capacity.
//
// stride: from one row to the next, elements; 0: columns.
//
// Three rounds of a radix search (by digits of the keys) find the smallest key that is kept; then the columns are written in
// order. Rungs: one block a row, which reads the row four times from the second-level cache; and (sm_90, up to 262,144
// columns) a cluster of blocks a row, which reads it once and keeps it in registers, with histograms that the blocks of the
// cluster read from each other. Bound by shared-memory atomics of the first round.
void launch_select_top(const float* scores, std::int64_t rows, std::int64_t columns, const std::int64_t* count,
                       std::int64_t capacity, std::int32_t* kept, cudaStream_t stream, std::int64_t stride = 0);

// mean [rows]: mean column of the `count` largest of each row of scores [rows, columns], 1 <= count <= columns; among equal
// scores the lowest columns are taken, or the highest.
void launch_mean_top_column(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t count, bool highest,
                            double* mean, cudaStream_t stream);

// The first rung of each, whatever the device.
void launch_select_top_by_blocks(const float* scores, std::int64_t rows, std::int64_t columns, const std::int64_t* count,
                                 std::int64_t capacity, std::int32_t* kept, cudaStream_t stream, std::int64_t stride = 0);
void launch_mean_top_column_by_blocks(const float* scores, std::int64_t rows, std::int64_t columns, std::int64_t count,
                                      bool highest, double* mean, cudaStream_t stream);

}  // namespace kvreplay::cuda

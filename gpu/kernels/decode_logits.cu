#include "gpu/kernels/decode_logits.h"

#include <math_constants.h>

#include "gpu/device.h"
#include "gpu/kernels/evaluate_top.cuh"
#include "gpu/kernels/launch.cuh"
#include "gpu/kernels/tensor_core.cuh"

namespace kvreplay::cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256, per_thread = 4;

template <class Element>
__global__ void gather_queries(const Element* queries, std::int64_t recorded, const std::int32_t* query_row, int first_head,
                               int heads, int steps, int dim, float* out) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= static_cast<std::int64_t>(heads) * steps * dim) return;
  const std::int64_t row = index / dim, i = index % dim;
  const std::int64_t head = first_head + row / steps;
  const std::int32_t source = query_row[row % steps];
  out[index] = source < 0 ? 0.0F : to_float(queries[(head * recorded + source) * dim + i]);
}

__device__ float logit_of(const EvaluationBlock& block, int row, int column, float z, float cap) {
  const int position = block.position(row), at = block.origin + column;
  if (at < block.first_visible(position) || at > position) return -CUDART_INF_F;
  return cap > 0 ? cap * tanhf(z / cap) : z;
}

// A 64 × 64 tile of logits for each block, 4 × 4 for each thread. Bound by the float32 rate; the keys are read once for
// every 64 rows.
template <class Element>
__global__ void decode_logits(const float* query, const Element* key, const std::int32_t* query_row, EvaluationBlock block,
                              float scale, float cap, float* logits) {
  __shared__ float q[depth][tile + 1], k[depth][tile + 1];
  const int first_row = static_cast<int>(blockIdx.y) * tile, first_column = static_cast<int>(blockIdx.x) * tile;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  float sum[per_thread][per_thread] = {};
  for (int begin = 0; begin < block.dim; begin += depth) {
    for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += threads) {
      const int r = i / depth, c = i % depth;
      const bool inside = begin + c < block.dim;
      q[c][r] = inside && first_row + r < block.rows()
                    ? query[static_cast<std::int64_t>(first_row + r) * block.dim + begin + c]
                    : 0.0F;
      const int column = first_column + r;
      k[c][r] = inside && column < block.columns
                    ? to_float(key[static_cast<std::int64_t>(block.origin + column) * block.dim + begin + c])
                    : 0.0F;
    }
    __syncthreads();
    for (int c = 0; c < depth; ++c) {
      float left[per_thread], right[per_thread];
      for (int i = 0; i < per_thread; ++i) left[i] = q[c][y + 16 * i];
      for (int j = 0; j < per_thread; ++j) right[j] = k[c][x + 16 * j];
      for (int i = 0; i < per_thread; ++i)
        for (int j = 0; j < per_thread; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < per_thread; ++i) {
    const int row = first_row + y + 16 * i;
    if (row >= block.rows()) continue;
    const bool recorded = query_row[row % block.steps] >= 0;
    for (int j = 0; j < per_thread; ++j) {
      const int column = first_column + x + 16 * j;
      if (column >= block.columns) continue;
      logits[static_cast<std::int64_t>(row) * block.columns + column] =
          recorded ? logit_of(block, row, column, scale * sum[i][j], cap) : CUDART_NAN_F;
    }
  }
}

// One block a row.
__global__ void find_tops(const float* logits, EvaluationBlock block, unsigned long long* top) {
  __shared__ unsigned long long scratch[threads / warp_size];
  const int row = static_cast<int>(blockIdx.x);
  const float* z = logits + static_cast<std::int64_t>(row) * block.columns;
  unsigned long long largest = 0;
  for (int i = static_cast<int>(threadIdx.x); i < block.columns; i += threads)
    if (!isnan(z[i])) largest = max(largest, top_of(z[i], i));
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    largest = max(largest, __shfl_xor_sync(all_lanes, largest, offset));
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = largest;
  __syncthreads();
  for (const unsigned long long other : scratch) largest = max(largest, other);
  if (threadIdx.x == 0) top[row] = largest;
}

// ---- tensor cores ------------------------------------------------------------------------------------------------------

constexpr int tensor_threads = 128, tensor_rows = 64, tensor_tokens = 128, warp_tokens = 32;
constexpr int most_dim = 256;

constexpr std::size_t tensor_bytes(int dim) {
  return static_cast<std::size_t>((tensor_rows + tensor_tokens) * (dim + 8)) * 2;
}

template <class Element>
__device__ Element exact(float x) {
  if constexpr (std::is_same_v<Element, __half>)
    return __float2half_rn(x);
  else
    return __float2bfloat16_rn(x);
}

// 64 rows × 128 tokens for each block, 64 × 32 for each of its four warps, all of d at once. Several blocks on a
// multiprocessor hide each other's copies.
template <class Element>
__global__ void __launch_bounds__(tensor_threads, 3)
    tensor_logits(const float* query, const Element* key, const std::int32_t* query_row, EvaluationBlock block, float scale,
                  float cap, float* logits, unsigned long long* top) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ unsigned long long tops[tensor_rows];
  const int dim = block.dim, stride = dim + 8;  // rows 16 bytes longer: in different banks
  auto* const q = reinterpret_cast<Element*>(memory);
  Element* const k = q + tensor_rows * stride;
  const int first_row = static_cast<int>(blockIdx.x) * tensor_rows,
            first_token = static_cast<int>(blockIdx.y) * tensor_tokens;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;

  const int chunks = dim / 8;
  for (int i = thread; i < tensor_tokens * chunks; i += tensor_threads) {
    const int token = i / chunks, chunk = i % chunks;
    const bool inside = first_token + token < block.columns;
    copy_async_16(k + token * stride + chunk * 8,
                  key + (inside ? static_cast<std::int64_t>(block.origin + first_token + token) * dim + chunk * 8 : 0),
                  inside);
  }
  copy_async_commit();
  for (int i = thread; i < tensor_rows * dim; i += tensor_threads) {
    const int row = first_row + i / dim;
    q[i / dim * stride + i % dim] =
        exact<Element>(row < block.rows() ? query[static_cast<std::int64_t>(first_row) * dim + i] : 0.0F);
  }
  if (thread < tensor_rows) tops[thread] = 0;
  copy_async_wait<0>();
  __syncthreads();

  float sum[tensor_rows / 16][warp_tokens / 8][4] = {};
  const Element* left = q + lane % 16 * stride + lane / 16 * 8;
  const Element* right = k + (warp * warp_tokens + lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
  for (int c = 0; c < dim; c += 16) {
    unsigned a[tensor_rows / 16][4], b[warp_tokens / 16][4];
#pragma unroll
    for (int m = 0; m < tensor_rows / 16; ++m) load_matrices(a[m], left + m * 16 * stride + c);
#pragma unroll
    for (int n = 0; n < warp_tokens / 16; ++n) load_matrices(b[n], right + n * 16 * stride + c);
#pragma unroll
    for (int m = 0; m < tensor_rows / 16; ++m)
#pragma unroll
      for (int n = 0; n < warp_tokens / 8; ++n)
        multiply_add<Element>(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }

#pragma unroll
  for (int m = 0; m < tensor_rows / 16; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = m * 16 + half * 8 + lane / 4, row = first_row + r;
      const bool recorded = row < block.rows() && query_row[row % block.steps] >= 0;
      unsigned long long largest = 0;
#pragma unroll
      for (int n = 0; n < warp_tokens / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = first_token + warp * warp_tokens + n * 8 + lane % 4 * 2 + j;
          if (row >= block.rows() || column >= block.columns) continue;
          const float z = recorded ? logit_of(block, row, column, scale * sum[m][n][half * 2 + j], cap) : CUDART_NAN_F;
          logits[static_cast<std::int64_t>(row) * block.columns + column] = z;
          if (recorded) largest = max(largest, top_of(z, column));
        }
      if (top == nullptr) continue;
      largest = max(largest, __shfl_xor_sync(all_lanes, largest, 1));
      largest = max(largest, __shfl_xor_sync(all_lanes, largest, 2));
      if (lane % 4 == 0 && largest > 0) atomicMax(&tops[r], largest);
    }
  if (top == nullptr) return;
  __syncthreads();
  if (thread < tensor_rows && tops[thread] > 0) atomicMax(&top[first_row + thread], tops[thread]);
}

template <class Element>
void launch_tensor_logits(const float* query, const Element* key, const std::int32_t* query_row,
                          const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream,
                          unsigned long long* top) {
  const dim3 grid(blocks_for(block.rows(), tensor_rows), blocks_for(block.columns, tensor_tokens));
  const std::size_t bytes = tensor_bytes(block.dim);
  allow_shared_memory(tensor_logits<Element>, bytes);
  if (top != nullptr)
    check(cudaMemsetAsync(top, 0, static_cast<std::size_t>(block.rows()) * sizeof(*top), stream), "clearing largest logits");
  tensor_logits<<<grid, tensor_threads, bytes, stream>>>(query, key, query_row, block, scale, cap, logits, top);
  check_launch("the logits of decode steps on tensor cores");
}

bool tensor_supported(const void* key, const EvaluationBlock& block) {
  return block.dim % 16 == 0 && block.dim <= most_dim && reinterpret_cast<std::uintptr_t>(key) % 16 == 0 &&
         block.columns <= 65535 * std::int64_t{tensor_tokens};
}

}  // namespace

void launch_gather_queries(const void* queries, ElementType type, std::int64_t recorded, const std::int32_t* query_row,
                           int first_head, int heads, int steps, int dim, float* out, cudaStream_t stream) {
  const std::int64_t count = static_cast<std::int64_t>(heads) * steps * dim;
  if (count == 0) return;
  with_elements(type, queries, [&](const auto* rows) {
    gather_queries<<<blocks_for(count, threads), threads, 0, stream>>>(rows, recorded, query_row, first_head, heads, steps,
                                                                       dim, out);
  });
  check_launch("the queries of decode steps");
}

void launch_decode_logits(const float* query, const void* key, ElementType key_type, const std::int32_t* query_row,
                          const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream,
                          unsigned long long* top) {
  if (block.rows() == 0 || block.columns == 0) return;
  if (key_type == ElementType::float32 || !tensor_supported(key, block)) {
    launch_decode_logits_plain(query, key, key_type, query_row, block, scale, cap, logits, stream, top);
  } else if (key_type == ElementType::float16) {
    launch_tensor_logits(query, static_cast<const __half*>(key), query_row, block, scale, cap, logits, stream, top);
  } else {
    launch_tensor_logits(query, static_cast<const __nv_bfloat16*>(key), query_row, block, scale, cap, logits, stream, top);
  }
}

void launch_decode_logits_plain(const float* query, const void* key, ElementType key_type, const std::int32_t* query_row,
                                const EvaluationBlock& block, float scale, float cap, float* logits, cudaStream_t stream,
                                unsigned long long* top) {
  if (block.rows() == 0 || block.columns == 0) return;
  const dim3 grid(blocks_for(block.columns, tile), blocks_for(block.rows(), tile));
  with_elements(key_type, key, [&](const auto* keys) {
    decode_logits<<<grid, threads, 0, stream>>>(query, keys, query_row, block, scale, cap, logits);
  });
  check_launch("the logits of decode steps");
  if (top == nullptr) return;
  find_tops<<<static_cast<unsigned>(block.rows()), threads, 0, stream>>>(logits, block, top);
  check_launch("the largest logits of decode steps");
}

}  // namespace kvreplay::cuda

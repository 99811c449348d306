// Walking a kept list on the device. Included by kernels alone.
#pragma once

#include "gpu/kernels/elements.cuh"
#include "gpu/kernels/evaluate_kept.h"

namespace kvreplay::cuda {

constexpr double tiny_share = 1e-20;  // less of the mass is kept: weights are formed afresh
constexpr double small_mass = 1e-6;   // less of it is evicted: summed by itself

// Reasons for a repair.
constexpr unsigned afresh = 1, evicted_by_itself = 2, singles_by_themselves = 4;

// Tokens of one list that some rows of a tile may keep: token k in [begin, end) is at position(k).
struct KeptTokens {
  const std::int32_t* positions;
  int count, timed, prompt;
  int begin, end;

  __device__ int position(int k) const { return k < count ? positions[k] : prompt + (k - count); }
  // The last step (from 1) at which the token is there when it is not the row's own.
  __device__ int until(int k) const { return timed != 0 ? positions[count + k] : 0x7fffffff; }
};

__device__ inline bool is_kept(const EvaluationBlock& block, int row, int position, int until) {
  const int own = block.position(row);
  return position <= own && position >= block.first_visible(own) && (until > block.step(row) || position == own);
}

__device__ inline int lower_bound(const std::int32_t* values, int count, int wanted) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (values[middle] < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__device__ inline KeptList list_of(const KeptArguments& a, int run, int kv_head, int row) {
  const int heads = a.list_heads[run];
  const int head = heads == a.block.num_query_heads ? a.block.query_head(kv_head, row)
                   : heads == 1                     ? 0
                                                    : a.block.first_kv_head + kv_head;
  return a.lists[a.first_list[run] + head];
}

// Tokens for rows [first_row, last_row] of one KV head, which share a list.
__device__ inline KeptTokens kept_tokens(const KeptArguments& a, int run, int kv_head, int first_row, int last_row) {
  const EvaluationBlock& block = a.block;
  const KeptList list = list_of(a, run, kv_head, first_row);
  const bool one_head = first_row / block.steps == last_row / block.steps;
  const int first_position = block.prompt + block.first_step + (one_head ? first_row % block.steps : 0);
  const int last_position = block.prompt + block.first_step + (one_head ? last_row % block.steps : block.steps - 1);
  const int low = block.first_visible(first_position);
  KeptTokens tokens{a.positions + list.offset, list.count, list.timed, block.prompt, 0, 0};
  tokens.begin = lower_bound(tokens.positions, list.count, low);
  if (list.timed != 0) {
    tokens.end = lower_bound(tokens.positions, list.count, last_position + 1);
  } else {
    if (tokens.begin == list.count) tokens.begin += max(0, low - block.prompt);
    tokens.end = list.count + last_position + 1 - block.prompt;
  }
  return tokens;
}

// exp(x) for x <= 0; below 2^-125 it is 0, as in core/kernels: what is so small counts as nothing on both backends.
__device__ inline float decayed(float x) {
  const float e = expf(x);
  return e < 0x1p-125F ? 0.0F : e;
}

__device__ inline int region_of(const EvaluationBlock& block, int position) {
  int region = 0;
#pragma unroll
  for (int r = 1; r < num_regions; ++r) region += position >= block.regions[r] ? 1 : 0;
  return region;
}

}  // namespace kvreplay::cuda

// How it is fast: the query heads of a KV group share its keys and values, so their rows form one product. Keys and values
// are packed once a block; a task then takes a few query tokens at a time, few enough that all their rows of scores stay in
// the cache, and makes the products, the softmax and the sums without computing anything twice. The time is that of the two
// products plus about half as much for the softmax (bound by the exponentials and the L2 cache).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/kernels/table.h"
#include "core/model/attention_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t chunk = 64;                // query tokens a task
constexpr std::int64_t score_floats = 96 * 1024;  // of a task's rows at a time: most of an L2 cache
constexpr std::int64_t packing_pays = 16;         // query tokens
constexpr std::int64_t column_alignment = 32;     // of a packed matrix's first column

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

class Attention {
 public:
  explicit Attention(const AttentionBlock& block)
      : block_(block),
        queries_(block.query.dim(1)),
        dim_(block.query.dim(2)),
        kv_heads_(block.key.dim(0)),
        group_(block.query.dim(0) / kv_heads_),
        keys_(block.first + queries_),
        oldest_(block.window > 0 ? std::max<std::int64_t>(0, block.first + 1 - block.window) : 0),
        chunks_((queries_ + chunk - 1) / chunk),
        packed_(queries_ >= packing_pays) {}

  void run() {
    if (packed_) pack();
    if (block_.summed_queries > 0) partial_sums_ = Tensor<float, 3>({chunks_, block_.query.dim(0), keys_}, 0.0F);
    parallel_for(kv_heads_ * chunks_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) run_chunk(task / chunks_, task % chunks_);
    });
    if (block_.summed_queries > 0) add_partial_sums();
  }

 private:
  const float* key(std::int64_t kv_head) const { return &block_.key(kv_head, 0, 0); }
  const float* value(std::int64_t kv_head) const { return &block_.value(kv_head, 0, 0); }

  // Only what some query of the block sees: positions from oldest_ on.
  void pack() {
    const std::int64_t used = keys_ - oldest_;
    const auto key_floats = static_cast<std::int64_t>(kernels::packed_floats(used, dim_));
    const auto value_floats = static_cast<std::int64_t>(kernels::packed_floats(dim_, used));
    packed_keys_ = Tensor<float, 2>({kv_heads_, key_floats});
    packed_values_ = Tensor<float, 2>({kv_heads_, value_floats});
    parallel_for(2 * kv_heads_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t head = i / 2;
        if (i % 2 == 0)
          kernels::pack(used, dim_, key(head) + oldest_ * dim_, dim_, &packed_keys_(head, 0));
        else
          kernels::pack_nn(dim_, used, value(head) + oldest_ * dim_, dim_, &packed_values_(head, 0));
      }
    });
  }

  void run_chunk(std::int64_t kv_head, std::int64_t chunk_index) {
    const Range chunk_queries{chunk_index * chunk, std::min(queries_, (chunk_index + 1) * chunk)};
    const std::int64_t widest = block_.first + chunk_queries.end - oldest_ + column_alignment;
    // Rows a multiple of 6 suit the inner product kernel.
    std::int64_t tokens = score_floats / (widest * group_);
    tokens = tokens >= 6 ? tokens - tokens % 6 : std::max<std::int64_t>(tokens, (12 + group_ - 1) / group_);
    tokens = std::min(tokens, chunk_queries.size());
    // An odd multiple of 16 floats: rows do not compete for the same cache lines.
    const std::int64_t stride = (widest + 31) / 32 * 32 + 16;
    thread_local Tensor<float, 1> scratch;
    const std::int64_t rows = tokens * group_;
    const std::int64_t needed = rows * (stride + 2 * dim_ + 1);
    if (scratch.dim(0) < needed) scratch = Tensor<float, 1>({needed});
    scores_scratch(scratch.data(), rows, stride, kv_head, chunk_index, chunk_queries, tokens);
  }

  void scores_scratch(float* scores, std::int64_t rows, std::int64_t stride, std::int64_t kv_head, std::int64_t chunk_index,
                      Range chunk_queries, std::int64_t tokens) {
    float* query_rows = scores + rows * stride;
    float* output_rows = query_rows + rows * dim_;
    float* factors = output_rows + rows * dim_;
    for (std::int64_t i = chunk_queries.begin; i < chunk_queries.end; i += tokens) {
      const Range queries{i, std::min(chunk_queries.end, i + tokens)};
      Range seen{block_.window > 0 ? std::max<std::int64_t>(oldest_, block_.first + i + 1 - block_.window) : 0,
                 block_.first + queries.end};
      seen.begin -= (seen.begin - oldest_) % column_alignment;
      multiply_keys(kv_head, queries, seen, query_rows, scores, stride);
      for (std::int64_t g = 0; g < group_; ++g)
        for (std::int64_t t = queries.begin; t < queries.end; ++t) {
          const std::int64_t row = g * queries.size() + t - queries.begin;
          factors[row] = softmax_row(kv_head * group_ + g, t, seen, chunk_index, scores + row * stride);
        }
      multiply_values(kv_head, queries, seen, scores, stride, output_rows, factors);
    }
  }

  // scores[group × queries, seen] = scale · Q Kᵀ
  void multiply_keys(std::int64_t kv_head, Range queries, Range seen, float* query_rows, float* scores,
                     std::int64_t stride) {
    const std::int64_t count = queries.size(), rows = group_ * count;
    for (std::int64_t g = 0; g < group_; ++g)
      std::memcpy(query_rows + g * count * dim_, &block_.query(kv_head * group_ + g, queries.begin, 0),
                  static_cast<std::size_t>(count * dim_) * sizeof(float));
    const auto scale = static_cast<float>(block_.scale);
    if (packed_)
      kernels::gemm_packed_part(rows, seen.size(), dim_, scale, query_rows, dim_, &packed_keys_(kv_head, 0),
                                {keys_ - oldest_, dim_, seen.begin - oldest_, 0}, scores, stride);
    else
      kernels::gemm_nt(rows, seen.size(), dim_, scale, query_rows, dim_, key(kv_head) + seen.begin * dim_, dim_, scores,
                       stride);
  }

  // Turns one row of scores into exp(score - maximum), 0 where masked. Returns what makes the row sum to 1.
  float softmax_row(std::int64_t head, std::int64_t query, Range seen, std::int64_t chunk_index, float* scores) {
    const std::int64_t position = block_.first + query;
    const std::int64_t begin = block_.window > 0 ? std::max(seen.begin, position + 1 - block_.window) : seen.begin;
    const std::int64_t count = position + 1 - begin;
    std::fill(scores, scores + (begin - seen.begin), 0.0F);
    std::fill(scores + (position + 1 - seen.begin), scores + seen.size(), 0.0F);
    float* row = scores + (begin - seen.begin);
    if (block_.softcap > 0) kernels::soft_cap(row, count, static_cast<float>(block_.softcap));
    const float most = kernels::maximum(row, count);
    const double total = kernels::exponentiate(row, count, most);
    block_.log_sum_exp(head, query) = static_cast<float>(most + std::log(total));
    const auto factor = static_cast<float>(1 / total);
    if (query < block_.summed_queries) kernels::add_scaled(&partial_sums_(chunk_index, head, begin), row, count, factor);
    write_weights(head, query, {begin, position + 1}, row, factor);
    return factor;
  }

  void write_weights(std::int64_t head, std::int64_t query, Range seen, const float* row, float factor) {
    const auto found = std::ranges::lower_bound(block_.rows, query);
    if (found == block_.rows.end() || *found != query) return;
    float* target = &block_.weights(head, found - block_.rows.begin(), 0);
    std::fill(target, target + seen.begin, 0.0F);
    for (std::int64_t j = 0; j < seen.size(); ++j) target[seen.begin + j] = row[j] * factor;
    std::fill(target + seen.end, target + keys_, 0.0F);
  }

  void multiply_values(std::int64_t kv_head, Range queries, Range seen, const float* scores, std::int64_t stride,
                       float* output_rows, const float* factors) {
    const std::int64_t count = queries.size(), rows = group_ * count;
    if (packed_)
      kernels::gemm_packed_part(rows, dim_, seen.size(), 1.0F, scores, stride, &packed_values_(kv_head, 0),
                                {dim_, keys_ - oldest_, 0, seen.begin - oldest_}, output_rows, dim_);
    else
      kernels::gemm_nn(rows, dim_, seen.size(), 1.0F, scores, stride, value(kv_head) + seen.begin * dim_, dim_, output_rows,
                       dim_);
    for (std::int64_t row = 0; row < rows; ++row) {
      float* target = &block_.output(kv_head * group_ + row / count, queries.begin + row % count, 0);
      for (std::int64_t c = 0; c < dim_; ++c) target[c] = output_rows[row * dim_ + c] * factors[row];
    }
  }

  // Each task summed its own chunk; adding them in order makes the result independent of the threads.
  void add_partial_sums() {
    parallel_for(block_.query.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t head = begin; head < end; ++head) {
        float* total = &block_.column_sum(head, 0);
        std::copy_n(&partial_sums_(0, head, 0), keys_, total);
        for (std::int64_t c = 1; c < chunks_; ++c) kernels::add_scaled(total, &partial_sums_(c, head, 0), keys_, 1.0F);
      }
    });
  }

  const AttentionBlock& block_;
  std::int64_t queries_, dim_, kv_heads_, group_, keys_;
  std::int64_t oldest_;  // the first position that any query of the block sees
  std::int64_t chunks_;
  bool packed_;
  Tensor<float, 2> packed_keys_, packed_values_;
  Tensor<float, 3> partial_sums_;  // [chunks, Hq, keys]
};

}  // namespace

void attend(const AttentionBlock& block) { Attention(block).run(); }

}  // namespace kvreplay

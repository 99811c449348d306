// Tokens × heads of one or two runs as a matrix: who keeps what, until when, with which score. What the eviction map draws.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gui/model/pyramid.h"
#include "gui/model/run.h"

namespace kvreplay::gui {

enum class MapQuantity : std::uint8_t {
  kept,      // 1 while the cache holds the token after the step, 0 once it was evicted, NaN before it is there
  lifetime,  // 0: evicted when the prompt ended, s: after decode step s, steps + 1: kept to the end
  score,     // what the policy ranked by; NaN where it gave none
};

enum class MapRows : std::uint8_t {
  heads,   // those of one layer that have a kept set of their own
  layers,  // the mean over a layer's heads
  all,     // every layer's heads, one below the other
};

enum class MapRuns : std::uint8_t { a, b, difference };  // difference: B - A

struct MapRequest {
  std::shared_ptr<const Run> a, b;  // that which is not shown may be null
  MapQuantity quantity = MapQuantity::kept;
  MapRows rows = MapRows::heads;
  MapRuns runs = MapRuns::a;
  int layer = 0;  // of MapRows::heads
  int step = 0;   // of MapQuantity::kept
};

class EvictionMatrix final : public Matrix {
 public:
  explicit EvictionMatrix(MapRequest request);

  const MapRequest& request() const { return request_; }
  std::int64_t rows() const override;
  std::int64_t columns() const override { return tokens_; }
  void read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const override;
  bool same_row(const Matrix& other, std::int64_t row) const override;

  // How cells that share a pixel are best reduced.
  Reduction reduction() const;
  // Rows of one layer: 1 where a row is a layer's mean.
  int rows_per_layer() const { return request_.rows == MapRows::layers ? 1 : heads_; }
  int layer_of(std::int64_t row) const;
  // The query heads that a row stands for.
  std::vector<int> heads_of(std::int64_t row) const;
  // The row of a layer and query head; -1: not among these.
  std::int64_t row_of(int layer, int head) const;
  // "query head", "KV head", "all heads": what a row of one layer is.
  std::string head_name() const;
  bool has_layer(int layer) const;

 private:
  void read_run(const Run& run, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const;
  void read_row(const Run& run, const RunLayer& layer, std::int64_t run_row, std::int64_t begin, std::int64_t end,
                float* out) const;

  MapRequest request_;
  int heads_ = 1, query_heads_ = 1, layers_ = 0;
  std::int64_t tokens_ = 0;
};

}  // namespace kvreplay::gui

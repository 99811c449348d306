// Attention of one query head as a picture: queries × keys, to the full cache, to what a run left of it, and their
// difference. Of any length: what is computed is reduced as it comes, so that a picture never takes more than its cells.
#pragma once

#include <atomic>
#include <memory>

#include "gui/model/document.h"
#include "gui/model/pyramid.h"
#include "gui/model/run.h"

namespace kvreplay::gui {

enum class AttentionForm : std::uint8_t {
  full,        // a over all keys that the query sees
  evicted,     // a' over those that the cache holds when the query comes, evicted_key for the others
  difference,  // a' - a: what evicted keys lost is below 0, what the kept ones gained above
};
inline constexpr float evicted_key = -1;

struct AttentionRequest {
  std::shared_ptr<const Document> document;
  std::shared_ptr<const Run> run;  // null for AttentionForm::full
  int layer = 0, head = 0;
  AttentionForm form = AttentionForm::full;
  std::int64_t first_query = 0, end_query = 0;  // of the recorded queries (Trace::query_positions)
  std::int64_t first_key = 0, end_key = 0;
  std::int64_t most_rows = 1024, most_columns = 2048;  // of the picture
};

// A reduced stretch of the matrix: its cell (0, 0) stands for queries from first_query and keys from first_key on. NaN where
// a query does not see a key. Pyramid::reduction() of a difference is the magnitude, else the maximum.
struct AttentionPicture {
  std::shared_ptr<const Pyramid> pyramid;
  std::int64_t first_query = 0, first_key = 0;
  std::int64_t queries_a_cell = 1, keys_a_cell = 1;
};

// Computes pictures; keeps the keys and queries of the last head. Of one thread.
class AttentionPainter {
 public:
  // done: rows finished so far, for a progress that others read. Throws Error, also for a run that changes rows
  // but for AttentionForm::full, and Cancelled within a CancelScope.
  AttentionPicture paint(const AttentionRequest& request, std::atomic<std::int64_t>& done);

 private:
  void load(const AttentionRequest& request);

  std::shared_ptr<const Document> document_;
  int layer_ = -1, head_ = -1;
  Tensor<float, 3> key_, query_;  // [1, T, d], [1, Tq, d]
};

// Which recorded queries a view shows: those of generated tokens, with the last `window` of the prompt, or all.
enum class QueryRange : std::uint8_t { generated, window, all };
std::pair<std::int64_t, std::int64_t> query_range(const Document& document, QueryRange range, std::int64_t window);

// How many of the prompt's last queries a policy looks at: its parameter "window"; 0: it has none.
std::int64_t policy_window(const Run& run);

}  // namespace kvreplay::gui

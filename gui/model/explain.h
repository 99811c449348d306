// Why a token was kept or evicted: where its score stands in its row, what the score is made of, and what the token alone is
// worth. Symbols as in data/metrics.md.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "gui/model/document.h"
#include "gui/model/run.h"
#include "gui/model/state.h"

namespace kvreplay {
class LayerWorkspace;
}

namespace kvreplay::gui {

enum class Fate : std::uint8_t {
  kept,       // by its score, or because nothing had to go
  in_window,  // kept whatever its score: among the last prompt tokens
  in_sinks,   // kept whatever its score: among the first
  generated,  // came after the prompt ended, and stays
  evicted,
};

// A token in one row (stored head) of one run. Of scores there is what the policy ranked by when the prompt ended.
struct Standing {
  int row = 0;
  Fate fate = Fate::kept;
  std::int32_t evicted_at = -1;  // -1: never; 0: when the prompt ended; s: after decode step s
  bool scored = false;           // the numbers below are there
  float score = 0;
  std::int64_t rank = 0, candidates = 0;  // 1 is the best; of equals the lower position is before
  std::int64_t kept_candidates = 0;       // how many of the scored were kept when the prompt ended
  float cut = 0;                          // the lowest score that was kept then
  bool by_score = true;                   // no token that went had a higher score than one that stayed
  double margin() const { return static_cast<double>(score) - static_cast<double>(cut); }
};
Standing standing_of(const Run& run, int layer, int row, std::int64_t token);

// One number on the way to a score.
struct Term {
  std::string name;     // "odds a / (1 - a)"
  std::string meaning;  // what it is the mean of
  double value = 0;
};

// What the score of a token in one row is made of, as far as the policy's stages say: for policies that score with a window
// of queries (core/policy/stages) every step of the way, for others what their description says alone.
struct ScoreTerms {
  std::string stages;       // of the policy, and what is wrapped around it
  std::vector<Term> terms;  // in the order in which they are computed; empty: not known term by term
  double before_pooling = std::numeric_limits<double>::quiet_NaN();
  // By window query, the oldest first, mean over the row's query heads: [W] each, or empty.
  std::vector<double> attention, error, weight;
  // Scores of the tokens that pooling takes in (an adaptive window may take in more), before and after it: positions
  // [around, around + size).
  std::int64_t around = 0;
  std::vector<double> neighbours_before, neighbours_after;
};
// Throws Error where the trace lacks what the policy scores with.
ScoreTerms score_terms(LayerWorkspace& workspace, const Run& run, int layer, int row, std::int64_t token);

// What removing the token alone from the full cache does to one head, exactly: a / (1 - a) · ‖W_h (o - v)‖.
struct Removal {
  int head = 0;  // query head
  bool recorded = false;
  double attention = 0;                                             // a
  double odds = 0;                                                  // a / (1 - a), 1 - a summed from the others
  double displacement = 0;                                          // ‖W_h (o - v)‖
  double error = 0;                                                 // odds · displacement
  double relative = 0;                                              // the same over ‖W_h o‖
  double mean_relative = std::numeric_limits<double>::quiet_NaN();  // mean of `relative` over the steps that see the token
};
// For the query that `step` stands for (query_position() in gui/model/token_values.h).
struct Removals {
  bool projected = true;  // false: the trace has neither W_o nor its Gram matrices, and W_h is left out
  std::vector<Removal> heads;
};
Removals removals_of(LayerWorkspace& workspace, const Document& document, int layer, const std::vector<int>& heads,
                     std::int64_t token, int step);

}  // namespace kvreplay::gui

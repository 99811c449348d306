// What one query head sees at one decode step with the full cache: all that evaluate() needs of a step whatever the run, and
// what a layer may keep of it for the next runs.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/backend/evaluation.h"
#include "core/base/tensor.h"

namespace kvreplay {

struct FullStep {
  bool recorded = true;                // false: the query is not in the trace, nothing below is meaningful
  std::int64_t low = 0, position = 0;  // visible: [low, position]
  float top = 0;                       // the largest logit
  double total = 0;                    // Σ exp(z - top)
  std::vector<float> exponential;      // [T] exp(z - top)
  std::vector<double> sum;             // [d] Σ exp(z - top) v
  std::vector<double> output;          // [d] o
  std::vector<float> single;           // [T] a / (1 - a) · ‖o - v‖
  std::vector<std::int32_t> rank;      // [T] rank of a, the largest first; beyond the ranks needed: the largest integer
  std::array<double, num_regions> mass{};
  double entropy = 0;
};

// The steps of one layer that are kept between calls of evaluate(), without what has to be ranked or sorted.
struct KeptSteps {
  EvaluationRequest request;                     // what was formed
  std::vector<std::unique_ptr<FullStep>> steps;  // [Hq · S]; null: not kept. A head's are written by one thread at a time
  std::atomic<std::int64_t> bytes{0};
  Tensor<float, 1> projection;  // W_o packed for products (core/kernels/kernels.h), where the trace has it; empty until read

  // Whether they are of use to `wanted`: all that it asks for is there.
  bool serves(const EvaluationRequest& wanted) const {
    return request.outputs >= wanted.outputs && request.regions >= wanted.regions && request.entropy >= wanted.entropy;
  }
};

}  // namespace kvreplay

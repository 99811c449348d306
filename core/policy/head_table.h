// How important each query head of a model is (HeadKV, Fu et al., ICLR 2025): a JSON file, and what makes one from traces.
//
//   {"0-0": [0.12, 0.09], "0-1": [0.4], ...}      layer-head: one number or a list, whose mean counts
//
// This is the format of the tables that the method's authors publish. Keys of any other form, and plain lists of numbers,
// are read in the order of the file: row-major, all heads of layer 0 first.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/policy/layer_workspace.h"

namespace kvreplay {

class HeadTable {
 public:
  // Throws Error that names the file and the key: not readable, not such a table, a number that is negative or not finite.
  static HeadTable read(const std::string& path);

  // [L, Hq] for every layer of the model. Throws Error that names the file and the head when the table is of another shape.
  Tensor<double, 2> importance(const ModelInfo& model) const;

 private:
  std::string path_;
  std::map<std::pair<int, int>, double> named_;  // by layer and head
  std::vector<double> listed_;                   // without names, row-major
};

enum class HeadMeasure : std::uint8_t {
  // The authors' retrieval-reasoning score of one sequence, but for its constant factor 10: at each decode step, of the N
  // keys with the most attention, those inside the marked spans (N tokens together) count with their attention; the
  // sum over steps is divided by N · S.
  retrieval_reasoning,
  // Attention mass on the marked spans, mean over the decode steps.
  mass,
};

// Importance of each query head of a layer, from full-cache attention. Throws Error when the trace has no decode queries.
std::vector<double> measure_heads(LayerWorkspace& layer, const std::vector<TextSpan>& evidence, HeadMeasure measure);

}  // namespace kvreplay

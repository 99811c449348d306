// What a cache held at one moment of the decoding, as a trace of its own: slots instead of positions. A policy that acts
// when a prompt ends can so act again on what is left of the prompt and on the tokens generated since.
#pragma once

#include <memory>
#include <vector>

#include "core/policy/layer_workspace.h"

namespace kvreplay {

// positions[h]: what stored head h holds, ascending; the same number for all. Stored heads are those of `granularity` (query
// heads for query_head, else KV heads; one row stands for all KV heads under layer). The trace's prompt are the slots; the
// query of a slot is each head's own, for the slots whose queries were recorded for every head.
struct RetainedHeads {
  Granularity granularity = Granularity::kv_head;
  int first_head = 0;  // of the stored heads that `positions` is about
  std::vector<std::vector<std::int32_t>> positions;
};
std::unique_ptr<Trace> retained_layer(LayerWorkspace& layer, const RetainedHeads& heads);

}  // namespace kvreplay

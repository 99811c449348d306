// The repeat pass of a trace (data/trace-format.md, /repeat_pass): queries of the model while it repeats the context, and
// what KVzip makes of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/tensor.h"
#include "core/trace/trace.h"

namespace kvreplay {

// The model reads a chunk of the context again, after a request to repeat it, with the whole prompt in the cache.
struct RepeatChunk {
  std::int64_t begin = 0, end = 0;       // positions of the context
  std::int64_t first_row = 0, rows = 0;  // of the queries and keys of the tokens that were read
};

struct RepeatPass {
  std::int64_t context_begin = 0, context_end = 0;  // what is asked for: the prompt without the chat template's head
  std::int64_t rows = 0;
  std::vector<RepeatChunk> chunks;
};

// Throws Error when the trace has none (naming what would write one), or one that contradicts itself or the trace.
RepeatPass read_repeat_pass(const Trace& trace);

// KVzip's score (NVIDIA/kvpress at 8bb29b9) of every prompt position of a layer, [Hk, P]: the largest attention that the
// position receives from any repeating query of its KV head, among the first (at most 4) tokens before the context, its own
// chunk and the repeating tokens so far. The first 4 positions have 1 unless they belong to the context; other positions
// before the context 0; those after it 1.
Tensor<float, 2> repeat_scores(const Trace& trace, const RepeatPass& pass, int layer);

}  // namespace kvreplay

// A second pass for KVzip: with the whole prompt in the cache the model is asked to repeat its context, chunk by chunk, and
// reads each chunk as if it did. Only the queries and keys of that reading are recorded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/model/engine.h"
#include "core/model/tokenizer.h"
#include "core/trace/trace_writer.h"

namespace kvreplay {

struct RepeatRequest {
  std::int64_t context_begin = 0;  // the prompt without what comes before the text (a chat template's head, BOS)
  std::int64_t context_end = 0;    // one past its last token
  std::int64_t chunk = 2048;       // tokens repeated at a time
  // What the model is told, as KVzip's authors do: `first` before the first chunk; before every other one `next` and the
  // last `postfix` tokens of the chunk before; then `suffix`, which ends the user's turn.
  std::vector<std::int32_t> first, next, suffix;
  std::int64_t postfix = 8;

  // With the authors' wording; the suffix is left empty.
  static RepeatRequest with_tokenizer(const Tokenizer& tokenizer);
};

// What the model reads for each chunk of the context.
struct RepeatReading {
  std::int64_t begin = 0, end = 0;  // positions of the chunk
  std::vector<std::int32_t> ids;
};
// prompt: the ids of the prompt. Throws Error when the context is no stretch of it.
std::vector<RepeatReading> repeat_readings(const std::vector<std::int32_t>& prompt, const RepeatRequest& request);

// The bytes that the pass adds to a trace.
std::int64_t repeat_bytes(const std::vector<RepeatReading>& readings, const TraceLayout& layout);
// Reads everything after the first `prompt_length` tokens of the sequence, which has to have room for the longest reading,
// and gives the writer /repeat_pass. The sequence must not be used any more.
void capture_repeat_pass(const Engine& engine, Sequence& sequence, std::int64_t prompt_length, const RepeatRequest& request,
                         const std::vector<RepeatReading>& readings, const TraceLayout& layout, TraceWriter& writer,
                         Job& job);

}  // namespace kvreplay

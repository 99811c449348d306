// A trace seen from another moment of its sequence: the prompt ends elsewhere, and only some prompt queries may score.
//
// What a policy looks at when it evicts decides what an experiment says. Scoring with the context alone is
// question-agnostic; with the question alone is how an assistant that knows the question behaves; scoring on the first
// question and judging on the second is a conversation of several turns. The view makes all of them from one capture, and
// neither policies nor backends know of it: tokens past the new end are decode steps like any others.
//
//   auto spans = select_spans(*trace, {"context"}, "--score");
//   auto view = scoped_trace(*trace, {.prompt_length = end_of(spans), .score = spans});
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

struct TraceScope {
  std::int64_t prompt_length = 0;  // P of the view: 1 to T
  std::vector<TextSpan> score;     // prompt queries outside these are not offered; empty: all are. Later ones always are
};

// `trace` outlives the view. What the file has added up over other queries (attention_column_sum) is not offered where it
// would mean something else. Throws Error when the prompt length is impossible.
std::unique_ptr<Trace> scoped_trace(const Trace& trace, TraceScope scope);

// Marked spans by name: "LABEL" is every span of that label, "LABEL#2" the second one by position. "prompt" and "generated"
// are the trace's own halves where no span has that label. In order of position. Throws Error, with `option` as its place,
// that names the labels there are.
std::vector<TextSpan> select_spans(const Trace& trace, const std::vector<std::string>& names, const std::string& option);

}  // namespace kvreplay

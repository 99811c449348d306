// Reads a text with a model and writes what attention saw to a trace file.
//
//   CaptureRequest request;
//   request.ids = tokenizer->encode(text, true);
//   request.prompt_length = request.ids.size();
//   request.generate = 64;
//   CaptureResult result = capture(engine, tokenizer.get(), request, "t.h5", false, nullptr, job);
//
// The prompt is read in blocks; tokens after it are given (teacher forcing) or the model's own, most likely ones. While it
// goes on, everything is in OUT.partial, committed block by block; a capture that was cut off goes on from there and gives
// the same trace.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/model/engine.h"
#include "core/model/repeat_pass.h"
#include "core/model/tokenizer.h"
#include "core/trace/trace_writer.h"

namespace kvreplay {

// Which tokens' queries, or rows of attention, are recorded.
struct PositionSelection {
  enum class Kind : std::uint8_t {
    none,
    window,  // the last `window` of the prompt, and every token after it
    all
  };
  Kind kind = Kind::all;
  std::int64_t window = 0;

  // "all", "window:32", and "none" where allowed. Throws Error naming the option.
  static PositionSelection parse(const std::string& option, const std::string& text, bool none_allowed);
  std::vector<std::int32_t> positions(std::int64_t prompt_length, std::int64_t tokens) const;
};

struct CaptureRequest {
  std::vector<std::int32_t> ids;       // the prompt, then tokens that are given
  std::int64_t prompt_length = 0;      // at most ids.size()
  std::int64_t generate = 0;           // tokens that the model adds, at most
  std::vector<std::int32_t> stop_ids;  // any of these ends the generation, and is its last token
  PositionSelection queries{PositionSelection::Kind::all, 0};
  PositionSelection attention{PositionSelection::Kind::none, 0};
  ElementType dtype = ElementType::float16;  // of key, value, query, W_o. Attention and head outputs: float32 with float32
  std::vector<int> layers;                   // empty: all
  std::vector<TextSpan> spans;
  std::optional<RepeatRequest> repeat;   // a second pass for KVzip
  std::string prompt_template = "none";  // for the manifest
  std::string command;
};

struct CaptureResult {
  std::int64_t predicted_bytes = 0, bytes = 0;
  std::int64_t resumed_at = 0;  // tokens that the file held already
  std::vector<std::int32_t> generated;
  bool stopped_early = false;
  double prompt_seconds = 0, generation_seconds = 0;  // given tokens count as prompt
};

// tokenizer may be null: the trace then has no texts. Throws Error when the request contradicts itself or the model.
TraceLayout capture_layout(const Engine& engine, const Tokenizer* tokenizer, const CaptureRequest& request);

class CaptureStart {
 public:
  virtual ~CaptureStart() = default;
  virtual void on_start(const TraceLayout& layout, std::int64_t predicted_bytes) = 0;
};

// start (may be null) is told the size before anything is computed. resume: go on with OUT.partial, which must have been
// begun by the same request. A cancelled capture leaves OUT.partial with what is committed.
CaptureResult capture(const Engine& engine, const Tokenizer* tokenizer, const CaptureRequest& request,
                      const std::string& out, bool resume, CaptureStart* start, Job& job);

}  // namespace kvreplay

// Synthetic traces: queries, keys and values of any size without a model, for scale and for tests.
//
// They are drawn from a model of what attention looks like, so that realised attention has the features that eviction
// policies live on, each with a share of the attention mass that is a parameter:
//   sinks          the first tokens draw much of every query's attention and have nearly empty values
//   locality       a query sees what is just before it: cosines of the distance at several frequencies, as RoPE makes them
//   heavy hitters  a few phrases, spread evenly, that every query sees, some tokens more than others
//   focus          tokens belong to topics, in segments; a query sees the topic that is in focus, wherever it was spoken of.
//                  The focus drifts: through eight topics while the prompt is read, `drift` others while generating
//   needle         a marked span that nothing looks for until the question at the end of the prompt, and then, in the
//                  retrieval heads (every second KV head, alternating by layer), draws `needle_mass`
//   near copies    groups of heavy hitters with nearly the same key and value: evicting one costs nothing, evicting all does
//   background     the rest, spread over all tokens
// What a policy keeps follows: H2O the heavy hitters and sinks, but not the needle, which nothing has looked at yet; SnapKV
// and ReST-KV, which ask the question's queries, the needle, too; StreamingLLM sinks and the recent tokens alone.
//
// In formulas. Of the d dimensions, the pairs (m, d/2 + m) for m < d/4 hold position, the others content:
//   key(i)   = sum_m c_m (cos w_m i, sin w_m i) + A_s s_i sink + A_h h_i heavy + A_f c_i topic(i) + A_n n_i needle + noise
//   query(t) = sum_m c_m (cos w_m t, sin w_m t) + B_s sink + B_h heavy + B_f focus(t) + B_n g_t needle + noise
//   value(i) = topic part + needle part + noise of the token (of the group, for near copies)
// sink, heavy and needle are orthogonal unit vectors of one KV head, topics are unit vectors orthogonal to these; s, h, c, n
// are strengths of the token, g_t is 1 from the question on. The amplitudes A (by KV head) and B (by query head) are solved
// for the masses, which vary between heads. Masses hold at the end of the sequence and approximately: earlier queries see
// fewer tokens, so sinks and neighbours take a larger share. Every number depends on the parameters, the seed, layer, head,
// position and dimension alone: blocks and threads change nothing (another vector width may change the last bit).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/base/element_type.h"
#include "core/base/job.h"
#include "core/trace/trace.h"
#include "core/trace/trace_writer.h"

namespace kvreplay {

struct SyntheticParameters {
  // Shape.
  int layers = 8, query_heads = 8, kv_heads = 2;
  int head_dim = 64;                         // even, at least 8
  int hidden_size = 0;                       // C; 0: query_heads * head_dim
  std::int64_t prompt = 4096, decode = 64;   // P and S
  std::optional<std::int64_t> query_window;  // queries recorded at the end of the prompt; empty: all
  ElementType type = ElementType::float16;
  std::uint64_t seed = 0;

  // Mean shares of the attention of the last query; what is left of 1 is background.
  double sink_mass = 0.3, local_mass = 0.2, heavy_mass = 0.15, focus_mass = 0.2;
  int sinks = 4;               // tokens
  double heavy_share = 0.02;   // of the tokens
  int topics = 16;             // at least 2
  std::int64_t segment = 64;   // tokens of one topic, on average
  int drift = 3;               // topics that the focus moves through while generating
  std::int64_t needle = 8;     // tokens; 0: none
  double needle_depth = 0.5;   // of the prompt, 0 to 1
  double needle_mass = 0.5;    // of the attention of queries that look for it, in retrieval heads
  std::int64_t question = 16;  // last tokens of the prompt, which look for the needle
  int copy_groups = 4;         // groups of near copies
  int copies = 4;              // tokens in each group

  // W_o, whole or as the Gram matrix of each head's block, which is enough for reconstruction scores. Its elements are
  // normal with variance 1 / (query_heads * head_dim).
  enum class OutputProjection : std::uint8_t { full, gram, none };
  OutputProjection output_projection = OutputProjection::full;
  // log_sum_exp, attention_column_sum and head_output, computed from the stored values: Hq * T * T * d operations a layer.
  bool attention_statistics = false;
};

// Throws Error naming the parameter and what is allowed.
void check(const SyntheticParameters& parameters);

// What the file will hold; TraceWriter::predicted_size(layout) is its size in bytes.
TraceLayout synthetic_layout(const SyntheticParameters& parameters);

// Writes a trace block by block. Memory: a block of 256 tokens of one layer, and one layer's W_o; with attention statistics
// one layer's keys, values and queries. command: the command line, for provenance; may be empty. on_start: called once the
// file could be created, with the size that it will have.
void write_synthetic(const std::string& path, const SyntheticParameters& parameters, Job& job,
                     const std::string& command = {},
                     const std::function<void(std::int64_t predicted_bytes)>& on_start = {});

// The same trace in memory: the same numbers as read from the file.
std::unique_ptr<Trace> make_synthetic(const SyntheticParameters& parameters);

}  // namespace kvreplay

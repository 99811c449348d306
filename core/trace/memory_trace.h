// A trace without a file: for tests and for synthetic use. The same rules hold as for a file.
//
//   MemoryTraceContents contents;
//   contents.model = ...; contents.prompt_length = 4; contents.token_ids = {...}; contents.layers = {0};
//   contents.query_positions = {0, 1, 2, 3, 4};
//   contents.tensors[{0, LayerDataset::key}] = key;        // [Hk, T, d]
//   auto trace = make_memory_trace(std::move(contents));
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

struct MemoryTraceContents {
  std::string path = "<memory>";
  ModelInfo model;
  std::int64_t prompt_length = 0;
  std::vector<std::int32_t> token_ids;  // [T]
  std::vector<int> layers;              // ascending; all of the model when empty
  std::vector<int> sliding_window;      // per entry of `layers`; empty: none
  std::vector<std::int32_t> query_positions, attention_positions;
  std::vector<TextSpan> spans;
  std::vector<std::string> token_texts;  // [T] or empty
  std::vector<float> nll;                // [T] or empty
  std::string manifest;
  ElementType type = ElementType::float32;  // what type() answers; values are kept as float32
  bool complete = true;
  // Text positions of the slots, by KV head (one row: all heads alike); empty: slot = position.
  std::vector<std::vector<std::int32_t>> key_positions;
  // By the model's layer index. Shapes as in LayerDataset: [heads, rows, columns].
  std::map<std::pair<int, LayerDataset>, Tensor<float, 3>> tensors;
  // Extensions: datasets by path ("/repeat_pass/000/query"), attributes by path and name.
  std::map<std::string, Tensor<float, 3>> extensions;
  std::map<std::pair<std::string, std::string>, std::string> extension_texts;
};

// Throws Error when a shape contradicts the model, or key, value or query of a layer is missing.
std::unique_ptr<Trace> make_memory_trace(MemoryTraceContents contents);

// The shape that a dataset has in a trace with this model and these numbers of tokens and recorded queries.
std::array<std::int64_t, 3> expected_shape(const ModelInfo& model, LayerDataset which, std::int64_t tokens,
                                           std::int64_t queries, std::int64_t attention_queries);

}  // namespace kvreplay

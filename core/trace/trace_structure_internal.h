// Everything about a trace file but its tensors, with every shape and attribute checked against the others. The same
// rules serve open_trace (the first problem is thrown) and `kvreplay validate` (all are listed). Internal to core/trace.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/trace/source_internal.h"
#include "core/trace/trace.h"
#include "core/trace/validate.h"

namespace kvreplay {

constexpr std::array<LayerDataset, 9> all_layer_datasets = {
    LayerDataset::key,         LayerDataset::value,     LayerDataset::query,       LayerDataset::output_projection,
    LayerDataset::output_gram, LayerDataset::attention, LayerDataset::log_sum_exp, LayerDataset::attention_column_sum,
    LayerDataset::head_output};

// One dataset of one layer as it lies in the file. `shape` is [heads, rows, columns] of what may be believed, which in a
// capture that was cut off is less than info.shape.
struct StoredTensor {
  std::string node;
  ElementType type = ElementType::float32;
  std::array<std::int64_t, 3> shape{};
  DatasetInfo info;
};

struct LayerStructure {
  int layer = 0;
  int sliding_window = 0;
  std::array<std::optional<StoredTensor>, all_layer_datasets.size()> tensors;
};

struct TraceStructure {
  ModelInfo model;
  std::int64_t tokens = 0;       // what is committed
  std::int64_t file_tokens = 0;  // T of the datasets
  std::int64_t prompt_length = 0;
  std::int64_t file_prompt_length = 0;  // before a cut made it shorter
  bool complete = false;
  bool nothing_committed = false;  // a capture that was cut off before its first commit
  std::vector<LayerStructure> layers;
  std::vector<std::int32_t> token_ids, query_positions, attention_positions;
  std::vector<TextSpan> spans;
  bool has_text = false, has_nll = false;
  std::string manifest, created_by, created_utc, command;
};

TraceStructure read_trace_structure(const Source& source, Problems& problems);

// What would produce a missing dataset: the remedy of an error about it.
std::string produced_by(LayerDataset which);

std::string layer_node(int layer);                              // "/layers/007"
std::string layer_dataset_node(int layer, LayerDataset which);  // "/layers/007/key"

}  // namespace kvreplay

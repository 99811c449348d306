// How the datasets of a trace lie in the file: shapes, chunks, and how many bytes that makes. Internal to core/trace.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/trace/trace_writer.h"

namespace kvreplay {

// A dataset that is written in whole chunks. In memory it is [outer, rows, inner]; `rows` is the axis that grows.
struct ChunkedDataset {
  enum class Axes : std::uint8_t {
    outer_rows_inner,  // [outer, rows, inner]
    outer_rows,        // [outer, rows]; inner is 1
    rows_inner,        // [rows, inner]; outer is 1
    rows               // [rows]
  };
  std::string node;
  Axes axes = Axes::rows;
  std::int64_t outer = 1, rows = 0, inner = 1;
  std::int64_t outer_chunk = 1, rows_chunk = 1;
  std::int64_t element_bytes = 4;
  enum class Content : std::uint8_t { tensor, bytes, int32, int64 } content = Content::tensor;
  ElementType type = ElementType::float32;  // of a tensor
  int layer = -1;
  std::optional<LayerDataset> which;

  std::int64_t chunk_bytes() const { return outer_chunk * rows_chunk * inner * element_bytes; }
  std::int64_t outer_chunks() const { return outer / outer_chunk; }
  std::int64_t row_chunks() const { return (rows + rows_chunk - 1) / rows_chunk; }
  std::int64_t chunks() const { return outer_chunks() * row_chunks(); }
  // Written in one go (output_projection, attention_column_sum), not row by row.
  bool whole() const { return axes == Axes::rows_inner || which == LayerDataset::output_gram; }
  // The axis of shape() that `rows` is.
  std::size_t row_axis() const { return axes == Axes::outer_rows_inner || axes == Axes::outer_rows ? 1 : 0; }
  std::vector<std::int64_t> shape() const;
  std::vector<std::int64_t> chunk() const;
  // Where the chunk begins, in the dataset's own axes.
  std::vector<std::int64_t> chunk_offset(std::int64_t outer_index, std::int64_t row_index) const;
};

// Throws Error naming what contradicts what. Returns the layout with `layers` filled in.
TraceLayout checked_layout(const std::string& path, TraceLayout layout);

// All datasets that a capture with this (checked) layout writes, in the order of the file.
std::vector<ChunkedDataset> datasets_of(const TraceLayout& layout);

// How many of `positions` lie below `tokens`.
std::int64_t positions_below(const std::vector<std::int32_t>& positions, std::int64_t tokens);

}  // namespace kvreplay

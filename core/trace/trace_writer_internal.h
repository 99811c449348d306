// The state of a TraceWriter. Internal to core/trace: appending and committing are in trace_writer_state.cpp, the end
// of a capture in trace_writer_finish.cpp, going on after a cut in trace_writer_resume.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/trace/hdf5_internal.h"
#include "core/trace/trace_layout_internal.h"
#include "core/trace/trace_writer.h"

namespace kvreplay {

// One dataset while it is being written. What does not fill a chunk yet waits in `staging`.
struct OpenDataset {
  ChunkedDataset shape;
  hdf5::Dataset id, checksums;
  std::vector<std::byte> staging;  // [outer, rows_chunk, inner]; empty while nothing waits
  std::int64_t appended = 0;       // rows, from the first
  bool staged = false;             // staging holds rows that the file does not
  bool unflushed = false;
  std::vector<std::uint32_t> crc;

  std::int64_t in_staging() const { return appended % shape.rows_chunk; }
};

struct TraceWriter::State {
  std::string path;     // of the finished file
  std::string partial;  // of the file while it is being written
  TraceLayout layout;
  hdf5::File file;
  hdf5::Dataset committed_id;
  std::vector<OpenDataset> datasets;
  std::map<std::pair<int, LayerDataset>, std::size_t> by_layer;
  std::map<std::string, std::size_t> by_node;
  std::int64_t committed = 0;
  std::int64_t text_written = 0;  // bytes
  std::vector<std::pair<std::string, Tensor<float, 3>>> extensions;
  struct ExtensionText {
    std::string node, attribute, text;
  };
  std::vector<ExtensionText> extension_texts;
  bool finished = false;
  // A write did not succeed: from then on nothing more goes into the file, so that it stays as it was.
  bool write_failed = false;

  ~State();
  void abandon_file();
  // hdf5::check for what writes.
  void check_write(herr_t status, const std::string& at);
  std::string where(const OpenDataset& d) const { return partial + ":" + d.shape.node; }
  OpenDataset& find(const std::string& node) { return datasets[by_node.at(node)]; }
  OpenDataset& find(int layer, LayerDataset which);

  hdf5::Dataset open_for_writing(const std::string& node) const;
  void open_datasets();
  void close_file();
  void start_single_writer();

  // Puts `count` rows of one outer index, from row `first` of the call, at `target`.
  using CopyRows = std::function<void(std::int64_t outer, std::int64_t first, std::int64_t count, std::byte* target)>;
  // Takes `count` rows piece by piece and writes each chunk that is full.
  void append_rows(OpenDataset& d, std::int64_t count, const CopyRows& copy);
  void write_staging(OpenDataset& d, std::int64_t row_chunk);
  void flush(OpenDataset& d);
  void write_mark(std::int64_t tokens);

  // Rows that a dataset must hold once `tokens` tokens are committed.
  std::int64_t rows_for(const ChunkedDataset& d, std::int64_t tokens) const;
  void check_appended(std::int64_t tokens) const;
  void check_whole() const;

  // The end of a capture.
  void settle(std::int64_t tokens);
  void mark_complete();
  void write_extensions();
  void shrink(std::int64_t tokens);
  void shrink_dataset(const ChunkedDataset& shape, const std::vector<std::int64_t>& wanted);
  void rewrite_list(const std::string& node, hid_t type, std::size_t count, const void* values);
  void shrink_list(const char* node, const std::vector<std::int32_t>& values, std::int64_t tokens);
  void shrink_spans(std::int64_t tokens);

  // Going on after a cut: reads back what waits in the last, partly filled chunks.
  void restore(std::int64_t tokens);
  void restore_dataset(OpenDataset& d, std::int64_t tokens);
};

void check_free_space(const std::string& path, std::int64_t bytes);

}  // namespace kvreplay

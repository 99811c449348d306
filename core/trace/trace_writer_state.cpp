// Writes traces so that a kill at any moment loses nothing that was committed: single-writer mode, whole chunks, flush,
// then the committed count. (Found by 2,050 kills without a loss; HDF5's filters and plain flushing both lose data.)
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/trace_structure_internal.h"
#include "core/trace/trace_writer_internal.h"

namespace kvreplay {

TraceWriter::State::~State() {
  try {
    const hdf5::Guard guard;
    const bool opened = file.valid();
    if (write_failed) abandon_file();
    close_file();
    // A file without a single committed token is of no use to anybody.
    if (opened && !finished && committed == 0) std::filesystem::remove(partial);
  } catch (const std::exception&) {
    // What was committed is in the file; there is nobody to tell.
  }
}

// Closing would write what HDF5 still has in memory, and on a full disk leave a file whose parts contradict each other.
// What is in the file now is what a kill would have left: complete up to the mark. So HDF5 gets to write somewhere else.
void TraceWriter::State::abandon_file() {
  void* handle = nullptr;
  if (!file.valid() || H5Fget_vfd_handle(file, H5P_DEFAULT, &handle) < 0 || handle == nullptr) return;
  const int elsewhere = memfd_create("abandoned", MFD_CLOEXEC);
  if (elsewhere < 0) return;
  dup2(elsewhere, *static_cast<const int*>(handle));
  close(elsewhere);
}

void TraceWriter::State::check_write(herr_t status, const std::string& at) {
  if (status >= 0) return;
  write_failed = true;
  hdf5::fail(at, "cannot be written",
             committed == 0 ? "" : "the " + std::to_string(committed) + " tokens committed so far are safe in " + partial);
}

void TraceWriter::State::close_file() {
  datasets.clear();
  committed_id.reset();
  file.reset();
}

hdf5::Dataset TraceWriter::State::open_for_writing(const std::string& node) const {
  // No chunk cache: whole chunks go straight to the file.
  const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access, 1, 0, 0.75);
  return hdf5::Dataset(hdf5::check_id(H5Dopen2(file, node.c_str(), access), partial + ":" + node, "cannot be opened"));
}

void TraceWriter::State::open_datasets() {
  for (auto& shape : datasets_of(layout)) {
    OpenDataset d;
    d.id = open_for_writing(shape.node);
    d.checksums = open_for_writing(checksum_node(shape.node));
    d.crc.resize(static_cast<std::size_t>(shape.chunks()));
    if (shape.which) by_layer[{shape.layer, *shape.which}] = datasets.size();
    by_node[shape.node] = datasets.size();
    d.shape = std::move(shape);
    datasets.push_back(std::move(d));
  }
  committed_id = open_for_writing("/committed_tokens");
}

void TraceWriter::State::start_single_writer() {
  hdf5::check(H5Fstart_swmr_write(file), partial, "cannot be opened for single-writer writing");
}

OpenDataset& TraceWriter::State::find(int layer, LayerDataset which) {
  const auto found = by_layer.find({layer, which});
  if (found == by_layer.end())
    throw Error(partial + ":" + layer_dataset_node(layer, which), "is not in the layout of this capture");
  return datasets[found->second];
}

void TraceWriter::State::append_rows(OpenDataset& d, std::int64_t count, const CopyRows& copy) {
  const ChunkedDataset& s = d.shape;
  if (d.appended + count > s.rows)
    throw Error(where(d),
                "was given " + std::to_string(d.appended + count) + " rows where the layout has " + std::to_string(s.rows));
  const std::int64_t row_bytes = s.inner * s.element_bytes;
  for (std::int64_t done = 0; done < count;) {
    if (d.staging.empty()) d.staging.resize(static_cast<std::size_t>(s.outer * s.rows_chunk * row_bytes));
    const std::int64_t at = d.in_staging();
    const std::int64_t n = std::min(count - done, s.rows_chunk - at);
    parallel_for(s.outer, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) copy(o, done, n, d.staging.data() + (o * s.rows_chunk + at) * row_bytes);
    });
    d.appended += n;
    d.staged = true;
    done += n;
    if (d.in_staging() == 0) write_staging(d, (d.appended - 1) / s.rows_chunk);
  }
}

// Writes the chunks that begin at row `row_chunk` * rows_chunk, padded with zeros where they are not full yet.
void TraceWriter::State::write_staging(OpenDataset& d, std::int64_t row_chunk) {
  const ChunkedDataset& s = d.shape;
  const auto bytes = static_cast<std::size_t>(s.chunk_bytes());
  const hdf5::Guard guard;
  for (std::int64_t o = 0; o < s.outer_chunks(); ++o) {
    const std::byte* chunk = d.staging.data() + static_cast<std::size_t>(o) * bytes;
    const auto offset = s.chunk_offset(o, row_chunk);
    const std::vector<hsize_t> at(offset.begin(), offset.end());
    check_write(H5Dwrite_chunk(d.id, H5P_DEFAULT, 0, at.data(), bytes, chunk), where(d));
    d.crc[static_cast<std::size_t>(o * s.row_chunks() + row_chunk)] = crc32c(chunk, bytes);
  }
  d.staged = false;
  d.unflushed = true;
  if (d.in_staging() != 0) return;
  d.staging.clear();
  d.staging.shrink_to_fit();
}

void TraceWriter::State::flush(OpenDataset& d) {
  if (d.staged) write_staging(d, (d.appended - 1) / d.shape.rows_chunk);
  if (!d.unflushed) return;
  check_write(H5Dwrite(d.checksums, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, d.crc.data()), where(d));
  check_write(H5Dflush(d.id), where(d));
  check_write(H5Dflush(d.checksums), where(d));
  d.unflushed = false;
}

void TraceWriter::State::write_mark(std::int64_t tokens) {
  check_write(H5Dwrite(committed_id, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &tokens), partial);
  check_write(H5Dflush(committed_id), partial);
  committed = tokens;
}

std::int64_t TraceWriter::State::rows_for(const ChunkedDataset& d, std::int64_t tokens) const {
  if (!d.which) {
    if (d.node == "/tokens/text") return 0;
    return d.node == "/tokens/text_offsets" ? tokens + 1 : tokens;
  }
  switch (*d.which) {
    case LayerDataset::key:
    case LayerDataset::value: return tokens;
    case LayerDataset::query:
    case LayerDataset::log_sum_exp:
    case LayerDataset::head_output: return positions_below(layout.query_positions, tokens);
    case LayerDataset::attention: return positions_below(layout.attention_positions, tokens);
    default: return 0;
  }
}

void TraceWriter::State::check_appended(std::int64_t tokens) const {
  for (const auto& d : datasets) {
    const std::int64_t wanted = rows_for(d.shape, tokens);
    if (d.appended < wanted)
      throw Error(where(d),
                  "has " + std::to_string(d.appended) + " rows, too few to commit " + std::to_string(tokens) + " tokens");
  }
}

void TraceWriter::State::check_whole() const {
  for (const auto& d : datasets)
    if (d.shape.whole() && d.appended < d.shape.rows)
      throw Error(where(d), "was never written", "the capture has to write it before it finishes");
}

}  // namespace kvreplay

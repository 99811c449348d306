// Writes traces so that a kill at any moment loses nothing that was committed: single-writer mode, whole chunks, flush,
// then the committed count. (Found by 2,050 kills without a loss; HDF5's filters and plain flushing both lose data.)
#include "core/trace/trace_writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/identity.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace_layout_internal.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

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

std::string partial_path(const std::string& path) { return path + ".partial"; }

void check_free_space(const std::string& path, std::int64_t bytes) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  struct statvfs status {};
  if (statvfs(folder.c_str(), &status) != 0) throw Error(folder.string(), std::strerror(errno), "give a folder that exists");
  const auto free = static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize);
  if (static_cast<double>(bytes) > free)
    throw Error(path,
                "needs " + format_bytes(static_cast<double>(bytes)) + ", and its disk has " + format_bytes(free) + " free",
                "capture fewer layers or tokens, or with --queries window:W or --attention none");
}

void synchronise(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error(path, std::strerror(errno));
  const int status = fdatasync(fd);
  const int code = errno;
  close(fd);
  if (status != 0) throw Error(path, std::string("cannot be written to disk: ") + std::strerror(code));
}

hdf5::Dataset open_for_writing(hid_t file, const std::string& where, const std::string& node) {
  // No chunk cache: whole chunks go straight to the file.
  const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access, 1, 0, 0.75);
  return hdf5::Dataset(hdf5::check_id(H5Dopen2(file, node.c_str(), access), where + ":" + node, "cannot be opened"));
}

}  // namespace

struct TraceWriter::State {
  std::string path;  // of the finished file
  std::string partial;
  TraceLayout layout;
  hdf5::File file;
  hdf5::Dataset committed_id;
  std::vector<OpenDataset> datasets;
  std::map<std::pair<int, LayerDataset>, std::size_t> by_layer;
  std::map<std::string, std::size_t> by_node;
  std::int64_t committed = 0;
  std::int64_t text_written = 0;
  bool finished = false;

  ~State() {
    try {
      const hdf5::Guard guard;
      const bool opened = file.valid();
      close_file();
      if (opened && !finished && committed == 0) std::filesystem::remove(partial);
    } catch (const std::exception&) {
      // What was committed is in the file; there is nobody to tell.
    }
  }

  void close_file() {
    datasets.clear();
    committed_id.reset();
    file.reset();
  }

  void open_datasets() {
    for (auto& shape : datasets_of(layout)) {
      OpenDataset d;
      d.id = open_for_writing(file, partial, shape.node);
      d.checksums = open_for_writing(file, partial, checksum_node(shape.node));
      d.crc.resize(static_cast<std::size_t>(shape.chunks()));
      if (shape.which) by_layer[{shape.layer, *shape.which}] = datasets.size();
      by_node[shape.node] = datasets.size();
      d.shape = std::move(shape);
      datasets.push_back(std::move(d));
    }
    committed_id = open_for_writing(file, partial, "/committed_tokens");
  }

  void start() { hdf5::check(H5Fstart_swmr_write(file), partial, "cannot be opened for single-writer writing"); }

  OpenDataset& find(const std::string& node) { return datasets[by_node.at(node)]; }
  OpenDataset& find(int layer, LayerDataset which) {
    const auto found = by_layer.find({layer, which});
    if (found == by_layer.end())
      throw Error(partial + ":" + layer_dataset_node(layer, which), "is not in the layout of this capture");
    return datasets[found->second];
  }
  std::string where(const OpenDataset& d) const { return partial + ":" + d.shape.node; }

  // Takes `count` rows that `copy(outer, first, n, target)` delivers piece by piece, and writes each chunk that is full.
  template <class Copy>
  void append_rows(OpenDataset& d, std::int64_t count, const Copy& copy) {
    const ChunkedDataset& s = d.shape;
    if (d.appended + count > s.rows)
      throw Error(where(d),
                  "was given " + std::to_string(d.appended + count) + " rows for a capture of " + std::to_string(s.rows));
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

  // Writes the chunks of row chunk `index`, padded with zeros where they are not full yet.
  void write_staging(OpenDataset& d, std::int64_t index) {
    const ChunkedDataset& s = d.shape;
    const auto bytes = static_cast<std::size_t>(s.chunk_bytes());
    const bool full = d.in_staging() == 0;
    const hdf5::Guard guard;
    for (std::int64_t o = 0; o < s.outer_chunks(); ++o) {
      const std::byte* chunk = d.staging.data() + static_cast<std::size_t>(o) * bytes;
      const auto offset = s.chunk_offset(o, index);
      const std::vector<hsize_t> at(offset.begin(), offset.end());
      if (H5Dwrite_chunk(d.id, H5P_DEFAULT, 0, at.data(), bytes, chunk) < 0)
        hdf5::fail(where(d), "cannot be written",
                   "what was committed (" + std::to_string(committed) + " tokens) is safe in " + partial);
      d.crc[static_cast<std::size_t>(o * s.row_chunks() + index)] = crc32c(chunk, bytes);
    }
    d.staged = false;
    d.unflushed = true;
    if (full) {
      d.staging.clear();
      d.staging.shrink_to_fit();
    }
  }

  void flush(OpenDataset& d) {
    if (d.staged) write_staging(d, (d.appended - 1) / d.shape.rows_chunk);
    if (!d.unflushed) return;
    hdf5::check(H5Dwrite(d.checksums, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, d.crc.data()), where(d),
                "cannot be written");
    hdf5::check(H5Dflush(d.id), where(d), "cannot be written");
    hdf5::check(H5Dflush(d.checksums), where(d), "cannot be written");
    d.unflushed = false;
  }

  void write_mark(std::int64_t tokens) {
    hdf5::check(H5Dwrite(committed_id, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &tokens), partial,
                "cannot be written");
    hdf5::check(H5Dflush(committed_id), partial, "cannot be written");
    committed = tokens;
  }

  // Rows that a dataset must hold once `tokens` tokens are committed.
  std::int64_t rows_for(const OpenDataset& d, std::int64_t tokens) const {
    if (!d.shape.which) {
      if (d.shape.node == "/tokens/text") return 0;
      return d.shape.node == "/tokens/text_offsets" ? tokens + 1 : tokens;
    }
    switch (*d.shape.which) {
      case LayerDataset::key:
      case LayerDataset::value: return tokens;
      case LayerDataset::query:
      case LayerDataset::log_sum_exp:
      case LayerDataset::head_output: return positions_below(layout.query_positions, tokens);
      case LayerDataset::attention: return positions_below(layout.attention_positions, tokens);
      default: return 0;
    }
  }

  void check_appended(std::int64_t tokens) const {
    for (const auto& d : datasets) {
      const std::int64_t wanted = rows_for(d, tokens);
      if (d.appended < wanted)
        throw Error(where(d),
                    "has " + std::to_string(d.appended) + " rows, too few to commit " + std::to_string(tokens) + " tokens");
    }
  }

  void check_whole() const {
    for (const auto& d : datasets) {
      const bool whole = d.shape.which && (*d.shape.which == LayerDataset::output_projection ||
                                           *d.shape.which == LayerDataset::attention_column_sum);
      if (whole && d.appended < d.shape.rows)
        throw Error(where(d), "was never written", "the capture has to write it before it finishes");
    }
  }

  // ---- the end ----
  // Out of single-writer mode: sizes, checksums and `complete` are settled with the file opened the ordinary way.
  void settle(std::int64_t tokens) {
    close_file();
    const hdf5::Properties access = hdf5::file_access();
    file = hdf5::File(hdf5::check_id(H5Fopen(partial.c_str(), H5F_ACC_RDWR, access), partial, "cannot be reopened"));
    if (tokens < layout.tokens || (layout.text_bytes >= 0 && text_written < std::max<std::int64_t>(1, layout.text_bytes)))
      shrink(tokens);
    const hdf5::Group root(hdf5::check_id(H5Gopen2(file, "/", H5P_DEFAULT), partial, "cannot be opened"));
    hdf5::write_attribute(root, partial, "complete", 1);
    hdf5::check(H5Fflush(file, H5F_SCOPE_GLOBAL), partial, "cannot be written");
    if (file.reset() < 0) hdf5::fail(partial, "cannot be closed");
  }

  void shrink(std::int64_t tokens) {
    for (const auto& shape : datasets_of(layout)) {
      std::vector<std::int64_t> wanted = shape.shape();
      const std::size_t row_axis =
          shape.axes == ChunkedDataset::Axes::outer_rows_inner || shape.axes == ChunkedDataset::Axes::outer_rows ? 1 : 0;
      if (shape.node == "/tokens/text") {
        wanted[0] = text_written;
      } else if (!shape.which) {
        wanted[0] = shape.node == "/tokens/text_offsets" ? tokens + 1 : tokens;
      } else if (*shape.which == LayerDataset::attention_column_sum) {
        wanted[1] = tokens;
      } else if (*shape.which != LayerDataset::output_projection) {
        OpenDataset probe;
        probe.shape = shape;
        wanted[row_axis] = rows_for(probe, tokens);
        if (*shape.which == LayerDataset::attention) wanted[2] = tokens;
      }
      if (wanted != shape.shape()) shrink_dataset(shape, wanted);
    }
    shrink_list("/queries/positions", positions_below(layout.query_positions, tokens), layout.query_positions);
    if (!layout.attention_positions.empty())
      shrink_list("/queries/attention_positions", positions_below(layout.attention_positions, tokens),
                  layout.attention_positions);
    shrink_spans(tokens);
    committed_id = open_for_writing(file, partial, "/committed_tokens");
    hdf5::check(H5Dwrite(committed_id, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &tokens), partial,
                "cannot be written");
    committed_id.reset();
  }

  void shrink_dataset(const ChunkedDataset& shape, const std::vector<std::int64_t>& wanted) {
    const std::string at = partial + ":" + shape.node;
    const std::vector<hsize_t> dims(wanted.begin(), wanted.end());
    {
      const hdf5::Dataset id = open_for_writing(file, partial, shape.node);
      hdf5::check(H5Dset_extent(id, dims.data()), at, "cannot be made smaller");
      hdf5::check(H5Dflush(id), at, "cannot be written");
    }
    // Cutting a chunk changes its stored bytes, and there may be fewer of them.
    std::vector<std::uint32_t> crc;
    const hdf5::Dataset id = open_for_writing(file, partial, shape.node);
    const auto chunk = shape.chunk();
    std::vector<hsize_t> counts, index(wanted.size(), 0);
    hsize_t total = 1;
    for (std::size_t a = 0; a < wanted.size(); ++a) {
      counts.push_back(static_cast<hsize_t>((wanted[a] + chunk[a] - 1) / chunk[a]));
      total *= counts.back();
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(shape.chunk_bytes()));
    for (hsize_t i = 0; i < total; ++i) {
      hsize_t rest = i;
      for (std::size_t a = wanted.size(); a-- > 0;) {
        index[a] = rest % counts[a] * static_cast<hsize_t>(chunk[a]);
        rest /= counts[a];
      }
      std::uint32_t mask = 0;
      hdf5::check(H5Dread_chunk(id, H5P_DEFAULT, index.data(), &mask, bytes.data()), at, "cannot be read back");
      crc.push_back(crc32c(bytes.data(), bytes.size()));
    }
    replace_dataset(checksum_node(shape.node), H5T_STD_U32LE, crc.size(), crc.data());
  }

  void replace_dataset(const std::string& node, hid_t type, std::size_t count, const void* values) {
    hdf5::check(H5Ldelete(file, node.c_str(), H5P_DEFAULT), partial + ":" + node, "cannot be replaced");
    hdf5::write_dataset(file, partial + ":" + node, node.c_str(), type, {count}, values);
  }

  void shrink_list(const char* node, std::int64_t count, const std::vector<std::int32_t>& values) {
    if (count < static_cast<std::int64_t>(values.size()))
      replace_dataset(node, H5T_STD_I32LE, static_cast<std::size_t>(count), values.data());
  }

  void shrink_spans(std::int64_t tokens) {
    std::vector<TextSpan> kept;
    for (TextSpan span : layout.spans) {
      span.end = static_cast<int>(std::min<std::int64_t>(span.end, tokens));
      if (span.start < span.end) kept.push_back(span);
    }
    const bool changed = kept.size() != layout.spans.size() ||
                         !std::equal(kept.begin(), kept.end(), layout.spans.begin(),
                                     [](const TextSpan& a, const TextSpan& b) { return a.end == b.end; });
    if (!changed) return;
    for (const char* node : {"/tokens/span_start", "/tokens/span_end", "/tokens/span_label"})
      hdf5::check(H5Ldelete(file, node, H5P_DEFAULT), partial, "spans cannot be replaced");
    write_spans(file, partial, kept);
  }
};

namespace {

hdf5::File create_file(const std::string& path) {
  const hdf5::Properties access = hdf5::file_access();
  hdf5::File file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
  if (!file.valid()) {
    const std::string why = hdf5::reason();
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    const int code = errno;
    if (fd >= 0) close(fd);
    throw Error(path, fd < 0 ? std::string("cannot be created: ") + std::strerror(code) : "cannot be created (" + why + ")",
                "give --out a folder that can be written to");
  }
  return file;
}

// A capture that was cut off is not thrown away by accident; one that committed nothing is.
void refuse_to_overwrite(const std::string& partial) {
  if (access(partial.c_str(), F_OK) != 0) return;
  std::int64_t tokens = 0;
  try {
    Problems problems;
    tokens = read_trace_structure(*open_source(partial, Trust::automatic), problems).tokens;
    if (!problems.empty()) tokens = 0;
  } catch (const Error&) {
    return;
  }
  if (tokens > 0)
    throw Error(partial, "holds " + std::to_string(tokens) + " tokens of a capture that was cut off",
                "go on with --resume, or remove it to start again");
}

}  // namespace

TraceWriter::TraceWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TraceWriter::TraceWriter(TraceWriter&&) noexcept = default;
TraceWriter& TraceWriter::operator=(TraceWriter&&) noexcept = default;
TraceWriter::~TraceWriter() = default;

std::int64_t TraceWriter::predicted_size(const TraceLayout& layout) {
  const hdf5::Guard guard;
  const TraceLayout full = checked_layout("trace", layout);
  std::int64_t bytes = skeleton_size(full);
  for (const auto& d : datasets_of(full)) bytes += d.chunks() * d.chunk_bytes() + index_size(d);
  return bytes;
}

TraceWriter TraceWriter::create(const std::string& path, const TraceLayout& layout) {
  auto state = std::make_unique<State>();
  state->layout = checked_layout(path, layout);
  state->path = path;
  state->partial = partial_path(path);
  if (std::filesystem::is_directory(path)) throw Error(path, "is a directory", "give --out a file name");
  check_free_space(path, predicted_size(layout));
  refuse_to_overwrite(state->partial);
  const hdf5::Guard guard;
  state->file = create_file(state->partial);
  write_skeleton(state->file, state->partial, state->layout);
  state->open_datasets();
  state->start();
  TraceWriter writer(std::move(state));
  if (writer.state_->layout.text_bytes >= 0) {
    const std::int64_t zero = 0;
    writer.state_->append_rows(
        writer.state_->find("/tokens/text_offsets"), 1,
        [&](std::int64_t, std::int64_t, std::int64_t, std::byte* target) { std::memcpy(target, &zero, 8); });
  }
  return writer;
}

TraceWriter TraceWriter::resume(const std::string& path, const TraceLayout&) {
  throw Error(path, "resuming is not there yet");
}

std::int64_t TraceWriter::committed() const { return state_->committed; }

void TraceWriter::append_tokens(std::int64_t first, std::span<const std::int32_t> ids, std::span<const float> nll,
                                const std::vector<std::string>& texts) {
  State& s = *state_;
  OpenDataset& stored_ids = s.find("/tokens/ids");
  if (first != stored_ids.appended)
    throw Error(s.partial, "tokens from " + std::to_string(first) + " were given where " +
                               std::to_string(stored_ids.appended) + " come next");
  if (!texts.empty() && texts.size() != ids.size()) throw Error(s.partial, "needs one text a token");
  if (!nll.empty() && nll.size() != ids.size()) throw Error(s.partial, "needs one negative log-likelihood a token");
  const auto count = static_cast<std::int64_t>(ids.size());
  const auto raw = [](const auto& values) {
    return [&values](std::int64_t, std::int64_t from, std::int64_t n, std::byte* target) {
      using Value = std::remove_cvref_t<decltype(values[0])>;
      std::memcpy(target, &values[static_cast<std::size_t>(from)], static_cast<std::size_t>(n) * sizeof(Value));
    };
  };
  s.append_rows(stored_ids, count, raw(ids));
  if (s.layout.nll) {
    if (nll.empty() && count > 0) throw Error(s.partial, "needs negative log-likelihoods");
    s.append_rows(s.find("/tokens/nll"), count, raw(nll));
  }
  if (s.layout.text_bytes < 0) return;
  if (texts.empty() && count > 0) throw Error(s.partial, "needs the texts of the tokens");
  std::string bytes;
  std::vector<std::int64_t> ends;
  for (const auto& text : texts) {
    bytes += text;
    ends.push_back(s.text_written + static_cast<std::int64_t>(bytes.size()));
  }
  s.append_rows(s.find("/tokens/text"), static_cast<std::int64_t>(bytes.size()), raw(bytes));
  s.append_rows(s.find("/tokens/text_offsets"), count, raw(ends));
  s.text_written += static_cast<std::int64_t>(bytes.size());
}

void TraceWriter::append(int layer, LayerDataset which, TensorView<const float, 3> rows) {
  State& s = *state_;
  OpenDataset& d = s.find(layer, which);
  const ChunkedDataset& shape = d.shape;
  // log_sum_exp comes as [1, heads, n]: the same numbers as [heads, n, 1].
  const bool flat = shape.axes == ChunkedDataset::Axes::outer_rows;
  const std::int64_t heads = flat ? rows.dim(1) : rows.dim(0), count = flat ? rows.dim(2) : rows.dim(1);
  const std::int64_t columns = flat ? 1 : rows.dim(2);
  const bool short_rows = which == LayerDataset::attention && columns < shape.inner;
  if (heads != shape.outer || (columns != shape.inner && !short_rows))
    throw Error(s.where(d), "was given rows of [" + std::to_string(heads) + ", n, " + std::to_string(columns) + "], not [" +
                                std::to_string(shape.outer) + ", n, " + std::to_string(shape.inner) + "]");
  const std::int64_t row_bytes = shape.inner * shape.element_bytes;
  s.append_rows(d, count, [&](std::int64_t head, std::int64_t from, std::int64_t n, std::byte* target) {
    const float* source = rows.data() + (head * count + from) * columns;
    if (!short_rows) return from_float32(shape.type, source, target, static_cast<std::size_t>(n * columns));
    for (std::int64_t r = 0; r < n; ++r) {
      from_float32(shape.type, source + r * columns, target + r * row_bytes, static_cast<std::size_t>(columns));
      std::memset(target + r * row_bytes + columns * shape.element_bytes, 0,
                  static_cast<std::size_t>((shape.inner - columns) * shape.element_bytes));
    }
  });
}

void TraceWriter::write_whole(int layer, LayerDataset which, TensorView<const float, 3> values) {
  State& s = *state_;
  OpenDataset& d = s.find(layer, which);
  const ChunkedDataset& shape = d.shape;
  if (shape.axes != ChunkedDataset::Axes::rows_inner) throw Error(s.where(d), "is appended row by row, not written whole");
  if (values.dim(0) != 1 || values.dim(1) != shape.rows || values.dim(2) != shape.inner)
    throw Error(s.where(d), "was given a shape that the layout does not have");
  if (d.appended == shape.rows) return;  // a capture that went on after a cut
  s.append_rows(d, shape.rows, [&](std::int64_t, std::int64_t from, std::int64_t n, std::byte* target) {
    from_float32(shape.type, values.data() + from * shape.inner, target, static_cast<std::size_t>(n * shape.inner));
  });
}

void TraceWriter::commit(std::int64_t tokens) {
  State& s = *state_;
  if (tokens < s.committed || tokens > s.layout.tokens)
    throw Error(s.partial, "cannot commit " + std::to_string(tokens) + " tokens after " + std::to_string(s.committed));
  s.check_appended(tokens);
  const hdf5::Guard guard;
  for (auto& d : s.datasets) s.flush(d);
  s.write_mark(tokens);
}

void TraceWriter::finish(std::int64_t tokens) {
  State& s = *state_;
  if (tokens < 1 || tokens > s.layout.tokens || tokens < s.layout.prompt_length)
    throw Error(s.partial, "cannot finish with " + std::to_string(tokens) + " tokens of " + std::to_string(s.layout.tokens) +
                               " after a prompt of " + std::to_string(s.layout.prompt_length));
  const hdf5::Guard guard;
  s.check_whole();
  commit(tokens);
  s.settle(tokens);
  synchronise(s.partial);
  std::error_code failure;
  std::filesystem::rename(s.partial, s.path, failure);
  if (failure) throw Error(s.path, "cannot be replaced: " + failure.message(), "the trace is whole in " + s.partial);
  s.finished = true;
  remember_written_file(s.path);
}

}  // namespace kvreplay

#include "core/trace/trace_writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/identity.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/trace_structure_internal.h"
#include "core/trace/trace_writer_internal.h"

namespace kvreplay {

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

namespace {

void synchronise(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error(path, std::strerror(errno));
  const int status = fdatasync(fd);
  const int code = errno;
  close(fd);
  if (status != 0) throw Error(path, std::string("cannot be written to disk: ") + std::strerror(code));
}

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
  bytes += full.extension_bytes;
  for (const auto& d : datasets_of(full)) bytes += d.chunks() * d.chunk_bytes() + index_size(d);
  return bytes;
}

TraceWriter TraceWriter::create(const std::string& path, const TraceLayout& layout) {
  auto state = std::make_unique<State>();
  state->layout = checked_layout(path, layout);
  state->path = path;
  state->partial = path + ".partial";
  if (std::filesystem::is_directory(path)) throw Error(path, "is a directory", "give --out a file name");
  check_free_space(path, predicted_size(layout));
  refuse_to_overwrite(state->partial);
  const hdf5::Guard guard;
  state->file = create_file(state->partial);
  write_skeleton(state->file, state->partial, state->layout);
  state->open_datasets();
  state->start_single_writer();
  TraceWriter writer(std::move(state));
  if (writer.state_->layout.text_bytes >= 0) {
    const std::int64_t zero = 0;
    writer.state_->append_rows(
        writer.state_->find("/tokens/text_offsets"), 1,
        [&](std::int64_t, std::int64_t, std::int64_t, std::byte* target) { std::memcpy(target, &zero, 8); });
  }
  return writer;
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
  if (!shape.whole()) throw Error(s.where(d), "is appended row by row, not written whole");
  if (values.dim(0) != shape.outer || values.dim(1) != shape.rows || values.dim(2) != shape.inner)
    throw Error(s.where(d), "was given a shape that the layout does not have");
  if (d.appended == shape.rows) return;  // a capture that went on after a cut
  s.append_rows(d, shape.rows, [&](std::int64_t outer, std::int64_t from, std::int64_t n, std::byte* target) {
    const float* source = values.data() + (outer * shape.rows + from) * shape.inner;
    from_float32(shape.type, source, target, static_cast<std::size_t>(n * shape.inner));
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

void TraceWriter::add_extension(const std::string& node, Tensor<float, 3> values) {
  state_->extensions.emplace_back(node, std::move(values));
}

void TraceWriter::add_extension_text(const std::string& node, const std::string& attribute, const std::string& text) {
  state_->extension_texts.push_back({node, attribute, text});
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

// Going on with a capture that was cut off: the file must be of the same capture, and what waited in memory for its chunk
// to fill is read back.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/trace_structure_internal.h"
#include "core/trace/trace_writer_internal.h"

namespace kvreplay {
namespace {

// What may differ between the start of a capture and its resumption.
nlohmann::json comparable_manifest(const std::string& text) {
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return text;
  for (const char* key :
       {"command", "command_line", "created_utc", "created_by", "program", "program_version", "version", "threads"})
    json.erase(key);
  return json;
}

// Compares a capture's file with the layout of the one that wants to go on with it.
class LayoutComparison {
 public:
  LayoutComparison(const Source& source, const TraceStructure& structure, const TraceLayout& layout)
      : source_(source), structure_(structure), layout_(layout) {}

  // Empty, or the first difference.
  std::string difference() const {
    const ModelInfo &a = structure_.model, &b = layout_.model;
    if (a.name != b.name || a.architecture != b.architecture || a.num_layers != b.num_layers ||
        a.num_query_heads != b.num_query_heads || a.num_kv_heads != b.num_kv_heads || a.head_dim != b.head_dim ||
        a.hidden_size != b.hidden_size || a.attention_scale != b.attention_scale || a.logit_softcap != b.logit_softcap ||
        a.rope_theta != b.rope_theta || a.rope_scaling != b.rope_scaling)
      return "another model";
    if (!b.weights_sha256.empty() && a.weights_sha256 != b.weights_sha256) return "other weights";
    if (structure_.file_tokens != layout_.tokens) return std::to_string(structure_.file_tokens) + " tokens";
    if (structure_.file_prompt_length != layout_.prompt_length)
      return "a prompt of " + std::to_string(structure_.file_prompt_length) + " tokens";
    if (comparable_manifest(structure_.manifest) != comparable_manifest(layout_.manifest)) return "another manifest";
    if (!same_list("/queries/positions", layout_.query_positions)) return "other recorded queries";
    if (!same_list("/queries/attention_positions", layout_.attention_positions)) return "other recorded attention rows";
    if (!same_layers()) return "other layers";
    return dataset_difference();
  }

 private:
  bool same_list(const char* node, const std::vector<std::int32_t>& wanted) const {
    if (source_.kind(node) != NodeKind::dataset) return wanted.empty();
    return source_.read_all<std::int32_t>(node, source_.dataset(node)) == wanted;
  }

  bool same_layers() const {
    if (structure_.layers.size() != layout_.layers.size()) return false;
    for (std::size_t i = 0; i < layout_.layers.size(); ++i) {
      const int window = layout_.sliding_window.empty() ? 0 : layout_.sliding_window[i];
      if (structure_.layers[i].layer != layout_.layers[i] || structure_.layers[i].sliding_window != window) return false;
    }
    return true;
  }

  std::string dataset_difference() const {
    std::size_t in_first_layer = 0;
    for (const auto& d : datasets_of(layout_)) {
      if (source_.kind(d.node) != NodeKind::dataset) return "no " + d.node;
      const DatasetInfo info = source_.dataset(d.node);
      if (info.shape != d.shape() || info.chunk != d.chunk()) return "another shape of " + d.node;
      if (d.which && info.element_type() != d.type) return "another type of " + d.node;
      if (d.which && d.layer == layout_.layers.front()) ++in_first_layer;
    }
    if (source_.children(layer_node(layout_.layers.front())).size() != in_first_layer) return "other datasets";
    return {};
  }

  const Source& source_;
  const TraceStructure& structure_;
  const TraceLayout& layout_;
};

hdf5::File reopen(const std::string& partial) {
  const hdf5::Properties access = hdf5::file_access();
  // The writer that was killed left its mark, and a file whose end HDF5 has not noted.
  const hbool_t yes = 1;
  H5Pset(access, "clear_status_flags", &yes);
  H5Pset(access, "skip_eof_check", &yes);
  hdf5::File file(hdf5::check_id(H5Fopen(partial.c_str(), H5F_ACC_RDWR, access), partial,
                                 "cannot be opened for writing (another program may have it open)"));
  // New chunks must not be laid over old ones that lie past the end that was noted.
  hdf5::check(H5Fincrement_filesize(file, 0), partial, "cannot be reopened");
  return file;
}

}  // namespace

void TraceWriter::State::restore(std::int64_t tokens) {
  committed = tokens;
  if (layout.text_bytes >= 0) {
    const OpenDataset& offsets = find("/tokens/text_offsets");
    const hsize_t at = static_cast<hsize_t>(tokens), one = 1;
    const hdf5::Space file_space(H5Dget_space(offsets.id)), memory(H5Screate_simple(1, &one, nullptr));
    hdf5::check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &at, nullptr, &one, nullptr), where(offsets),
                "cannot be read back");
    hdf5::check(H5Dread(offsets.id, H5T_NATIVE_INT64, memory, file_space, H5P_DEFAULT, &text_written), where(offsets),
                "cannot be read back");
  }
  for (auto& d : datasets) restore_dataset(d, tokens);
}

void TraceWriter::State::restore_dataset(OpenDataset& d, std::int64_t tokens) {
  const ChunkedDataset& s = d.shape;
  hdf5::check(H5Dread(d.checksums, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, d.crc.data()), where(d),
              "cannot be read back");
  if (s.whole()) {
    // Written in one go: all there (the sums: once the prompt is done), or to be written again.
    const bool due = s.which != LayerDataset::attention_column_sum || tokens >= layout.prompt_length;
    const auto wanted = static_cast<hsize_t>(s.chunks() * s.chunk_bytes());
    d.appended = due && H5Dget_storage_size(d.id) >= wanted ? s.rows : 0;
    return;
  }
  d.appended = s.node == "/tokens/text" ? text_written : rows_for(s, tokens);
  const std::int64_t waiting = d.in_staging();
  if (waiting == 0) return;
  const auto bytes = static_cast<std::size_t>(s.chunk_bytes());
  d.staging.resize(bytes * static_cast<std::size_t>(s.outer_chunks()));
  for (std::int64_t o = 0; o < s.outer_chunks(); ++o) {
    const auto offset = s.chunk_offset(o, d.appended / s.rows_chunk);
    const std::vector<hsize_t> at(offset.begin(), offset.end());
    std::uint32_t mask = 0;
    hdf5::check(H5Dread_chunk(d.id, H5P_DEFAULT, at.data(), &mask, d.staging.data() + static_cast<std::size_t>(o) * bytes),
                where(d), "cannot be read back");
  }
  // What lies past the mark is not to be believed.
  const std::int64_t row_bytes = s.inner * s.element_bytes;
  for (std::int64_t o = 0; o < s.outer; ++o) {
    std::byte* rows = d.staging.data() + o * s.rows_chunk * row_bytes;
    std::fill(rows + waiting * row_bytes, rows + s.rows_chunk * row_bytes, std::byte{});
  }
  d.staged = true;
}

TraceWriter TraceWriter::resume(const std::string& path, const TraceLayout& layout) {
  auto state = std::make_unique<State>();
  state->layout = checked_layout(path, layout);
  state->path = path;
  state->partial = path + ".partial";
  if (access(state->partial.c_str(), F_OK) != 0)
    throw Error(state->partial, "no such file: there is no capture to go on with", "leave --resume out");
  std::int64_t tokens = 0;
  {
    const auto source = open_direct_source(state->partial);
    Problems problems;
    const TraceStructure structure = read_trace_structure(*source, problems);
    if (structure.nothing_committed) return create(path, layout);
    if (structure.complete)
      throw Error(state->partial, "is a finished capture that was only not renamed yet", "rename it to \"" + path + "\"");
    if (!problems.empty())
      throw Error(state->partial + ":" + problems.front().node, problems.front().what, "remove it and capture again");
    const std::string difference = LayoutComparison(*source, structure, state->layout).difference();
    if (!difference.empty())
      throw Error(state->partial, "is of another capture: it has " + difference,
                  "give the options of that capture, or remove it");
    tokens = structure.tokens;
    check_free_space(path, predicted_size(layout) - source->file_size());
  }
  const hdf5::Guard guard;
  state->committed = tokens;  // whatever happens now, the file stays
  state->file = reopen(state->partial);
  state->open_datasets();
  state->restore(tokens);
  state->start_single_writer();
  return TraceWriter(std::move(state));
}

}  // namespace kvreplay

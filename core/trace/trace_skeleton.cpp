#include "core/trace/trace_skeleton_internal.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/version.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {
namespace {

hdf5::Group make_group(hid_t file, const std::string& where, const std::string& node) {
  return hdf5::Group(
      hdf5::check_id(H5Gcreate2(file, node.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), where, "cannot be written"));
}

hdf5::Type type_of(const ChunkedDataset& d) {
  switch (d.content) {
    case ChunkedDataset::Content::bytes: return hdf5::Type(H5Tcopy(H5T_STD_U8LE));
    case ChunkedDataset::Content::int32: return hdf5::Type(H5Tcopy(H5T_STD_I32LE));
    case ChunkedDataset::Content::int64: return hdf5::Type(H5Tcopy(H5T_STD_I64LE));
    case ChunkedDataset::Content::tensor: break;
  }
  return hdf5::stored_type(d.type);
}

void make_chunked(hid_t file, const std::string& where, const ChunkedDataset& d) {
  const auto shape = d.shape(), chunk = d.chunk();
  const std::vector<hsize_t> dims(shape.begin(), shape.end()), chunk_dims(chunk.begin(), chunk.end());
  std::vector<hsize_t> most = dims;
  // A dataset of one chunk with no room to grow gets an index that single-writer mode does not support.
  if (d.chunks() == 1) ++most[d.row_axis()];
  const hdf5::Space space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), most.data()));
  const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_chunk(creation, static_cast<int>(chunk_dims.size()), chunk_dims.data());
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  const hdf5::Type type = type_of(d);
  const hdf5::Dataset id(hdf5::check_id(H5Dcreate2(file, d.node.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                                        where + ":" + d.node, "cannot be created"));
  if (d.content == ChunkedDataset::Content::tensor && d.type == ElementType::bfloat16)
    hdf5::write_attribute(id, where + ":" + d.node, "encoding", std::string_view("bfloat16"));
}

// Its place in the file is fixed from the start, so that writing it changes no metadata.
void make_mark(hid_t file, const std::string& where) {
  const hsize_t one = 1;
  const hdf5::Space space(H5Screate_simple(1, &one, nullptr));
  const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  const hdf5::Dataset id(
      hdf5::check_id(H5Dcreate2(file, "/committed_tokens", H5T_STD_I64LE, space, H5P_DEFAULT, creation, H5P_DEFAULT), where,
                     "cannot be created"));
}

// A list of one chunk, which the end of a capture can make shorter in place. `values` may be null: written later.
void make_list(hid_t file, const std::string& where, const std::string& node, hid_t type, std::size_t count,
               const void* values) {
  // One more than it ever has: see make_chunked.
  const hsize_t size = count, most = count + 1;
  const hdf5::Space space(H5Screate_simple(1, &size, &most));
  const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE)), links(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_chunk(creation, 1, &size);
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  H5Pset_create_intermediate_group(links, 1);
  const hdf5::Dataset id(hdf5::check_id(H5Dcreate2(file, node.c_str(), type, space, links, creation, H5P_DEFAULT),
                                        where + ":" + node, "cannot be created"));
  if (values != nullptr)
    hdf5::check(H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), where + ":" + node, "cannot be written");
}

void write_root(hid_t file, const std::string& where, const TraceLayout& layout) {
  const hdf5::Group root(hdf5::check_id(H5Gopen2(file, "/", H5P_DEFAULT), where, "cannot be written"));
  hdf5::write_attribute(root, where, "format", std::string_view("kvreplay-trace"));
  hdf5::write_attribute(root, where, "version", 1);
  hdf5::write_attribute(root, where, "complete", 0);
  const std::string maker = layout.created_by.empty() ? program_version() : layout.created_by;
  hdf5::write_attribute(root, where, "created_by", std::string_view(maker));
  if (!layout.created_utc.empty()) hdf5::write_attribute(root, where, "created_utc", std::string_view(layout.created_utc));
  if (!layout.command.empty()) hdf5::write_attribute(root, where, "command", std::string_view(layout.command));
  if (!layout.manifest.empty()) hdf5::write_attribute(root, where, "manifest", std::string_view(layout.manifest));
}

void write_model(hid_t file, const std::string& where, const ModelInfo& m) {
  const hdf5::Group group = make_group(file, where, "/model");
  const auto text = [&](const char* name, const std::string& value) {
    if (!value.empty()) hdf5::write_attribute(group, where, name, std::string_view(value));
  };
  text("name", m.name);
  text("architecture", m.architecture);
  hdf5::write_attribute(group, where, "num_layers", m.num_layers);
  hdf5::write_attribute(group, where, "num_query_heads", m.num_query_heads);
  hdf5::write_attribute(group, where, "num_kv_heads", m.num_kv_heads);
  hdf5::write_attribute(group, where, "head_dim", m.head_dim);
  hdf5::write_attribute(group, where, "hidden_size", m.hidden_size);
  hdf5::write_attribute(group, where, "attention_scale", m.attention_scale);
  if (m.logit_softcap) hdf5::write_attribute(group, where, "logit_softcap", *m.logit_softcap);
  if (m.rope_theta) hdf5::write_attribute(group, where, "rope_theta", *m.rope_theta);
  text("rope_scaling", m.rope_scaling);
  text("rope_layout", m.rope_layout);
  text("weights_sha256", m.weights_sha256);
}

void write_spans(hid_t file, const std::string& where, const std::vector<TextSpan>& spans) {
  if (spans.empty()) return;
  std::vector<std::int32_t> starts, ends;
  std::size_t longest = 1;
  for (const auto& span : spans) {
    starts.push_back(span.start);
    ends.push_back(span.end);
    longest = std::max(longest, span.label.size());
  }
  std::string labels(longest * spans.size(), '\0');
  for (std::size_t i = 0; i < spans.size(); ++i) labels.replace(i * longest, spans[i].label.size(), spans[i].label);
  make_list(file, where, "/tokens/span_start", H5T_STD_I32LE, spans.size(), starts.data());
  make_list(file, where, "/tokens/span_end", H5T_STD_I32LE, spans.size(), ends.data());
  make_list(file, where, "/tokens/span_label", hdf5::text_type(longest), spans.size(), labels.data());
}

}  // namespace

void write_skeleton(hid_t file, const std::string& where, const TraceLayout& layout) {
  write_root(file, where, layout);
  write_model(file, where, layout.model);
  {
    const hdf5::Group tokens = make_group(file, where, "/tokens");
    hdf5::write_attribute(tokens, where, "prompt_length", layout.prompt_length);
    const hdf5::Group queries = make_group(file, where, "/queries");
  }
  const auto write_positions = [&](const char* node, const std::vector<std::int32_t>& positions) {
    make_list(file, where, node, H5T_STD_I32LE, positions.size(), positions.data());
  };
  write_positions("/queries/positions", layout.query_positions);
  if (!layout.attention_positions.empty()) write_positions("/queries/attention_positions", layout.attention_positions);
  write_spans(file, where, layout.spans);
  {
    const hdf5::Group layers = make_group(file, where, "/layers");
    if (static_cast<int>(layout.layers.size()) != layout.model.num_layers)
      hdf5::write_attribute(layers, where, "captured", layout.layers);
  }
  for (std::size_t i = 0; i < layout.layers.size(); ++i) {
    const hdf5::Group group = make_group(file, where, layer_node(layout.layers[i]));
    if (!layout.sliding_window.empty() && layout.sliding_window[i] > 0)
      hdf5::write_attribute(group, where, "sliding_window", layout.sliding_window[i]);
  }
  for (const auto& d : datasets_of(layout)) {
    make_chunked(file, where, d);
    make_list(file, where, checksum_node(d.node), H5T_STD_U32LE, static_cast<std::size_t>(d.chunks()), nullptr);
  }
  make_mark(file, where);
}

std::string checksum_node(const std::string& node) { return "/checksums" + node; }

std::int64_t skeleton_size(const TraceLayout& layout) {
  const hdf5::Properties access = hdf5::file_access();
  H5Pset_fapl_core(access, 64, 0);
  // Without the blocks that HDF5 reserves ahead and gives back when a file is closed.
  H5Pset_meta_block_size(access, 0);
  H5Pset_small_data_block_size(access, 0);
  const hdf5::File file(hdf5::check_id(H5Fcreate("predicted size", H5F_ACC_TRUNC, H5P_DEFAULT, access), "trace",
                                       "its size cannot be predicted"));
  write_skeleton(file, "trace", layout);
  hdf5::check(H5Fflush(file, H5F_SCOPE_GLOBAL), "trace", "its size cannot be predicted");
  hsize_t size = 0;
  H5Fget_filesize(file, &size);
  // What is left over in those blocks when a capture ends: measured, about half of one.
  constexpr std::int64_t left_over = 600;
  return static_cast<std::int64_t>(size) + left_over;
}

std::int64_t index_size(const ChunkedDataset& d) {
  // A fixed array: a header, and 8 bytes a chunk with a checksum every 1,024.
  const auto of_array = [](std::int64_t chunks) { return 60 + chunks * 8 + chunks / 1024 * 5; };
  return of_array(d.chunks()) + of_array(1) + d.chunks() * 4;
}

}  // namespace kvreplay

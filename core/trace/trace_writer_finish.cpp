// How a capture ends: what generation did not need is cut off, then the file is marked complete and closed.
#include <algorithm>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/trace_writer_internal.h"

namespace kvreplay {

void TraceWriter::State::settle(std::int64_t tokens) {
  const bool short_text = layout.text_bytes >= 0 && text_written < std::max<std::int64_t>(1, layout.text_bytes);
  const bool too_long = tokens < layout.tokens || short_text;
  if (too_long || !extensions.empty() || !extension_texts.empty()) {
    // Datasets can only be made smaller, or be added, outside single-writer mode. A kill in these few milliseconds leaves a
    // file whose sizes may be old or new; what is committed is in both.
    close_file();
    const hdf5::Properties access = hdf5::file_access();
    file = hdf5::File(hdf5::check_id(H5Fopen(partial.c_str(), H5F_ACC_RDWR, access), partial, "cannot be reopened"));
    if (too_long) shrink(tokens);
    write_extensions();
  }
  mark_complete();
  check_write(H5Fflush(file, H5F_SCOPE_GLOBAL), partial);
  datasets.clear();
  committed_id.reset();
  if (file.reset() < 0) hdf5::fail(partial, "cannot be closed");
}

// In place: the attribute has been there from the start.
void TraceWriter::State::mark_complete() {
  const hdf5::Attribute attribute(
      hdf5::check_id(H5Aopen_by_name(file, "/", "complete", H5P_DEFAULT, H5P_DEFAULT), partial, "cannot be completed"));
  const int yes = 1;
  check_write(H5Awrite(attribute, H5T_NATIVE_INT, &yes), partial);
}

void TraceWriter::State::write_extensions() {
  const hdf5::Properties links(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_create_intermediate_group(links, 1);
  for (const auto& [node, values] : extensions) {
    const std::string at = partial + ":" + node;
    std::vector<std::byte> stored(static_cast<std::size_t>(values.size()) * element_size(layout.tensor_type));
    from_float32(layout.tensor_type, values.data(), stored.data(), static_cast<std::size_t>(values.size()));
    const std::vector<hsize_t> dims(values.shape().begin(), values.shape().end());
    const hdf5::Space space(H5Screate_simple(3, dims.data(), nullptr));
    const hdf5::Type type = hdf5::stored_type(layout.tensor_type);
    const hdf5::Dataset id(hdf5::check_id(H5Dcreate2(file, node.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT), at,
                                          "cannot be created"));
    if (layout.tensor_type == ElementType::bfloat16) hdf5::write_attribute(id, at, "encoding", std::string_view("bfloat16"));
    check_write(H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, stored.data()), at);
  }
  for (const auto& [node, attribute, text] : extension_texts) {
    const hdf5::Object id(hdf5::check_id(H5Oopen(file, node.c_str(), H5P_DEFAULT), partial + ":" + node, "is not there"));
    hdf5::write_attribute(id, partial + ":" + node, attribute.c_str(), std::string_view(text));
  }
}

void TraceWriter::State::shrink(std::int64_t tokens) {
  for (const auto& d : datasets_of(layout)) {
    std::vector<std::int64_t> wanted = d.shape();
    if (d.node == "/tokens/text") {
      wanted[0] = text_written;
    } else if (!d.whole()) {
      wanted[d.row_axis()] = rows_for(d, tokens);
    }
    if (d.which == LayerDataset::attention) wanted[2] = tokens;
    if (d.which == LayerDataset::attention_column_sum) wanted[1] = tokens;
    if (wanted != d.shape()) shrink_dataset(d, wanted);
  }
  shrink_list("/queries/positions", layout.query_positions, tokens);
  if (!layout.attention_positions.empty()) shrink_list("/queries/attention_positions", layout.attention_positions, tokens);
  shrink_spans(tokens);
}

// Cutting a chunk changes its stored bytes, and there may be fewer chunks: their checksums are made again.
void TraceWriter::State::shrink_dataset(const ChunkedDataset& shape, const std::vector<std::int64_t>& wanted) {
  const std::string at = partial + ":" + shape.node;
  const std::vector<hsize_t> dims(wanted.begin(), wanted.end());
  const hdf5::Dataset id = open_for_writing(shape.node);
  hdf5::check(H5Dset_extent(id, dims.data()), at, "cannot be made smaller");
  hdf5::check(H5Dflush(id), at, "cannot be written");

  const auto chunk = shape.chunk();
  std::vector<hsize_t> counts, offset(wanted.size(), 0);
  hsize_t total = 1;
  for (std::size_t axis = 0; axis < wanted.size(); ++axis) {
    counts.push_back(static_cast<hsize_t>((wanted[axis] + chunk[axis] - 1) / chunk[axis]));
    total *= counts.back();
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(shape.chunk_bytes()));
  std::vector<std::uint32_t> crc;
  for (hsize_t i = 0; i < total; ++i) {
    hsize_t rest = i;
    for (std::size_t axis = wanted.size(); axis-- > 0;) {
      offset[axis] = rest % counts[axis] * static_cast<hsize_t>(chunk[axis]);
      rest /= counts[axis];
    }
    std::uint32_t mask = 0;
    hdf5::check(H5Dread_chunk(id, H5P_DEFAULT, offset.data(), &mask, bytes.data()), at, "cannot be read back");
    crc.push_back(crc32c(bytes.data(), bytes.size()));
  }
  rewrite_list(checksum_node(shape.node), H5T_NATIVE_UINT32, crc.size(), crc.data());
}

// Each step leaves a list that can be read: first what stays, then the length.
void TraceWriter::State::rewrite_list(const std::string& node, hid_t type, std::size_t count, const void* values) {
  const std::string at = partial + ":" + node;
  const hdf5::Dataset id = open_for_writing(node);
  const hsize_t first = 0, size = count;
  if (count > 0 && values != nullptr) {
    const hdf5::Space file_space(H5Dget_space(id)), memory(H5Screate_simple(1, &size, nullptr));
    hdf5::check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &first, nullptr, &size, nullptr), at, "cannot be rewritten");
    hdf5::check(H5Dwrite(id, type, memory, file_space, H5P_DEFAULT, values), at, "cannot be rewritten");
  }
  hdf5::check(H5Dset_extent(id, &size), at, "cannot be made shorter");
}

void TraceWriter::State::shrink_list(const char* node, const std::vector<std::int32_t>& values, std::int64_t tokens) {
  const auto count = static_cast<std::size_t>(positions_below(values, tokens));
  if (count < values.size()) rewrite_list(node, H5T_NATIVE_INT32, count, nullptr);
}

// Spans past the end go, and one across it ends there. Those that stay come first in the file.
void TraceWriter::State::shrink_spans(std::int64_t tokens) {
  const bool all_stay =
      std::all_of(layout.spans.begin(), layout.spans.end(), [&](const TextSpan& span) { return span.end <= tokens; });
  if (all_stay) return;
  std::vector<std::int32_t> starts, ends;
  std::size_t longest = 1;
  for (const TextSpan& span : layout.spans) longest = std::max(longest, span.label.size());
  std::string labels;
  for (const TextSpan& span : layout.spans) {
    if (span.start >= tokens) continue;
    starts.push_back(span.start);
    ends.push_back(static_cast<std::int32_t>(std::min<std::int64_t>(span.end, tokens)));
    labels += span.label + std::string(longest - span.label.size(), '\0');
  }
  rewrite_list("/tokens/span_start", H5T_NATIVE_INT32, starts.size(), starts.data());
  rewrite_list("/tokens/span_end", H5T_NATIVE_INT32, ends.size(), ends.data());
  rewrite_list("/tokens/span_label", hdf5::text_type(longest), starts.size(), labels.data());
}

}  // namespace kvreplay

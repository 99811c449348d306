// Everything of a trace file that exists before the first token: groups, attributes, positions, spans, and the datasets
// with nothing in them. Internal to core/trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/trace/hdf5_internal.h"
#include "core/trace/trace_layout_internal.h"

namespace kvreplay {

void write_skeleton(hid_t file, const std::string& where, const TraceLayout& layout);

std::string checksum_node(const std::string& node);  // "/checksums/layers/000/key"

// Bytes of a file that holds the skeleton alone, found by writing it to memory.
std::int64_t skeleton_size(const TraceLayout& layout);
// Bytes of a dataset's checksums and of the indices by which HDF5 finds the chunks of both.
std::int64_t index_size(const ChunkedDataset& dataset);

}  // namespace kvreplay

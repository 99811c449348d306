// What is in a trace or results file, dataset by dataset and attribute by attribute, without reading the data: for
// `kvreplay inspect` and for whoever wants to look at a file that a reader refuses.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

using AttributeValue = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                                    std::vector<std::string>>;

struct DatasetSummary {
  std::string node;  // "/layers/000/key"
  std::vector<std::int64_t> shape;
  std::string type;                  // "float16", "int32", "text of 8 bytes"
  std::vector<std::int64_t> chunk;   // empty: contiguous
  std::vector<std::string> filters;  // "shuffle", "deflate", "fletcher32"
  std::int64_t stored_bytes = 0;
  std::int64_t logical_bytes = 0;  // elements times their size
  std::string refusal;             // why kvreplay does not read it; empty: it does
};

struct FileSummary {
  std::string format;  // the attribute "format"; empty when there is none
  std::int64_t file_size = 0;
  bool left_open = false;  // the program that wrote it never closed it
  std::vector<DatasetSummary> datasets;
  std::map<std::string, std::map<std::string, AttributeValue>> attributes;  // by group or dataset
};

// Throws Error when the file cannot be opened as HDF5.
FileSummary summarise_file(const std::string& path, Trust trust = Trust::automatic);

}  // namespace kvreplay

#pragma once
namespace kvreplay {
// "kvreplay 0.1.0": goes into `created_by` of every file.
const char* program_version();
}  // namespace kvreplay

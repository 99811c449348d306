// Small files of text that a program writes for people and other programs: reports, tables, filters.
#pragma once

#include <string>

namespace kvreplay {

// Writes PATH.partial and renames it, so that a full disk loses nothing that was there. Throws Error when that fails, and
// when an HDF5 file of that name exists: a trace or results file is never replaced by text.
void write_text_file(const std::string& path, const std::string& text);

}  // namespace kvreplay

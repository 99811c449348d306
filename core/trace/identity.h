// Whose file is this, and is it still the same?
#pragma once

#include <string>

namespace kvreplay {

// SHA-256 of the file's contents up to 256 MiB; above that a SHA-256 of its size, its time of change and its first and
// last MiB, with "id:" before it. Throws Error when the file cannot be read.
std::string file_identity(const std::string& path);

// Files that this program wrote on this machine are listed in $XDG_STATE_HOME/kvreplay/written (or
// ~/.local/state/kvreplay/written) by device, inode, size and time of change, the newest few thousand of them. Such a
// file is read without the detour through a child process. Neither call ever throws: where the list cannot be written or
// read, files are simply not recognised.
void remember_written_file(const std::string& path);
bool is_file_written_here(const std::string& path);

}  // namespace kvreplay

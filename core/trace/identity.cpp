#include "core/trace/identity.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/base/error.h"
#include "core/base/sha256.h"

namespace kvreplay {
namespace {

constexpr std::int64_t whole_file_limit = std::int64_t{256} << 20;
constexpr std::size_t remembered_files = 4096;

std::filesystem::path list_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::filesystem::path(state) / "kvreplay" / "written";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::filesystem::path(home) / ".local" / "state" / "kvreplay" / "written";
  return {};
}

std::string list_line(const struct stat& status) {
  return std::to_string(status.st_dev) + " " + std::to_string(status.st_ino) + " " + std::to_string(status.st_size) + " " +
         std::to_string(status.st_mtim.tv_sec) + "." + std::to_string(status.st_mtim.tv_nsec);
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; lines.size() < 2 * remembered_files && std::getline(file, line);) lines.push_back(line);
  return lines;
}

void append_line(const std::filesystem::path& path, const std::string& line) {
  std::filesystem::create_directories(path.parent_path());
  // The lock is on a file of its own, because the list is replaced when it has grown.
  const int lock = open((path.string() + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return;
  if (flock(lock, LOCK_EX | LOCK_NB) == 0) {
    std::vector<std::string> lines = lines_of(path);
    if (lines.size() < remembered_files) {
      std::ofstream(path, std::ios::app) << line << '\n';
    } else {
      lines.erase(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(lines.size() - remembered_files / 2));
      const std::string fresh = path.string() + ".new";
      std::ofstream out(fresh);
      for (const auto& kept : lines) out << kept << '\n';
      out << line << '\n';
      out.close();
      std::filesystem::rename(fresh, path);
    }
  }
  close(lock);
}

}  // namespace

std::string file_identity(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) throw Error(path, std::strerror(errno));
  if (status.st_size <= whole_file_limit) return sha256_of_file(path);
  Sha256 hash;
  const std::string facts = list_line(status);
  hash.update(facts.data(), facts.size());
  std::vector<char> piece(std::size_t{1} << 20);
  std::ifstream file(path, std::ios::binary);
  for (const std::int64_t at : {std::int64_t{0}, status.st_size - static_cast<std::int64_t>(piece.size())}) {
    file.seekg(at);
    if (!file.read(piece.data(), static_cast<std::streamsize>(piece.size()))) throw Error(path, "cannot be read");
    hash.update(piece.data(), piece.size());
  }
  return "id:" + hash.hex();
}

void remember_written_file(const std::string& path) {
  try {
    struct stat status {};
    const auto list = list_path();
    if (list.empty() || stat(path.c_str(), &status) != 0) return;
    append_line(list, list_line(status));
  } catch (const std::exception&) {
    // Not recognising the file later costs a little time and nothing else.
  }
}

bool is_file_written_here(const std::string& path) {
  try {
    struct stat status {};
    const auto list = list_path();
    if (list.empty() || stat(path.c_str(), &status) != 0) return false;
    const auto lines = lines_of(list);
    return std::find(lines.begin(), lines.end(), list_line(status)) != lines.end();
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace kvreplay

#include "core/base/text_file.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "core/base/error.h"

namespace kvreplay {
namespace {

bool is_hdf5(const std::string& path) {
  constexpr std::string_view signature = "\x89HDF\r\n\x1a\n";
  std::array<char, signature.size()> start{};
  std::ifstream file(path, std::ios::binary);
  return file.read(start.data(), start.size()) && std::string_view(start.data(), start.size()) == signature;
}

}  // namespace

void write_text_file(const std::string& path, const std::string& text) {
  std::error_code failed;
  // What is no regular file (/dev/stdout, a pipe) is written as it is.
  const bool direct = std::filesystem::exists(path, failed) && !std::filesystem::is_regular_file(path, failed);
  if (!direct && is_hdf5(path))
    throw Error(path, "is a trace or results file, and text would replace it", "name another file");
  const std::string target = direct ? path : path + ".partial";
  std::ofstream file(target, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  failed.clear();
  if (file && !direct) std::filesystem::rename(target, path, failed);
  if (file && !failed) return;
  std::error_code ignored;
  if (!direct) std::filesystem::remove(target, ignored);
  throw Error(path, "cannot be written", "check that the folder exists, is writable and has space");
}

}  // namespace kvreplay

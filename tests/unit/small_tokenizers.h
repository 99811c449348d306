// Tokenizer files made on the spot, small enough to know every id.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model/bpe_tokenizer.h"

namespace kvreplay {

// A folder that is removed at the end of the test.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string path() const { return path_.string(); }
  std::string write(const std::string& name, const std::string& contents) const {
    std::ofstream(path_ / name, std::ios::binary) << contents;
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

// Byte-level BPE: the id of byte b is b; merges get ids from 256 on; special tokens follow them.
inline nlohmann::json byte_level_json(const std::vector<std::string>& merges, const std::vector<std::string>& specials) {
  nlohmann::json vocabulary = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_stand_in(static_cast<unsigned char>(byte))] = byte;
  int next = 256;
  for (const std::string& merge : merges) {
    std::string token = merge;
    token.erase(token.find(' '), 1);
    vocabulary[token] = next++;
  }
  nlohmann::json added = nlohmann::json::array();
  for (const std::string& special : specials) {
    vocabulary[special] = next;
    added.push_back({{"id", next++}, {"content", special}, {"special", true}, {"normalized", false}});
  }
  return {{"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

// Characters with byte fallback, as Llama 2 has it: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then `characters` (each a
// text of one code point), then the merges.
inline nlohmann::json character_json(const std::vector<std::string>& characters, const std::vector<std::string>& merges,
                                     bool all_bytes = true) {
  static constexpr const char* digits = "0123456789ABCDEF";
  nlohmann::json vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < (all_bytes ? 256 : 0); ++byte)
    vocabulary[std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">"] = byte + 3;
  int next = 259;
  for (const std::string& character : characters) vocabulary[character] = next++;
  for (const std::string& merge : merges) {
    std::string token = merge;
    token.erase(token.find(' '), 1);
    vocabulary[token] = next++;
  }
  const nlohmann::json mark = {{"String", "▁"}}, space = {{"String", " "}};
  return {{"added_tokens",
           {{{"id", 0}, {"content", "<unk>"}, {"special", true}, {"normalized", false}},
            {{"id", 1}, {"content", "<s>"}, {"special", true}, {"normalized", false}},
            {{"id", 2}, {"content", "</s>"}, {"special", true}, {"normalized", false}}}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", space}, {"content", "▁"}}}}}},
          {"pre_tokenizer", nullptr},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", mark}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

}  // namespace kvreplay

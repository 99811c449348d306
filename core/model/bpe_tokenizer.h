// The tokenizer of every byte-pair vocabulary that is not SentencePiece's: a text pipeline, first symbols, merges.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/model/byte_pair_encoding.h"
#include "core/model/text_pipeline.h"
#include "core/model/tokenizer_files.h"

namespace kvreplay {

// A vocabulary under construction: names by id, the name of one id is unique.
class Vocabulary {
 public:
  // Throws Error at `where` for an id that is negative or implausibly large, or that has a name already.
  void add(const std::string& where, std::int64_t id, std::string name);
  std::optional<std::int32_t> find(const std::string& name) const;
  const std::string& name(std::int32_t id) const { return names_[static_cast<std::size_t>(id)]; }
  std::int32_t size() const { return static_cast<std::int32_t>(names_.size()); }
  std::size_t count() const { return ids_.size(); }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

struct BpeDefinition {
  // What the first symbols of a piece are, and how names are written in the vocabulary.
  enum class Symbols : std::uint8_t {
    mapped_bytes,  // bytes, named by GPT-2's printable stand-ins ("Ġthe")
    raw_bytes,     // bytes, named as they are
    characters,    // code points; unknown ones as <0xNN> when byte_fallback is set, else as the unknown token
  };
  Symbols symbols = Symbols::mapped_bytes;
  bool byte_fallback = false;
  bool fuse_unknown = false;
  bool ignore_merges = false;   // a piece that is in the vocabulary is one token, whatever the merges say
  bool prepends_space = false;  // decode takes one space away from the beginning
  std::string space_mark;       // what stands for a space in names ("▁"); empty: nothing
  std::optional<std::int32_t> unknown;
  Vocabulary vocabulary;
  MergeTable merges;
  std::vector<AddedToken> added_tokens;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeDefinition definition, const TokenizerSettings& settings, const std::string& description,
               const std::string& sha256);

  std::string token_bytes(std::int32_t id) const override;
  int vocabulary_size() const override { return static_cast<int>(bytes_.size()); }
  std::optional<std::int32_t> token_id(std::string_view name) const override;
  bool is_special(std::int32_t id) const override;

 protected:
  std::vector<std::int32_t> encode_utf8(std::string_view text, SpecialTokens special) const override;
  bool prepends_space() const override { return definition_.prepends_space; }

 private:
  std::string bytes_of_name(const std::string& name) const;
  void append_piece(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void first_symbols(std::string_view piece, std::vector<std::int32_t>& symbols) const;

  BpeDefinition definition_;
  AddedTokens added_;
  std::vector<std::string> bytes_;                             // by id; what the token stands for in the text
  std::unordered_map<std::string_view, std::int32_t> pieces_;  // no special tokens; views into bytes_ or names
  std::array<std::int32_t, 256> byte_symbols_{};               // -1: not in the vocabulary
};

// GPT-2's printable stand-in for each byte: 33 to 126, 161 to 172 and 174 to 255 stand for themselves, the others follow
// from U+0100 on. The inverse: the bytes of a name, or nothing when it has a character that stands for no byte.
std::string byte_stand_in(unsigned char byte);
std::optional<std::string> bytes_of_stand_ins(std::string_view name);

}  // namespace kvreplay

// What a tokenizer.json does to a text before the merges: normalizer, added tokens, pre-tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/model/tokenizer.h"

namespace kvreplay {

// Rewrites a text: NFC, Prepend, Replace and sequences of these.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;
};

// Cuts a text into the pieces that merges do not cross: ByteLevel, Digits, Split, Metaspace and sequences of these.
class PreTokenizer {
 public:
  // piece: valid for the call only. first: the piece begins where the whole text begins.
  using Sink = std::function<void(std::string_view piece, bool first)>;
  virtual ~PreTokenizer() = default;
  virtual void split(std::string_view text, bool first, const Sink& sink) const = 0;
};

// `where` ("tokenizer.json: normalizer") begins the message of the Error thrown for a kind that is not understood. A null
// description gives a null pointer: nothing to do.
std::unique_ptr<Normalizer> make_normalizer(const nlohmann::json& description, const std::string& where);
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& description, const std::string& where);

// The expressions that cut text for byte-level models whose files do not state them.
std::unique_ptr<PreTokenizer> gpt2_pre_tokenizer();
std::unique_ptr<PreTokenizer> llama3_pre_tokenizer();
std::unique_ptr<PreTokenizer> qwen2_pre_tokenizer();
std::unique_ptr<Normalizer> nfc_normalizer();

// A token that is found in the text as it stands, before anything is cut or merged.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;                       // looked for in the normalized text
  bool strip_left = false, strip_right = false;  // takes the white space beside it
  bool single_word = false;                      // only between characters that are no letters
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // normalizer may be null.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* find(std::int32_t id) const;
  const AddedToken* find(std::string_view content) const;

  // Calls on_token(id) and on_text(normalized piece, first) in the order of the text.
  void split(std::string_view text, SpecialTokens special, const Normalizer* normalizer,
             const std::function<void(std::int32_t)>& on_token, const PreTokenizer::Sink& on_text) const;

 private:
  struct Pattern {
    std::string text;
    std::size_t token = 0;  // index in tokens_
  };
  // Patterns by their first byte, longest first.
  using Patterns = std::unordered_map<unsigned char, std::vector<Pattern>>;
  void split_by(const Patterns& patterns, std::string_view text, bool first, SpecialTokens special,
                const std::function<void(std::int32_t)>& on_token, const PreTokenizer::Sink& on_text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  std::unordered_map<std::string, std::size_t> by_content_;
  Patterns raw_, normalized_;
};

}  // namespace kvreplay

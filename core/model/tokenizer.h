// Text to token ids and back, with the tokenizer that lies beside a model's weights.
//
//   auto tokenizer = Tokenizer::load("models/llama-3-8b");
//   std::vector<std::int32_t> ids = tokenizer->encode(text, tokenizer->adds_bos());
//   std::string one = tokenizer->token_bytes(ids[3]);   // what token 3 contributes to the text
//
// Understood, in this order, as found in the model's directory:
//   tokenizer.json         BPE: byte-level (GPT-2, Llama 3, Qwen2, ...) or characters with byte fallback (Llama 2, Gemma)
//   tokenizer.model[.vN]   SentencePiece (Llama 2, Mistral v1 to v7, Gemma), or Llama 3's list of ranks
//   vocab.json, merges.txt byte-level BPE of GPT-2 or Qwen2
// Special tokens and defaults come from tokenizer_config.json, generation_config.json and config.json where they exist.
//
// The files are untrusted: every error names the file and the entry. Ids agree with Hugging Face `tokenizers` and with
// SentencePiece. Text that is not UTF-8 is read as those who decode with replacement read it: each longest invalid piece
// becomes U+FFFD. A Tokenizer has no state that changes; all methods may be called from several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvreplay {

struct TokenizerSettings;

// What "<|eot_id|>" inside a text is. User text is never parsed: whoever writes it must not be able to end a turn.
enum class SpecialTokens : std::uint8_t {
  as_text,  // its characters
  parsed,   // the token
};

class Tokenizer {
 public:
  // Throws Error: no tokenizer files, a damaged file, or a kind that is not understood (the message names what is).
  static std::unique_ptr<Tokenizer> load(const std::string& model_directory);
  virtual ~Tokenizer() = default;

  // The ids of a text, preceded by bos() when add_bos is set and the tokenizer has one.
  std::vector<std::int32_t> encode(std::string_view text, bool add_bos,
                                   SpecialTokens special = SpecialTokens::as_text) const;

  // The text of these ids, special tokens left out, without the space that some tokenizers put before a text. Always
  // valid UTF-8: bytes that are none become U+FFFD. Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  // The bytes that one token stands for in the text: a space for SentencePiece's mark, one byte for "<0x0A>", the name
  // ("<s>") for a special token. The pieces of a text, one after the other, are the text (behind the space that some
  // tokenizers put before it); one piece alone may be half a character. Empty for an id that names no token.
  virtual std::string token_bytes(std::int32_t id) const = 0;

  virtual int vocabulary_size() const = 0;  // the largest id + 1
  // The id of a token by its name in the vocabulary ("<|eot_id|>", "</s>", "[INST]"), special or not.
  virtual std::optional<std::int32_t> token_id(std::string_view name) const = 0;
  virtual bool is_special(std::int32_t id) const = 0;  // controls the model, is no text

  std::optional<std::int32_t> bos() const { return bos_; }         // begins a text
  const std::vector<std::int32_t>& eos() const { return eos_; }    // any of these ends a generation; may be empty
  bool adds_bos() const { return adds_bos_; }                      // the model's own tokenizer begins texts with bos()
  const std::string& description() const { return description_; }  // "byte-level BPE, 128256 tokens, tokenizer.json"
  const std::string& sha256() const { return sha256_; }            // of the file (or files) that define it, in hex

 protected:
  // Ids of a valid UTF-8 text, no BOS.
  virtual std::vector<std::int32_t> encode_utf8(std::string_view text, SpecialTokens special) const = 0;
  // The space that encode puts before a text, and decode takes away: Llama 2, Mistral.
  virtual bool prepends_space() const = 0;
  // Sets bos_, eos_ and adds_bos_ from what the model's files say. Called by constructors once token_id works.
  void apply_settings(const TokenizerSettings& settings);

  std::optional<std::int32_t> bos_;
  std::vector<std::int32_t> eos_;
  bool adds_bos_ = false;
  std::string description_, sha256_;
};

}  // namespace kvreplay

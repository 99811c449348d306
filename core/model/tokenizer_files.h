// What the tokenizer's loaders share: reading a model's small files with errors that name them.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/text_pipeline.h"
#include "core/model/tokenizer.h"

namespace kvreplay {

// Whole contents. Throws Error naming the file.
std::string read_small_file(const std::string& path);
nlohmann::json read_json(const std::string& path);
// A null value when there is no such file.
nlohmann::json read_json_if_present(const std::string& path);

// What tokenizer_config.json, added_tokens.json, generation_config.json and config.json say about the tokenizer.
struct TokenizerSettings {
  std::vector<AddedToken> added_tokens;
  std::string bos_name, eos_name;      // empty: not stated
  bool states_bos = false;             // tokenizer_config.json has "bos_token", perhaps null
  std::optional<std::int32_t> bos_id;  // of generation_config.json or config.json
  std::vector<std::int32_t> eos_ids;
  std::optional<bool> adds_bos;
  std::string tokenizer_class;  // "Qwen2Tokenizer"; empty: not stated
  std::string model_type;       // "qwen2"; empty: not stated
};
TokenizerSettings read_tokenizer_settings(const std::string& model_directory);

// One loader a kind. path: the file (for vocab.json its companion merges.txt lies beside it).
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path, const TokenizerSettings& settings);
std::unique_ptr<Tokenizer> load_vocabulary_and_merges(const std::string& directory, const TokenizerSettings& settings);
std::unique_ptr<Tokenizer> load_rank_list(const std::string& path, const TokenizerSettings& settings);
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path, const TokenizerSettings& settings);

}  // namespace kvreplay

#include "core/model/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/base/error.h"
#include "core/base/utf8.h"
#include "core/model/tokenizer_files.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uintmax_t largest_file = std::uintmax_t{512} << 20;

// "<s>" or {"content": "<s>", ...}; empty for null and anything else.
std::string token_name(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return {};
}

void read_ids(const json& value, std::vector<std::int32_t>& ids) {
  const auto add = [&](const json& one) {
    if (one.is_number_integer() && one.get<std::int64_t>() >= 0 &&
        one.get<std::int64_t>() <= std::numeric_limits<std::int32_t>::max())
      ids.push_back(one.get<std::int32_t>());
  };
  if (value.is_array()) {
    for (const json& one : value) add(one);
  } else {
    add(value);
  }
}

void read_added_tokens(const std::string& path, const json& config, std::vector<AddedToken>& tokens) {
  const auto list = config.find("added_tokens_decoder");
  if (list == config.end() || !list->is_object()) return;
  for (const auto& [key, value] : list->items()) {
    AddedToken token;
    token.content = token_name(value);
    const std::string where = path + ": added_tokens_decoder[\"" + key + "\"]";
    const bool is_number = !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!is_number || token.content.empty()) throw Error(where, "is no id with a \"content\"");
    token.id = std::stoi(key);
    token.special = value.is_object() && value.value("special", false);
    token.normalized = value.is_object() && value.value("normalized", false);
    token.strip_left = value.is_object() && value.value("lstrip", false);
    token.strip_right = value.is_object() && value.value("rstrip", false);
    token.single_word = value.is_object() && value.value("single_word", false);
    tokens.push_back(std::move(token));
  }
}

// The newest of several: Mistral's directories have tokenizer.model.v3 and the like.
std::string find_versioned_model(const fs::path& directory) {
  std::string best_version, best;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const auto at = name.rfind(".model.v");
    if (at == std::string::npos) continue;
    const std::string version = name.substr(at + 8);
    if (version.size() > best_version.size() || (version.size() == best_version.size() && version > best_version)) {
      best_version = version;
      best = entry.path().string();
    }
  }
  return best;
}

// SentencePiece's files are protocol buffers; Llama 3's tokenizer.model is text, "IQ== 0" and so on.
std::unique_ptr<Tokenizer> load_model_file(const std::string& path, const TokenizerSettings& settings) {
  std::ifstream file(path, std::ios::binary);
  std::string line(64, '\0');
  file.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<std::size_t>(file.gcount()));
  const std::string first = line.substr(0, line.find('\n'));
  const bool ranks =
      first.size() > 2 && first.ends_with(" 0") &&
      first.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= ") == std::string::npos;
  return ranks ? load_rank_list(path, settings) : load_sentencepiece(path, settings);
}

}  // namespace

std::string read_small_file(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) throw Error(path, "is a directory, not a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path, "cannot be opened");
  const auto size = fs::file_size(path, error);
  if (!error && size > largest_file) throw Error(path, "is larger than 512 MiB", "this is no tokenizer file");
  std::string contents{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw Error(path, "cannot be read");
  return contents;
}

json read_json(const std::string& path) {
  try {
    return json::parse(read_small_file(path));
  } catch (const json::exception& error) {
    throw Error(path, std::string("is no valid JSON: ") + error.what());
  }
}

json read_json_if_present(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error) ? read_json(path) : json();
}

TokenizerSettings read_tokenizer_settings(const std::string& model_directory) {
  TokenizerSettings settings;
  const fs::path directory(model_directory);
  const std::string config_path = (directory / "tokenizer_config.json").string();
  const json config = read_json_if_present(config_path);
  if (config.is_object()) {
    if (config.contains("bos_token")) {
      settings.states_bos = true;
      settings.bos_name = token_name(config["bos_token"]);
    }
    if (config.contains("eos_token")) settings.eos_name = token_name(config["eos_token"]);
    if (config.contains("add_bos_token") && config["add_bos_token"].is_boolean())
      settings.adds_bos = config["add_bos_token"].get<bool>();
    if (config.contains("tokenizer_class")) settings.tokenizer_class = token_name(config["tokenizer_class"]);
    read_added_tokens(config_path, config, settings.added_tokens);
  }
  const json added = read_json_if_present((directory / "added_tokens.json").string());
  if (added.is_object() && settings.added_tokens.empty())
    for (const auto& [name, id] : added.items()) {
      std::vector<std::int32_t> ids;
      read_ids(id, ids);
      if (!ids.empty() && !name.empty()) settings.added_tokens.push_back({.id = ids[0], .content = name, .special = true});
    }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const json model = read_json_if_present((directory / name).string());
    if (!model.is_object()) continue;
    std::vector<std::int32_t> bos, eos;
    if (model.contains("bos_token_id")) read_ids(model["bos_token_id"], bos);
    if (model.contains("eos_token_id")) read_ids(model["eos_token_id"], eos);
    if (!settings.bos_id && !bos.empty()) settings.bos_id = bos[0];
    if (settings.eos_ids.empty()) settings.eos_ids = eos;
    if (model.contains("model_type")) settings.model_type = token_name(model["model_type"]);
  }
  return settings;
}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& model_directory) {
  std::error_code error;
  const fs::path path(model_directory);
  if (!fs::exists(path, error)) throw Error(model_directory, "there is no such file or directory");
  const bool is_file = fs::is_regular_file(path, error);
  const fs::path directory = is_file ? path.parent_path() : path;
  const TokenizerSettings settings = read_tokenizer_settings(directory.empty() ? "." : directory.string());
  if (is_file)
    return path.extension() == ".json" ? load_tokenizer_json(path.string(), settings)
                                       : load_model_file(path.string(), settings);

  const auto present = [&](const char* name) { return fs::exists(directory / name, error); };
  if (present("tokenizer.json")) return load_tokenizer_json((directory / "tokenizer.json").string(), settings);
  if (present("tokenizer.model")) return load_model_file((directory / "tokenizer.model").string(), settings);
  if (const std::string versioned = find_versioned_model(directory); !versioned.empty())
    return load_model_file(versioned, settings);
  if (present("vocab.json") && present("merges.txt")) return load_vocabulary_and_merges(directory.string(), settings);
  throw Error(model_directory, "has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt)",
              "token ids of your own need none: --ids FILE");
}

void Tokenizer::apply_settings(const TokenizerSettings& settings) {
  if (settings.states_bos) {
    bos_ = settings.bos_name.empty() ? std::nullopt : token_id(settings.bos_name);
  } else if (settings.bos_id && *settings.bos_id < vocabulary_size()) {
    bos_ = settings.bos_id;
  }
  if (!settings.eos_ids.empty()) eos_ = settings.eos_ids;
  if (!settings.eos_name.empty())
    if (const auto id = token_id(settings.eos_name); id && std::find(eos_.begin(), eos_.end(), *id) == eos_.end())
      eos_.push_back(*id);
  // Models that begin texts with a token say so. Where nothing is said, one that is there for that purpose alone is used;
  // Qwen's configurations name one that its tokenizer never uses.
  const bool qwen = settings.model_type.starts_with("qwen") || settings.tokenizer_class.starts_with("Qwen");
  const bool of_its_own = bos_ && std::find(eos_.begin(), eos_.end(), *bos_) == eos_.end();
  adds_bos_ = bos_ && settings.adds_bos.value_or(of_its_own && !qwen);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_bos, SpecialTokens special) const {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()) / 4)
    throw Error("text", "is longer than 512 MiB");
  std::vector<std::int32_t> ids = is_valid_utf8(text) ? encode_utf8(text, special) : encode_utf8(valid_utf8(text), special);
  if (add_bos && bos_) ids.insert(ids.begin(), *bos_);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary_size())
      throw Error("token " + std::to_string(id),
                  "is outside of the tokenizer's " + std::to_string(vocabulary_size()) + " ids");
    if (!is_special(id)) bytes += token_bytes(id);
  }
  if (prepends_space() && bytes.starts_with(' ')) bytes.erase(0, 1);
  return valid_utf8(bytes);
}

}  // namespace kvreplay

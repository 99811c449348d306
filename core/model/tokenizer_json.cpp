// tokenizer.json, vocab.json with merges.txt, and lists of ranks: three spellings of one kind of tokenizer.
#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/sha256.h"
#include "core/base/text.h"
#include "core/model/bpe_tokenizer.h"

namespace kvreplay {
namespace {

using nlohmann::json;
using Symbols = BpeDefinition::Symbols;

std::string file_name(const std::string& path) { return std::filesystem::path(path).filename().string(); }

bool flag(const json& object, const char* key, bool fallback) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

// Whether `description` or a step of the sequences in it is of this type.
const json* find_step(const json& description, const std::string& type) {
  if (!description.is_object()) return nullptr;
  const auto own = description.find("type");
  if (own != description.end() && *own == type) return &description;
  for (const char* list : {"pretokenizers", "normalizers", "decoders", "processors"})
    if (const auto steps = description.find(list); steps != description.end() && steps->is_array())
      for (const json& step : *steps)
        if (const json* found = find_step(step, type)) return found;
  return nullptr;
}

const json& section(const json& file, const char* key) {
  static const json nothing;
  const auto found = file.find(key);
  return found == file.end() ? nothing : *found;
}

void read_vocabulary(const std::string& where, const json& entries, Vocabulary& vocabulary) {
  if (!entries.is_object() || entries.empty()) throw Error(where, "is no list of tokens and their ids");
  for (const auto& [name, id] : entries.items()) {
    if (!id.is_number_integer()) throw Error(where, "the id of \"" + name + "\" is no integer");
    if (!name.empty()) vocabulary.add(where, id.get<std::int64_t>(), name);
  }
}

// "left right" or ["left", "right"]. Where tokens have spaces in them, "left right" means the only cut whose parts are
// tokens that make a token.
std::array<std::string, 2> merge_parts(const std::string& where, const json& entry, const Vocabulary& vocabulary) {
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string())
    return {entry[0].get<std::string>(), entry[1].get<std::string>()};
  if (!entry.is_string()) throw Error(where, "is no pair of tokens");
  const auto& text = entry.get_ref<const std::string&>();
  std::vector<std::size_t> cuts;
  for (std::size_t at = text.find(' '); at != std::string::npos; at = text.find(' ', at + 1)) cuts.push_back(at);
  if (cuts.size() > 1)
    std::erase_if(cuts, [&](std::size_t cut) {
      const std::string left = text.substr(0, cut), right = text.substr(cut + 1);
      return !vocabulary.find(left) || !vocabulary.find(right) || !vocabulary.find(left + right);
    });
  if (cuts.size() != 1) throw Error(where, "is no pair of tokens");
  return {text.substr(0, cuts[0]), text.substr(cuts[0] + 1)};
}

void add_merge(const std::string& list, std::size_t index, const std::array<std::string, 2>& parts,
               BpeDefinition& definition) {
  const auto id_of = [&](const std::string& name) {
    const auto id = definition.vocabulary.find(name);
    if (!id) throw Error(list + "[" + std::to_string(index) + "]", "\"" + name + "\" is not in the vocabulary");
    return *id;
  };
  const std::int32_t left = id_of(parts[0]), right = id_of(parts[1]);
  definition.merges.add(left, right, {static_cast<std::uint32_t>(index), id_of(parts[0] + parts[1])});
}

void read_added_tokens(const std::string& path, const json& list, std::vector<AddedToken>& tokens) {
  if (list.is_null()) return;
  if (!list.is_array()) throw Error(path + ": added_tokens", "is no list");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const json& entry = list[i];
    const std::string where = path + ": added_tokens[" + std::to_string(i) + "]";
    if (!entry.is_object() || !section(entry, "id").is_number_integer() || !section(entry, "content").is_string())
      throw Error(where, "has no \"id\" or no \"content\"");
    const auto id = entry["id"].get<std::int64_t>();
    if (id < 0 || id >= 1 << 24) throw Error(where, "the id " + std::to_string(id) + " is out of range");
    tokens.push_back({.id = static_cast<std::int32_t>(id),
                      .content = entry["content"].get<std::string>(),
                      .special = flag(entry, "special", false),
                      .normalized = flag(entry, "normalized", true),
                      .strip_left = flag(entry, "lstrip", false),
                      .strip_right = flag(entry, "rstrip", false),
                      .single_word = flag(entry, "single_word", false)});
  }
}

// Tokens that the settings name as special, as far as the vocabulary has them and they are not known already.
void add_named_specials(const TokenizerSettings& settings, BpeDefinition& definition) {
  auto& tokens = definition.added_tokens;
  const auto known = [&](const std::string& name) {
    return std::any_of(tokens.begin(), tokens.end(), [&](const AddedToken& token) { return token.content == name; });
  };
  for (const AddedToken& token : settings.added_tokens)
    if (!known(token.content)) tokens.push_back(token);
  for (const std::string& name : {settings.bos_name, settings.eos_name, std::string("<|endoftext|>")})
    if (const auto id = definition.vocabulary.find(name); id && !name.empty() && !known(name))
      tokens.push_back({.id = *id, .content = name, .special = true});
}

void check_model(const std::string& where, const json& model) {
  const std::string type = model.value("type", model.contains("merges") ? "BPE" : "");
  if (type != "BPE")
    throw Error(where, "the model is of type \"" + type + "\"",
                "BPE is understood; SentencePiece's tokenizer.model is, too");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const json& value = section(model, key); value.is_string() && !value.get_ref<const std::string&>().empty())
      throw Error(where, std::string("\"") + key + "\" is not understood");
  if (!section(model, "merges").is_array()) throw Error(where, "\"merges\" is missing");
}

// What stands for a space in the names of a vocabulary of characters, as the decoder says.
std::string space_mark_of(const json& file) {
  const json& decoder = section(file, "decoder");
  for (const json* description : {&decoder, &section(file, "pre_tokenizer")})
    if (const json* metaspace = find_step(*description, "Metaspace")) return metaspace->value("replacement", "▁");
  if (const json* replace = find_step(decoder, "Replace");
      replace != nullptr && section(*replace, "pattern").is_object() && section(*replace, "content") == " ")
    return section(*replace, "pattern").value("String", "");
  return {};
}

bool prepends_space(const json& file) {
  if (find_step(section(file, "normalizer"), "Prepend") != nullptr) return true;
  const json* metaspace = find_step(section(file, "pre_tokenizer"), "Metaspace");
  return metaspace != nullptr &&
         metaspace->value("prepend_scheme", flag(*metaspace, "add_prefix_space", true) ? "always" : "never") != "never";
}

// The token that the post-processor puts before a text.
std::optional<std::int32_t> leading_token(const json& file) {
  const json* process = find_step(section(file, "post_processor"), "TemplateProcessing");
  if (process == nullptr) return std::nullopt;
  const json& single = section(*process, "single");
  if (!single.is_array() || single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken"))
    return std::nullopt;
  const json& name = section(single[0]["SpecialToken"], "id");
  const json& tokens = section(*process, "special_tokens");
  if (!name.is_string() || !tokens.is_object() || !tokens.contains(name.get<std::string>())) return std::nullopt;
  const json& ids = section(tokens[name.get<std::string>()], "ids");
  if (!ids.is_array() || ids.empty() || !ids[0].is_number_integer()) return std::nullopt;
  return ids[0].get<std::int32_t>();
}

std::unique_ptr<Tokenizer> read_tokenizer_json(const std::string& path, const json& file, TokenizerSettings settings) {
  if (!file.is_object()) throw Error(path, "is no tokenizer.json: the file holds no JSON object");
  const json& model = section(file, "model");
  if (!model.is_object()) throw Error(path, "\"model\" is missing");
  check_model(path + ": model", model);

  BpeDefinition definition;
  const bool byte_level = find_step(section(file, "pre_tokenizer"), "ByteLevel") != nullptr ||
                          find_step(section(file, "decoder"), "ByteLevel") != nullptr;
  definition.symbols = byte_level ? Symbols::mapped_bytes : Symbols::characters;
  definition.byte_fallback = flag(model, "byte_fallback", false);
  definition.fuse_unknown = flag(model, "fuse_unk", false);
  definition.ignore_merges = flag(model, "ignore_merges", false);
  definition.space_mark = byte_level ? "" : space_mark_of(file);
  definition.prepends_space = !byte_level && prepends_space(file);
  read_vocabulary(path + ": model.vocab", section(model, "vocab"), definition.vocabulary);
  if (const json& unknown = section(model, "unk_token"); unknown.is_string()) {
    definition.unknown = definition.vocabulary.find(unknown.get<std::string>());
    if (!definition.unknown)
      throw Error(path + ": model.unk_token", "\"" + unknown.get<std::string>() + "\" is not in the vocabulary");
  }
  const json& merges = model["merges"];
  const std::string list = path + ": model.merges";
  definition.merges = MergeTable(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i)
    add_merge(list, i, merge_parts(list + "[" + std::to_string(i) + "]", merges[i], definition.vocabulary), definition);
  read_added_tokens(path, section(file, "added_tokens"), definition.added_tokens);
  definition.normalizer = make_normalizer(section(file, "normalizer"), path + ": normalizer");
  definition.pre_tokenizer = make_pre_tokenizer(section(file, "pre_tokenizer"), path + ": pre_tokenizer");

  if (const auto leading = leading_token(file)) {
    if (!settings.adds_bos) settings.adds_bos = true;
    if (!settings.states_bos && !settings.bos_id) settings.bos_id = leading;
  } else if (!section(file, "post_processor").is_null() && !settings.adds_bos) {
    settings.adds_bos = false;
  }
  const std::string description = std::string(byte_level ? "byte-level BPE, " : "BPE over characters, ") +
                                  std::to_string(definition.vocabulary.count()) + " tokens, " + file_name(path);
  return std::make_unique<BpeTokenizer>(std::move(definition), settings, description, sha256_of_file(path));
}

// One of Llama 3's 256 special tokens, in the order of their ids.
std::string llama3_special(int index) {
  static constexpr std::array<const char*, 11> first = {"<|begin_of_text|>",
                                                        "<|end_of_text|>",
                                                        "<|reserved_special_token_0|>",
                                                        "<|reserved_special_token_1|>",
                                                        "<|finetune_right_pad_id|>",
                                                        "<|reserved_special_token_2|>",
                                                        "<|start_header_id|>",
                                                        "<|end_header_id|>",
                                                        "<|eom_id|>",
                                                        "<|eot_id|>",
                                                        "<|python_tag|>"};
  if (index < static_cast<int>(first.size())) return first[static_cast<std::size_t>(index)];
  return "<|reserved_special_token_" + std::to_string(index - 8) + "|>";
}

std::string from_base64(const std::string& where, std::string_view text) {
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  for (const char c : text) {
    static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const auto digit = digits.find(c);
    if (digit == std::string_view::npos) throw Error(where, "is no base64");
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(static_cast<unsigned char>(bits >> count & 0xFF));
  }
  return bytes;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path, const TokenizerSettings& settings) {
  const json file = read_json(path);
  try {
    return read_tokenizer_json(path, file, settings);
  } catch (const json::exception& error) {  // an entry of an unexpected type
    throw Error(path, std::string("is no tokenizer.json: ") + error.what());
  }
}

std::unique_ptr<Tokenizer> load_vocabulary_and_merges(const std::string& directory, const TokenizerSettings& settings) {
  const std::string vocabulary_path = (std::filesystem::path(directory) / "vocab.json").string();
  const std::string merges_path = (std::filesystem::path(directory) / "merges.txt").string();
  BpeDefinition definition;
  read_vocabulary(vocabulary_path, read_json(vocabulary_path), definition.vocabulary);
  std::vector<std::string> lines = split(read_small_file(merges_path), '\n');
  if (!lines.empty() && lines.front().starts_with("#version")) lines.erase(lines.begin());
  definition.merges = MergeTable(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].ends_with('\r')) lines[i].pop_back();
    if (lines[i].empty()) continue;
    add_merge(merges_path, i, merge_parts(merges_path + "[" + std::to_string(i) + "]", lines[i], definition.vocabulary),
              definition);
  }
  const bool qwen = settings.tokenizer_class.starts_with("Qwen") || settings.model_type.starts_with("qwen");
  definition.pre_tokenizer = qwen ? qwen2_pre_tokenizer() : gpt2_pre_tokenizer();
  if (qwen) definition.normalizer = nfc_normalizer();
  add_named_specials(settings, definition);

  Sha256 hash;
  for (const std::string& path : {vocabulary_path, merges_path}) {
    const std::string contents = read_small_file(path);
    hash.update(contents.data(), contents.size());
  }
  const std::string description = std::string("byte-level BPE, ") + std::to_string(definition.vocabulary.count()) +
                                  " tokens, vocab.json and merges.txt, " + (qwen ? "Qwen2" : "GPT-2") + " pre-tokenizer";
  return std::make_unique<BpeTokenizer>(std::move(definition), settings, description, hash.hex());
}

// Each line "BASE64 RANK": the bytes of a token and its id, which is its rank in the merges, too. Any two tokens merge
// whose bytes together are a token.
std::unique_ptr<Tokenizer> load_rank_list(const std::string& path, const TokenizerSettings& settings) {
  BpeDefinition definition;
  definition.symbols = Symbols::raw_bytes;
  definition.ignore_merges = true;
  const std::vector<std::string> lines = split(read_small_file(path), '\n');
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::string where = path + ": line " + std::to_string(i + 1);
    const std::vector<std::string> parts = split(lines[i], ' ');
    if (parts.size() != 2 || parts[1].empty() || parts[1].size() > 8 ||
        parts[1].find_first_not_of("0123456789") != std::string::npos)
      throw Error(where, "is no token and its rank");
    const std::string bytes = from_base64(where, parts[0]);
    if (bytes.empty()) throw Error(where, "the token is empty");
    definition.vocabulary.add(where, std::stoi(parts[1]), bytes);
  }
  Vocabulary& vocabulary = definition.vocabulary;
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& token = vocabulary.name(id);
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = vocabulary.find(token.substr(0, cut));
      if (!left) continue;
      if (const auto right = vocabulary.find(token.substr(cut)))
        definition.merges.add(*left, *right, {static_cast<std::uint32_t>(id), id});
    }
  }
  const std::int32_t base = vocabulary.size();
  const std::size_t tokens = vocabulary.count();
  definition.pre_tokenizer = llama3_pre_tokenizer();
  definition.added_tokens = settings.added_tokens;
  TokenizerSettings complete = settings;
  if (settings.added_tokens.empty()) {
    for (int i = 0; i < 256; ++i)
      definition.added_tokens.push_back({.id = base + i, .content = llama3_special(i), .special = true});
    if (!settings.states_bos && !settings.bos_id) complete.bos_id = base;
    if (settings.eos_ids.empty()) complete.eos_ids = {base + 1, base + 8, base + 9};
    if (!settings.adds_bos) complete.adds_bos = true;
  }
  const std::string description =
      "byte-level BPE, " + std::to_string(tokens) + " tokens, ranks of " + file_name(path) + ", Llama 3 pre-tokenizer";
  return std::make_unique<BpeTokenizer>(std::move(definition), complete, description, sha256_of_file(path));
}

}  // namespace kvreplay

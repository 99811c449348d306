#include "core/model/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/base/utf8.h"

namespace kvreplay {
namespace {

constexpr std::int64_t largest_vocabulary = 1 << 24;

// The bytes that print as themselves in GPT-2's table.
bool stands_for_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

struct StandIns {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, 0x144> to_byte{};  // -1: stands for none

  StandIns() {
    to_byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      of_byte[byte] = stands_for_itself(byte) ? byte : next++;
      to_byte[of_byte[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};
const StandIns& stand_ins() {
  static const StandIns table;
  return table;
}

std::string byte_token_name(unsigned byte) {
  static constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
}

}  // namespace

std::string byte_stand_in(unsigned char byte) {
  std::string name;
  append_code_point(name, stand_ins().of_byte[byte]);
  return name;
}

std::optional<std::string> bytes_of_stand_ins(std::string_view name) {
  std::string bytes;
  for (std::size_t at = 0; at < name.size();) {
    const CodePoint point = code_point_at(name, at);
    if (point.value >= stand_ins().to_byte.size() || stand_ins().to_byte[point.value] < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(stand_ins().to_byte[point.value]));
    at += point.bytes;
  }
  return bytes;
}

void Vocabulary::add(const std::string& where, std::int64_t id, std::string name) {
  if (id < 0 || id >= largest_vocabulary)
    throw Error(where, "token \"" + name + "\" has the id " + std::to_string(id), "ids go from 0 to 16777215");
  const auto index = static_cast<std::size_t>(id);
  if (index >= names_.size()) names_.resize(index + 1);
  if (!names_[index].empty())
    throw Error(where, "id " + std::to_string(id) + " is both \"" + names_[index] + "\" and \"" + name + "\"");
  ids_.emplace(name, static_cast<std::int32_t>(id));
  names_[index] = std::move(name);
}

std::optional<std::int32_t> Vocabulary::find(const std::string& name) const {
  const auto found = ids_.find(name);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

BpeTokenizer::BpeTokenizer(BpeDefinition definition, const TokenizerSettings& settings, const std::string& description,
                           const std::string& sha256)
    : definition_(std::move(definition)), added_(definition_.added_tokens, definition_.normalizer.get()) {
  const Vocabulary& vocabulary = definition_.vocabulary;
  std::int32_t size = vocabulary.size();
  for (const AddedToken& token : added_.tokens()) size = std::max(size, token.id + 1);
  bytes_.resize(static_cast<std::size_t>(size));
  byte_symbols_.fill(-1);
  for (std::int32_t id = 0; id < vocabulary.size(); ++id)
    bytes_[static_cast<std::size_t>(id)] = bytes_of_name(vocabulary.name(id));
  for (const AddedToken& token : added_.tokens()) bytes_[static_cast<std::size_t>(token.id)] = token.content;

  const bool characters = definition_.symbols == BpeDefinition::Symbols::characters;
  pieces_.reserve(vocabulary.count());
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& piece = characters ? vocabulary.name(id) : bytes_[static_cast<std::size_t>(id)];
    // A special token must not come out of plain text.
    if (piece.empty() || is_special(id)) continue;
    pieces_.emplace(piece, id);
    if (!characters && piece.size() == 1) byte_symbols_[static_cast<unsigned char>(piece[0])] = id;
  }
  if (characters && definition_.byte_fallback)
    for (unsigned byte = 0; byte < 256; ++byte) byte_symbols_[byte] = vocabulary.find(byte_token_name(byte)).value_or(-1);
  description_ = description;
  sha256_ = sha256;
  apply_settings(settings);
}

std::string BpeTokenizer::bytes_of_name(const std::string& name) const {
  switch (definition_.symbols) {
    case BpeDefinition::Symbols::raw_bytes: return name;
    case BpeDefinition::Symbols::mapped_bytes: return bytes_of_stand_ins(name).value_or(name);
    case BpeDefinition::Symbols::characters: break;
  }
  if (definition_.byte_fallback && name.size() == 6 && name.starts_with("<0x") && name.ends_with('>'))
    for (unsigned byte = 0; byte < 256; ++byte)
      if (name == byte_token_name(byte)) return {static_cast<char>(static_cast<unsigned char>(byte))};
  if (definition_.space_mark.empty()) return name;
  std::string text;
  std::size_t done = 0;
  for (std::size_t at = 0; (at = name.find(definition_.space_mark, done)) != std::string::npos;) {
    text.append(name, done, at - done);
    text += ' ';
    done = at + definition_.space_mark.size();
  }
  return text + name.substr(done);
}

std::string BpeTokenizer::token_bytes(std::int32_t id) const {
  return id >= 0 && id < vocabulary_size() ? bytes_[static_cast<std::size_t>(id)] : std::string();
}

std::optional<std::int32_t> BpeTokenizer::token_id(std::string_view name) const {
  if (const AddedToken* token = added_.find(name)) return token->id;
  return definition_.vocabulary.find(std::string(name));
}

bool BpeTokenizer::is_special(std::int32_t id) const {
  const AddedToken* token = added_.find(id);
  return (token != nullptr && token->special) || definition_.unknown == id;
}

std::vector<std::int32_t> BpeTokenizer::encode_utf8(std::string_view text, SpecialTokens special) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  const PreTokenizer::Sink append = [&](std::string_view piece, bool) { append_piece(piece, ids); };
  added_.split(
      text, special, definition_.normalizer.get(), [&](std::int32_t id) { ids.push_back(id); },
      [&](std::string_view piece, bool first) {
        if (definition_.pre_tokenizer == nullptr) return append(piece, first);
        definition_.pre_tokenizer->split(piece, first, append);
      });
  return ids;
}

void BpeTokenizer::append_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (definition_.ignore_merges) {
    if (const auto found = pieces_.find(piece); found != pieces_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  thread_local std::vector<std::int32_t> symbols;
  symbols.clear();
  first_symbols(piece, symbols);
  definition_.merges.apply(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void BpeTokenizer::first_symbols(std::string_view piece, std::vector<std::int32_t>& symbols) const {
  bool after_unknown = false;
  const auto add_unknown = [&] {
    if (definition_.unknown && !(after_unknown && definition_.fuse_unknown)) symbols.push_back(*definition_.unknown);
    after_unknown = true;
  };
  if (definition_.symbols != BpeDefinition::Symbols::characters) {
    for (const char c : piece) {
      const std::int32_t symbol = byte_symbols_[static_cast<unsigned char>(c)];
      if (symbol < 0) {
        add_unknown();
      } else {
        symbols.push_back(symbol);
        after_unknown = false;
      }
    }
    return;
  }
  for (std::size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, code_point_at(piece, at).bytes);
    at += character.size();
    if (const auto found = pieces_.find(character); found != pieces_.end()) {
      symbols.push_back(found->second);
      after_unknown = false;
      continue;
    }
    const auto symbol_of = [&](char c) { return byte_symbols_[static_cast<unsigned char>(c)]; };
    if (std::all_of(character.begin(), character.end(), [&](char c) { return symbol_of(c) >= 0; })) {
      for (const char c : character) symbols.push_back(symbol_of(c));
      after_unknown = false;
    } else {
      add_unknown();
    }
  }
}

}  // namespace kvreplay

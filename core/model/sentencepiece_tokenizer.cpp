#include <sentencepiece_processor.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/sha256.h"
#include "core/model/tokenizer_files.h"

namespace kvreplay {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";

// Pieces that control a model although the file says "user-defined", which SentencePiece finds in any text.
bool is_control_name(const std::string& name) {
  static const std::set<std::string> names = {"<start_of_turn>", "<end_of_turn>", "<bos>",        "<eos>",
                                              "<pad>",           "<mask>",        "<|im_start|>", "<|im_end|>"};
  return names.contains(name);
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& path, const TokenizerSettings& settings) : path_(path) {
    const std::string contents = read_small_file(path);
    if (const auto status = processor_.LoadFromSerializedProto(contents); !status.ok() || processor_.GetPieceSize() == 0)
      throw Error(path, "is no SentencePiece model", "tokenizer.json or Llama 3's list of ranks is understood, too");
    read_tokens(settings);
    std::vector<std::string> probe;
    if (!processor_.Encode("a", &probe).ok() || probe.empty()) throw Error(path, "the SentencePiece model encodes nothing");
    prepends_space_ = probe[0].starts_with(space_mark);
    cuts_before_newline_ = can_cut_before_newline();
    description_ = "SentencePiece, " + std::to_string(processor_.GetPieceSize()) + " tokens, " +
                   std::filesystem::path(path).filename().string();
    sha256_ = sha256_hex(contents);

    TokenizerSettings complete = settings;
    if (!settings.states_bos && !settings.bos_id && processor_.bos_id() >= 0) complete.bos_id = processor_.bos_id();
    if (settings.eos_ids.empty() && processor_.eos_id() >= 0) complete.eos_ids = {processor_.eos_id()};
    apply_settings(complete);
  }

  std::string token_bytes(std::int32_t id) const override {
    return id >= 0 && id < vocabulary_size() ? bytes_[static_cast<std::size_t>(id)] : std::string();
  }
  int vocabulary_size() const override { return static_cast<int>(bytes_.size()); }
  std::optional<std::int32_t> token_id(std::string_view name) const override {
    if (const AddedToken* token = marked_.find(name)) return token->id;
    const int id = processor_.PieceToId(name);
    if (processor_.IdToPiece(id) != name) return std::nullopt;
    return id;
  }
  bool is_special(std::int32_t id) const override {
    return id >= 0 && id < vocabulary_size() && special_[static_cast<std::size_t>(id)];
  }

 protected:
  std::vector<std::int32_t> encode_utf8(std::string_view text, SpecialTokens special) const override {
    std::vector<std::int32_t> ids;
    marked_.split(
        text, special, nullptr, [&](std::int32_t id) { ids.push_back(id); },
        [&](std::string_view piece, bool) { append(piece, ids); });
    return ids;
  }
  bool prepends_space() const override { return prepends_space_; }

 private:
  void read_tokens(const TokenizerSettings& settings) {
    const int pieces = processor_.GetPieceSize();
    int size = pieces;
    for (const AddedToken& token : settings.added_tokens) size = std::max(size, token.id + 1);
    bytes_.resize(static_cast<std::size_t>(size));
    special_.resize(static_cast<std::size_t>(size));
    std::vector<AddedToken> marked;
    for (int id = 0; id < pieces; ++id) {
      const std::string& name = processor_.IdToPiece(id);
      const bool is_control = processor_.IsControl(id) || processor_.IsUnknown(id);
      special_[static_cast<std::size_t>(id)] = is_control || is_control_name(name);
      bytes_[static_cast<std::size_t>(id)] = is_control ? name : bytes_of_piece(id);
      if (special_[static_cast<std::size_t>(id)]) marked.push_back({.id = id, .content = name, .special = true});
      if (!is_control && is_control_name(name)) found_in_text_.push_back(name);
    }
    for (const AddedToken& token : settings.added_tokens) {
      if (token.id < pieces) continue;
      bytes_[static_cast<std::size_t>(token.id)] = token.content;
      special_[static_cast<std::size_t>(token.id)] = token.special;
      marked.push_back(token);
    }
    marked_ = AddedTokens(std::move(marked), nullptr);
  }

  std::string bytes_of_piece(int id) const {
    const std::string& name = processor_.IdToPiece(id);
    if (processor_.IsByte(id) && name.size() == 6)
      return {static_cast<char>(static_cast<unsigned char>(std::stoi(name.substr(3, 2), nullptr, 16)))};
    std::string text;
    std::size_t done = 0;
    for (std::size_t at = 0; (at = name.find(space_mark, done)) != std::string::npos; done = at + space_mark.size()) {
      text.append(name, done, at - done);
      text += ' ';
    }
    return text + name.substr(done);
  }

  // SentencePiece itself would find the user-defined pieces that control the model; a cut behind the first character of
  // such a name keeps it text.
  void append(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::size_t done = 0;
    for (;;) {
      std::size_t cut = std::string_view::npos;
      for (const std::string& name : found_in_text_) cut = std::min(cut, text.find(name, done));
      if (cut == std::string_view::npos) break;
      append_part(text.substr(done, cut + 1 - done), ids);
      done = cut + 1;
    }
    append_part(text.substr(done), ids);
  }

  // SentencePiece's working memory grows with the text until no cache holds it. A long text is cut before line ends where
  // that changes nothing, which is also what lets several threads work on it.
  void append_part(std::string_view text, std::vector<std::int32_t>& ids) const {
    constexpr std::size_t block_bytes = 4096;
    std::vector<std::string_view> blocks;
    while (cuts_before_newline_ && text.size() > block_bytes) {
      const std::size_t cut = text.find('\n', block_bytes);
      if (cut == std::string_view::npos) break;
      blocks.push_back(text.substr(0, cut));
      text.remove_prefix(cut);
    }
    blocks.push_back(text);
    std::vector<std::vector<int>> parts(blocks.size());
    parallel_for(static_cast<std::int64_t>(blocks.size()), 1, [&](std::int64_t begin, std::int64_t) {
      const auto i = static_cast<std::size_t>(begin);
      parts[i] = i == 0 ? encode_whole(blocks[i]) : encode_behind(blocks[i]);
    });
    for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
  }

  std::vector<int> encode_whole(std::string_view text) const {
    std::vector<int> ids;
    if (const auto status = processor_.Encode(text, &ids); !status.ok())
      throw Error(path_, std::string("SentencePiece cannot encode this text: ") + status.message());
    return ids;
  }
  // Of a text that begins with a line end and follows another: without the space that is put before every text.
  std::vector<int> encode_behind(std::string_view text) const {
    std::vector<int> ids = encode_whole(text);
    if (prepends_space_ && !ids.empty()) ids.erase(ids.begin());
    return ids;
  }

  // True when no piece reaches across a line end: it is a byte token then, alone between its neighbours.
  bool can_cut_before_newline() const {
    for (int id = 0; id < processor_.GetPieceSize(); ++id)
      if (processor_.IdToPiece(id).find('\n') != std::string::npos) return false;
    const std::string left = "ab  ", right = "\n\n  cd";
    std::vector<int> joined = encode_whole(left);
    const std::vector<int> behind = encode_behind(right);
    joined.insert(joined.end(), behind.begin(), behind.end());
    return joined == encode_whole(left + right);
  }

  std::string path_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;
  AddedTokens marked_;  // control pieces, and tokens that were added behind the vocabulary
  std::vector<std::string> found_in_text_;
  bool prepends_space_ = false;
  bool cuts_before_newline_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path, const TokenizerSettings& settings) {
  return std::make_unique<SentencePieceTokenizer>(path, settings);
}

}  // namespace kvreplay

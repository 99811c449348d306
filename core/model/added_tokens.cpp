#include <algorithm>

#include "core/base/utf8.h"
#include "core/model/regular_expression.h"
#include "core/model/text_pipeline.h"

namespace kvreplay {
namespace {

bool matches(const RegularExpression& expression, std::string_view text) {
  bool found = false;
  expression.for_each_match(text, [&](std::size_t, std::size_t) { found = true; });
  return found;
}

std::string_view first_code_point(std::string_view text) {
  return text.empty() ? text : text.substr(0, code_point_at(text, 0).bytes);
}
std::string_view last_code_point(std::string_view text) {
  if (text.empty()) return text;
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return text.substr(begin);
}

bool is_word(std::string_view code_point) {
  static const RegularExpression expression("word", "\\w");
  return matches(expression, code_point);
}
bool is_space(std::string_view code_point) {
  static const RegularExpression expression("space", "\\s");
  return matches(expression, code_point);
}

// How many bytes of white space the text ends with, or begins with.
std::size_t space_at_end(std::string_view text) {
  std::string_view rest = text;
  while (!rest.empty() && is_space(last_code_point(rest))) rest.remove_suffix(last_code_point(rest).size());
  return text.size() - rest.size();
}
std::size_t space_at_begin(std::string_view text) {
  std::string_view rest = text;
  while (!rest.empty() && is_space(first_code_point(rest))) rest.remove_prefix(first_code_point(rest).size());
  return text.size() - rest.size();
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer* normalizer) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    by_id_.emplace(token.id, i);
    by_content_.emplace(token.content, i);
    const std::string text = token.normalized && normalizer != nullptr ? normalizer->apply(token.content) : token.content;
    if (text.empty()) continue;
    (token.normalized ? normalized_ : raw_)[static_cast<unsigned char>(text[0])].push_back({text, i});
  }
  for (Patterns* patterns : {&raw_, &normalized_})
    for (auto& [byte, list] : *patterns)
      std::stable_sort(list.begin(), list.end(),
                       [](const Pattern& a, const Pattern& b) { return a.text.size() > b.text.size(); });
}

const AddedToken* AddedTokens::find(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

void AddedTokens::split(std::string_view text, SpecialTokens special, const Normalizer* normalizer,
                        const std::function<void(std::int32_t)>& on_token, const PreTokenizer::Sink& on_text) const {
  split_by(raw_, text, true, special, on_token, [&](std::string_view piece, bool first) {
    if (normalizer == nullptr) return split_by(normalized_, piece, first, special, on_token, on_text);
    split_by(normalized_, normalizer->apply(std::string(piece)), first, special, on_token, on_text);
  });
}

void AddedTokens::split_by(const Patterns& patterns, std::string_view text, bool first, SpecialTokens special,
                           const std::function<void(std::int32_t)>& on_token, const PreTokenizer::Sink& on_text) const {
  std::size_t done = 0;
  const auto emit_text = [&](std::size_t end) {
    if (end > done) on_text(text.substr(done, end - done), first && done == 0);
  };
  for (std::size_t at = 0; at < text.size() && !patterns.empty();) {
    const auto candidates = patterns.find(static_cast<unsigned char>(text[at]));
    const Pattern* pattern = nullptr;
    if (candidates != patterns.end()) {
      const auto found = std::find_if(candidates->second.begin(), candidates->second.end(),
                                      [&](const Pattern& p) { return text.substr(at).starts_with(p.text); });
      if (found != candidates->second.end()) pattern = &*found;
    }
    if (pattern == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[pattern->token];
    const std::size_t end = at + pattern->text.size();
    const bool is_text =
        (token.special && special == SpecialTokens::as_text) ||
        (token.single_word && (is_word(last_code_point(text.substr(0, at))) || is_word(first_code_point(text.substr(end)))));
    if (is_text) {
      at = end;
      continue;
    }
    const std::size_t begin = token.strip_left ? std::max(done, at - space_at_end(text.substr(0, at))) : at;
    emit_text(begin);
    on_token(token.id);
    done = at = token.strip_right ? end + space_at_begin(text.substr(end)) : end;
  }
  emit_text(text.size());
}

}  // namespace kvreplay

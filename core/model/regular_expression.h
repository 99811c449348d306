// Regular expressions of tokenizer files, through PCRE2 with Unicode properties and just-in-time compilation.
//
// Tokenizer files write for Oniguruma (Hugging Face) or for Rust (tiktoken). The patterns in use mean the same here but
// for one thing, which is translated: PCRE2's \s also takes U+180E, which Unicode no longer calls a space. Which code
// points are letters is as new as the installed PCRE2 (10.42: Unicode 14).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace kvreplay {

class RegularExpression {
 public:
  // Throws Error (at `where`) when the pattern does not compile.
  RegularExpression(const std::string& where, const std::string& pattern);
  // Matches exactly these characters.
  static std::string quoted(std::string_view literal);

  // Calls visit(begin, end) for each match that is not empty, from left to right. text: valid UTF-8.
  void for_each_match(std::string_view text, const std::function<void(std::size_t, std::size_t)>& visit) const;

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
  std::string where_;
};

}  // namespace kvreplay

#include "core/model/regular_expression.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "core/base/error.h"
#include "core/base/utf8.h"

namespace kvreplay {
namespace {

// Unicode's White_Space, for use inside a character class.
constexpr std::string_view white_space =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

std::string with_plain_white_space(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? std::string(white_space) : "[" + std::string(white_space) + "]";
      } else if (escaped == 'S' && !in_class) {
        out += "[^" + std::string(white_space) + "]";
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (in_class && pattern.substr(i).starts_with("[:")) {  // [[:alpha:]...]: its ] ends nothing
      const std::size_t end = std::min(pattern.find(":]", i), pattern.size() - 2) + 2;
      out += pattern.substr(i, end - i);
      i = end - 1;
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Working memory of a match; one per thread, so that a compiled expression can be shared.
struct MatchMemory {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(std::size_t{32} << 10, std::size_t{16} << 20, nullptr);

  MatchMemory() { pcre2_jit_stack_assign(context, nullptr, stack); }
  ~MatchMemory() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchMemory(const MatchMemory&) = delete;
  MatchMemory& operator=(const MatchMemory&) = delete;
};

}  // namespace

RegularExpression::RegularExpression(const std::string& where, const std::string& pattern) : where_(where) {
  const std::string translated = with_plain_white_space(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) throw Error(where, "the regular expression cannot be compiled: " + message_of(error));
  code_ = std::shared_ptr<pcre2_code>(code, pcre2_code_free);
  // Where the system forbids generated code this fails, and matching goes on without it.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

std::string RegularExpression::quoted(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && std::isalnum(static_cast<unsigned char>(c)) == 0) out += '\\';
    out += c;
  }
  return out;
}

void RegularExpression::for_each_match(std::string_view text,
                                       const std::function<void(std::size_t, std::size_t)>& visit) const {
  thread_local MatchMemory memory;
  std::size_t at = 0;
  while (at < text.size()) {
    // The text is known to be valid; checking it again at every match would make long texts quadratic.
    const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, memory.data, memory.context);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0) throw Error(where_, "the regular expression fails on this text: " + message_of(found));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(memory.data);
    const std::size_t begin = span[0], end = span[1];
    if (end > begin) {
      visit(begin, end);
      at = end;
    } else {
      if (begin >= text.size()) return;
      at = begin + code_point_at(text, begin).bytes;
    }
  }
}

}  // namespace kvreplay

#include "core/model/unicode_normalization.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "core/base/utf8.h"

namespace kvreplay {
namespace {

struct Decomposition {
  char32_t composed, first, second;
};
struct CombiningClass {
  char32_t begin, end;
  std::uint8_t value;
};
#include "core/model/unicode_normalization_table.inc"

// Hangul syllables are computed (section 3.12 of the Unicode standard).
constexpr char32_t hangul_base = 0xAC00, leading_base = 0x1100, vowel_base = 0x1161, trailing_base = 0x11A7;
constexpr char32_t leading_count = 19, vowel_count = 21, trailing_count = 28;
constexpr char32_t hangul_count = leading_count * vowel_count * trailing_count;

// Below this code point every text is in form C already.
constexpr char32_t first_combining = 0x300;

struct Tables {
  std::unordered_map<char32_t, const Decomposition*> decompositions;
  std::unordered_map<std::uint64_t, char32_t> compositions;

  static std::uint64_t pair(char32_t first, char32_t second) { return std::uint64_t{first} << 32 | second; }
  Tables() {
    for (const auto& entry : composable) {
      decompositions[entry.composed] = &entry;
      compositions[pair(entry.first, entry.second)] = entry.composed;
    }
    for (const auto& entry : decomposed_only) decompositions[entry.composed] = &entry;
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

int combining_class(char32_t c) {
  if (c < first_combining) return 0;
  const auto* found = std::upper_bound(std::begin(combining_classes), std::end(combining_classes), c,
                                       [](char32_t value, const CombiningClass& entry) { return value <= entry.end; });
  return found != std::end(combining_classes) && found->begin <= c ? found->value : 0;
}

void decompose(char32_t c, std::vector<char32_t>& out) {
  if (c >= hangul_base && c < hangul_base + hangul_count) {
    const char32_t index = c - hangul_base;
    out.push_back(leading_base + index / (vowel_count * trailing_count));
    out.push_back(vowel_base + index % (vowel_count * trailing_count) / trailing_count);
    if (index % trailing_count != 0) out.push_back(trailing_base + index % trailing_count);
    return;
  }
  const auto found = tables().decompositions.find(c);
  if (found == tables().decompositions.end()) {
    out.push_back(c);
    return;
  }
  decompose(found->second->first, out);
  if (found->second->second != 0) decompose(found->second->second, out);
}

char32_t compose(char32_t first, char32_t second) {  // 0: they do not compose
  if (first >= leading_base && first < leading_base + leading_count && second >= vowel_base &&
      second < vowel_base + vowel_count)
    return hangul_base + ((first - leading_base) * vowel_count + (second - vowel_base)) * trailing_count;
  if (first >= hangul_base && first < hangul_base + hangul_count && (first - hangul_base) % trailing_count == 0 &&
      second > trailing_base && second < trailing_base + trailing_count)
    return first + (second - trailing_base);
  const auto found = tables().compositions.find(Tables::pair(first, second));
  return found == tables().compositions.end() ? 0 : found->second;
}

// Marks that follow one letter stand in the order of their classes.
void sort_marks(std::vector<char32_t>& points) {
  for (std::size_t begin = 0; begin < points.size();) {
    if (combining_class(points[begin]) == 0) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + static_cast<std::ptrdiff_t>(begin), points.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

void compose_all(std::vector<char32_t>& points) {
  std::size_t kept = 0;
  std::size_t starter = points.size();  // the last letter that marks may join; none yet
  int last_class = 0;                   // of the character before, 0 right behind the starter
  for (const char32_t c : points) {
    const int current = combining_class(c);
    // A mark is blocked from its letter by a mark of the same or a higher class between them.
    const bool adjacent = starter + 1 == kept;
    if (starter < kept && (adjacent || (last_class != 0 && last_class < current))) {
      if (const char32_t composed = compose(points[starter], c); composed != 0) {
        points[starter] = composed;
        continue;
      }
    }
    if (current == 0) starter = kept;
    last_class = current;
    points[kept++] = c;
  }
  points.resize(kept);
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  std::vector<char32_t> points;
  bool simple = true;
  for (std::size_t at = 0; at < text.size() && simple;) {
    const CodePoint point = code_point_at(text, at);
    simple = point.value < first_combining;
    at += point.bytes;
  }
  if (simple) return std::string(text);
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    decompose(point.value, points);
    at += point.bytes;
  }
  sort_marks(points);
  compose_all(points);
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : points) append_code_point(out, c);
  return out;
}

}  // namespace kvreplay

#include "gui/model/text_search.h"

#include <QRegularExpression>
#include <QStringDecoder>
#include <algorithm>

namespace kvreplay::gui {
namespace {
constexpr std::size_t most_matches = 100'000;
}

// A character that several tokens share belongs to the one that ends it.
TextSearch::TextSearch(const Document& document) {
  QStringDecoder decoder(QStringDecoder::Utf8);
  for (std::int64_t token = 0; token < document.num_tokens(); ++token) {
    const std::string& bytes = document.token_text(token);
    text_ += decoder(QByteArrayView(bytes.data(), static_cast<qsizetype>(bytes.size())));
    end_.push_back(text_.size());
  }
}

TokenRange TextSearch::tokens_of(qsizetype begin, qsizetype end) const {
  const auto first = std::upper_bound(end_.begin(), end_.end(), begin);
  const auto last = std::upper_bound(first, end_.end(), end - 1);
  return {first - end_.begin(), last - end_.begin() + 1};
}

TextSearch::Found TextSearch::find(const QString& pattern, bool regular_expression) const {
  Found found;
  if (pattern.isEmpty()) return found;
  const bool any_case = pattern == pattern.toLower();
  QRegularExpression expression(regular_expression ? pattern : QRegularExpression::escape(pattern),
                                QRegularExpression::UseUnicodePropertiesOption | QRegularExpression::MultilineOption);
  if (any_case) expression.setPatternOptions(expression.patternOptions() | QRegularExpression::CaseInsensitiveOption);
  if (!expression.isValid()) {
    found.problem = expression.errorString();
    return found;
  }
  for (auto matches = expression.globalMatch(text_); matches.hasNext();) {
    const QRegularExpressionMatch match = matches.next();
    if (match.capturedLength() == 0) continue;
    if (found.ranges.size() == most_matches) {
      found.more = true;
      break;
    }
    found.ranges.push_back(tokens_of(match.capturedStart(), match.capturedEnd()));
  }
  return found;
}

}  // namespace kvreplay::gui

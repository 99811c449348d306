// Finds text in a trace whose tokens may cut words, and characters, anywhere.
#pragma once

#include <QString>
#include <vector>

#include "gui/model/document.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

class TextSearch {
 public:
  explicit TextSearch(const Document& document);

  struct Found {
    std::vector<TokenRange> ranges;  // the tokens that a match touches, in order
    bool more = false;               // there are more than were looked for
    QString problem;                 // of a regular expression that is none
  };
  // Upper case matters only where the pattern has some.
  Found find(const QString& pattern, bool regular_expression) const;

 private:
  TokenRange tokens_of(qsizetype begin, qsizetype end) const;

  QString text_;
  std::vector<qsizetype> end_;  // [T]: where each token ends in the text
};

}  // namespace kvreplay::gui

#include "gui/window/widgets/token_axis.h"

#include <algorithm>

#include "gui/figure/axis.h"
#include "gui/window/panel.h"

namespace kvreplay::gui {

Interval token_zoom(const Store& store, double tokens) { return store.zoom("tokens", {0, tokens}); }

void put_token_zoom(Store& store, Interval visible, double tokens) {
  if (visible.low <= 0 && visible.high >= tokens)
    store.reset_zoom("tokens");
  else
    store.set_zoom("tokens", visible);
}

void add_token_marks(const Document& document, MatrixContent& content) {
  for (const TextSpan& span : document.spans())
    content.marks.push_back(
        {static_cast<double>(span.start), static_cast<double>(span.end), QString::fromStdString(span.label)});
  const auto prompt = static_cast<double>(document.prompt_length());
  if (document.num_steps() == 0) return;
  content.column_lines.push_back(prompt);
  content.marks.push_back({prompt, static_cast<double>(document.num_tokens()), "generated"});
}

QString token_description(const Document& document, std::int64_t position) {
  QString line = QString("token %1 “%2”")
                     .arg(QString::fromStdString(figure::number_label(static_cast<double>(position), 9)))
                     .arg(token_text(document, position));
  if (const TextSpan* span = document.span_at(position)) line += ", in " + QString::fromStdString(span->label);
  const std::int64_t step = position - document.prompt_length() + 1;
  if (step > 0) line += QString(", of step %1").arg(step);
  return line;
}

std::vector<TokenRange> clicked_tokens(std::vector<TokenRange> selected, std::int64_t token,
                                       Qt::KeyboardModifiers modifiers) {
  if ((modifiers & Qt::ShiftModifier) != 0 && !selected.empty()) {
    const TokenRange last = selected.back();
    selected.back() = {std::min(last.begin, token), std::max(last.end, token + 1)};
    return selected;
  }
  if ((modifiers & Qt::ControlModifier) == 0) return {{token, token + 1}};
  std::vector<TokenRange> next;
  bool was_there = false;
  for (const TokenRange& range : selected) {
    if (!range.contains(token)) {
      next.push_back(range);
      continue;
    }
    was_there = true;
    if (token > range.begin) next.push_back({range.begin, token});
    if (token + 1 < range.end) next.push_back({token + 1, range.end});
  }
  if (!was_there) next.push_back({token, token + 1});
  return next;
}

}  // namespace kvreplay::gui

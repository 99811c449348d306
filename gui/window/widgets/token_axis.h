// What panels with an axis of tokens do alike: the zoom that they share, marks, how a token is described and chosen.
#pragma once

#include <QString>
#include <vector>

#include "gui/model/store.h"
#include "gui/window/widgets/matrix_view.h"

namespace kvreplay::gui {

// The store's zoom "tokens", of which a panel may show less than the whole trace.
Interval token_zoom(const Store& store, double tokens);
void put_token_zoom(Store& store, Interval visible, double tokens);

// The trace's spans, and the line between prompt and what was generated.
void add_token_marks(const Document& document, MatrixContent& content);

// "token 1,025 “ 84704”, in needle"
QString token_description(const Document& document, std::int64_t position);

// The selected tokens after a click: this one; with Ctrl it is added or taken away; with Shift all from the last to it.
std::vector<TokenRange> clicked_tokens(std::vector<TokenRange> selected, std::int64_t token,
                                       Qt::KeyboardModifiers modifiers);

}  // namespace kvreplay::gui

// A text with its tokens marked by how many heads kept them.
#pragma once

#include <cstdint>

#include "gui/figure/figure.h"

namespace kvreplay::figure {

// Kept and evicted are told apart by shape and by colour: a token that heads kept stands on a tinted ground and is
// underlined, the more heads the stronger; one that every head evicted is pale and bare.
struct TokenStrip final : Figure {
  struct Token {
    std::string text;       // bytes; parts of a character and control characters are shown as escapes
    float kept = 0;         // share of heads that still hold it, in [0, 1]; NaN: unknown
    std::string mark = {};  // name of a marked stretch it belongs to ("needle"), or empty
  };
  std::vector<Token> tokens;
  std::int64_t first = 0;  // position of the first token in the text
  std::string value_label = "share of heads that keep the token";

  std::string_view kind() const override { return "token_strip"; }
  Table data() const override;
};

}  // namespace kvreplay::figure

// Normalization form C of Unicode: letters and accents that have a common code point become one.
#pragma once

#include <string>
#include <string_view>

namespace kvreplay {

// text: valid UTF-8.
std::string normalize_nfc(std::string_view text);

}  // namespace kvreplay

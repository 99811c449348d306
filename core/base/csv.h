// Comma-separated values as RFC 4180 has them, lines ending in a single line feed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvreplay {

// Quoted where a comma, a quote or a line end needs it.
std::string csv_field(std::string_view text);

// "a,b,\"c,d\"\n"
std::string csv_line(const std::vector<std::string>& fields);

}  // namespace kvreplay

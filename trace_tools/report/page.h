// Pieces of the HTML page.
#pragma once

#include <string>
#include <string_view>

namespace kvreplay::cli {

// Text from a file as HTML text or as an attribute's value: nothing in it can end either.
std::string html_text(std::string_view text);

// "data:text/csv;base64,..."
std::string data_uri(std::string_view media_type, std::string_view bytes);

// The page's style sheet and its one script, and the script's hash for the content security policy: no other script runs.
extern const char* const page_style;
extern const char* const page_script;
std::string script_hash();

}  // namespace kvreplay::cli

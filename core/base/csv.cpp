#include "core/base/csv.h"

#include "core/base/error.h"

namespace kvreplay {

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string csv_line(const std::vector<std::string>& fields) {
  std::string line;
  for (std::size_t i = 0; i < fields.size(); ++i) line += (i == 0 ? "" : ",") + csv_field(fields[i]);
  return line + "\n";
}

std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where) {
  std::vector<std::vector<std::string>> lines;
  std::vector<std::string> fields;
  std::size_t at = 0, line = 1;
  const auto refuse = [&](const std::string& what) {
    return Error(where + ", line " + std::to_string(line), what, "a field with a quote in it is written \"...\"\"...\"");
  };
  while (at < text.size()) {
    std::string field;
    if (text[at] == '"') {
      const std::size_t opened = line;
      for (++at;; ++at) {
        if (at >= text.size()) {
          line = opened;
          throw refuse("a quoted field is never closed");
        }
        if (text[at] == '\n') ++line;
        if (text[at] != '"') {
          field += text[at];
        } else if (at + 1 < text.size() && text[at + 1] == '"') {
          field += text[++at];
        } else {
          break;
        }
      }
      ++at;
    } else {
      while (at < text.size() && text[at] != ',' && text[at] != '\n') field += text[at++];
      if (!field.empty() && field.back() == '\r') field.pop_back();
    }
    fields.push_back(std::move(field));
    if (at < text.size() && text[at] == '\r') ++at;
    if (at < text.size() && text[at] != ',' && text[at] != '\n') throw refuse("text follows a quoted field");
    const bool ends = at >= text.size() || text[at] == '\n';
    if (!ends && at + 1 == text.size()) fields.emplace_back();  // a comma is the last character
    ++at;
    if (!ends && at < text.size()) continue;
    if (fields.size() > 1 || !fields[0].empty()) lines.push_back(std::move(fields));
    fields.clear();
    ++line;
  }
  return lines;
}

}  // namespace kvreplay

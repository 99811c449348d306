#include "core/report/value_table.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/base/csv.h"
#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {

ValueTable ValueTable::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) throw Error(path, "cannot be read", "check that the file is there");
  return parse(text.str(), path);
}

ValueTable ValueTable::parse(const std::string& text, const std::string& path) {
  ValueTable table;
  table.path_ = path;
  auto lines = parse_csv(text, path);
  if (lines.empty()) throw Error(path, "is empty", "its first line names the columns; policy and value have to be there");
  table.columns_ = std::move(lines[0]);
  for (const char* needed : {"policy", "value"})
    if (!table.has(needed))
      throw Error(path, "has no column \"" + std::string(needed) + "\"",
                  "its first line names the columns: " + join(table.columns_, ", ", " and "));
  for (std::size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].size() != table.columns_.size())
      throw Error(
          path + ", row " + std::to_string(i),
          std::to_string(lines[i].size()) + " fields where the first line names " + std::to_string(table.columns_.size()));
    table.rows_.push_back(std::move(lines[i]));
    table.lines_.push_back(i);
    table.value(table.rows_.size() - 1);
  }
  if (table.rows_.empty()) throw Error(path, "has no values", "each line after the first has one");
  return table;
}

bool ValueTable::has(const std::string& column) const {
  return std::find(columns_.begin(), columns_.end(), column) != columns_.end();
}

const std::string& ValueTable::text(std::size_t row, const std::string& column) const {
  static const std::string none;
  const auto found = std::find(columns_.begin(), columns_.end(), column);
  return found == columns_.end() ? none : rows_[row][static_cast<std::size_t>(found - columns_.begin())];
}

double ValueTable::number(std::size_t row, const std::string& column) const {
  const std::string& field = text(row, column);
  if (field.empty()) return std::numeric_limits<double>::quiet_NaN();
  double parsed = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), parsed);
  if (error != std::errc{} || end != field.data() + field.size())
    throw Error(path_ + ", row " + std::to_string(lines_[row]),
                "\"" + field + "\" in column " + column + " is not a number");
  return parsed;
}

std::vector<std::string> ValueTable::distinct(const std::string& column) const {
  std::vector<std::string> all;
  for (std::size_t row = 0; row < size(); ++row)
    if (std::find(all.begin(), all.end(), text(row, column)) == all.end()) all.push_back(text(row, column));
  return all;
}

ValueTable ValueTable::only(const std::string& column, const std::vector<std::string>& texts) const {
  ValueTable some;
  some.path_ = path_, some.columns_ = columns_;
  for (std::size_t row = 0; row < size(); ++row) {
    if (std::find(texts.begin(), texts.end(), text(row, column)) == texts.end()) continue;
    some.rows_.push_back(rows_[row]);
    some.lines_.push_back(lines_[row]);
  }
  return some;
}

ValueTable ValueTable::where(const std::string& conditions) const {
  if (conditions == "all") return *this;
  ValueTable some = *this;
  for (const auto& condition : split(conditions, ';')) {
    const auto equals = condition.find('=');
    const std::string column = condition.substr(0, equals);
    if (equals == std::string::npos || !has(column))
      throw Error("where=" + conditions, "\"" + condition + "\" does not name a column",
                  "write COLUMN=TEXT; " + path_ + " has " + join(columns_, ", ", " and "));
    const std::vector<std::string> there = some.distinct(column);
    some = some.only(column, {condition.substr(equals + 1)});
    if (some.size() == 0)
      throw Error("where=" + conditions, "no row has " + condition, column + " is " + join(there, ", ", " or "));
  }
  return some;
}

ValueTable ValueTable::joined(const std::vector<ValueTable>& tables) {
  ValueTable all;
  for (const auto& table : tables) {
    all.path_ += (all.path_.empty() ? "" : ", ") + table.path_;
    for (const auto& column : table.columns_)
      if (!all.has(column)) all.columns_.push_back(column);
  }
  for (const auto& table : tables)
    for (std::size_t row = 0; row < table.size(); ++row) {
      std::vector<std::string> fields;
      for (const auto& column : all.columns_) fields.push_back(table.text(row, column));
      all.rows_.push_back(std::move(fields));
      all.lines_.push_back(table.lines_[row]);
    }
  return all;
}

}  // namespace kvreplay

// Tables of values from elsewhere: published numbers, measured latencies. One value a line, what it belongs to in columns
// that the first line names (data/published/README.md).
//
//   paper,table,model,policy,setting,budget,budget_unit,context,task,metric,value,unit
//
// Only "policy" and "value" have to be there; other columns may be added freely.
#pragma once

#include <string>
#include <vector>

namespace kvreplay {

class ValueTable {
 public:
  // Throws Error naming the file and the line: not there, no such column, a line of another length, a value that is no
  // number.
  static ValueTable read(const std::string& path);
  static ValueTable parse(const std::string& text, const std::string& path);

  const std::string& path() const { return path_; }
  std::size_t size() const { return rows_.size(); }
  bool has(const std::string& column) const;
  // Empty where the column is absent.
  const std::string& text(std::size_t row, const std::string& column) const;
  // NaN where the field is empty or the column absent; throws Error for text.
  double number(std::size_t row, const std::string& column) const;
  double value(std::size_t row) const { return number(row, "value"); }
  // Distinct texts of a column in the order in which they appear.
  std::vector<std::string> distinct(const std::string& column) const;

  // Only the rows with these texts: "model=Mistral-7B;task=qasper". "all" keeps every row. Throws Error that lists what the
  // column has where no row is left.
  ValueTable where(const std::string& conditions) const;
  // Only the rows whose text in the column is one of these.
  ValueTable only(const std::string& column, const std::vector<std::string>& texts) const;
  // The rows of several tables; columns of any.
  static ValueTable joined(const std::vector<ValueTable>& tables);

 private:
  std::string path_;
  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> lines_;  // of the file, for messages
};

}  // namespace kvreplay

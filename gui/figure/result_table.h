// A table as in papers: the best of each column in bold, the second underlined, bounds set apart. As a figure and in LaTeX.
#pragma once

#include <cstdint>

#include "gui/figure/figure.h"

namespace kvreplay::figure {

struct ResultTable final : Figure {
  struct Column {
    std::string group;  // written above neighbouring columns that share it; empty: none
    std::string title;
    bool higher_is_better = false;
    bool ranked = true;  // false: neither is better (bytes), nothing is marked
  };
  struct Row {
    std::string name;
    std::vector<double> values;           // [columns]; NaN: no value
    std::vector<double> half_width = {};  // of a 95 % interval around each value, or empty; NaN: none
    bool reference = false;               // the full cache, a bound: takes no part, below a rule
  };
  std::string row_label;  // "policy"
  std::vector<Column> columns;
  std::vector<Row> rows;

  // What is printed: every value of a column with equally many decimals.
  std::string text(std::size_t row, std::size_t column) const;
  // 1: the best, 2: the second best among the rows that take part, by what is printed (ties share a rank); else 0.
  int rank(std::size_t row, std::size_t column) const;
  // A tabular environment (package booktabs), with the provenance in comments.
  std::string latex() const;

  std::string_view kind() const override { return "result_table"; }
  Table data() const override;
};

}  // namespace kvreplay::figure

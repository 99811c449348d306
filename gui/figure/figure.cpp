#include "gui/figure/figure.h"

#include "core/base/csv.h"

namespace kvreplay::figure {

std::string Table::csv() const {
  std::string text = csv_line(columns);
  for (const auto& row : rows) text += csv_line(row);
  return text;
}

}  // namespace kvreplay::figure

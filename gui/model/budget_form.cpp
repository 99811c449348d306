#include "gui/model/budget_form.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/base/text.h"

namespace kvreplay::gui {

BudgetForm::BudgetForm(std::shared_ptr<const Document> document, Granularity granularity, std::int64_t minimum)
    : document_(std::move(document)),
      granularity_(granularity),
      minimum_(std::clamp<std::int64_t>(minimum, 1, document_->prompt_length())),
      maximum_(std::max<std::int64_t>(1, document_->prompt_length())) {}

std::int64_t BudgetForm::tokens_at(double place) const {
  const double low = std::log(static_cast<double>(minimum_)), high = std::log(static_cast<double>(maximum_));
  return std::clamp(static_cast<std::int64_t>(std::llround(std::exp(low + std::clamp(place, 0.0, 1.0) * (high - low)))),
                    minimum_, maximum_);
}

double BudgetForm::place_of(std::int64_t tokens) const {
  if (maximum_ <= minimum_) return 1;
  const double low = std::log(static_cast<double>(minimum_)), high = std::log(static_cast<double>(maximum_));
  return std::clamp((std::log(static_cast<double>(std::max<std::int64_t>(1, tokens))) - low) / (high - low), 0.0, 1.0);
}

std::int64_t BudgetForm::bytes_of(std::int64_t tokens) const {
  return tokens * static_cast<std::int64_t>(trace().layers().size()) * stored_heads(granularity_, trace().model()) *
         token_bytes(trace());
}

std::string BudgetForm::text(Budget::Kind kind, std::int64_t tokens) const {
  if (kind == Budget::Kind::tokens) return std::to_string(tokens);
  if (kind == Budget::Kind::ratio) {
    // Rounded up to tenths of a percent: a share is cut to whole tokens.
    const double percent = std::ceil(static_cast<double>(tokens) * 1000 / static_cast<double>(maximum_)) / 10;
    return format_number(percent) + "%";
  }
  return std::to_string((bytes_of(tokens) + 1023) / 1024) + "KiB";
}

std::int64_t BudgetForm::tokens_of(const std::string& budget) const {
  return Budget::parse(budget).resolve(trace(), granularity_);
}

std::string BudgetForm::description(std::int64_t tokens) const {
  char percent[32];
  std::snprintf(percent, sizeof percent, "%.1f %%", static_cast<double>(tokens) * 100 / static_cast<double>(maximum_));
  return std::to_string(tokens) + " tokens a head · " + percent + " · " +
         format_bytes(static_cast<double>(bytes_of(tokens)));
}

}  // namespace kvreplay::gui

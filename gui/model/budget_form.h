// A budget as a slider and a unit: tokens per stored head, a share of the prompt, or bytes of the whole cache.
#pragma once

#include <memory>
#include <string>

#include "core/replay/budget.h"
#include "gui/model/document.h"

namespace kvreplay::gui {

class BudgetForm {
 public:
  // Of a policy with this granularity on this trace, which never goes below `minimum` tokens.
  BudgetForm(std::shared_ptr<const Document> document, Granularity granularity, std::int64_t minimum);

  std::int64_t minimum() const { return minimum_; }
  std::int64_t maximum() const { return maximum_; }  // the whole prompt
  // Places of a slider from 0 to 1, even in the logarithm of the tokens.
  std::int64_t tokens_at(double place) const;
  double place_of(std::int64_t tokens) const;

  // The budget that gives so many tokens: "256", "10%", "96KiB". The text comes back through Budget::parse() and
  // Budget::resolve() as these tokens, a share of them as near as a thousandth of the prompt allows.
  std::string text(Budget::Kind kind, std::int64_t tokens) const;
  // The tokens of a budget as written. Throws Error for what is no budget.
  std::int64_t tokens_of(const std::string& budget) const;
  // What it is in the other two units: "102 tokens a head · 10 % · 51 KiB".
  std::string description(std::int64_t tokens) const;

 private:
  std::int64_t bytes_of(std::int64_t tokens) const;

  const Trace& trace() const { return document_->trace(); }

  std::shared_ptr<const Document> document_;  // kept: a slider may move after its file was closed
  Granularity granularity_;
  std::int64_t minimum_, maximum_;
};

}  // namespace kvreplay::gui

// Evaluates policies at many budgets in the background, point by point, in a thread of its own.
#pragma once

#include <QObject>
#include <memory>
#include <string>
#include <vector>

#include "core/trace/results.h"
#include "gui/model/background.h"
#include "gui/model/document.h"

namespace kvreplay::gui {

class BudgetSweep final : public QObject {
  Q_OBJECT

 public:
  explicit BudgetSweep(QObject* parent = nullptr);
  ~BudgetSweep() override;

  // Ends a sweep that is under way. The largest budgets come first: they are the surest to be above what a policy keeps.
  void start(std::shared_ptr<const Document> document, const std::vector<std::string>& policies,
             const std::vector<std::string>& budgets);
  void stop();
  bool running() const { return next_ < points_.size(); }
  int done() const { return static_cast<int>(next_); }
  int total() const { return static_cast<int>(points_.size()); }
  // What could not be evaluated and why, one line each.
  const std::vector<std::string>& problems() const { return problems_; }

 signals:
  void point(const kvreplay::RunInfo& info);
  void progressed();  // also when it ends

 private:
  struct Point {
    std::string policy, budget;
  };
  struct Desk;  // of the thread
  void ask();

  std::shared_ptr<const Document> document_;
  std::vector<Point> points_;
  std::size_t next_ = 0;
  std::vector<std::string> problems_;
  std::shared_ptr<Desk> desk_;
  Background background_;
};

}  // namespace kvreplay::gui

// Work off the window's thread for whoever waits for one answer at a time: the numbers behind a panel.
//
//   background->ask<Answer>(this, [document, layer] { return compute(*document, layer); },
//                           [this](std::shared_ptr<const Answer> answer, const std::string& problem) { show(...); });
//
// A newer question of the same asker supersedes its older one: one that waits is dropped, one under way is cancelled (its
// parallel_for throws Cancelled, core/base/parallel.h), and in either case its answer never arrives. Questions of several
// askers are worked on in turn, in one thread, so that what they keep in it (gui/model/layer_desk.h) needs no lock. The
// panels of a layer's numbers share one; the Eviction map, the Head grid, the Attention view and a sweep over budgets
// (gui/model/budget_sweep.h) each have their own, since what they ask for takes long and would hold up the others' answers.
#pragma once

#include <QObject>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace kvreplay::gui {

class Background final : public QObject {
  Q_OBJECT

 public:
  explicit Background(QObject* parent = nullptr);
  ~Background() override;  // waits for what is under way, which is cancelled

  // `work` runs in the thread of this object's own. `done` runs in the thread of this object, with the answer, or null and
  // what an Error said. Neither runs once the asker is gone.
  template <class Answer>
  void ask(QObject* asker, std::function<Answer()> work,
           std::function<void(std::shared_ptr<const Answer>, const std::string& problem)> done) {
    put(asker, [work = std::move(work), done = std::move(done)]() -> std::function<void()> {
      try {
        auto answer = std::make_shared<const Answer>(work());
        return [answer, done] { done(answer, {}); };
      } catch (const Cancelled&) {
        throw;
      } catch (const std::exception& error) {
        return [text = std::string(error.what()), done] { done(nullptr, text); };
      }
    });
  }
  // No answer is wanted any more.
  void drop(QObject* asker);
  bool is_busy(const QObject* asker) const;

 private:
  // Gives what is to be done in the asker's thread.
  using Work = std::function<std::function<void()>()>;
  void put(QObject* asker, Work work);

  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace kvreplay::gui

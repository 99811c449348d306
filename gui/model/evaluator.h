// Makes runs in a thread of its own, live or from results files, newest request first, what is on screen before the rest.
//
//   Evaluator evaluator([] { return make_cpu_backend(); });
//   connect(&evaluator, &Evaluator::run_changed, &store, &Store::put_run);
//   evaluator.want({{spec, document, nullptr}});     // replaces the list: what is no longer in it stops at once
//   evaluator.look_at(3, 0);                          // this layer and step come first
//
// Of each run the layer on screen comes first: when its tokens are evicted, with the values of the step on screen; then its
// other steps, then the other layers. Signals come in the evaluator's own thread, at most 25 a second for each run and for
// progress, and always for the last of its kind.
#pragma once

#include <QObject>
#include <functional>
#include <memory>
#include <vector>

#include "core/backend/backend.h"
#include "core/trace/results.h"
#include "gui/model/document.h"
#include "gui/model/run.h"

namespace kvreplay::gui {

// A run that is wanted. The order of the list is the order of the work.
struct RunRequest {
  RunSpec spec;
  std::shared_ptr<const Document> document;  // never null
  std::shared_ptr<const Results> results;    // of runs of a results file
  bool on_screen = true;                     // false: after all those that are
};

struct Progress {
  bool working = false;
  double share = 0;          // in [0, 1]
  double seconds_spent = 0;  // since the work began
  double seconds_left = 0;   // as far as can be told; negative: not yet
  QString task;              // "snapkv · 10%: layer 3 of 8"
};

class Evaluator final : public QObject {
  Q_OBJECT

 public:
  using MakeBackend = std::function<std::unique_ptr<Backend>()>;

  // make_backend: called once, in the evaluator's thread.
  explicit Evaluator(MakeBackend make_backend, QObject* parent = nullptr);
  ~Evaluator() override;

  // Runs with the same spec, document and results as one that is wanted already go on where they are; others start or stop.
  void want(std::vector<RunRequest> requests);
  // layer: place among the trace's layers; step as in Selection.
  void look_at(int layer, int step);
  // Ends what is under way. What has come of it stays; it goes on when another layer or step is looked at, and requests that
  // change begin as ever.
  void cancel();

 signals:
  void run_changed(int id, std::shared_ptr<const kvreplay::gui::Run> run);
  void progressed(const kvreplay::gui::Progress& progress);

 private:
  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace kvreplay::gui

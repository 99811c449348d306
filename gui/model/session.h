// Keeps a store's documents and runs in step with its state: opens files in the background, evaluates what is to be run,
// saves and restores sessions. It draws nothing and asks nothing; what goes wrong is put where it belongs, the file
// (Store::file_problem) or the run (Run::problem).
#pragma once

#include <QObject>
#include <QThreadPool>
#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "core/trace/results.h"
#include "gui/model/evaluator.h"
#include "gui/model/store.h"

namespace kvreplay::gui {

class Session final : public QObject {
  Q_OBJECT

 public:
  // store outlives it.
  Session(Store& store, Evaluator::MakeBackend make_backend, QObject* parent = nullptr);
  ~Session() override;

  Evaluator& evaluator() { return evaluator_; }

  // A trace, a results file or a session, whatever it is. Returns at once; what is wrong with it shows in the store.
  void open(const std::string& path);
  // The bundled trace, which is made first where it is not there yet (gui/model/bundled_trace.h).
  void open_bundled();
  void close(int file);
  // Reads a file again that could not be opened, or has changed.
  void reload(int file);
  // Throws Error.
  void save(const std::string& path) const;
  // Throws Error, and leaves everything as it was, for a file that is no session.
  void restore(const std::string& path);
  // Whether every file has been opened or refused.
  bool idle() const { return opening_.empty(); }

 signals:
  void progressed(const kvreplay::gui::Progress& progress);  // of making the bundled trace
  void opened(const QString& path);  // for the list of recent files: a file that was there and is fine

 private:
  class MakingJob;
  struct Opened;
  void open_file(int id, bool make_it = false);
  void arrived(int id, const Opened& opened);
  void put_description(const RunSpec& spec, const Document& document);
  void place_results();
  bool place_results_of(int id);
  void add_first_runs(int trace);
  void check_identity(int id, const std::string& identity);
  void evaluate();

  Store& store_;
  Evaluator evaluator_;
  std::map<int, std::shared_ptr<const Results>> results_;
  std::set<int> opening_, unplaced_;
  std::atomic<bool> ending_{false};
  std::map<int, std::string> expected_;  // identities that a session was saved with
  int generation_ = 0;                   // of the state: what was opened for an older one is dropped
  bool restored_ = false;                // the runs are a session's: none are added
  QThreadPool threads_;                  // the last member: its work refers to the others
};

}  // namespace kvreplay::gui

// The one place where the window's state lives. Panels read it, ask for changes through the functions below, and are told by
// one signal what changed; they never talk to each other.
//
//   connect(&store, &Store::changed, this, [this](Changes what) { if (what & (Change::selection | Change::runs)) update();
//   }); if (auto run = store.run_a()) draw(*run); store.select_layer(3);                       // emits
//   changed(Change::selection), and can be taken back with back()
//
// The heavy things behind the state, traces (Document) and evaluated runs (Run), are handed in by whoever makes them
// (gui/model/session.h) as immutable shared values: keep the pointer as long as you draw from it.
// Everything happens in the thread in which the store lives.
#pragma once

#include <QObject>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gui/model/document.h"
#include "gui/model/run.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

enum class Change : unsigned {
  files = 1U << 0,      // a file was opened, closed, found to be broken; a Document has arrived
  specs = 1U << 1,      // what is run: a RunSpec was added, changed or removed
  runs = 1U << 2,       // what came out: a Run has new layers, values or an error
  selection = 1U << 3,  // run A or B, step, layer, heads, tokens
  focus = 1U << 4,      // what the mouse is over: many times a second
  zoom = 1U << 5,
  views = 1U << 6,  // a panel's own settings
  theme = 1U << 7,  // light or dark: everything is drawn anew
};
Q_DECLARE_FLAGS(Changes, Change)
Q_DECLARE_OPERATORS_FOR_FLAGS(Changes)

enum class Side : std::uint8_t { a, b };

class Store final : public QObject {
  Q_OBJECT

 public:
  explicit Store(QObject* parent = nullptr);
  ~Store() override;

  // ---- reading -------------------------------------------------------------------------------------------------------
  const AppState& state() const { return state_; }
  const Selection& selection() const { return state_.selection; }
  const Focus& focus() const { return state_.focus; }

  // The trace of run A, or of run B, or the first that is open; null while none is. It is what panels show.
  std::shared_ptr<const Document> document() const { return document_of(state_.selection); }
  std::shared_ptr<const Document> document(int file) const;  // null until it is open
  // Null where no run is chosen, where it is of another trace than document(), or where nothing has come back yet: whoever
  // has one may read it in the ranges of document(). A run may still miss layers: Run::layer() is null for those.
  std::shared_ptr<const Run> run_a() const { return run(Side::a); }
  std::shared_ptr<const Run> run_b() const { return run(Side::b); }
  std::shared_ptr<const Run> run(Side side) const;
  std::shared_ptr<const Run> run(int id) const;  // whatever its trace
  // Whether the run that is chosen cannot be shown beside the other: it is of another trace than document().
  bool is_of_another_trace(Side side) const;
  const RunSpec* spec(Side side) const;  // null where none is chosen
  // Why a file could not be opened, or what is wrong with it; empty: nothing.
  std::string file_problem(int file) const;
  // The visible stretch of an axis; `all` where nothing was zoomed.
  Interval zoom(const std::string& axis, Interval all) const;
  std::string view(const std::string& panel, const std::string& setting, const std::string& otherwise) const;

  // ---- selection, focus and zoom: taken back with back() (but for focus) ----------------------------------------------
  void select_run(Side side, int id);
  void swap_runs();
  void select_step(int step);    // clamped to the trace
  void select_layer(int layer);  // clamped to the trace
  void select_heads(std::vector<int> heads);
  void select_tokens(std::vector<TokenRange> tokens);  // brought into order
  void set_selection(Selection selection);             // several of these as one change
  void set_focus(Focus focus);
  void set_zoom(const std::string& axis, Interval visible);
  void reset_zoom(const std::string& axis);
  bool can_go_back() const { return !past_.empty(); }
  bool can_go_forward() const { return !future_.empty(); }
  void back();
  void forward();

  // ---- files and runs --------------------------------------------------------------------------------------------------
  int add_file(FileEntry::Kind kind, const std::string& path);  // the id of the entry; of the old one where it is open
  void remove_file(int id);                                     // and the runs on it
  void set_identity(int id, const std::string& identity);
  void set_kind(int id, FileEntry::Kind kind);
  int add_run(RunSpec spec);  // gives it an id
  void change_run(const RunSpec& spec);
  void remove_run(int id);
  void set_view(const std::string& panel, const std::string& setting, const std::string& value);
  // Everything at once: a session. History and results are dropped.
  void replace(AppState state);

  // ---- what the state stands for, from those who make it ---------------------------------------------------------------
  void put_document(int file, std::shared_ptr<const Document> document);
  void put_run(int id, std::shared_ptr<const Run> run);
  void put_problem(int file, const std::string& problem);
  void announce(Changes changes) { emit changed(changes); }

  // ---- what only the session can do: it listens
  // ---------------------------------------------------------------------------
  void request_open(const std::string& path) { emit open_requested(path); }
  void request_reload(int file) { emit reload_requested(file); }
  void request_close(int file) { emit close_requested(file); }

 signals:
  void changed(kvreplay::gui::Changes changes);
  // Something the user should know, for the status bar: in place, no dialog. error: it stays until it is read.
  void message(const QString& text, bool error);
  void open_requested(const std::string& path);
  void reload_requested(int file);
  void close_requested(int file);

 private:
  // What back() and forward() go through. Steps in quick succession on the same thing (a drag) are one.
  struct Moment {
    Selection selection;
    std::map<std::string, Interval> zoom;
  };
  void remember(const std::string& what);
  void restore(const Moment& moment);
  // The document() of this selection, and the selection brought into its ranges.
  std::shared_ptr<const Document> document_of(const Selection& selection) const;
  void clamp(Selection& selection) const;
  // After anything that may have changed which trace document() is: the selection is in its ranges, and what the mouse was
  // over in the trace `before` is no place in another one. What else changed by that.
  Changes follow_document(const std::shared_ptr<const Document>& before);

  AppState state_;
  std::map<int, std::shared_ptr<const Document>> documents_;
  std::map<int, std::shared_ptr<const Run>> runs_;
  std::map<int, std::string> problems_;
  std::vector<Moment> past_, future_;
  std::string last_change_;
  std::int64_t last_change_at_ = 0;  // milliseconds
};

}  // namespace kvreplay::gui

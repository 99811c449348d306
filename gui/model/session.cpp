#include "gui/model/session.h"

#include <QElapsedTimer>
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "core/report/policy_label.h"
#include "gui/model/bundled_trace.h"

namespace kvreplay::gui {
namespace {

namespace fs = std::filesystem;

// Runs of one results file that are listed; a sweep of thousands is for reports.
constexpr int most_runs = 200;
// Runs that nobody looks at are evaluated, too, where that is soon done: heads × tokens × layers.
constexpr std::int64_t small_trace = std::int64_t{4} << 20;

bool is_session(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char first = 0;
  return file >> first && first == '{';
}

}  // namespace

// What came of opening a file, from another thread.
struct Session::Opened {
  std::shared_ptr<const Document> document;
  std::shared_ptr<const Results> results;
  std::string problem;
};

// Tells the window, at most 25 times a second, how far the bundled trace is.
class Session::MakingJob final : public Job {
 public:
  explicit MakingJob(Session& session) : session_(session) { timer_.start(); }
  ~MakingJob() override { tell({}); }

  void begin(std::string_view /*task*/, double total, std::string_view /*unit*/) override { total_ = total; }
  void advance_to(double done) override {
    if (timer_.elapsed() - told_ < 40 || total_ <= 0) return;
    told_ = timer_.elapsed();
    const double share = std::clamp(done / total_, 0.0, 1.0), seconds = static_cast<double>(told_) / 1000;
    tell({true, share, seconds, share > 0.05 ? seconds * (1 - share) / share : -1, "Making the bundled trace"});
  }
  bool cancelled() const override { return session_.ending_; }

 private:
  void tell(const Progress& progress) {
    QMetaObject::invokeMethod(
        &session_, [session = &session_, progress] { emit session->progressed(progress); }, Qt::QueuedConnection);
  }

  Session& session_;
  QElapsedTimer timer_;
  double total_ = 0;
  std::int64_t told_ = 0;
};

Session::Session(Store& store, Evaluator::MakeBackend make_backend, QObject* parent)
    : QObject(parent), store_(store), evaluator_(std::move(make_backend)) {
  threads_.setMaxThreadCount(2);
  connect(&evaluator_, &Evaluator::run_changed, &store_, &Store::put_run);
  connect(&store_, &Store::open_requested, this, &Session::open);
  connect(&store_, &Store::reload_requested, this, &Session::reload);
  connect(&store_, &Store::close_requested, this, &Session::close);
  connect(&store_, &Store::changed, this, [this](Changes what) {
    if (what & (Change::specs | Change::selection | Change::files)) evaluate();
  });
}

Session::~Session() {
  ending_ = true;
  threads_.waitForDone();
}

void Session::open(const std::string& path) {
  if (is_session(path)) {
    try {
      restore(path);
    } catch (const Error& error) {
      emit store_.message(QString::fromStdString(error.what()), true);
    }
    return;
  }
  // Which of the two it is shows when it is read; until then it is listed as a trace.
  const std::string full = fs::absolute(path).lexically_normal().string();
  for (const FileEntry& file : store_.state().files)
    if (file.path == full && store_.file_problem(file.id).empty()) return;
  open_file(store_.add_file(FileEntry::Kind::trace, full));
}

void Session::open_bundled() { open_file(store_.add_file(FileEntry::Kind::trace, bundled_trace_path()), true); }

void Session::close(int file) {
  results_.erase(file);
  unplaced_.erase(file);
  store_.remove_file(file);
}

void Session::reload(int file) {
  if (store_.state().file(file) == nullptr) return;
  store_.put_problem(file, {});
  open_file(file);
}

void Session::open_file(int id, bool make_it) {
  const FileEntry* entry = store_.state().file(id);
  if (entry == nullptr || !opening_.insert(id).second) return;
  threads_.start([this, id, path = entry->path, kind = entry->kind, generation = generation_, make_it] {
    Opened opened;
    try {
      if (make_it) {
        MakingJob job(*this);
        make_bundled_trace(data_folder(), path, job);
      }
      if (kind == FileEntry::Kind::results)
        opened.results = open_results(path);
      else
        opened.document = Document::open(path);
    } catch (const std::exception& no_trace) {
      opened.problem = no_trace.what();
      if (kind == FileEntry::Kind::trace && fs::exists(path)) try {
          opened.results = open_results(path);
          opened.problem.clear();
        } catch (const std::exception&) {
        }
    }
    QMetaObject::invokeMethod(
        this,
        [this, id, opened, generation] {
          if (generation == generation_) arrived(id, opened);
        },
        Qt::QueuedConnection);
  });
}

void Session::arrived(int id, const Opened& opened) {
  opening_.erase(id);
  const FileEntry* entry = store_.state().file(id);
  if (entry == nullptr) return;
  const std::string path = entry->path;
  if (!opened.problem.empty()) {
    store_.put_problem(id, opened.problem);
  } else if (opened.document != nullptr) {
    check_identity(id, opened.document->identity());
    store_.put_document(id, opened.document);
    add_first_runs(id);
    emit this->opened(QString::fromStdString(path));
  } else {
    results_[id] = opened.results;
    store_.set_kind(id, FileEntry::Kind::results);
    unplaced_.insert(id);
    emit this->opened(QString::fromStdString(path));
  }
  place_results();
  evaluate();
}

void Session::check_identity(int id, const std::string& identity) {
  const auto expected = expected_.find(id);
  if (expected == expected_.end() || expected->second.empty() || expected->second == identity) return;
  emit store_.message(QStringLiteral("%1 is not the file that the session was saved with: what is shown may differ")
                          .arg(QString::fromStdString(store_.state().file(id)->path)),
                      true);
}

// The first trace shows something at once: two policies side by side.
void Session::add_first_runs(int trace) {
  if (restored_ || !store_.state().runs.empty()) return;
  const auto document = store_.document(trace);
  if (document->prompt_length() < 80) return;
  const std::string budget = document->prompt_length() >= 640 ? "10%" : "50%";
  RunSpec first, second;
  first.trace = second.trace = trace;
  first.budget = second.budget = budget;
  first.policy = "snapkv";
  second.policy = "restkv";
  Selection selection = store_.selection();
  selection.run_a = store_.add_run(first);
  selection.run_b = store_.add_run(second);
  store_.set_selection(selection);
}

// ---- results files and their traces
// ---------------------------------------------------------------------------------------

void Session::place_results() {
  const std::set<int> waiting = unplaced_;
  for (const int id : waiting)
    if (place_results_of(id)) unplaced_.erase(id);
}

// Whether nothing is left to wait for.
bool Session::place_results_of(int id) {
  const std::shared_ptr<const Results> results = results_.at(id);
  std::string missing;
  bool waiting = false;
  for (int index = 0; index < std::min(results->num_runs(), most_runs); ++index) {
    const RunInfo& info = results->info(index);
    int trace = -1;
    for (const FileEntry& file : store_.state().files)
      if (store_.document(file.id) != nullptr && file.identity == info.trace_sha256) trace = file.id;
    const auto listed = std::find_if(store_.state().runs.begin(), store_.state().runs.end(),
                                     [&](const RunSpec& run) { return run.results == id && run.index == index; });
    if (trace >= 0) {
      if (listed == store_.state().runs.end()) {
        RunSpec spec;
        spec.source = RunSpec::Source::results;
        spec.trace = trace;
        spec.results = id;
        spec.index = index;
        spec.id = store_.add_run(spec);
        put_description(spec, *store_.document(trace));
      } else if (store_.run(listed->id) == nullptr) {
        put_description(*listed, *store_.document(trace));
      }
      continue;
    }
    missing = info.trace;
    // Where the results file says it is, or beside the results file.
    for (const fs::path& path :
         {fs::absolute(info.trace), fs::path(results->path()).parent_path() / fs::path(info.trace).filename()}) {
      const std::string full = path.lexically_normal().string();
      const auto known = std::find_if(store_.state().files.begin(), store_.state().files.end(),
                                      [&](const FileEntry& file) { return file.path == full; });
      if (known == store_.state().files.end() && fs::exists(full)) {
        waiting = true;
        open_file(store_.add_file(FileEntry::Kind::trace, full));
        break;
      }
      if (known != store_.state().files.end() && opening_.count(known->id) != 0) waiting = true;
    }
  }
  if (!missing.empty() && !waiting)
    store_.put_problem(id, results->path() + ": was made from " + missing +
                               ", which is not there or not the same any more; open the trace that it was made from");
  if (missing.empty() && !store_.file_problem(id).empty()) store_.put_problem(id, {});
  return missing.empty();
}

// What a results file says of a run, before any of its layers is read.
void Session::put_description(const RunSpec& spec, const Document& document) {
  auto run = std::make_shared<Run>();
  run->spec = spec;
  run->info = results_.at(spec.results)->info(spec.index);
  run->label = policy_label(run->info.policy) + " · " + run->info.budget_text;
  run->notes = run->info.notes;
  run->query_heads = document.num_query_heads();
  run->tokens = document.num_tokens();
  run->prompt = document.prompt_length();
  run->steps = document.num_steps();
  run->layers.resize(static_cast<std::size_t>(document.num_layers()));
  store_.put_run(spec.id, std::move(run));
}

// ---- evaluation
// ---------------------------------------------------------------------------------------------------------------

void Session::evaluate() {
  const Selection& selection = store_.selection();
  evaluator_.look_at(selection.layer, selection.step);
  std::vector<RunRequest> requests;
  const auto add = [&](int id, bool on_screen) {
    const RunSpec* spec = store_.state().run(id);
    if (spec == nullptr) return;
    const auto document = store_.document(spec->trace);
    if (document == nullptr) return;
    std::shared_ptr<const Results> results;
    if (spec->source == RunSpec::Source::results) {
      const auto found = results_.find(spec->results);
      if (found == results_.end() || spec->index >= found->second->num_runs()) return;
      results = found->second;
    }
    requests.push_back({*spec, document, results, on_screen});
  };
  add(selection.run_a, true);
  if (selection.run_b != selection.run_a) add(selection.run_b, true);
  for (const RunSpec& run : store_.state().runs) {
    const auto document = store_.document(run.trace);
    if (run.id == selection.run_a || run.id == selection.run_b || document == nullptr) continue;
    const std::int64_t size = document->num_tokens() * document->num_layers() * document->num_query_heads();
    if (size <= small_trace) add(run.id, false);
  }
  evaluator_.want(std::move(requests));
}

// ---- session files
// -----------------------------------------------------------------------------------------------------------

void Session::save(const std::string& path) const { write_text_file(path, session_json(store_.state())); }

void Session::restore(const std::string& path) {
  std::ifstream input(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(input), std::istreambuf_iterator<char>()};
  if (!input && text.empty()) throw Error(path, "cannot be read");
  AppState state = parse_session(text, path);
  ++generation_;
  results_.clear();
  unplaced_.clear();
  opening_.clear();
  expected_.clear();
  for (const FileEntry& file : state.files) expected_[file.id] = file.identity;
  restored_ = true;
  store_.replace(std::move(state));
  for (const FileEntry& file : std::vector<FileEntry>(store_.state().files)) open_file(file.id);
  emit opened(QString::fromStdString(path));
}

}  // namespace kvreplay::gui

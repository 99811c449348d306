#include "gui/model/store.h"

#include <QDateTime>
#include <algorithm>

namespace kvreplay::gui {
namespace {

constexpr std::size_t longest_history = 200;
constexpr std::int64_t one_gesture = 700;  // milliseconds: a drag, a held key

std::vector<TokenRange> in_order(std::vector<TokenRange> ranges) {
  std::erase_if(ranges, [](const TokenRange& range) { return range.end <= range.begin; });
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<TokenRange> joined;
  for (const TokenRange& range : ranges) {
    if (!joined.empty() && range.begin <= joined.back().end)
      joined.back().end = std::max(joined.back().end, range.end);
    else
      joined.push_back(range);
  }
  return joined;
}

}  // namespace

Store::Store(QObject* parent) : QObject(parent) {}
Store::~Store() = default;

std::shared_ptr<const Document> Store::document(int file) const {
  const auto found = documents_.find(file);
  return found == documents_.end() ? nullptr : found->second;
}

std::shared_ptr<const Document> Store::document_of(const Selection& selection) const {
  for (const int id : {selection.run_a, selection.run_b})
    if (const RunSpec* run = state_.run(id))
      if (auto document = this->document(run->trace)) return document;
  for (const FileEntry& file : state_.files)
    if (auto document = this->document(file.id)) return document;
  return nullptr;
}

std::shared_ptr<const Run> Store::run(int id) const {
  const auto found = runs_.find(id);
  return found == runs_.end() ? nullptr : found->second;
}

bool Store::is_of_another_trace(Side side) const {
  const RunSpec* chosen = spec(side);
  return chosen != nullptr && document(chosen->trace) != document();
}

std::shared_ptr<const Run> Store::run(Side side) const {
  const RunSpec* chosen = spec(side);
  if (chosen == nullptr || is_of_another_trace(side)) return nullptr;
  auto run = this->run(chosen->id);
  const auto document = this->document();
  if (run == nullptr || document == nullptr || run->layers.empty()) return run;
  // A file that was read again may hold another trace than the one that the run was made of: that run is on its way out.
  const bool fits = run->tokens == document->num_tokens() && run->num_layers() == document->num_layers() &&
                    run->query_heads == document->num_query_heads();
  return fits ? run : nullptr;
}

const RunSpec* Store::spec(Side side) const {
  return state_.run(side == Side::a ? state_.selection.run_a : state_.selection.run_b);
}

std::string Store::file_problem(int file) const {
  const auto found = problems_.find(file);
  return found == problems_.end() ? std::string() : found->second;
}

Interval Store::zoom(const std::string& axis, Interval all) const {
  const auto found = state_.zoom.find(axis);
  if (found == state_.zoom.end()) return all;
  const Interval visible{std::max(found->second.low, all.low), std::min(found->second.high, all.high)};
  return visible.low < visible.high ? visible : all;
}

std::string Store::view(const std::string& panel, const std::string& setting, const std::string& otherwise) const {
  const auto settings = state_.views.find(panel);
  if (settings == state_.views.end()) return otherwise;
  const auto value = settings->second.find(setting);
  return value == settings->second.end() ? otherwise : value->second;
}

void Store::clamp(Selection& selection) const {
  selection.tokens = in_order(std::move(selection.tokens));
  std::sort(selection.heads.begin(), selection.heads.end());
  selection.heads.erase(std::unique(selection.heads.begin(), selection.heads.end()), selection.heads.end());
  if (const auto document = document_of(selection)) {
    selection.step = std::clamp(selection.step, 0, document->num_steps());
    selection.layer = std::clamp(selection.layer, 0, std::max(0, document->num_layers() - 1));
    std::erase_if(selection.heads, [&](int head) { return head < 0 || head >= document->num_query_heads(); });
    for (TokenRange& range : selection.tokens)
      range = {std::max<std::int64_t>(0, range.begin), std::min(range.end, document->num_tokens())};
    std::erase_if(selection.tokens, [](const TokenRange& range) { return range.end <= range.begin; });
  } else {
    selection.step = std::max(0, selection.step);
    selection.layer = std::max(0, selection.layer);
  }
}

Changes Store::follow_document(const std::shared_ptr<const Document>& before) {
  Changes what;
  const Selection old = state_.selection;
  clamp(state_.selection);
  if (!(old == state_.selection)) what |= Change::selection;
  if (document() == before || state_.focus == Focus{}) return what;
  state_.focus = {};
  return what | Change::focus;
}

// ---- history
// ----------------------------------------------------------------------------------------------------------------

void Store::remember(const std::string& what) {
  const std::int64_t now = QDateTime::currentMSecsSinceEpoch();
  const bool same_gesture = what == last_change_ && now - last_change_at_ < one_gesture && !past_.empty();
  last_change_ = what;
  last_change_at_ = now;
  future_.clear();
  if (same_gesture) return;
  past_.push_back({state_.selection, state_.zoom});
  if (past_.size() > longest_history) past_.erase(past_.begin());
}

void Store::restore(const Moment& moment) {
  const auto before = document();
  Changes what;
  if (!(moment.selection == state_.selection)) what |= Change::selection;
  if (!(moment.zoom == state_.zoom)) what |= Change::zoom;
  state_.selection = moment.selection;
  state_.zoom = moment.zoom;
  if (state_.run(state_.selection.run_a) == nullptr) state_.selection.run_a = -1;
  if (state_.run(state_.selection.run_b) == nullptr) state_.selection.run_b = -1;
  what |= follow_document(before);
  last_change_.clear();
  emit changed(what);
}

void Store::back() {
  if (past_.empty()) return;
  const Moment moment = std::move(past_.back());
  past_.pop_back();
  future_.push_back({state_.selection, state_.zoom});
  restore(moment);
}

void Store::forward() {
  if (future_.empty()) return;
  const Moment moment = std::move(future_.back());
  future_.pop_back();
  past_.push_back({state_.selection, state_.zoom});
  restore(moment);
}

// ---- selection, focus, zoom
// ------------------------------------------------------------------------------------------------

void Store::set_selection(Selection selection) {
  clamp(selection);
  const Selection& old = state_.selection;
  if (selection == old) return;
  std::string what = "selection";
  if (selection.step != old.step) what += " step";
  if (selection.layer != old.layer) what += " layer";
  if (selection.heads != old.heads) what += " heads";
  if (selection.tokens != old.tokens) what += " tokens";
  if (selection.run_a != old.run_a || selection.run_b != old.run_b) what += " runs";
  remember(what);
  const auto before = document();
  state_.selection = std::move(selection);
  emit changed(Change::selection | follow_document(before));
}

void Store::select_run(Side side, int id) {
  Selection selection = state_.selection;
  (side == Side::a ? selection.run_a : selection.run_b) = state_.run(id) != nullptr ? id : -1;
  set_selection(std::move(selection));
}

void Store::swap_runs() {
  Selection selection = state_.selection;
  std::swap(selection.run_a, selection.run_b);
  set_selection(std::move(selection));
}

void Store::select_step(int step) {
  Selection selection = state_.selection;
  selection.step = step;
  set_selection(std::move(selection));
}

void Store::select_layer(int layer) {
  Selection selection = state_.selection;
  selection.layer = layer;
  set_selection(std::move(selection));
}

void Store::select_heads(std::vector<int> heads) {
  Selection selection = state_.selection;
  selection.heads = std::move(heads);
  set_selection(std::move(selection));
}

void Store::select_tokens(std::vector<TokenRange> tokens) {
  Selection selection = state_.selection;
  selection.tokens = std::move(tokens);
  set_selection(std::move(selection));
}

void Store::set_focus(Focus focus) {
  if (focus == state_.focus) return;
  state_.focus = focus;
  emit changed(Change::focus);
}

void Store::set_zoom(const std::string& axis, Interval visible) {
  const auto found = state_.zoom.find(axis);
  if (!(visible.low < visible.high) || (found != state_.zoom.end() && found->second == visible)) return;
  remember("zoom " + axis);
  state_.zoom[axis] = visible;
  emit changed(Change::zoom);
}

void Store::reset_zoom(const std::string& axis) {
  if (state_.zoom.count(axis) == 0) return;
  remember("reset zoom " + axis);
  state_.zoom.erase(axis);
  emit changed(Change::zoom);
}

// ---- files and runs
// -----------------------------------------------------------------------------------------------------------

int Store::add_file(FileEntry::Kind kind, const std::string& path) {
  for (const FileEntry& file : state_.files)
    if (file.path == path) return file.id;
  const int id = state_.next_id++;
  state_.files.push_back({id, kind, path, {}});
  emit changed(Change::files);
  return id;
}

void Store::remove_file(int id) {
  if (state_.file(id) == nullptr) return;
  std::vector<int> gone;
  for (const RunSpec& run : state_.runs)
    if (run.trace == id || run.results == id) gone.push_back(run.id);
  for (const int run : gone) remove_run(run);
  const auto before = document();
  std::erase_if(state_.files, [id](const FileEntry& file) { return file.id == id; });
  documents_.erase(id);
  problems_.erase(id);
  emit changed(Change::files | Change::selection | follow_document(before));
}

void Store::set_identity(int id, const std::string& identity) {
  for (FileEntry& file : state_.files)
    if (file.id == id) file.identity = identity;
}

void Store::set_kind(int id, FileEntry::Kind kind) {
  for (FileEntry& file : state_.files)
    if (file.id == id) file.kind = kind;
  emit changed(Change::files);
}

int Store::add_run(RunSpec spec) {
  const int id = spec.id = state_.next_id++;
  state_.runs.push_back(std::move(spec));
  emit changed(Change::specs);
  return id;
}

void Store::change_run(const RunSpec& spec) {
  for (RunSpec& run : state_.runs) {
    if (run.id != spec.id || run == spec) continue;
    const auto before = document();
    run = spec;
    emit changed(Change::specs | follow_document(before));
  }
}

void Store::remove_run(int id) {
  if (state_.run(id) == nullptr) return;
  const auto before = document();
  std::erase_if(state_.runs, [id](const RunSpec& run) { return run.id == id; });
  runs_.erase(id);
  Changes what = Change::specs | Change::runs;
  for (int* chosen : {&state_.selection.run_a, &state_.selection.run_b})
    if (*chosen == id) {
      *chosen = -1;
      what |= Change::selection;
    }
  emit changed(what | follow_document(before));
}

void Store::set_view(const std::string& panel, const std::string& setting, const std::string& value) {
  if (view(panel, setting, value + "?") == value) return;
  state_.views[panel][setting] = value;
  emit changed(Change::views);
}

void Store::replace(AppState state) {
  state_ = std::move(state);
  state_.focus = {};
  documents_.clear();
  runs_.clear();
  problems_.clear();
  past_.clear();
  future_.clear();
  last_change_.clear();
  emit changed(Change::files | Change::specs | Change::runs | Change::selection | Change::focus | Change::zoom |
               Change::views);
}

void Store::put_document(int file, std::shared_ptr<const Document> document) {
  if (state_.file(file) == nullptr) return;
  const auto before = this->document();
  set_identity(file, document->identity());
  documents_[file] = std::move(document);
  problems_.erase(file);
  emit changed(Change::files | Change::selection | follow_document(before));
}

void Store::put_run(int id, std::shared_ptr<const Run> run) {
  if (state_.run(id) == nullptr) return;
  runs_[id] = std::move(run);
  emit changed(Change::runs);
}

void Store::put_problem(int file, const std::string& problem) {
  if (state_.file(file) == nullptr) return;
  problems_[file] = problem;
  emit changed(Change::files);
}

}  // namespace kvreplay::gui

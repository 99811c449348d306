#include "gui/model/evaluator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "core/base/parallel.h"
#include "gui/model/run_task_internal.h"

namespace kvreplay::gui {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr Seconds between_signals{0.04};  // 25 a second
constexpr Seconds until_progress{0.15};   // shorter work is not worth a progress bar
// A first picture that is almost there is shown although a newer request waits: else a slider that is dragged faster than
// pictures can be made would show none. Neither when one was just shown, nor when it takes too long.
constexpr Seconds picture_due{0.12}, picture_patience{0.3};

// Whether what one of them made stands for the other: a file that was read again is another document, or other results.
bool same_work(const RunRequest& a, const RunRequest& b) {
  return a.spec == b.spec && a.document == b.document && a.results == b.results;
}

}  // namespace

class Evaluator::Worker {
 public:
  Worker(Evaluator& owner, MakeBackend make_backend)
      : owner_(owner), make_backend_(std::move(make_backend)), thread_([this] { loop(); }) {}

  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      cancelled_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  void want(std::vector<RunRequest> requests) {
    const std::lock_guard lock(mutex_);
    wanted_ = std::move(requests);
    dirty_ = true;
    if (current_ && !still_wanted(*current_) && !worth_finishing()) cancelled_ = true;
    wake_.notify_all();
  }

  void look_at(const Look& look) {
    const std::lock_guard lock(mutex_);
    if (look.layer == look_.layer && look.step == look_.step) return;
    look_ = look;
    resume_ = true;  // somebody looks at what may not be there: what was cancelled goes on
    // What is done for a layer that nobody looks at waits.
    if (current_ && current_layer_ != look.layer && current_urgency_ != first_picture) cancelled_ = true;
    wake_.notify_all();
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    stop_all_ = true;
    resume_ = false;
    cancelled_ = true;
    wake_.notify_all();
  }

 private:
  bool still_wanted(const RunRequest& request) const {
    return std::any_of(wanted_.begin(), wanted_.end(), [&](const RunRequest& other) { return same_work(other, request); });
  }

  bool worth_finishing() const {
    const auto shown = shown_at_.find(current_->spec.id);
    const auto now = Clock::now();
    const bool due = shown == shown_at_.end() || now - shown->second > picture_due;
    return due && current_urgency_ == first_picture && now - began_ < picture_patience;
  }

  void loop() {
    for (;;) {
      RunTask* task = nullptr;
      Piece piece;
      {
        std::unique_lock lock(mutex_);
        for (;;) {
          if (stopping_) return;
          if (dirty_) take_over_requests();
          if (std::exchange(stop_all_, false))
            for (auto& each : tasks_) each->set_stopped(true);
          if (std::exchange(resume_, false))
            for (auto& each : tasks_) each->set_stopped(false);
          for (auto& [document, live] : live_)
            live->pin(document->layer_number(std::clamp(look_.layer, 0, document->num_layers() - 1)));
          std::tie(task, piece) = choose();
          if (task != nullptr) break;
          flush(Seconds{0});
          end_of_work();
          wake_.wait(lock, [this] { return stopping_ || dirty_ || stop_all_ || resume_; });
        }
        cancelled_ = false;
        current_ = task->request();
        current_layer_ = piece.layer;
        current_urgency_ = piece.urgency;
        began_ = Clock::now();
        if (!working_since_) working_since_ = began_;
      }
      const bool changed = do_piece(*task, piece);
      const std::lock_guard lock(mutex_);
      current_.reset();
      if (changed && piece.kind != Piece::Kind::plan) unshown_[task->request().spec.id] = task;
      flush(between_signals);
      report_progress(*task, piece);
    }
  }

  // With the lock: tasks become those that are wanted.
  void take_over_requests() {
    dirty_ = false;
    std::vector<std::unique_ptr<RunTask>> next;
    for (const RunRequest& request : wanted_) {
      const auto same = std::find_if(tasks_.begin(), tasks_.end(), [&](const auto& task) {
        return task != nullptr && same_work(task->request(), request);
      });
      if (same != tasks_.end()) {
        (*same)->set_on_screen(request.on_screen);
        next.push_back(std::move(*same));
        continue;
      }
      next.push_back(request.spec.source == RunSpec::Source::live ? make_live_task(request, live_for(request.document))
                                                                  : make_results_task(request));
    }
    std::erase_if(unshown_, [&](const auto& entry) {
      return std::none_of(next.begin(), next.end(), [&](const auto& task) { return task.get() == entry.second; });
    });
    tasks_ = std::move(next);
    std::erase_if(live_, [&](const auto& entry) {
      return std::none_of(tasks_.begin(), tasks_.end(),
                          [&](const auto& task) { return task->request().document == entry.first; });
    });
  }

  std::shared_ptr<LiveReplay> live_for(const std::shared_ptr<const Document>& document) {
    if (backend_ == nullptr) backend_ = make_backend_();
    auto& live = live_[document];
    if (live == nullptr) live = std::make_shared<LiveReplay>(document->trace(), *backend_, LiveOptions{});
    return live;
  }

  std::pair<RunTask*, Piece> choose() const {
    RunTask* best = nullptr;
    Piece chosen;
    for (const auto& task : tasks_) {
      const auto piece = task->next(look_);
      if (!piece || (best != nullptr && piece->urgency >= chosen.urgency)) continue;
      best = task.get();
      chosen = *piece;
    }
    return {best, chosen};
  }

  bool do_piece(RunTask& task, const Piece& piece) {
    const CancelScope scope(cancelled_);
    try {
      task.work(piece);
      return true;
    } catch (const Cancelled&) {
      return false;
    } catch (const std::exception& error) {
      task.fail(error.what());
      unshown_[task.request().spec.id] = &task;
      return true;
    }
  }

  // With the lock: what changed is told to the window, unless something was told a moment ago.
  void flush(Seconds pause) {
    const auto now = Clock::now();
    for (auto entry = unshown_.begin(); entry != unshown_.end();) {
      const auto shown = shown_at_.find(entry->first);
      const bool ended = !entry->second->next(look_);
      if (!ended && shown != shown_at_.end() && now - shown->second < pause) {
        ++entry;
        continue;
      }
      shown_at_[entry->first] = now;
      QMetaObject::invokeMethod(
          &owner_,
          [owner = &owner_, id = entry->first, run = entry->second->snapshot()] { emit owner->run_changed(id, run); },
          Qt::QueuedConnection);
      entry = unshown_.erase(entry);
    }
  }

  void report_progress(const RunTask& task, const Piece& piece) {
    const auto now = Clock::now();
    const Seconds spent = now - *working_since_;
    if (spent < until_progress || now - progress_at_ < between_signals) return;
    Progress progress{true, 0, spent.count(), -1, {}};
    for (const auto& each : tasks_) progress.share += each->next(look_) ? each->done() : 1;
    progress.share /= static_cast<double>(std::max<std::size_t>(1, tasks_.size()));
    if (!told_working_) share_at_begin_ = std::min(progress.share, share_at_begin_);
    const double gained = progress.share - share_at_begin_;
    if (gained > 0.02) progress.seconds_left = spent.count() * (1 - progress.share) / gained;
    progress.task = QString::fromStdString(task.snapshot()->label) +
                    QStringLiteral(": layer %1").arg(task.request().document->layer_number(piece.layer));
    told_working_ = true;
    tell(progress);
  }

  void end_of_work() {
    working_since_.reset();
    share_at_begin_ = 1;
    if (std::exchange(told_working_, false)) tell({});
  }

  void tell(const Progress& progress) {
    progress_at_ = Clock::now();
    QMetaObject::invokeMethod(
        &owner_, [owner = &owner_, progress] { emit owner->progressed(progress); }, Qt::QueuedConnection);
  }

  Evaluator& owner_;
  const MakeBackend make_backend_;

  std::mutex mutex_;  // of everything down to the line below
  std::condition_variable wake_;
  std::vector<RunRequest> wanted_;
  bool dirty_ = false, stopping_ = false, stop_all_ = false, resume_ = false;
  Look look_;
  std::optional<RunRequest> current_;
  int current_layer_ = 0, current_urgency_ = 0;
  Clock::time_point began_;
  std::map<int, Clock::time_point> shown_at_;  // by run

  // Of the thread alone.
  std::unique_ptr<Backend> backend_;
  std::map<std::shared_ptr<const Document>, std::shared_ptr<LiveReplay>> live_;
  std::vector<std::unique_ptr<RunTask>> tasks_;
  std::map<int, RunTask*> unshown_;
  std::optional<Clock::time_point> working_since_;
  Clock::time_point progress_at_;
  double share_at_begin_ = 1;
  bool told_working_ = false;

  std::atomic<bool> cancelled_{false};
  std::thread thread_;
};

Evaluator::Evaluator(MakeBackend make_backend, QObject* parent)
    : QObject(parent), worker_(std::make_unique<Worker>(*this, std::move(make_backend))) {}

Evaluator::~Evaluator() = default;

void Evaluator::want(std::vector<RunRequest> requests) { worker_->want(std::move(requests)); }
void Evaluator::look_at(int layer, int step) { worker_->look_at({layer, step}); }
void Evaluator::cancel() { worker_->cancel(); }

}  // namespace kvreplay::gui

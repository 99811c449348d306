#include "gui/model/background.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <thread>

#include "core/base/parallel.h"

namespace kvreplay::gui {

class Background::Worker {
 public:
  explicit Worker(Background& owner) : owner_(owner), thread_([this] { loop(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      cancelled_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  void put(QObject* asker, Work work) {
    const std::lock_guard lock(mutex_);
    forget(asker);
    waiting_.push_back({asker, ++last_ticket_, std::move(work)});
    wake_.notify_all();
  }

  void drop(QObject* asker) {
    const std::lock_guard lock(mutex_);
    forget(asker);
  }

  bool is_busy(const QObject* asker) const {
    const std::lock_guard lock(mutex_);
    return unanswered_.count(asker) != 0 || current_.asker == asker ||
           std::any_of(waiting_.begin(), waiting_.end(), [&](const Question& each) { return each.asker == asker; });
  }

 private:
  struct Question {
    QObject* asker = nullptr;
    std::uint64_t ticket = 0;
    Work work;
  };

  // With the lock.
  void forget(const QObject* asker) {
    std::erase_if(waiting_, [&](const Question& each) { return each.asker == asker; });
    unanswered_.erase(asker);
    if (current_.asker != asker) return;
    cancelled_ = true;
    current_.asker = nullptr;
  }

  void loop() {
    for (;;) {
      Work work;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        current_ = std::move(waiting_.front());
        waiting_.pop_front();
        work = std::move(current_.work);
        cancelled_ = false;
      }
      std::function<void()> answer;
      try {
        const CancelScope scope(cancelled_);
        answer = work();
      } catch (const Cancelled&) {
      }
      const std::lock_guard lock(mutex_);
      if (current_.asker != nullptr && answer) deliver(current_.asker, current_.ticket, std::move(answer));
      current_ = {};
    }
  }

  // With the lock. What was asked, dropped or deleted meanwhile is seen when the answer arrives.
  void deliver(QObject* asker, std::uint64_t ticket, std::function<void()> answer) {
    unanswered_[asker] = ticket;
    QMetaObject::invokeMethod(
        &owner_,
        [this, asker, ticket, answer = std::move(answer)] {
          {
            const std::lock_guard inner(mutex_);
            const auto expected = unanswered_.find(asker);
            if (expected == unanswered_.end() || expected->second != ticket) return;
            unanswered_.erase(expected);
          }
          answer();
        },
        Qt::QueuedConnection);
  }

  Background& owner_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Question> waiting_;
  Question current_;                                    // asker null: nothing, or nobody waits for it
  std::map<const QObject*, std::uint64_t> unanswered_;  // answers under way to the asker's thread
  std::uint64_t last_ticket_ = 0;
  bool stopping_ = false;
  std::atomic<bool> cancelled_{false};
  std::thread thread_;
};

Background::Background(QObject* parent) : QObject(parent), worker_(std::make_unique<Worker>(*this)) {}
Background::~Background() = default;

void Background::put(QObject* asker, Work work) {
  connect(asker, &QObject::destroyed, this, &Background::drop, Qt::UniqueConnection);
  worker_->put(asker, std::move(work));
}

void Background::drop(QObject* asker) { worker_->drop(asker); }
bool Background::is_busy(const QObject* asker) const { return worker_->is_busy(asker); }

}  // namespace kvreplay::gui

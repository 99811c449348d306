#include "core/base/parallel.h"

#include <sched.h>
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace kvreplay {
namespace {

thread_local bool inside_body = false;
thread_local const std::atomic<bool>* cancelled_here = nullptr;

void check_cancelled(const std::atomic<bool>* cancelled) {
  if (cancelled != nullptr && cancelled->load(std::memory_order_relaxed)) throw Cancelled();
}

struct Batch {
  std::int64_t count = 0;
  std::int64_t grain = 1;
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  const std::atomic<bool>* cancelled = nullptr;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;

  void work() {
    inside_body = true;
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain);
      if (begin >= count) break;
      try {
        check_cancelled(cancelled);
        (*body)(begin, std::min(count, begin + grain));
      } catch (...) {
        std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
        next.store(count);
      }
    }
    inside_body = false;
  }
};

int machine_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1U, std::thread::hardware_concurrency());
}

class Pool {
 public:
  ~Pool() { stop(); }

  int size() {
    std::lock_guard lock(mutex_);
    return wanted_ > 0 ? wanted_ : machine_threads();
  }

  void resize(int n) {
    std::lock_guard run(run_mutex_);
    stop();
    std::lock_guard lock(mutex_);
    wanted_ = std::max(0, n);
  }

  void run(Batch& batch) {
    std::lock_guard run(run_mutex_);
    start();
    {
      std::lock_guard lock(mutex_);
      batch_ = &batch;
      ++generation_;
      running_ = static_cast<int>(workers_.size());
    }
    wake_.notify_all();
    batch.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
    batch_ = nullptr;
  }

 private:
  void start() {
    const int others = size() - 1;
    if (static_cast<int>(workers_.size()) == others) return;
    stop();
    stopping_ = false;
    for (int i = 0; i < others; ++i) workers_.emplace_back([this, seen = generation_]() mutable { loop(seen); });
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
    workers_.clear();
  }

  void loop(std::uint64_t seen) {
    for (;;) {
      Batch* batch = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
        batch = batch_;
      }
      if (batch != nullptr) batch->work();
      std::lock_guard lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex run_mutex_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  Batch* batch_ = nullptr;
  std::uint64_t generation_ = 0;
  int running_ = 0;
  int wanted_ = 0;
  bool stopping_ = false;
};

Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

int thread_count() { return pool().size(); }

void set_thread_count(int n) { pool().resize(n); }

void parallel_for(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  if (inside_body || count <= grain || thread_count() == 1) {
    for (std::int64_t begin = 0; begin < count; begin += grain) {
      check_cancelled(cancelled_here);
      body(begin, std::min(count, begin + grain));
    }
    return;
  }
  Batch batch;
  batch.count = count;
  batch.grain = grain;
  batch.body = &body;
  batch.cancelled = cancelled_here;
  pool().run(batch);
  if (batch.failure) std::rethrow_exception(batch.failure);
}

bool is_one_of_several() { return inside_body; }

SerialScope::SerialScope() : outer_(inside_body) { inside_body = true; }
SerialScope::~SerialScope() { inside_body = outer_; }

CancelScope::CancelScope(const std::atomic<bool>& cancelled) : outer_(std::exchange(cancelled_here, &cancelled)) {}
CancelScope::~CancelScope() { cancelled_here = outer_; }

void check_cancelled() { check_cancelled(cancelled_here); }

}  // namespace kvreplay

// Work on several threads. One pool for the process; results never depend on how many threads it has, because the
// pieces of work are cut by `grain` alone and each piece writes to places of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace kvreplay {

int thread_count();            // at least 1
void set_thread_count(int n);  // 0: as many as the machine (or its cpu limit) has

// Calls body(begin, end) for consecutive ranges of at most `grain` indices that cover [0, count). The first exception is
// rethrown here once every started piece has ended. A call from inside a body runs there, on its own thread.
void parallel_for(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

// Whether this thread is one of several that divide some work already: inside a body, or where a SerialScope lives. Who
// would start threads of his own does without them.
bool is_one_of_several();

// For threads that are not the pool's: while one lives, a parallel_for that its thread calls runs on that thread.
class SerialScope {
 public:
  SerialScope();
  ~SerialScope();
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  const bool outer_;
};

// While one lives, a parallel_for that its thread calls starts no further piece once `cancelled` is set, and throws
// Cancelled: how a newer request ends work that knows no Job.
class CancelScope {
 public:
  explicit CancelScope(const std::atomic<bool>& cancelled);
  ~CancelScope();
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  const std::atomic<bool>* outer_;
};

// Throws Cancelled once the innermost CancelScope of this thread is to end: between pieces of work that are not a
// parallel_for.
void check_cancelled();

}  // namespace kvreplay

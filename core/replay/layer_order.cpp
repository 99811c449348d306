#include <algorithm>

#include "core/replay/layer_order_internal.h"

namespace kvreplay {

std::optional<std::size_t> LayerOrder::next() {
  const std::lock_guard lock(mutex_);
  if (stopped_) throw Stopped();
  return next_ < layers_ ? std::optional(next_++) : std::nullopt;
}

void LayerOrder::wait_for_turn(std::size_t layer, std::size_t first, std::size_t end) {
  const auto of = [&](std::size_t run) { return taken_over_.begin() + static_cast<std::ptrdiff_t>(run); };
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return stopped_ || std::all_of(of(first), of(end), [&](std::size_t layers) { return layers == layer; });
  });
  if (stopped_) throw Stopped();
}

void LayerOrder::took_over(std::size_t first, std::size_t end) {
  const std::lock_guard lock(mutex_);
  for (std::size_t run = first; run < end; ++run) ++taken_over_[run];
  changed_.notify_all();
}

void LayerOrder::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

void SharedJob::begin(std::string_view task, double total, std::string_view unit) {
  const std::lock_guard lock(mutex_);
  done_ = 0;
  job_.begin(task, total, unit);
}
void SharedJob::advance_to(double done) {
  const std::lock_guard lock(mutex_);
  job_.advance_to(done_ = done);
}
void SharedJob::advance_by(double more) {
  const std::lock_guard lock(mutex_);
  job_.advance_to(done_ += more);
}
void SharedJob::end() {
  const std::lock_guard lock(mutex_);
  job_.end();
}
void SharedJob::warn(std::string_view message) {
  const std::lock_guard lock(mutex_);
  job_.warn(message);
}
void SharedJob::inform(std::string_view message) {
  const std::lock_guard lock(mutex_);
  job_.inform(message);
}
bool SharedJob::cancelled() const {
  const std::lock_guard lock(mutex_);
  return job_.cancelled();
}

}  // namespace kvreplay

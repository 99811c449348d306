// Which worker replays which layer, and whose turn it is to add what it found to a run. Internal to core/replay.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/base/job.h"

namespace kvreplay {

// Layers are handed out in their order, each to whoever asks. A run takes over its layers in the same order, so that sums
// and hashes do not depend on the workers: whoever is ahead waits, and holds no more than one batch of runs meanwhile.
class LayerOrder {
 public:
  struct Stopped {};  // thrown to those who wait when another worker has failed

  LayerOrder(std::size_t layers, std::size_t runs) : layers_(layers), taken_over_(runs, 0) {}

  std::optional<std::size_t> next();
  // Until the runs [first, end) have taken over all layers before this one.
  void wait_for_turn(std::size_t layer, std::size_t first, std::size_t end);
  void took_over(std::size_t first, std::size_t end);
  void stop();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t layers_, next_ = 0;
  std::vector<std::size_t> taken_over_;  // layers of each run
  bool stopped_ = false;
};

// A Job for several threads.
class SharedJob final : public Job {
 public:
  explicit SharedJob(Job& job) : job_(job) {}
  void begin(std::string_view task, double total, std::string_view unit) override;
  void advance_to(double done) override;
  void advance_by(double more);
  void end() override;
  void warn(std::string_view message) override;
  void inform(std::string_view message) override;
  bool cancelled() const override;

 private:
  Job& job_;
  mutable std::mutex mutex_;
  double done_ = 0;
};

}  // namespace kvreplay

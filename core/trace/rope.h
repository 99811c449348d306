// Rotary position embedding (Su et al. 2021) in float64: what a position turns each pair of elements of a head by, with the
// scalings of published models. A trace stores queries and keys after RoPE; its inverse gives what they were before.
//
//   const Rope rope = Rope::of(*trace);           // from the attributes of /model
//   rope.inverse(position).apply(head);           // head [d], in place: after RoPE to before it
//   rope.at(position).apply(head);                // and back
//
// Norms of queries and keys and their biases precede RoPE, so that "before RoPE" is after those.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

// Scalings as Hugging Face transformers computes them: "default" (none), "linear" (Chen et al. 2023), "dynamic" (NTK-aware,
// follows the length once that exceeds what the model was trained with), "llama3" (Llama 3.1), "yarn" (Peng et al. 2023).
struct RopeParameters {
  std::string type = "default";
  double theta = 10000;
  int rotary_dim = 0;                                // leading elements of a head that turn, even
  double factor = 1;                                 // stretch; all but default
  double original_positions = 0;                     // what the model was trained with; dynamic, llama3, yarn
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: not given
  std::optional<double> attention_factor;            // yarn
  bool truncate = true;                              // yarn
  std::int64_t length = 0;                           // tokens read so far; dynamic
};

struct RopeFrequencies {
  std::vector<double> frequency;  // radians a position turns each pair by, [rotary_dim / 2]
  double magnitude = 1;           // multiplies cosine and sine (yarn)
};

// type must be one of the five.
RopeFrequencies rope_frequencies(const RopeParameters& parameters);

// One rotation of a head: pair p becomes (c·x - s·y, c·y + s·x).
class Rotation {
 public:
  Rotation(std::vector<double> cosine, std::vector<double> sine, bool interleaved)
      : cosine_(std::move(cosine)), sine_(std::move(sine)), interleaved_(interleaved) {}
  // In place, on the leading 2 · pairs elements of a head [d].
  void apply(std::span<double> head) const;

 private:
  std::vector<double> cosine_, sine_;
  bool interleaved_;
};

class Rope {
 public:
  // interleaved: element 2i turns with 2i + 1; else ("half") element i with i + rotary_dim / 2.
  Rope(RopeFrequencies frequencies, bool interleaved) : frequencies_(std::move(frequencies)), interleaved_(interleaved) {}
  // As the attributes rope_theta, rope_scaling and rope_layout of /model say; `dynamic` scaling as it is when the prompt has
  // been read. Throws Error naming what is missing, or not understood.
  static Rope of(const Trace& trace);

  Rotation at(std::int64_t position) const { return mean(position, 1); }
  Rotation inverse(std::int64_t position) const;
  // From one position to another `by` further on, for what is rotated already: without the magnitude.
  Rotation relative(std::int64_t by) const;
  // The mean of the rotations of `count` positions from `first` on: no rotation, but as linear.
  Rotation mean(std::int64_t first, std::int64_t count) const;

 private:
  RopeFrequencies frequencies_;
  bool interleaved_ = false;
};

}  // namespace kvreplay

// The transformer engine: reads tokens with a model on the CPU and shows an observer what attention saw.
//
//   Engine engine = Engine::load("models/llama-3-8b");
//   Sequence sequence = engine.start(4096 + 64);            // room for so many tokens
//   engine.read(sequence, prompt_ids, observer, job);       // in blocks; no T × T matrix exists at any time
//   std::int32_t next = sequence.best_token();
//   engine.read(sequence, {&next, 1}, observer, job);       // one decode step
//
// Arithmetic is float32 (RoPE angles and softmax sums float64). Results do not depend on the number of threads, and on the
// block length only within rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/base/tensor.h"
#include "core/model/config.h"

namespace kvreplay {

// What one layer computed for `count` consecutive tokens from position `first` on. Views are valid during the call only.
struct LayerBlock {
  int layer = 0;
  std::int64_t first = 0, count = 0;
  TensorView<const float, 3> query;        // [Hq, count, d] after RoPE, before the scale
  TensorView<const float, 3> key;          // [Hk, count, d] after RoPE
  TensorView<const float, 3> value;        // [Hk, count, d]
  TensorView<const float, 3> head_output;  // [Hq, count, d] before W_o
  TensorView<const float, 2> log_sum_exp;  // [Hq, count] natural log of the softmax denominator
  // Attention weights of those of these tokens whose position the observer wanted, in order, on all keys so far:
  // [Hq, wanted, first + count], 0 where a query does not look.
  TensorView<const float, 3> attention;
  // Sums of the attention weights of those of these tokens that lie before column_sum_end(): [Hq, first + count].
  TensorView<const float, 2> attention_column_sum;
};

// Taps. Every method is called on the thread that called read(), in the order of layers, blocks and positions.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual bool wants_layer(int /*layer*/) const { return true; }
  virtual bool wants_attention(std::int64_t /*position*/) const { return false; }
  virtual std::int64_t column_sum_end() const { return 0; }
  virtual bool wants_nll() const { return false; }
  virtual void on_layer(const LayerBlock& /*block*/) {}
  // After all layers of a block. nll: of each of these tokens given those before it, NaN at position 0; empty unless wanted.
  virtual void on_tokens(std::int64_t /*first*/, std::span<const std::int32_t> /*ids*/, std::span<const float> /*nll*/) {}
};

// The state of one text being read: its keys and values, and the logits after its last token.
class Sequence {
 public:
  ~Sequence();
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) noexcept;

  std::int64_t size() const;      // tokens read
  std::int64_t capacity() const;  // tokens there is room for
  // [vocabulary_size], after the last token read. Empty before the first.
  std::span<const float> logits() const;
  // The token with the largest logit; the lowest id of those that tie.
  std::int32_t best_token() const;
  // Forgets all but the first `tokens` tokens, which must be at least 1 and at most size(). logits() are empty until more is
  // read.
  void rewind(std::int64_t tokens);

 private:
  friend class Engine;
  struct State;
  explicit Sequence(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct ReadOptions {
  std::int64_t block = 256;  // tokens computed at a time
};

struct EngineOptions {
  // Models up to so many bytes as float32 are converted once, when they are loaded; larger ones stay in their mapped files,
  // and pieces of them are converted whenever they are used.
  std::int64_t convert_at_most = std::int64_t{2} << 30;
};

class Engine {
 public:
  // Reads the configuration and maps the weights. Throws Error: an unknown architecture, a missing or misshapen tensor.
  static Engine load(const std::string& model_directory, const EngineOptions& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  const ModelConfig& config() const;
  std::string weights_sha256() const;  // reads all weights
  // W_o of a layer, [1, C, Hq * d]: columns h·d … h·d + d - 1 belong to query head h.
  Tensor<float, 3> output_projection(int layer) const;

  Sequence start(std::int64_t capacity) const;
  // Reads more tokens of a sequence. Throws Error for an id outside the vocabulary or when there is no room, before
  // anything is changed; Cancelled between layers, after which the sequence must not be used any more.
  void read(Sequence& sequence, std::span<const std::int32_t> ids, EngineObserver& observer, Job& job,
            const ReadOptions& options = {}) const;

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvreplay

#include "core/model/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/model/attention_internal.h"
#include "core/model/decoder_weights_internal.h"
#include "core/model/rope_internal.h"
#include "core/model/weight_files.h"

namespace kvreplay {
namespace {

constexpr std::int64_t row_grain = 16;                  // tokens a task, for work on single rows
constexpr std::int64_t logit_floats = 4 * 1024 * 1024;  // of logits held at a time

template <class Body>
void for_each_row(std::int64_t rows, const Body& body) {
  parallel_for(rows, row_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

// x / sqrt(mean(x²) + epsilon) · weight; in and out may be the same.
void normalize(const float* in, const NormWeight& weight, double epsilon, float* out) {
  const auto n = static_cast<std::int64_t>(weight.size());
  const double mean = kernels::dot(in, in, n) / static_cast<double>(n);
  const auto factor = static_cast<float>(1 / std::sqrt(mean + epsilon));
  for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] * factor * weight[static_cast<std::size_t>(i)];
}

// gate[i] = activation(gate[i]) · up[i]. `scratch`: n floats.
void activate(Activation activation, float* gate, const float* up, std::int64_t n, float* scratch) {
  switch (activation) {
    case Activation::silu:
      for (std::int64_t i = 0; i < n; ++i) scratch[i] = -gate[i];
      kernels::exponentiate(scratch, n, 0);
      for (std::int64_t i = 0; i < n; ++i) gate[i] = gate[i] / (1 + scratch[i]) * up[i];
      return;
    case Activation::gelu_tanh:
      for (std::int64_t i = 0; i < n; ++i)
        scratch[i] = 0.797884560802865F * (gate[i] + 0.044715F * gate[i] * gate[i] * gate[i]);
      kernels::soft_cap(scratch, n, 1.0F);
      for (std::int64_t i = 0; i < n; ++i) gate[i] = 0.5F * gate[i] * (1 + scratch[i]) * up[i];
      return;
    case Activation::gelu:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = 0.5F * gate[i] * (1 + std::erf(gate[i] * 0.707106781186548F)) * up[i];
      return;
  }
}

// Negative log-likelihood of `target`; logits are destroyed.
float negative_log_likelihood(float* logits, std::int64_t n, std::int32_t target) {
  const double chosen = logits[target];
  const float most = kernels::maximum(logits, n);
  const double total = kernels::exponentiate(logits, n, most);
  return static_cast<float>(std::log(total) + most - chosen);
}

}  // namespace

struct Sequence::State {
  std::int64_t size = 0, capacity = 0;
  std::vector<Tensor<float, 3>> key, value;  // a layer: [Hk, capacity, d]
  std::vector<float> logits;
};

Sequence::Sequence(std::unique_ptr<State> state) : state_(std::move(state)) {}
Sequence::~Sequence() = default;
Sequence::Sequence(Sequence&&) noexcept = default;
Sequence& Sequence::operator=(Sequence&&) noexcept = default;
std::int64_t Sequence::size() const { return state_->size; }
std::int64_t Sequence::capacity() const { return state_->capacity; }
std::span<const float> Sequence::logits() const { return state_->logits; }
std::int32_t Sequence::best_token() const {
  return static_cast<std::int32_t>(std::ranges::max_element(state_->logits) - state_->logits.begin());
}

void Sequence::rewind(std::int64_t tokens) {
  if (tokens < 1 || tokens > state_->size)
    throw Error("the sequence",
                "has " + std::to_string(state_->size) + " tokens, and cannot go back to " + std::to_string(tokens));
  state_->size = tokens;
  state_->logits.clear();
}

struct Engine::State {
  ModelConfig config;
  WeightFiles files;
  DecoderWeights weights;
};

namespace {

// One block of tokens on its way through the layers.
class BlockPass {
 public:
  BlockPass(const ModelConfig& config, const DecoderWeights& weights, std::int64_t first, std::span<const std::int32_t> ids,
            EngineObserver& observer)
      : config_(config),
        weights_(weights),
        observer_(observer),
        first_(first),
        count_(static_cast<std::int64_t>(ids.size())),
        rope_(config.rope, first, count_),
        hidden_({count_, config.hidden_size}),
        normed_({count_, config.hidden_size}),
        projected_({count_, std::max(config.hidden_size, config.num_query_heads * config.head_dim)}),
        query_({config.num_query_heads, count_, config.head_dim}),
        key_({config.num_kv_heads, count_, config.head_dim}),
        value_({config.num_kv_heads, count_, config.head_dim}),
        output_({config.num_query_heads, count_, config.head_dim}),
        log_sum_exp_({config.num_query_heads, count_}),
        gate_({count_, config.intermediate_size}),
        up_({count_, config.intermediate_size}) {
    embed(ids);
    for (std::int64_t i = 0; i < count_; ++i)
      if (observer.wants_attention(first + i)) wanted_.push_back(i);
    summed_ = std::clamp<std::int64_t>(observer.column_sum_end() - first, 0, count_);
  }

  void run_layer(int layer, Tensor<float, 3>& cached_key, Tensor<float, 3>& cached_value) {
    const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
    norm_rows(hidden_, weights.before_attention, normed_);
    project_heads(weights.query, weights.query_norm, true, query_);
    project_heads(weights.key, weights.key_norm, true, key_);
    project_heads(weights.value, {}, false, value_);
    append(key_, cached_key);
    append(value_, cached_value);
    attend_and_show(layer, cached_key, cached_value);
    merge_heads();
    weights.output.apply(count_, projected_.data(), normed_.data());
    add_to_hidden(normed_, weights.after_attention);
    norm_rows(hidden_, weights.before_mlp, normed_);
    run_mlp(weights);
    add_to_hidden(normed_, weights.after_mlp);
  }

  // Logits after rows [begin, end), after the final norm: [end - begin, vocabulary].
  void logits(std::int64_t begin, std::int64_t end, float* target) {
    const std::int64_t c = config_.hidden_size, v = config_.vocabulary_size;
    for_each_row(end - begin, [&](std::int64_t i) {
      normalize(&hidden_(begin + i, 0), weights_.final_norm, config_.norm_epsilon, &normed_(begin + i, 0));
    });
    weights_.logits.apply(end - begin, normed_.data() + begin * c, target);
    if (config_.logit_softcap)
      for_each_row(end - begin, [&](std::int64_t i) {
        kernels::soft_cap(target + i * v, v, static_cast<float>(*config_.logit_softcap));
      });
  }

 private:
  void embed(std::span<const std::int32_t> ids) {
    const std::int64_t c = config_.hidden_size;
    const auto factor = config_.scaled_embeddings ? static_cast<float>(std::sqrt(static_cast<double>(c))) : 1.0F;
    for (std::int64_t i = 0; i < count_; ++i) {
      weights_.embedding.read(ids[static_cast<std::size_t>(i)] * c, c, &hidden_(i, 0));
      if (config_.scaled_embeddings) kernels::scale_in_place(&hidden_(i, 0), c, factor);
    }
  }

  void norm_rows(const Tensor<float, 2>& in, const NormWeight& weight, Tensor<float, 2>& out) const {
    for_each_row(count_, [&](std::int64_t i) { normalize(&in(i, 0), weight, config_.norm_epsilon, &out(i, 0)); });
  }

  // normed_ [n, C] → heads [H, n, d], normalised and turned.
  void project_heads(const Linear& linear, const NormWeight& norm, bool turn, Tensor<float, 3>& heads) {
    linear.apply(count_, normed_.data(), projected_.data());
    const std::int64_t d = config_.head_dim, width = linear.outputs();
    for_each_row(count_, [&](std::int64_t i) {
      for (std::int64_t h = 0; h < heads.dim(0); ++h) {
        float* head = &heads(h, i, 0);
        std::memcpy(head, projected_.data() + i * width + h * d, static_cast<std::size_t>(d) * sizeof(float));
        if (!norm.empty()) normalize(head, norm, config_.norm_epsilon, head);
        if (turn) rope_.apply(i, head);
      }
    });
  }

  void append(const Tensor<float, 3>& heads, Tensor<float, 3>& cache) const {
    for (std::int64_t h = 0; h < heads.dim(0); ++h)
      std::memcpy(&cache(h, first_, 0), &heads(h, 0, 0),
                  static_cast<std::size_t>(count_ * config_.head_dim) * sizeof(float));
  }

  void attend_and_show(int layer, const Tensor<float, 3>& cached_key, const Tensor<float, 3>& cached_value) {
    const bool shown = observer_.wants_layer(layer);
    const std::int64_t heads = config_.num_query_heads, keys = first_ + count_;
    AttentionBlock block;
    block.query = query_.view();
    block.first = first_;
    block.key = cached_key.view();
    block.value = cached_value.view();
    block.scale = config_.attention_scale;
    block.softcap = config_.attention_softcap.value_or(0);
    block.window = config_.sliding_window[static_cast<std::size_t>(layer)];
    block.output = output_.view();
    block.log_sum_exp = log_sum_exp_.view();
    if (shown) {
      if (summed_ > 0 && column_sum_.empty()) column_sum_ = Tensor<float, 2>({heads, keys});
      if (!wanted_.empty() && attention_.empty())
        attention_ = Tensor<float, 3>({heads, static_cast<std::int64_t>(wanted_.size()), keys});
      block.summed_queries = summed_;
      block.column_sum = column_sum_.view();
      block.rows = wanted_;
      block.weights = attention_.view();
    }
    attend(block);
    if (!shown) return;
    LayerBlock seen;
    seen.layer = layer;
    seen.first = first_;
    seen.count = count_;
    seen.query = query_.view();
    seen.key = key_.view();
    seen.value = value_.view();
    seen.head_output = output_.view();
    seen.log_sum_exp = log_sum_exp_.view();
    seen.attention = attention_.view();
    seen.attention_column_sum = column_sum_.view();
    observer_.on_layer(seen);
  }

  // [Hq, n, d] → [n, Hq · d]
  void merge_heads() {
    const std::int64_t d = config_.head_dim, width = config_.num_query_heads * d;
    for_each_row(count_, [&](std::int64_t i) {
      for (std::int64_t h = 0; h < config_.num_query_heads; ++h)
        std::memcpy(projected_.data() + i * width + h * d, &output_(h, i, 0), static_cast<std::size_t>(d) * sizeof(float));
    });
  }

  void add_to_hidden(Tensor<float, 2>& added, const NormWeight& norm) {
    for_each_row(count_, [&](std::int64_t i) {
      if (!norm.empty()) normalize(&added(i, 0), norm, config_.norm_epsilon, &added(i, 0));
      kernels::add_scaled(&hidden_(i, 0), &added(i, 0), config_.hidden_size, 1.0F);
    });
  }

  void run_mlp(const LayerWeights& weights) {
    weights.gate.apply(count_, normed_.data(), gate_.data());
    weights.up.apply(count_, normed_.data(), up_.data());
    const std::int64_t inner = config_.intermediate_size;
    for_each_row(count_, [&](std::int64_t i) {
      thread_local std::vector<float> scratch;
      scratch.resize(static_cast<std::size_t>(inner));
      activate(config_.activation, &gate_(i, 0), &up_(i, 0), inner, scratch.data());
    });
    weights.down.apply(count_, gate_.data(), normed_.data());
  }

  const ModelConfig& config_;
  const DecoderWeights& weights_;
  EngineObserver& observer_;
  std::int64_t first_, count_;
  std::int64_t summed_ = 0;           // queries that count in column sums
  std::vector<std::int64_t> wanted_;  // queries whose weights are shown
  RopeTable rope_;
  Tensor<float, 2> hidden_, normed_;               // [n, C]
  Tensor<float, 2> projected_;                     // [n, heads · d], before they are split and after they are merged
  Tensor<float, 3> query_, key_, value_, output_;  // [heads, n, d]
  Tensor<float, 2> log_sum_exp_;
  Tensor<float, 2> gate_, up_;  // [n, I]
  Tensor<float, 2> column_sum_;
  Tensor<float, 3> attention_;
};

// nll of the block's tokens, and the logits after its last one.
std::vector<float> judge(BlockPass& pass, std::span<const std::int32_t> ids, std::int64_t vocabulary, bool wants_nll,
                         std::vector<float>& last_logits) {
  const auto count = static_cast<std::int64_t>(ids.size());
  std::vector<float> nll;
  if (!wants_nll) {
    last_logits.resize(static_cast<std::size_t>(vocabulary));
    pass.logits(count - 1, count, last_logits.data());
    return nll;
  }
  nll.resize(ids.size(), std::numeric_limits<float>::quiet_NaN());
  if (!last_logits.empty()) nll[0] = negative_log_likelihood(last_logits.data(), vocabulary, ids[0]);
  last_logits.resize(static_cast<std::size_t>(vocabulary));
  const std::int64_t rows = std::clamp<std::int64_t>(logit_floats / vocabulary, 1, count);
  Tensor<float, 2> logits({rows, vocabulary});
  for (std::int64_t begin = 0; begin < count; begin += rows) {
    const std::int64_t end = std::min(count, begin + rows);
    pass.logits(begin, end, logits.data());
    if (end == count) std::copy_n(&logits(count - 1 - begin, 0), vocabulary, last_logits.data());
    for_each_row(std::min(end, count - 1) - begin, [&](std::int64_t i) {
      const auto next = static_cast<std::size_t>(begin + i + 1);
      nll[next] = negative_log_likelihood(&logits(i, 0), vocabulary, ids[next]);
    });
  }
  return nll;
}

}  // namespace

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

Engine Engine::load(const std::string& model_directory, const EngineOptions& options) {
  ModelConfig config = load_model_config(model_directory);
  WeightFiles files = WeightFiles::open(model_directory);
  DecoderWeights weights = DecoderWeights::find(config, files, options.convert_at_most);
  return Engine(std::make_unique<State>(State{std::move(config), std::move(files), std::move(weights)}));
}

const ModelConfig& Engine::config() const { return state_->config; }
std::string Engine::weights_sha256() const { return state_->files.sha256(); }

Tensor<float, 3> Engine::output_projection(int layer) const {
  const Tensor<float, 2> matrix = state_->weights.layers.at(static_cast<std::size_t>(layer)).output.matrix();
  Tensor<float, 3> result({1, matrix.dim(0), matrix.dim(1)});
  std::ranges::copy(matrix.flat(), result.data());
  return result;
}

Sequence Engine::start(std::int64_t capacity) const {
  const ModelConfig& config = state_->config;
  auto state = std::make_unique<Sequence::State>();
  state->capacity = std::max<std::int64_t>(1, capacity);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    state->key.push_back(Tensor<float, 3>({config.num_kv_heads, state->capacity, config.head_dim}));
    state->value.push_back(Tensor<float, 3>({config.num_kv_heads, state->capacity, config.head_dim}));
  }
  return Sequence(std::move(state));
}

void Engine::read(Sequence& sequence, std::span<const std::int32_t> ids, EngineObserver& observer, Job& job,
                  const ReadOptions& options) const {
  const ModelConfig& config = state_->config;
  Sequence::State& state = *sequence.state_;
  for (const auto id : ids)
    if (id < 0 || id >= config.vocabulary_size)
      throw Error("token " + std::to_string(id),
                  "is outside the model's vocabulary of " + std::to_string(config.vocabulary_size) + " tokens");
  if (state.size + static_cast<std::int64_t>(ids.size()) > state.capacity)
    throw Error("the sequence", "has room for " + std::to_string(state.capacity) + " tokens");
  const auto block = static_cast<std::size_t>(std::max<std::int64_t>(1, options.block));
  for (std::size_t begin = 0; begin < ids.size(); begin += block) {
    const auto piece = ids.subspan(begin, std::min(block, ids.size() - begin));
    BlockPass pass(config, state_->weights, state.size, piece, observer);
    for (int layer = 0; layer < config.num_layers; ++layer) {
      job.check();
      pass.run_layer(layer, state.key[static_cast<std::size_t>(layer)], state.value[static_cast<std::size_t>(layer)]);
    }
    const auto nll = judge(pass, piece, config.vocabulary_size, observer.wants_nll(), state.logits);
    state.size += static_cast<std::int64_t>(piece.size());
    observer.on_tokens(state.size - static_cast<std::int64_t>(piece.size()), piece, nll);
  }
}

}  // namespace kvreplay

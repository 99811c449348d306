// What kept sets do to the decode queries. Per query head and step, what depends on the trace alone (attention, output,
// single-removal errors, ranks) is computed once and shared by all runs; a run then costs the smaller of its kept and its
// evicted set.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/backend/cpu/changed_cache.h"
#include "core/backend/cpu/cpu_backend.h"
#include "core/backend/cpu/full_step.h"
#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

// Below this share of the mass a vector sum is formed from its own terms instead of as a difference: in float64 the
// difference would keep about 10 digits there.
constexpr double small_mass = 1e-6;

// Kept and evicted prompt tokens of a run and stored head, when they stay the same for all decode steps.
struct StoredHead {
  bool constant = true;
  std::span<const std::int32_t> kept_prompt;  // of `found`, or of the run's own kept sets
  std::vector<std::int32_t> found, evicted_prompt;

  StoredHead() = default;
  StoredHead(StoredHead&&) = default;  // a copy's span would look into the original
};

StoredHead classify(const std::int32_t* evicted_at, std::int64_t prompt, std::int64_t tokens) {
  StoredHead head;
  for (std::int64_t i = 0; i < tokens; ++i)
    if (evicted_at[i] > 0 || (evicted_at[i] == 0 && i >= prompt)) {
      head.constant = false;
      return head;
    }
  for (std::int64_t i = 0; i < prompt; ++i)
    (evicted_at[i] == 0 ? head.evicted_prompt : head.found).push_back(static_cast<std::int32_t>(i));
  head.kept_prompt = head.found;
  return head;
}

StoredHead head_of(std::span<const std::int32_t> kept, std::int64_t first_candidate, std::int64_t prompt) {
  StoredHead head;
  head.kept_prompt = kept;
  auto next = kept.begin();
  for (auto i = static_cast<std::int32_t>(first_candidate); i < prompt; ++i) {
    if (next != kept.end() && *next == i)
      ++next;
    else
      head.evicted_prompt.push_back(i);
  }
  return head;
}

std::vector<StoredHead> stored_heads_of(const LoadedLayer& layer, const RunEvictions& run) {
  std::vector<StoredHead> heads;
  for (std::int64_t h = 0; h < run.heads(); ++h)
    heads.push_back(run.kept != nullptr ? head_of((*run.kept)[h], layer.first_candidate, layer.prompt)
                                        : classify(run.evicted_at[h].data(), layer.prompt, layer.tokens));
  return heads;
}

// Σ values[index], in float64 and four chains: one alone waits for each addition.
double sum_at(const std::vector<float>& values, std::span<const std::int32_t> index) {
  std::array<double, 4> total{};
  std::size_t k = 0;
  for (; k + 4 <= index.size(); k += 4)
    for (std::size_t chain = 0; chain < 4; ++chain) total[chain] += values[static_cast<std::size_t>(index[k + chain])];
  for (; k < index.size(); ++k) total[0] += values[static_cast<std::size_t>(index[k])];
  return (total[0] + total[1]) + (total[2] + total[3]);
}

class HeadEvaluator {
 public:
  HeadEvaluator(const CpuLayer& layer, const std::vector<RunEvictions>& runs,
                const std::vector<std::vector<StoredHead>>& stored, const EvaluationRequest& request, KeptSteps* kept_steps,
                EvaluationSink& sink)
      : layer_(layer),
        runs_(runs),
        stored_(stored),
        request_(request),
        kept_steps_(kept_steps),
        sink_(sink),
        d_(layer.head_dim),
        first_(request.first_step) {
    const auto tokens = static_cast<std::size_t>(layer.tokens);
    make_room(scratch_);
    scratch_.single.resize(tokens);
    scratch_.rank.resize(tokens);
    kept_output_.resize(static_cast<std::size_t>(d_));
    evicted_output_.resize(static_cast<std::size_t>(d_));
    const auto bounds = region_bounds(layer.prompt, layer.tokens);
    region_.resize(tokens);
    for (int r = 0; r < num_regions; ++r)
      std::fill(region_.begin() + bounds[static_cast<std::size_t>(r)],
                region_.begin() + bounds[static_cast<std::size_t>(r) + 1], r);
  }

  // Of the steps [first_step, last): outputs [steps, Hq · d] and differences [run][steps, Hq · d] receive o and o' - o of
  // this head.
  void run(int head, std::int64_t last, float* outputs, std::vector<Tensor<float, 2>>& differences,
           std::vector<std::vector<std::int64_t>>& evicted_counts) {
    head_ = head;
    value_ = layer_.value.data() + head / layer_.group() * layer_.tokens * d_;
    const std::int64_t steps = last - first_, stride = static_cast<std::int64_t>(layer_.num_query_heads) * d_;
    logits_ = {};
    open_changed_caches();
    for (std::int64_t s = first_; s < last; ++s) {
      full_ = known_step(s, last);
      if (!full_->recorded) {
        HeadStep missing;
        missing.recorded = false;
        for (std::size_t r = 0; r < runs_.size(); ++r) sink_.head(r, head, s, missing);
        continue;
      }
      const std::int64_t at = (s - first_) * stride + head * d_;
      if (request_.outputs)
        for (std::int64_t i = 0; i < d_; ++i)
          outputs[at + i] = static_cast<float>(full_->output[static_cast<std::size_t>(i)]);
      for (std::size_t r = 0; r < runs_.size(); ++r) {
        HeadStep step = changed_[r] ? measure_changed(r, s) : measure(r, s);
        if (request_.outputs) measure_norms(step);
        sink_.head(r, head, s, step);
        evicted_counts[r][static_cast<std::size_t>(head * steps + s - first_)] = step.evicted;
        if (request_.outputs)
          for (std::int64_t i = 0; i < d_; ++i)
            differences[r].data()[at + i] =
                static_cast<float>(kept_output_[static_cast<std::size_t>(i)] - full_->output[static_cast<std::size_t>(i)]);
      }
    }
  }

 private:
  std::size_t stored_head(std::size_t run) const {
    const std::int64_t heads = runs_[run].heads();
    if (heads == layer_.num_query_heads) return static_cast<std::size_t>(head_);
    return heads == 1 ? 0 : static_cast<std::size_t>(head_ / layer_.group());
  }

  void make_room(FullStep& step) const {
    step.exponential.resize(static_cast<std::size_t>(layer_.tokens));
    step.sum.resize(static_cast<std::size_t>(d_));
    step.output.resize(static_cast<std::size_t>(d_));
  }

  // [T] of a step of this head; formed for all steps up to `last` at once, or for one where the others were kept.
  const float* logits(std::int64_t step, std::int64_t last) {
    if (logits_.empty() || step < logits_first_ || step >= logits_first_ + logits_.dim(0)) {
      logits_ = CpuBackend::decode_logits(layer_, head_, step, last);
      logits_first_ = step;
    }
    return logits_.data() + (step - logits_first_) * layer_.tokens;
  }

  // The step as the layer keeps it, or formed now and kept where there is room.
  bool has_room_to_keep() const {
    const std::int64_t bytes = layer_.tokens * static_cast<std::int64_t>(sizeof(float));
    if (kept_steps_->bytes.fetch_add(bytes) + bytes <= request_.keep_bytes) return true;
    kept_steps_->bytes -= bytes;
    return false;
  }

  FullStep* known_step(std::int64_t s, std::int64_t last) {
    std::unique_ptr<FullStep>* slot =
        kept_steps_ != nullptr ? &kept_steps_->steps[static_cast<std::size_t>(head_ * layer_.steps() + s)] : nullptr;
    if (slot != nullptr && *slot != nullptr) return slot->get();
    const float* z = logits(s, last);
    full_ = &scratch_;
    std::unique_ptr<FullStep> fresh;  // becomes the kept one when it is whole
    if (slot != nullptr && has_room_to_keep()) {
      fresh = std::make_unique<FullStep>();
      make_room(*fresh);
      full_ = fresh.get();
    }
    full_->recorded = !std::isnan(z[layer_.prompt + s]);
    if (full_->recorded) prepare(z, s);
    if (fresh != nullptr) *slot = std::move(fresh);
    return full_;
  }

  void prepare(const float* z, std::int64_t step) {
    full_->position = layer_.prompt + step;
    full_->low = layer_.first_visible(full_->position);
    const std::int64_t low = full_->low, n = full_->position + 1 - low;
    float* e = full_->exponential.data();
    std::copy_n(z + low, n, e + low);
    full_->top = kernels::maximum(e + low, n);
    const std::int64_t largest = std::find(z + low, z + low + n, full_->top) - z;
    e[largest] = -std::numeric_limits<float>::infinity();
    const double others = kernels::exponentiate(e + low, n, full_->top);
    e[largest] = 0;
    full_->total = 1 + others;

    if (request_.outputs || request_.single_removals) {
      std::fill(full_->sum.begin(), full_->sum.end(), 0.0);
      accumulate_rows(value_ + low * d_, d_, nullptr, e + low, n, full_->sum.data());
      if (request_.single_removals) single_removals(largest, others);
      const float one = 1;
      accumulate_rows(value_ + largest * d_, d_, nullptr, &one, 1, full_->sum.data());
      for (std::size_t i = 0; i < full_->sum.size(); ++i) full_->output[i] = full_->sum[i] / full_->total;
      if (request_.single_removals) other_removals(largest);
    }
    e[largest] = 1;

    if (request_.entropy) {
      double weighted = 0;
      for (std::int64_t i = low; i <= full_->position; ++i)
        if (e[i] > 0) weighted += static_cast<double>(e[i]) * (static_cast<double>(z[i]) - full_->top);
      full_->entropy = std::log(full_->total) - weighted / full_->total;
    }
    if (request_.regions) {
      full_->mass.fill(0);
      for (std::int64_t i = low; i <= full_->position; ++i)
        full_->mass[static_cast<std::size_t>(region_[static_cast<std::size_t>(i)])] += e[i];
      for (auto& mass : full_->mass) mass /= full_->total;
    }
    if (request_.overlap) rank(z);
  }

  // The largest weight: a / (1 - a) · ‖o - v‖ = a · ‖r - v‖ with r the mean of the others, no cancellation. Called while
  // full_->sum holds the others alone.
  void single_removals(std::int64_t largest, double others) {
    double squared = 0;
    for (std::int64_t i = 0; i < d_; ++i) {
      const double difference =
          full_->sum[static_cast<std::size_t>(i)] / std::max(others, 1e-300) - value_[largest * d_ + i];
      squared += difference * difference;
    }
    largest_single_ = static_cast<float>(std::sqrt(squared) / full_->total);
  }

  void other_removals(std::int64_t largest) {
    const std::int64_t low = full_->low, n = full_->position + 1 - low;
    center_.resize(static_cast<std::size_t>(d_));
    std::copy(full_->output.begin(), full_->output.end(), center_.begin());
    float* single = full_->single.data();
    kernels::squared_distances(value_ + low * d_, n, d_, d_, center_.data(), single + low);
    for (std::int64_t i = low; i <= full_->position; ++i) {
      const double e = full_->exponential[static_cast<std::size_t>(i)];
      single[i] = static_cast<float>(e / (full_->total - e) * std::sqrt(static_cast<double>(single[i])));
    }
    single[largest] = largest_single_;
  }

  // Ranks of the visible weights, as far as any run's kept set needs them.
  void rank(const float* z) {
    std::int64_t needed = 0;
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      const std::int64_t kept = count_kept(r);
      if (kept < full_->position + 1 - full_->low) needed = std::max(needed, kept);
    }
    std::fill(full_->rank.begin(), full_->rank.end(), std::numeric_limits<std::int32_t>::max());
    if (needed == 0) return;
    order_.clear();
    for (std::int64_t i = full_->low; i <= full_->position; ++i)
      order_.push_back(static_cast<std::uint64_t>(order_key(z[i])) << 32 | (0xffffffffU - static_cast<std::uint32_t>(i)));
    const auto end = order_.begin() + std::min<std::int64_t>(needed, static_cast<std::int64_t>(order_.size()));
    if (end != order_.end()) std::nth_element(order_.begin(), end, order_.end(), std::greater<>());
    std::sort(order_.begin(), end, std::greater<>());
    for (auto it = order_.begin(); it != end; ++it)
      full_->rank[0xffffffffU - static_cast<std::uint32_t>(*it)] = static_cast<std::int32_t>(it - order_.begin());
  }

  bool kept_at(const std::int32_t* evicted_at, std::int64_t i) const {
    const std::int64_t step = full_->position - layer_.prompt + 1;
    return evicted_at[i] < 0 || evicted_at[i] >= step || i == full_->position;
  }

  std::int64_t count_kept(std::size_t run) const {
    const StoredHead& head = stored_[run][stored_head(run)];
    if (head.constant) {
      const auto first = std::lower_bound(head.kept_prompt.begin(), head.kept_prompt.end(), full_->low);
      return head.kept_prompt.end() - first + full_->position + 1 - std::max(layer_.prompt, full_->low);
    }
    const std::int32_t* evicted_at = runs_[run].evicted_at[static_cast<std::int64_t>(stored_head(run))].data();
    std::int64_t count = 0;
    for (std::int64_t i = full_->low; i <= full_->position; ++i) count += kept_at(evicted_at, i) ? 1 : 0;
    return count;
  }

  // Kept and evicted positions among the visible ones. What stays the same for all steps is not copied again.
  void split(std::size_t run) {
    kept_.clear();
    const StoredHead& head = stored_[run][stored_head(run)];
    if (head.constant) {
      kept_.assign(std::lower_bound(head.kept_prompt.begin(), head.kept_prompt.end(), full_->low), head.kept_prompt.end());
      evicted_ = {std::lower_bound(head.evicted_prompt.begin(), head.evicted_prompt.end(), full_->low),
                  head.evicted_prompt.end()};
      for (std::int64_t i = std::max(layer_.prompt, full_->low); i <= full_->position; ++i)
        kept_.push_back(static_cast<std::int32_t>(i));
      return;
    }
    const std::int32_t* evicted_at = runs_[run].evicted_at[static_cast<std::int64_t>(stored_head(run))].data();
    evicted_now_.clear();
    for (std::int64_t i = full_->low; i <= full_->position; ++i)
      (kept_at(evicted_at, i) ? kept_ : evicted_now_).push_back(static_cast<std::int32_t>(i));
    evicted_ = evicted_now_;
  }

  // What is the same however the kept rows look. Leaves kept_ and evicted_ filled.
  HeadStep begin_measure(std::size_t run) {
    split(run);
    HeadStep step;
    step.visible = full_->position + 1 - full_->low;
    step.evicted = static_cast<std::int64_t>(evicted_.size());
    step.full_log_sum_exp = full_->top + std::log(full_->total);
    step.entropy = full_->entropy;
    step.mass_before = full_->mass;
    step.output = full_->output;
    step.kept_output = kept_output_;
    step.evicted_output = evicted_output_;
    if (request_.overlap) step.oracle_overlap = evicted_.empty() ? 1 : overlap();
    return step;
  }

  double overlap() const {
    const auto size = static_cast<std::int32_t>(kept_.size());
    std::int64_t shared = 0;
    for (const auto i : kept_) shared += full_->rank[static_cast<std::size_t>(i)] < size ? 1 : 0;
    return static_cast<double>(shared) / size;
  }

  void open_changed_caches() {
    changed_.clear();
    bool any = false;
    for (const RunEvictions& run : runs_) {
      const bool changes = run.changes != nullptr && !run.changes->empty();
      changed_.push_back(changes ? std::make_unique<ChangedCache>(layer_, *run.changes, head_) : nullptr);
      any |= changes;
    }
    if (!any) return;
    first_query_row_ =
        std::lower_bound(layer_.trace->query_positions().begin(), layer_.trace->query_positions().end(), layer_.prompt) -
        layer_.trace->query_positions().begin();
    query_ = layer_.trace->read(layer_.layer, LayerDataset::query, {head_, head_ + 1}, {first_query_row_, -1});
  }

  // Keys or values were changed: a' and o' come from the changed rows, the divergence is summed term by term.
  HeadStep measure_changed(std::size_t run, std::int64_t s) {
    HeadStep step = begin_measure(run);
    const float* z = logits(s, s + 1);
    step.evicted_output = {};  // not formed: what is kept is no part of what was recorded
    changed_[run]->advance(s + 1);
    const std::int64_t row = layer_.query_rows(full_->position, full_->position + 1).first - first_query_row_;
    std::vector<double> logit;
    changed_[run]->kept_logits(query_.data() + row * d_, z, kept_, logit);
    const double top = *std::max_element(logit.begin(), logit.end());
    double total = 0;
    for (const double l : logit) total += std::exp(l - top);
    step.kept_log_sum_exp = top + std::log(total);
    std::fill(kept_output_.begin(), kept_output_.end(), 0.0);
    for (std::size_t k = 0; k < kept_.size(); ++k) {
      const double a = std::exp(logit[k] - step.kept_log_sum_exp);
      if (a > 0) step.redistribution_kl += a * (logit[k] - step.kept_log_sum_exp - z[kept_[k]] + step.full_log_sum_exp);
      step.mass_after[static_cast<std::size_t>(region_[static_cast<std::size_t>(kept_[k])])] += a;
      const float* value = changed_[run]->value(kept_[k]);
      for (std::int64_t i = 0; i < d_; ++i) kept_output_[static_cast<std::size_t>(i)] += a * value[i];
    }
    step.evicted_mass = sum_at(full_->exponential, evicted_) / full_->total;
    return step;
  }

  static void measure_norms(HeadStep& step) {
    double output = 0, difference = 0, displacement = 0;
    for (std::size_t i = 0; i < step.output.size(); ++i) {
      const double moved = step.kept_output[i] - step.output[i];
      output += step.output[i] * step.output[i];
      difference += moved * moved;
    }
    for (std::size_t i = 0; i < step.evicted_output.size(); ++i) {
      const double apart = step.kept_output[i] - step.evicted_output[i];
      displacement += apart * apart;
    }
    step.output_norm = std::sqrt(output);
    step.difference_norm = std::sqrt(difference);
    if (step.evicted > 0) step.displacement = std::sqrt(displacement);
  }

  HeadStep measure(std::size_t run, std::int64_t s) {
    HeadStep step = begin_measure(run);
    if (evicted_.empty()) {
      step.kept_log_sum_exp = step.full_log_sum_exp;
      step.mass_after = full_->mass;
      kept_output_ = full_->output;
      return step;
    }

    const double evicted_sum = sum_at(full_->exponential, evicted_);
    double kept_sum = gather(kept_, kept_weight_);
    double kept_top = full_->top;
    if (kept_sum < 1e-20 * full_->total) {  // what is kept had next to nothing: its weights are formed afresh
      const float* z = logits(s, s + 1);
      kept_top = -std::numeric_limits<double>::infinity();
      for (const auto i : kept_) kept_top = std::max<double>(kept_top, z[i]);
      kept_sum = 0;
      for (std::size_t k = 0; k < kept_.size(); ++k) {
        kept_weight_[k] = static_cast<float>(std::exp(z[kept_[k]] - kept_top));
        kept_sum += kept_weight_[k];
      }
    }
    step.evicted_mass = evicted_sum / full_->total;
    step.kept_log_sum_exp = kept_top + std::log(kept_sum);
    step.redistribution_kl = step.full_log_sum_exp - step.kept_log_sum_exp;
    if (request_.outputs) outputs(kept_sum, evicted_sum, kept_top == full_->top);
    if (request_.single_removals) step.single_removal_sum = sum_at(full_->single, evicted_);
    if (request_.regions) {
      for (std::size_t k = 0; k < kept_.size(); ++k)
        step.mass_after[static_cast<std::size_t>(region_[static_cast<std::size_t>(kept_[k])])] += kept_weight_[k];
      for (auto& mass : step.mass_after) mass /= kept_sum;
    }
    return step;
  }

  double gather(std::span<const std::int32_t> index, std::vector<float>& weight) const {
    weight.resize(index.size());
    double total = 0;
    for (std::size_t k = 0; k < index.size(); ++k) {
      weight[k] = full_->exponential[static_cast<std::size_t>(index[k])];
      total += weight[k];
    }
    return total;
  }

  // o' and o_E. The smaller set is summed; the other follows by subtraction unless it has almost no mass.
  void outputs(double kept_sum, double evicted_sum, bool same_scale) {
    const auto sum = [&](std::span<const std::int32_t> index, const std::vector<float>& weight, std::vector<double>& out) {
      std::fill(out.begin(), out.end(), 0.0);
      accumulate_rows(value_, d_, index.data(), weight.data(), static_cast<std::int64_t>(index.size()), out.data());
    };
    const bool kept_is_small = kept_sum < small_mass * full_->total || !same_scale;
    const bool evicted_is_small = evicted_sum < small_mass * full_->total;
    const bool kept_directly = kept_is_small || kept_.size() <= evicted_.size();
    const bool evicted_directly = evicted_is_small || !kept_directly || !same_scale;
    if (kept_directly) sum(kept_, kept_weight_, kept_output_);
    if (evicted_directly) {
      gather(evicted_, evicted_weight_);
      sum(evicted_, evicted_weight_, evicted_output_);
    }
    for (std::size_t i = 0; i < kept_output_.size(); ++i) {
      if (!kept_directly) kept_output_[i] = full_->sum[i] - evicted_output_[i];
      if (!evicted_directly) evicted_output_[i] = full_->sum[i] - kept_output_[i];
    }
    for (std::size_t i = 0; i < kept_output_.size(); ++i) {
      kept_output_[i] /= kept_sum;
      evicted_output_[i] /= std::max(evicted_sum, 1e-300);
    }
  }

  const CpuLayer& layer_;
  const std::vector<RunEvictions>& runs_;
  const std::vector<std::vector<StoredHead>>& stored_;
  const EvaluationRequest request_;
  KeptSteps* kept_steps_;  // null: nothing is kept
  EvaluationSink& sink_;
  const std::int64_t d_;
  const std::int64_t first_;  // step
  int head_ = 0;
  const float* value_ = nullptr;
  float largest_single_ = 0;
  FullStep scratch_;
  FullStep* full_ = &scratch_;  // the step at hand
  Tensor<float, 2> logits_;     // of this head from step logits_first_ on
  std::int64_t logits_first_ = 0;
  std::vector<int> region_;
  std::vector<float> center_;
  std::vector<std::uint64_t> order_;
  std::vector<std::int32_t> kept_, evicted_now_;
  std::span<const std::int32_t> evicted_;  // of evicted_now_, or of a head that stays the same
  std::vector<float> kept_weight_, evicted_weight_;
  std::vector<double> kept_output_, evicted_output_;
  std::vector<std::unique_ptr<ChangedCache>> changed_;  // by run; null where no row changed
  Tensor<float, 3> query_;                              // [1, .., d] recorded queries from first_query_row_ on
  std::int64_t first_query_row_ = 0;
};

// Sums over heads through W_o, or of the concatenated heads without it.
class LayerEvaluator {
 public:
  LayerEvaluator(const CpuLayer& layer, KeptSteps* kept, const Tensor<float, 2>& outputs)
      : layer_(layer), projection_(kept != nullptr ? kept->projection : own_) {
    if (projection_.empty() && layer.trace->has(layer.layer, LayerDataset::output_projection)) {
      const auto read = layer.trace->read(layer.layer, LayerDataset::output_projection);
      Tensor<float, 1> packed({static_cast<std::int64_t>(kernels::packed_floats(read.dim(1), read.dim(2)))});
      kernels::pack(read.dim(1), read.dim(2), read.data(), read.dim(2), packed.data());
      projection_ = std::move(packed);
    }
    outputs_ = project(outputs);
  }

  void run(std::size_t run, std::int64_t first_step, const Tensor<float, 2>& difference,
           const std::vector<std::int64_t>& evicted, EvaluationSink& sink) const {
    const Tensor<float, 2> projected = project(difference);
    const std::int64_t width = projected.dim(1), steps = projected.dim(0);
    for (std::int64_t s = 0; s < steps; ++s) {
      LayerStep step;
      const std::int64_t position = layer_.prompt + first_step + s;
      step.recorded = layer_.query_rows(position, position + 1).first >= 0;
      step.projected = !projection_.empty();
      double difference_squared = 0, output_squared = 0, kept_squared = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        const double delta = projected.data()[s * width + i], before = outputs_.data()[s * width + i],
                     after = before + delta;
        difference_squared += delta * delta;
        output_squared += before * before;
        kept_squared += after * after;
        step.inner_product += before * after;
      }
      step.difference_norm = std::sqrt(difference_squared);
      step.output_norm = std::sqrt(output_squared);
      step.kept_output_norm = std::sqrt(kept_squared);
      for (std::int64_t h = 0; h < layer_.num_query_heads; ++h)
        step.evicted += evicted[static_cast<std::size_t>(h * steps + s)];
      sink.layer(run, first_step + s, step);
    }
  }

 private:
  // A step's product is the same however many steps there are: gemm_nt's is not.
  Tensor<float, 2> project(const Tensor<float, 2>& x) const {
    if (projection_.empty()) return x;
    const std::int64_t width = layer_.hidden_size, inner = x.dim(1);
    Tensor<float, 2> out({x.dim(0), width});
    kernels::gemm_packed(x.dim(0), width, inner, 1.0F, x.data(), inner, projection_.data(), out.data(), width);
    return out;
  }

  const CpuLayer& layer_;
  Tensor<float, 1> own_;
  Tensor<float, 1>& projection_;  // packed W_o, the kept one or its own; empty where the trace has none
  Tensor<float, 2> outputs_;
};

}  // namespace

KeptSteps* CpuLayer::kept_steps(const EvaluationRequest& request) const {
  // Ranks depend on the runs, and distances of single tokens are for reports: neither is kept.
  if (request.keep_bytes <= 0 || request.overlap || request.single_removals) return nullptr;
  if (kept_steps_ == nullptr || !kept_steps_->serves(request)) {
    kept_steps_ = std::make_shared<KeptSteps>();
    kept_steps_->request = request;
    kept_steps_->steps.resize(static_cast<std::size_t>(num_query_heads * steps()));
  }
  return kept_steps_.get();
}

void CpuBackend::evaluate(const LoadedLayer& base, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                          EvaluationSink& sink) {
  const auto& layer = static_cast<const CpuLayer&>(base);
  const std::int64_t first = request.first_step, last = request.end_step < 0 ? layer.steps() : request.end_step;
  const std::int64_t steps = last - first, width = static_cast<std::int64_t>(layer.num_query_heads) * layer.head_dim;
  if (steps <= 0 || runs.empty()) return;

  std::vector<std::vector<StoredHead>> stored;
  for (const RunEvictions& run : runs) stored.push_back(stored_heads_of(layer, run));

  Tensor<float, 2> outputs({request.outputs ? steps : 0, width}, 0.0F);
  std::vector<Tensor<float, 2>> differences;
  for (std::size_t r = 0; r < runs.size(); ++r)
    differences.emplace_back(std::array<std::int64_t, 2>{request.outputs ? steps : 0, width}, 0.0F);
  std::vector<std::vector<std::int64_t>> evicted(
      runs.size(), std::vector<std::int64_t>(static_cast<std::size_t>(layer.num_query_heads * steps)));

  KeptSteps* kept = layer.kept_steps(request);
  parallel_for(layer.num_query_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    HeadEvaluator evaluator(layer, runs, stored, request, kept, sink);
    for (std::int64_t h = begin; h < end; ++h)
      evaluator.run(static_cast<int>(h), last, outputs.data(), differences, evicted);
  });
  if (!request.outputs) return;
  const LayerEvaluator evaluator(layer, kept, outputs);
  parallel_for(static_cast<std::int64_t>(runs.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      evaluator.run(static_cast<std::size_t>(r), first, differences[static_cast<std::size_t>(r)],
                    evicted[static_cast<std::size_t>(r)], sink);
  });
}

}  // namespace kvreplay

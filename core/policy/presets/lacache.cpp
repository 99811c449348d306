// Ladder-shaped sets: neighbouring layers keep different tokens of the same stretch (Shi et al., ICML 2025). Needs positions
// only.
#include <algorithm>

#include "core/base/error.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Of every `block` cached tokens a layer keeps a run of `run`, at an offset that rotates with the layer.
struct Ladder {
  std::int64_t layer = 0, layers = 0;  // the model's own index and number
  std::int64_t span = 0, overlap = 0;
  std::int64_t block = 0, run = 0;

  Ladder(std::int64_t layer_index, std::int64_t num_layers, std::int64_t span_layers, std::int64_t overlap_layers)
      : layer(layer_index), layers(num_layers), span(span_layers), overlap(overlap_layers) {
    block = 1 + std::max<std::int64_t>(0, ceil_div(layers - span, span - overlap));
    run = std::min(ceil_div(span, span - overlap), block);
  }
  std::int64_t dropped() const { return block - run; }  // of each block
  std::int64_t offset(std::int64_t places) const { return layer % (places + 1); }
  void check(const std::string& owner) const {
    if (dropped() == 0)
      throw Error(owner,
                  "span=" + std::to_string(span) + ", overlap=" + std::to_string(overlap) + " drop nothing in a model of " +
                      std::to_string(layers) + " layers",
                  "a span has to be shorter than the model and the overlap small enough to leave a step between layers");
  }
};

// The slots of one layer's cache, by position, oldest first, and what left it.
class LadderCache {
 public:
  LadderCache(LayerWorkspace& layer, Tensor<std::int32_t, 2>& evicted_at) : layer_(layer), evicted_at_(evicted_at) {}

  std::int64_t size() const { return static_cast<std::int64_t>(slots_.size()); }
  void append(std::int64_t position) { slots_.push_back(static_cast<std::int32_t>(position)); }
  // Keeps these slots in this order. A slot may be named twice, as the published code does.
  void keep(const std::vector<std::int64_t>& kept, std::int64_t step) {
    for (const auto position : slots_) evicted_at_(0, position) = static_cast<std::int32_t>(step);
    std::vector<std::int32_t> next;
    for (const auto slot : kept) next.push_back(slots_.at(static_cast<std::size_t>(slot)));
    for (const auto position : next) evicted_at_(0, position) = -1;
    slots_ = std::move(next);
  }
  void drop(std::int64_t slot, std::int64_t step) {
    evicted_at_(0, slots_[static_cast<std::size_t>(slot)]) = static_cast<std::int32_t>(step);
    slots_.erase(slots_.begin() + slot);
  }
  // Tokens that the layer's sliding window no longer shows leave without being evicted; how many did.
  std::int64_t forget_invisible(std::int64_t position) {
    const auto low = layer_.loaded().first_visible(position);
    const auto before = size();
    slots_.erase(std::remove_if(slots_.begin(), slots_.end(), [&](std::int32_t p) { return p < low; }), slots_.end());
    return before - size();
  }

 private:
  LayerWorkspace& layer_;
  Tensor<std::int32_t, 2>& evicted_at_;
  std::vector<std::int32_t> slots_;
};

// The authors' code: compacts several blocks at once, after the prompt and whenever the cache exceeds its size.
class PublishedLadder {
 public:
  PublishedLadder(const Ladder& ladder, std::int64_t start, std::int64_t size)
      : ladder_(ladder), start_(start), size_(size), current_(start) {}

  void compact(LadderCache& cache, std::int64_t step) {
    const std::int64_t length = cache.size(), a = ladder_.run, b = ladder_.block, dropped = ladder_.dropped();
    if (length <= size_) return;
    if (!compacted_) size_ += dropped / 2;
    compacted_ = true;
    const std::int64_t excess = length - size_, room = size_ - current_ - ladder_.layers, can = room / a * dropped;
    const std::int64_t kept = excess > can ? room : (excess > 0 ? ceil_div(excess, dropped) * a : 0);
    const auto first = slots(length, current_, kept / a, b, ladder_.offset(dropped), 1);
    if (excess <= can) {
      current_ += kept;
      return cache.keep(first, step);
    }
    // No room for the ladder beyond what is laid out: it starts over, with longer blocks.
    const std::int64_t left = excess - can, one = (size_ - start_ - ladder_.layers) / a * dropped;
    const std::int64_t rounds = ceil_div(left, one), longer = b + (rounds - 1) * (b - 1), more = longer - a;
    const std::int64_t again = ceil_div(left, more) * a;
    cache.keep(first, step);
    cache.keep(slots(cache.size(), start_, again / a, longer, ladder_.offset(more), rounds), step);
    current_ = start_ + again;
  }

  void shift(std::int64_t slots_gone) { current_ = std::max(start_, current_ - slots_gone); }

 private:
  // [0, from), then of each of `count` blocks a run with `stride` between its slots, then the rest.
  std::vector<std::int64_t> slots(std::int64_t length, std::int64_t from, std::int64_t count, std::int64_t block,
                                  std::int64_t offset, std::int64_t stride) const {
    std::vector<std::int64_t> kept;
    for (std::int64_t slot = 0; slot < from; ++slot) kept.push_back(slot);
    for (std::int64_t j = 0; j < count; ++j)
      for (std::int64_t x = 0; x < ladder_.run; ++x) kept.push_back(from + offset + block * j + stride * x);
    for (std::int64_t slot = from + block * count; slot < length; ++slot) kept.push_back(slot);
    return kept;
  }

  Ladder ladder_;
  std::int64_t start_, size_, current_;
  bool compacted_ = false;
};

class PublishedLaCache final : public Policy {
 public:
  PublishedLaCache(int start, int size, int span, int overlap)
      : start_(start), size_(size), span_(span), overlap_(overlap) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::layer; }
  std::int64_t fixed_budget() const override { return size_; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    if (layer.candidates() + layer.loaded().steps() <= std::max(size_, budget)) return result;
    const Ladder ladder(layer.layer(), layer.model().num_layers, span_, overlap_);
    ladder.check("policy lacache@original");
    if ((size_ - start_ - ladder.layers) / ladder.run < 1)
      throw Error("policy lacache@original", "size=" + std::to_string(size_) + " leaves no room for a ladder",
                  "start=" + std::to_string(start_) + " and the last " + std::to_string(ladder.layers) +
                      " tokens (one a layer) stay as they are: size takes at least " +
                      std::to_string(start_ + ladder.layers + ladder.run));
    LadderCache cache(layer, result.evicted_at);
    PublishedLadder published(ladder, start_, size_);
    for (std::int64_t position = layer.first_candidate(); position < layer.prompt(); ++position) cache.append(position);
    published.compact(cache, 0);
    for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
      const std::int64_t position = layer.prompt() + step - 1;
      published.shift(cache.forget_invisible(position));
      cache.append(position);
      published.compact(cache, step);
    }
    return result;
  }

 private:
  std::int64_t start_, size_, span_, overlap_;
};

// The ladder with a budget kept to the token: one token leaves for each that comes, in the order in which the blocks are
// laid out, and the prompt is read token by token.
class LaCachePolicy final : public Policy {
 public:
  LaCachePolicy(int start, int span, int overlap) : start_(start), span_(span), overlap_(overlap) {}
  bool evicts_while_decoding() const override { return true; }
  Granularity granularity() const override { return Granularity::layer; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::layer);
    if (layer.candidates() + layer.loaded().steps() <= budget) return result;
    const std::int64_t layers = layer.model().num_layers;
    const Ladder ladder(layer.layer(), layers, span_ > 0 ? span_ : std::max<std::int64_t>(overlap_ + 1, layers / 2),
                        overlap_);
    ladder.check("policy lacache@paper");
    const std::int64_t most = budget + 1 - layers - ladder.block;  // so that one block fits between start and the last
    const std::int64_t start = start_ > 0 ? start_ : std::min<std::int64_t>(128, most);
    if (start > most || start < 1)
      throw Error("--budget", std::to_string(budget) + " tokens leave lacache no room for a ladder",
                  "beside start=" + std::to_string(std::max<std::int64_t>(1, start)) + " it needs a block of " +
                      std::to_string(ladder.block) + " and one token a layer (" + std::to_string(layers) + ")");
    LadderCache cache(layer, result.evicted_at);
    std::int64_t current = start, gone = 0;  // first slot of the block that is being thinned, and how many have left it
    const auto add = [&](std::int64_t position, std::int64_t step) {
      cache.append(position);
      if (cache.size() <= budget) return;
      if (gone == 0 && current + ladder.block > cache.size() - layers) current = start;
      cache.drop(gone < ladder.offset(ladder.dropped()) ? current : current + ladder.run, step);
      if (++gone < ladder.dropped()) return;
      current += ladder.run;
      gone = 0;
    };
    for (std::int64_t position = layer.first_candidate(); position < layer.prompt(); ++position) add(position, 0);
    for (std::int64_t step = 1; step <= layer.loaded().steps(); ++step) {
      const std::int64_t position = layer.prompt() + step - 1;
      if (const auto lost = cache.forget_invisible(position); lost > 0) {
        current = std::max(start, current - lost);
        gone = 0;
      }
      add(position, step);
    }
    return result;
  }

 private:
  std::int64_t start_, span_, overlap_;
};

}  // namespace

const PolicyDescription& lacache_policy() {
  static const PolicyDescription description = {
      .name = "lacache",
      .idea =
          "A ladder: of every few neighbouring tokens each layer keeps others, so that all layers together cover them all.",
      .paper =
          "Shi et al., LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models, "
          "ICML 2025",
      .stages = "position → ladder by layer; each decode step, one set per layer",
      .needs = "nothing",
      .variants =
          {{"paper", "Shi et al. 2025",
            "The budget M is the size, kept to the token: once the cache is full, one token leaves for each that comes, and "
            "the "
            "prompt is read the same way. Between the first `start` tokens and the last L (one a layer) the oldest block of "
            "b = "
            "1 + ceil((L - span) / (span - overlap)) tokens is thinned to a = ceil(span / (span - overlap)), at an offset "
            "that rotates with the layer; after the last block that fits it starts over at `start`. Positions stay as they "
            "are "
            "in the text."},
           {"original", "GATECH-EIC/LaCache at 0f27c33",
            "Sizes in the string win over the budget. Compacts whole blocks at once, so that the length swings below "
            "`size`, "
            "which the first compaction raises by half of what a block loses. A start-over lays out longer blocks; with "
            "runs of two or more it can name a slot twice, and then fewer different tokens are held. Its drivers set "
            "size to a share of the prompt and start to min(128, size - L - 1) (LongBench) or 64 (needle). It also moves "
            "positions to slots (keys are stored before RoPE); here they stay."}},
      .parameters =
          {integer_parameter("size", "tokens the cache holds; wins over the budget", 1, 16777216, {{"original", "256"}}),
           integer_parameter("start", "the first tokens, always kept; 0 (paper): 128, or what a small budget leaves", 0,
                             16777216, {{"paper", "0"}, {"original", "128"}}),
           integer_parameter("span", "layers that keep a token, before the ladder moves on; 0 (paper): half of the layers",
                             0, 65536, {{"paper", "0"}, {"original", "16"}}),
           integer_parameter("overlap", "layers that neighbouring runs share, below span", 0, 65535,
                             {{"paper", "0"}, {"original", "0"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        const int span = spec.values.integer("span"), overlap = spec.values.integer("overlap");
        const bool published = spec.variant == "original";
        if (overlap >= span && (span > 0 || published))
          throw Error("policy lacache@" + spec.variant,
                      "\"" + std::to_string(overlap) + "\" is not allowed for \"overlap\" with span=" + std::to_string(span),
                      "it takes less than the span");
        if (!published) return std::make_unique<LaCachePolicy>(spec.values.integer("start"), span, overlap);
        return std::make_unique<PublishedLaCache>(spec.values.integer("start"), spec.values.integer("size"), span, overlap);
      },
  };
  return description;
}

}  // namespace kvreplay

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/kernels/kernels.h"
#include "core/trace/synthetic_model_internal.h"

namespace kvreplay {
namespace {

// What a stream of random numbers is for; part of its key.
enum Purpose : int {
  tokens_purpose,
  segments_purpose,
  copies_purpose,
  heads_purpose,
  directions_purpose,
  key_purpose,
  value_purpose,
  query_purpose,
  projection_purpose,
  focus_purpose
};

constexpr int prompt_themes = 8;  // topics that the focus is on while the prompt is read, one after the other
constexpr std::array<double, 3> reach_waves = {20, 80, 320};  // inverse of the lowest frequency of the positional cosines
constexpr std::int64_t reach_count = reach_waves.size();
constexpr double near_kernel = 0.2;      // where the neighbourhood ends: the mean cosine falls below this
constexpr double highest_local = 30;     // logit at distance 0
constexpr double head_variation = 0.4;   // log-normal spread of the masses between heads
constexpr double key_logit_noise = 0.7;  // standard deviation that noise gives to logits
constexpr double query_logit_noise = 0.5;
constexpr double weak_retrieval = 0.1;  // of needle_mass, in heads that do not retrieve
constexpr float copy_noise = 0.02F;     // how far near copies are apart, against their own noise
constexpr std::uint64_t heavy_run = 5;  // tokens: what matters in a text comes in phrases, which is why policies pool
constexpr float copy_heavy = 1.2F;      // strength of a near copy as a heavy hitter; those of others end at 1
constexpr float lowest_salience = 0.3F, lowest_heavy = 0.5F;

// The finaliser of splitmix64: a counter becomes a random number.
std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ULL;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBULL;
  return x ^ x >> 31;
}
constexpr std::uint64_t step = 0x9E3779B97F4A7C15ULL;

double uniform(std::uint64_t key, std::uint64_t index) {
  return static_cast<double>(mix(key + (index + 1) * step) >> 11) * 0x1.0p-53;
}

// Mean 0, variance 1: the sum of four uniform numbers of 16 bits, which is normal to within 4 % of its density up to two
// standard deviations and ends at 3.46. One multiplication chain an element is what bounds the speed of a whole trace.
float normal(std::uint64_t key, std::uint64_t index) {
  const std::uint64_t x = mix(key + (index + 1) * step);
  const auto sum = static_cast<std::int32_t>((x & 0xFFFF) + (x >> 16 & 0xFFFF) + (x >> 32 & 0xFFFF) + (x >> 48)) - 131070;
  constexpr float scale = 1.0F / 37837.23F;  // sqrt(4 (65536^2 - 1) / 12)
  return static_cast<float>(sum) * scale;
}

void add_noise(float* row, std::int64_t count, std::uint64_t key, float deviation) {
  for (std::int64_t j = 0; j < count; ++j) row[j] += deviation * normal(key, static_cast<std::uint64_t>(j));
}

// The z >= 0 with f(z) = target for an f that grows; 0 where f(0) is above it, `limit` where f never reaches it.
template <class Function>
double solve(const Function& f, double target, double limit = 60) {
  if (!(f(0.0) < target)) return 0;
  double low = 0, high = limit;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (f(middle) < target ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Mean of exp(z s) for s uniform on [low, 1].
double mean_exponential(double z, double low) { return z < 1e-6 ? 1 : (std::exp(z) - std::exp(z * low)) / (z * (1 - low)); }

// Mean of exp(z x) over a sample; 1 for none.
double mean_exponential(double z, const std::vector<double>& sample) {
  double sum = 0;
  for (const double x : sample) sum += std::exp(z * x);
  return sample.empty() ? 1 : sum / static_cast<double>(sample.size());
}

void make_unit(float* vector, std::int64_t count) {
  const float norm = std::sqrt(kernels::dot(vector, vector, count));
  if (norm > 0) kernels::scale_in_place(vector, count, 1 / norm);
}

}  // namespace

std::uint64_t SyntheticModel::stream(int what, int layer, int head, std::uint64_t index) const {
  std::uint64_t key = mix(parameters_.seed + step);
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(what), static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(head), index})
    key = mix(key ^ (part + 1) * step);
  return key;
}

SyntheticModel::SyntheticModel(const SyntheticParameters& parameters) : parameters_(parameters) {
  check(parameters);
  pairs_ = parameters_.head_dim / 4;
  tokens_.resize(static_cast<std::size_t>(parameters_.prompt + parameters_.decode));
  measure_reaches();
  place_segments();
  place_special();
  heads_.resize(static_cast<std::size_t>(parameters_.layers * parameters_.kv_heads));
  for (int layer = 0; layer < parameters_.layers; ++layer)
    for (int kv_head = 0; kv_head < parameters_.kv_heads; ++kv_head) {
      draw_directions(layer, kv_head);
      solve_amplitudes(layer, kv_head);
    }
}

void SyntheticModel::measure_reaches() {
  for (const double wave : reach_waves) {
    Reach reach;
    for (int m = 0; m < pairs_; ++m)
      reach.frequencies.push_back(std::pow(wave, -static_cast<double>(m) / std::max(1, pairs_ - 1)));
    const auto kernel = [&](std::int64_t distance) {
      double sum = 0;
      for (const double frequency : reach.frequencies) sum += std::cos(frequency * static_cast<double>(distance));
      return sum / pairs_;
    };
    std::int64_t distance = 0;
    for (; distance < tokens(); ++distance) {
      const double value = kernel(distance);
      if (value < near_kernel) break;
      reach.near.push_back(value);
    }
    const std::int64_t stride = 1 + (tokens() - distance) / 4001;
    for (; distance < tokens(); distance += stride) reach.far.push_back(kernel(distance));
    reaches_.push_back(std::move(reach));
  }
}

// ---- tokens ----

void SyntheticModel::place_segments() {
  const std::uint64_t key = stream(segments_purpose, 0, 0, 0), each = stream(tokens_purpose, 0, 0, 0);
  std::int64_t end = 0;
  std::uint64_t segment = 0;
  std::uint16_t topic = 0;
  for (std::int64_t i = 0; i < tokens(); ++i) {
    if (i == end || i == parameters_.prompt) {
      ++segment;
      topic = static_cast<std::uint16_t>(uniform(key, 2 * segment) * parameters_.topics);
      // What is in focus was said before: it is not what is being said, which queries see as their neighbourhood anyway.
      for (int tries = 0; tries < parameters_.topics && is_in_focus(topic, i); ++tries)
        topic = static_cast<std::uint16_t>((topic + 1) % parameters_.topics);
      const double length = static_cast<double>(parameters_.segment) * (0.5 + uniform(key, 2 * segment + 1));
      end = i + std::max<std::int64_t>(1, std::llround(length));
    }
    SyntheticToken& token = tokens_[static_cast<std::size_t>(i)];
    const auto index = static_cast<std::uint64_t>(i);
    token.topic = topic;
    token.salience = lowest_salience + (1 - lowest_salience) * static_cast<float>(uniform(each, 3 * index));
    if (i >= parameters_.prompt) token.kind = SyntheticKind::generated;
    const std::uint64_t run = index / heavy_run;
    if (i >= parameters_.sinks && uniform(each, 3 * run + 1) < parameters_.heavy_share) {
      if (token.kind == SyntheticKind::ordinary) token.kind = SyntheticKind::heavy;
      token.heavy = lowest_heavy + (1 - lowest_heavy) * static_cast<float>(uniform(each, 3 * index + 2));
      token.salience = 0;
    }
  }
}

void SyntheticModel::place_special() {
  const auto at = [&](std::int64_t i) -> SyntheticToken& { return tokens_[static_cast<std::size_t>(i)]; };
  const std::int64_t question = parameters_.needle > 0 ? parameters_.question : 0;
  const std::int64_t context_end = parameters_.prompt - question;
  for (std::int64_t i = 0; i < parameters_.sinks; ++i) at(i) = {.kind = SyntheticKind::sink};
  for (std::int64_t i = context_end; i < parameters_.prompt; ++i) at(i).kind = SyntheticKind::question;

  const double room = static_cast<double>(context_end - parameters_.needle - parameters_.sinks);
  const std::int64_t start = parameters_.sinks + std::llround(parameters_.needle_depth * room);
  for (std::int64_t i = 0; i < parameters_.needle; ++i)
    at(start + i) = {.kind = SyntheticKind::needle, .topic = at(start + i).topic, .member = static_cast<std::int32_t>(i)};

  // Copies are spread over the context; a place that is taken is passed over.
  const std::int64_t total = static_cast<std::int64_t>(parameters_.copy_groups) * parameters_.copies;
  const std::uint64_t key = stream(copies_purpose, 0, 0, 0);
  for (std::int64_t k = 0; k < total; ++k) {
    const double where = (static_cast<double>(k) + uniform(key, static_cast<std::uint64_t>(k))) / static_cast<double>(total);
    auto i = parameters_.sinks + static_cast<std::int64_t>(where * static_cast<double>(context_end - parameters_.sinks));
    while (i < context_end && at(i).kind != SyntheticKind::ordinary && at(i).kind != SyntheticKind::heavy) ++i;
    if (i >= context_end) continue;
    const auto group = static_cast<std::int32_t>(k % parameters_.copy_groups);
    at(i) = {.kind = SyntheticKind::copy,
             .topic = static_cast<std::uint16_t>(group % parameters_.topics),
             .member = group,
             .heavy = copy_heavy};
  }
  for (const SyntheticToken& t : tokens_) {
    copy_tokens_ += t.kind == SyntheticKind::copy ? 1 : 0;
    heavy_tokens_ += t.kind != SyntheticKind::copy && t.heavy > 0 ? 1 : 0;
  }
}

bool SyntheticModel::looks_for_needle(std::int64_t position) const {
  return parameters_.needle > 0 && position >= parameters_.prompt - parameters_.question;
}

int SyntheticModel::focus_topic(int which) const {
  const std::uint64_t key = stream(focus_purpose, 0, 0, 0);
  return static_cast<int>(uniform(key, static_cast<std::uint64_t>(which + prompt_themes)) * parameters_.topics);
}

bool SyntheticModel::is_in_focus(int topic, std::int64_t position) const {
  if (position < parameters_.prompt) return topic == focus_at(position).from;
  for (int which = 0; which <= parameters_.drift + 1; ++which)
    if (topic == focus_topic(which)) return true;
  return false;
}

SyntheticModel::Focus SyntheticModel::focus_at(std::int64_t position) const {
  if (position < parameters_.prompt) {
    const auto theme = static_cast<int>(position * prompt_themes / parameters_.prompt);
    const int topic = focus_topic(theme - prompt_themes + 1);  // the last theme is where generating begins
    return {topic, topic, 0};
  }
  const double progress = static_cast<double>(position - parameters_.prompt + 1) / static_cast<double>(parameters_.decode);
  const double path = progress * parameters_.drift;
  const int from = static_cast<int>(path);
  return {focus_topic(from), focus_topic(from + 1), static_cast<float>(path - from)};
}

std::int32_t SyntheticModel::token_id(std::int64_t position) const {
  const SyntheticToken& t = token(position);
  switch (t.kind) {
    case SyntheticKind::sink: return static_cast<std::int32_t>(position);
    case SyntheticKind::heavy: return 1000;
    case SyntheticKind::question: return 1001;
    case SyntheticKind::copy: return 2000 + t.member;
    case SyntheticKind::needle: return 4000 + t.member;
    default: return 10000 + t.topic;
  }
}

std::string SyntheticModel::token_text(std::int64_t position) const {
  const SyntheticToken& t = token(position);
  switch (t.kind) {
    case SyntheticKind::sink: return "<sink>";
    case SyntheticKind::heavy: return " heavy";
    case SyntheticKind::question: return " question";
    case SyntheticKind::copy: return " copy" + std::to_string(t.member);
    case SyntheticKind::needle: return " needle" + std::to_string(t.member);
    case SyntheticKind::generated: return " out" + std::to_string(t.topic);
    case SyntheticKind::ordinary: break;
  }
  return " topic" + std::to_string(t.topic);
}

std::vector<TextSpan> SyntheticModel::spans() const {
  if (parameters_.needle == 0) return {};
  const auto first =
      std::find_if(tokens_.begin(), tokens_.end(), [](const SyntheticToken& t) { return t.kind == SyntheticKind::needle; });
  const auto start = static_cast<int>(first - tokens_.begin());
  return {{start, start + static_cast<int>(parameters_.needle), "needle"},
          {static_cast<int>(parameters_.prompt - parameters_.question), static_cast<int>(parameters_.prompt), "question"}};
}

// ---- heads ----

void SyntheticModel::draw_directions(int layer, int kv_head) {
  KvHead& h = heads_[static_cast<std::size_t>(layer * parameters_.kv_heads + kv_head)];
  const std::int64_t d = parameters_.head_dim;
  const auto draw = [&](float* vector, std::uint64_t index, bool content_only) {
    std::fill(vector, vector + d, 0.0F);
    add_noise(vector, d, stream(directions_purpose, layer, kv_head, index), 1);
    for (std::int64_t m = 0; content_only && m < pairs_; ++m) vector[m] = vector[d / 2 + m] = 0;
  };
  h.directions = Tensor<float, 2>({3, d});
  for (std::int64_t i = 0; i < 3; ++i) {
    float* vector = h.directions[i].data();
    draw(vector, static_cast<std::uint64_t>(i), true);
    for (std::int64_t k = 0; k < i; ++k) {
      const float* other = h.directions[k].data();
      kernels::add_scaled(vector, other, d, -kernels::dot(vector, other, d));
    }
    make_unit(vector, d);
  }
  h.topics = Tensor<float, 2>({parameters_.topics, d});
  h.value_directions = Tensor<float, 2>({parameters_.topics + 1, d});
  for (std::int64_t i = 0; i <= parameters_.topics; ++i) {
    float* value = h.value_directions[i].data();
    draw(value, 1000 + static_cast<std::uint64_t>(i), false);
    make_unit(value, d);
    if (i == parameters_.topics) break;
    float* topic = h.topics[i].data();
    draw(topic, 100000 + static_cast<std::uint64_t>(i), true);
    for (std::int64_t k = 0; k < 3; ++k) {
      const float* other = h.directions[k].data();
      kernels::add_scaled(topic, other, d, -kernels::dot(topic, other, d));
    }
    make_unit(topic, d);
  }
}

void SyntheticModel::solve_amplitudes(int layer, int kv_head) {
  KvHead& h = heads_[static_cast<std::size_t>(layer * parameters_.kv_heads + kv_head)];
  const int group = parameters_.query_heads / parameters_.kv_heads;
  const double root = std::sqrt(static_cast<double>(parameters_.head_dim));
  const auto count = static_cast<double>(tokens());
  const std::uint64_t own = stream(heads_purpose, layer, kv_head, 0);
  h.reach = static_cast<int>(uniform(own, 0) * static_cast<double>(reach_count));
  const Reach& reach = reaches_[static_cast<std::size_t>(h.reach)];
  std::vector<double> other_topics;  // cosines between different topics
  for (int a = 0; a < parameters_.topics; ++a)
    for (int b = 0; b < a && other_topics.size() < 500; ++b)
      other_topics.push_back(
          static_cast<double>(kernels::dot(h.topics[a].data(), h.topics[b].data(), parameters_.head_dim)));

  // Logits that give each part its share, for each query head.
  struct Logits {
    double sink, local, heavy, focus, needle;
  };
  std::vector<Logits> logits;
  const double background =
      1 - parameters_.sink_mass - parameters_.local_mass - parameters_.heavy_mass - parameters_.focus_mass;
  for (int q = 0; q < group; ++q) {
    const std::uint64_t key = stream(heads_purpose, layer, kv_head, 1 + static_cast<std::uint64_t>(q));
    std::array<double, 5> share = {parameters_.sink_mass, parameters_.local_mass, parameters_.heavy_mass,
                                   parameters_.focus_mass, background};
    for (std::size_t i = 0; i < share.size(); ++i)
      share[i] *= std::exp(head_variation * static_cast<double>(normal(key, i)));
    // How much heavier than one background token each part must be in all. Noise weighs on all tokens alike.
    const auto ratio = [&](std::size_t part) { return share[part] / share[4] * count; };
    Logits z{};
    z.local = solve(
        [&](double x) {
          double mass = 0;
          for (const double kernel : reach.near) mass += std::exp(x * kernel);
          return mass / mean_exponential(x, reach.far);
        },
        ratio(1), highest_local);
    const double mean_salience = (1 + lowest_salience) / 2;
    const auto off_topic = [&](double x) { return mean_exponential(x * mean_salience, other_topics); };
    z.focus =
        solve([&](double x) { return count / parameters_.topics * mean_exponential(x, lowest_salience) / off_topic(x); },
              ratio(3));
    // Heavy hitters have no topic, copies, sinks and needle no position, either: what those add to the other tokens on
    // average is made up for.
    const double far = mean_exponential(z.local, reach.far), others = far * off_topic(z.focus);
    if (heavy_tokens_ + copy_tokens_ > 0)
      z.heavy = solve(
          [&](double x) {
            return heavy_tokens_ * mean_exponential(x, lowest_heavy) + copy_tokens_ * std::exp(x * copy_heavy) / far;
          },
          ratio(2) * off_topic(z.focus));
    if (parameters_.sinks > 0) z.sink = std::max(0.0, std::log(ratio(0) * others / parameters_.sinks));
    const double total = std::accumulate(share.begin(), share.end(), 0.0) / share[4] * count * others;
    const double wanted = parameters_.needle_mass * (is_retrieval_head(layer, kv_head) ? 1 : weak_retrieval);
    if (parameters_.needle > 0)
      z.needle = std::max(0.0, std::log(wanted / (1 - wanted) * total / static_cast<double>(parameters_.needle)));
    logits.push_back(z);
  }

  // A logit z = A B / sqrt(d). The mean logit of the group is shared evenly; what differs between its heads is in B.
  const auto divide = [&](double Logits::*part, float KvHead::*key, float QueryHead::*query) {
    double mean = 0;
    for (const Logits& z : logits) mean += z.*part / group;
    const double amplitude = std::sqrt(mean * root);
    h.*key = static_cast<float>(amplitude);
    for (std::size_t q = 0; q < logits.size(); ++q)
      h.queries[q].*query = amplitude > 0 ? static_cast<float>(logits[q].*part * root / amplitude) : 0;
  };
  h.queries.resize(static_cast<std::size_t>(group));
  divide(&Logits::sink, &KvHead::sink, &QueryHead::sink);
  divide(&Logits::local, &KvHead::local, &QueryHead::local);
  divide(&Logits::heavy, &KvHead::heavy, &QueryHead::heavy);
  divide(&Logits::focus, &KvHead::focus, &QueryHead::focus);
  divide(&Logits::needle, &KvHead::needle, &QueryHead::needle);

  const auto square = [](double x) { return x * x; };
  double query_norm = 0;
  for (const QueryHead& q : h.queries)
    query_norm += (square(q.sink) + square(q.local) + square(q.heavy) + square(q.focus)) / group;
  h.key_noise = query_norm > 0 ? static_cast<float>(key_logit_noise * root / std::sqrt(query_norm)) : 1;
  const double key_norm = square(h.local) + square(h.focus * 0.65) + square(h.key_noise) * parameters_.head_dim;
  h.query_noise = static_cast<float>(query_logit_noise * root / std::sqrt(key_norm));
}

// ---- rows ----

Tensor<float, 3> SyntheticModel::position_table(std::int64_t first, std::int64_t count) const {
  Tensor<float, 3> table({reach_count, count, 2 * std::int64_t{pairs_}});
  for (std::int64_t r = 0; r < reach_count; ++r)
    for (std::int64_t i = 0; i < count; ++i)
      for (int m = 0; m < pairs_; ++m) {
        const double frequency = reaches_[static_cast<std::size_t>(r)].frequencies[static_cast<std::size_t>(m)];
        const double angle = frequency * static_cast<double>(first + i);
        table(r, i, m) = static_cast<float>(std::cos(angle));
        table(r, i, pairs_ + m) = static_cast<float>(std::sin(angle));
      }
  return table;
}

namespace {

// cosines: pairs cosines, then as many sines.
void add_position(float* row, std::int64_t d, const float* cosines, std::int64_t pairs, float amplitude) {
  const float each = amplitude / std::sqrt(static_cast<float>(pairs));
  kernels::add_scaled(row, cosines, pairs, each);
  kernels::add_scaled(row + d / 2, cosines + pairs, pairs, each);
}

}  // namespace

void SyntheticModel::keys(int layer, int kv_head, std::int64_t first, const Tensor<float, 3>& table,
                          TensorView<float, 2> rows) const {
  const KvHead& h = head(layer, kv_head);
  const std::int64_t d = parameters_.head_dim;
  for (std::int64_t i = 0; i < rows.dim(0); ++i) {
    const SyntheticToken& t = token(first + i);
    float* row = rows[i].data();
    std::fill(row, row + d, 0.0F);
    const std::uint64_t own = stream(key_purpose, layer, kv_head, static_cast<std::uint64_t>(first + i));
    const bool copy = t.kind == SyntheticKind::copy;
    if (copy) {
      add_noise(row, d, stream(copies_purpose, layer, kv_head, static_cast<std::uint64_t>(t.member)), h.key_noise);
      add_noise(row, d, own, copy_noise * h.key_noise);
    } else {
      add_noise(row, d, own, h.key_noise);
    }
    // Position would tell copies apart; sinks and needle are seen from everywhere.
    const bool placed = !copy && t.kind != SyntheticKind::sink && t.kind != SyntheticKind::needle;
    if (placed) add_position(row, d, &table(h.reach, i, 0), pairs_, h.local);
    if (t.kind == SyntheticKind::sink) kernels::add_scaled(row, h.directions[0].data(), d, h.sink);
    if (t.heavy > 0) kernels::add_scaled(row, h.directions[1].data(), d, h.heavy * t.heavy);
    if (t.kind == SyntheticKind::needle) kernels::add_scaled(row, h.directions[2].data(), d, h.needle);
    if (t.salience > 0) kernels::add_scaled(row, h.topics[t.topic].data(), d, h.focus * t.salience);
  }
}

void SyntheticModel::values(int layer, int kv_head, std::int64_t first, TensorView<float, 2> rows) const {
  const KvHead& h = head(layer, kv_head);
  const std::int64_t d = parameters_.head_dim;
  const float root = std::sqrt(static_cast<float>(d));
  for (std::int64_t i = 0; i < rows.dim(0); ++i) {
    const SyntheticToken& t = token(first + i);
    float* row = rows[i].data();
    std::fill(row, row + d, 0.0F);
    const std::uint64_t own = stream(value_purpose, layer, kv_head, static_cast<std::uint64_t>(first + i));
    switch (t.kind) {
      case SyntheticKind::sink:  // a sink is looked at because it says nothing
        add_noise(row, d, own, 0.05F);
        break;
      case SyntheticKind::copy:
        add_noise(row, d, stream(copies_purpose, layer, kv_head, 1000000 + static_cast<std::uint64_t>(t.member)), 1);
        add_noise(row, d, own, copy_noise);
        break;
      case SyntheticKind::needle:
        add_noise(row, d, own, 0.5F);
        kernels::add_scaled(row, h.value_directions[parameters_.topics].data(), d, 1.2F * root);
        break;
      default: add_noise(row, d, own, 0.7F); kernels::add_scaled(row, h.value_directions[t.topic].data(), d, 0.7F * root);
    }
  }
}

void SyntheticModel::queries(int layer, int query_head, std::int64_t first, const Tensor<float, 3>& table,
                             TensorView<float, 2> rows) const {
  const int group = parameters_.query_heads / parameters_.kv_heads;
  const KvHead& h = head(layer, query_head / group);
  const QueryHead& q = h.queries[static_cast<std::size_t>(query_head % group)];
  const std::int64_t d = parameters_.head_dim;
  for (std::int64_t i = 0; i < rows.dim(0); ++i) {
    const std::int64_t position = first + i;
    float* row = rows[i].data();
    std::fill(row, row + d, 0.0F);
    add_noise(row, d, stream(query_purpose, layer, query_head, static_cast<std::uint64_t>(position)), h.query_noise);
    add_position(row, d, &table(h.reach, i, 0), pairs_, q.local);
    kernels::add_scaled(row, h.directions[0].data(), d, q.sink);
    kernels::add_scaled(row, h.directions[1].data(), d, q.heavy);
    if (looks_for_needle(position)) kernels::add_scaled(row, h.directions[2].data(), d, q.needle);
    const Focus focus = focus_at(position);
    const float norm =
        focus.from == focus.to ? 1 : std::sqrt((1 - focus.share) * (1 - focus.share) + focus.share * focus.share);
    kernels::add_scaled(row, h.topics[focus.from].data(), d, q.focus * (1 - focus.share) / norm);
    kernels::add_scaled(row, h.topics[focus.to].data(), d, q.focus * focus.share / norm);
  }
}

void SyntheticModel::output_projection(int layer, std::int64_t first, TensorView<float, 2> rows) const {
  const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(rows.dim(1))));
  for (std::int64_t i = 0; i < rows.dim(0); ++i) {
    float* row = rows[i].data();
    std::fill(row, row + rows.dim(1), 0.0F);
    add_noise(row, rows.dim(1), stream(projection_purpose, layer, 0, static_cast<std::uint64_t>(first + i)), deviation);
  }
}

}  // namespace kvreplay

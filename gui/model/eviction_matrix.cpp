#include "gui/model/eviction_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace kvreplay::gui {
namespace {

constexpr float nothing = std::numeric_limits<float>::quiet_NaN();

// out[i] = of(i) in lanes of a constant number, which the compiler turns into vector instructions.
template <class Of>
void fill_with(float* out, std::int64_t count, const Of& of) {
  constexpr std::int64_t lanes = 8;
  const std::int64_t whole = count / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes) {
    std::array<float, lanes> values;
    for (std::int64_t lane = 0; lane < lanes; ++lane) values[static_cast<std::size_t>(lane)] = of(i + lane);
    std::copy(values.begin(), values.end(), out + i);
  }
  for (std::int64_t i = whole; i < count; ++i) out[i] = of(i);
}

const LayerEvictions* evictions_of(const std::shared_ptr<const Run>& run, int layer) {
  const auto found = run != nullptr ? run->layer(layer) : nullptr;
  return found != nullptr ? found->evictions.get() : nullptr;
}

}  // namespace

EvictionMatrix::EvictionMatrix(MapRequest request) : request_(std::move(request)) {
  if (request_.runs == MapRuns::a) request_.b = nullptr;
  if (request_.runs == MapRuns::b) request_.a = nullptr;
  for (const auto& run : {request_.a, request_.b}) {
    if (run == nullptr) continue;
    if (tokens_ != 0 && run->tokens != tokens_)
      throw Error("eviction map", "runs A and B are of traces of different lengths");
    heads_ = std::max(heads_, run->rows);
    query_heads_ = std::max(1, run->query_heads);
    layers_ = run->num_layers();
    tokens_ = run->tokens;
  }
}

std::int64_t EvictionMatrix::rows() const {
  switch (request_.rows) {
    case MapRows::heads: return heads_;
    case MapRows::layers: return layers_;
    case MapRows::all: break;
  }
  return static_cast<std::int64_t>(layers_) * heads_;
}

Reduction EvictionMatrix::reduction() const {
  if (request_.quantity == MapQuantity::kept) return Reduction::share;
  return request_.runs == MapRuns::difference ? Reduction::magnitude : Reduction::maximum;
}

int EvictionMatrix::layer_of(std::int64_t row) const {
  return request_.rows == MapRows::heads ? request_.layer : static_cast<int>(row / rows_per_layer());
}

std::vector<int> EvictionMatrix::heads_of(std::int64_t row) const {
  const int of_row = query_heads_ / rows_per_layer(), first = static_cast<int>(row % rows_per_layer()) * of_row;
  std::vector<int> heads;
  for (int head = first; head < first + of_row; ++head) heads.push_back(head);
  return heads;
}

std::int64_t EvictionMatrix::row_of(int layer, int head) const {
  if (layer < 0 || layer >= layers_) return -1;
  const std::int64_t of_layer = std::max(0, head) * rows_per_layer() / query_heads_;
  if (request_.rows == MapRows::heads) return layer == request_.layer && head >= 0 ? of_layer : -1;
  return request_.rows == MapRows::layers ? layer : head >= 0 ? layer * rows_per_layer() + of_layer : -1;
}

std::string EvictionMatrix::head_name() const {
  return heads_ == query_heads_ ? "query head" : heads_ == 1 ? "all heads" : "KV head";
}

bool EvictionMatrix::has_layer(int layer) const {
  return (request_.runs == MapRuns::b || evictions_of(request_.a, layer) != nullptr) &&
         (request_.runs == MapRuns::a || evictions_of(request_.b, layer) != nullptr);
}

bool EvictionMatrix::same_row(const Matrix& other, std::int64_t row) const {
  const auto* old = dynamic_cast<const EvictionMatrix*>(&other);
  if (old == nullptr || old->heads_ != heads_) return false;
  const MapRequest &now = request_, &then = old->request_;
  if (now.quantity != then.quantity || now.rows != then.rows || now.runs != then.runs) return false;
  if (now.quantity == MapQuantity::kept && now.step != then.step) return false;
  // `other` keeps the old evictions alive, so the same address is the same object.
  const int layer = layer_of(row);
  return layer == old->layer_of(row) && evictions_of(now.a, layer) == evictions_of(then.a, layer) &&
         evictions_of(now.b, layer) == evictions_of(then.b, layer);
}

void EvictionMatrix::read_row(const Run& run, const RunLayer& layer, std::int64_t run_row, std::int64_t begin,
                              std::int64_t end, float* out) const {
  const auto known = [&](std::int64_t count) { return std::clamp(count, begin, end); };
  if (request_.quantity == MapQuantity::score) {
    const auto& scores = layer.scores();
    const std::int64_t last = scores.empty() ? begin : known(scores.dim(1));
    if (last > begin) {
      const float* from = scores.data() + run_row * scores.dim(0) / run.rows * scores.dim(1);
      std::copy(from + begin, from + last, out);
    }
    std::fill(out + (last - begin), out + (end - begin), nothing);
    return;
  }
  const std::int32_t* evicted_at = layer.evicted_at().data() + run_row * run.tokens;
  if (request_.quantity == MapQuantity::lifetime) {
    const auto whole = static_cast<float>(run.steps + 1);
    fill_with(out, end - begin, [from = evicted_at + begin, whole](std::int64_t i) {
      const auto at = static_cast<float>(from[i]);
      return at < 0 ? whole : at;
    });
    return;
  }
  const std::int32_t step = request_.step;
  const std::int64_t last = known(run.prompt + request_.step);
  fill_with(out, last - begin,
            [from = evicted_at + begin, step](std::int64_t i) { return (from[i] < 0) | (from[i] > step) ? 1.0F : 0.0F; });
  std::fill(out + (last - begin), out + (end - begin), nothing);
}

void EvictionMatrix::read_run(const Run& run, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const {
  const auto layer = run.layer(layer_of(row));
  if (layer == nullptr) {
    std::fill(out, out + (end - begin), nothing);
    return;
  }
  if (request_.rows != MapRows::layers) return read_row(run, *layer, row % heads_ * run.rows / heads_, begin, end, out);
  const auto size = static_cast<std::size_t>(end - begin);
  std::vector<float> one(size), count(size, 0.0F);
  std::fill(out, out + size, 0.0F);
  for (int head = 0; head < run.rows; ++head) {
    read_row(run, *layer, head, begin, end, one.data());
    for (std::size_t i = 0; i < size; ++i) {
      const bool there = !std::isnan(one[i]);
      out[i] += there ? one[i] : 0.0F;
      count[i] += there ? 1.0F : 0.0F;
    }
  }
  for (std::size_t i = 0; i < size; ++i) out[i] = count[i] > 0 ? out[i] / count[i] : nothing;
}

void EvictionMatrix::read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const {
  if (request_.runs == MapRuns::a) return read_run(*request_.a, row, begin, end, out);
  read_run(*request_.b, row, begin, end, out);
  if (request_.runs == MapRuns::b) return;
  std::vector<float> a(static_cast<std::size_t>(end - begin));
  read_run(*request_.a, row, begin, end, a.data());
  fill_with(out, end - begin, [out, &a](std::int64_t i) { return out[i] - a[static_cast<std::size_t>(i)]; });
}

}  // namespace kvreplay::gui

#include "gui/model/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/policy/policy.h"
#include "core/report/policy_label.h"

namespace kvreplay::gui {
namespace {

constexpr float nothing = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t most_logits = std::int64_t{1} << 21;  // of a block of queries: 8 MB

// One query's attention over the keys [low, position], in place of its logits.
void softmax(float* weights, std::int64_t count, double softcap) {
  if (softcap > 0) kernels::soft_cap(weights, count, static_cast<float>(softcap));
  const double total = kernels::exponentiate(weights, count, kernels::maximum(weights, count));
  kernels::scale_in_place(weights, count, static_cast<float>(1 / total));
}

// The attention of a row as the form wants it. evicted_at may be null: nothing is evicted.
void apply_form(AttentionForm form, float* weights, std::int64_t low, std::int64_t position, const std::int32_t* evicted_at,
                std::int64_t step) {
  const auto held = [&](std::int64_t key) { return evicted_at[key] < 0 || evicted_at[key] >= step || key == position; };
  if (form == AttentionForm::full) return;
  if (evicted_at == nullptr) {  // exactly, without the rounding of a mass that is 1
    if (form == AttentionForm::difference) std::fill(weights, weights + (position + 1 - low), 0.0F);
    return;
  }
  double mass = 0;
  for (std::int64_t key = low; key <= position; ++key)
    if (held(key)) mass += weights[key - low];
  const auto gain = static_cast<float>(mass > 0 ? 1 / mass : 0);
  for (std::int64_t key = low; key <= position; ++key) {
    float& weight = weights[key - low];
    if (form == AttentionForm::evicted)
      weight = held(key) ? weight * gain : evicted_key;
    else
      weight = held(key) ? weight * gain - weight : -weight;
  }
}

// Keeps the value that the reduction keeps.
void keep(float& kept, float value, bool magnitude) {
  const bool more = magnitude ? std::fabs(value) > std::fabs(kept) : value > kept;
  if (more || std::isnan(kept)) kept = value;
}

}  // namespace

void AttentionPainter::load(const AttentionRequest& request) {
  if (document_ == request.document && layer_ == request.layer && head_ == request.head) return;
  const Trace& trace = request.document->trace();
  const int number = request.document->layer_number(request.layer);
  const int kv_head = request.head / trace.model().group_size();
  document_ = nullptr;
  key_ = trace.read(number, LayerDataset::key, {kv_head, kv_head + 1});
  check_cancelled();
  query_ = trace.read(number, LayerDataset::query, {request.head, request.head + 1});
  document_ = request.document, layer_ = request.layer, head_ = request.head;
}

AttentionPicture AttentionPainter::paint(const AttentionRequest& request, std::atomic<std::int64_t>& done) {
  if (request.run != nullptr && request.form != AttentionForm::full && changes_rows(request.run->info))
    throw Error(request.run->label, "changes keys or values, so its attention is not that of the recorded ones",
                "choose a policy without merge and with original positions, or the full cache");
  load(request);
  const Trace& trace = request.document->trace();
  const ModelInfo& model = trace.model();
  const auto& positions = trace.query_positions();
  const std::int64_t d = model.head_dim, prompt = trace.prompt_length();
  const std::int64_t window = trace.sliding_window(request.document->layer_number(request.layer));
  const auto layer = request.run != nullptr ? request.run->layer(request.layer) : nullptr;
  const std::int64_t queries = request.end_query - request.first_query, keys = request.end_key - request.first_key;
  const auto parts = [](std::int64_t count, std::int64_t most) {
    return std::max<std::int64_t>(1, (count + most - 1) / most);
  };
  AttentionPicture picture;
  picture.first_query = request.first_query, picture.first_key = request.first_key;
  picture.queries_a_cell = parts(queries, request.most_rows), picture.keys_a_cell = parts(keys, request.most_columns);
  const std::int64_t rows = parts(queries, picture.queries_a_cell), columns = parts(keys, picture.keys_a_cell);
  std::vector<float> cells(static_cast<std::size_t>(rows * columns), nothing);
  const bool magnitude = request.form == AttentionForm::difference;

  const std::int64_t block = std::clamp<std::int64_t>(most_logits / std::max<std::int64_t>(1, trace.num_tokens()), 1, 64);
  std::vector<float> logits;
  for (std::int64_t first = request.first_query; first < request.end_query; first += block) {
    check_cancelled();
    const std::int64_t end = std::min(first + block, request.end_query);
    const std::int64_t seen = positions[static_cast<std::size_t>(end - 1)] + 1;
    const std::int64_t start = positions[static_cast<std::size_t>(first)];
    const std::int64_t low_of_block = window > 0 ? std::max<std::int64_t>(0, start - window + 1) : 0,
                       width = seen - low_of_block;
    logits.resize(static_cast<std::size_t>((end - first) * width));
    kernels::gemm_nt(end - first, width, d, static_cast<float>(model.attention_scale), query_.data() + first * d, d,
                     key_.data() + low_of_block * d, d, logits.data(), width);
    for (std::int64_t query = first; query < end; ++query) {
      const std::int64_t position = positions[static_cast<std::size_t>(query)];
      const std::int64_t low = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
      float* weights = logits.data() + (query - first) * width + (low - low_of_block);
      softmax(weights, position + 1 - low, model.logit_softcap.value_or(0));
      const std::int32_t* evicted_at =
          layer != nullptr && position >= prompt ? layer->evicted_at()[request.run->row_of(request.head)].data() : nullptr;
      apply_form(request.form, weights, low, position, evicted_at, position - prompt + 1);
      float* out = cells.data() + (query - request.first_query) / picture.queries_a_cell * columns;
      const std::int64_t from = std::max(low, request.first_key), to = std::min(position + 1, request.end_key);
      for (std::int64_t key = from; key < to; ++key)
        keep(out[(key - request.first_key) / picture.keys_a_cell], weights[key - low], magnitude);
      ++done;
    }
  }
  picture.pyramid = std::make_shared<const Pyramid>(std::make_shared<StoredMatrix>(rows, columns, std::move(cells)),
                                                    magnitude ? Reduction::magnitude : Reduction::maximum);
  return picture;
}

std::pair<std::int64_t, std::int64_t> query_range(const Document& document, QueryRange range, std::int64_t window) {
  const auto& positions = document.trace().query_positions();
  const auto count = static_cast<std::int64_t>(positions.size());
  if (range == QueryRange::all) return {0, count};
  const std::int64_t from = document.prompt_length() - (range == QueryRange::window ? window : 0);
  return {std::lower_bound(positions.begin(), positions.end(), from) - positions.begin(), count};
}

std::int64_t policy_window(const Run& run) {
  try {
    const PolicySpec spec = parse_policy(run.info.policy);
    return spec.values.has("window") ? spec.values.integer("window") : 0;
  } catch (const std::exception&) {
    return 0;  // of a policy that this program does not know, or whose window is no number
  }
}

}  // namespace kvreplay::gui

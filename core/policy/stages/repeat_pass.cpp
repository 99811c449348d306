#include "core/policy/stages/repeat_pass.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/parallel.h"

namespace kvreplay {
namespace {

constexpr const char* group = "/repeat_pass";
constexpr std::int64_t scored_sinks = 4;

std::string node_of(int layer, const char* name) { return std::string(group) + "/" + layer_name(layer) + "/" + name; }

[[noreturn]] void refuse(const Trace& trace, const std::string& what) {
  throw Error(trace.path() + ":" + group, what, "`kvreplay capture --repeat-pass` writes a repeat pass");
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix as_matrix(const float* rows, std::int64_t count, std::int64_t columns) {
  return Eigen::Map<const Floats>(rows, count, columns).cast<double>();
}

// One KV head's keys in the order in which a repeating query sees them: sinks, the chunk, the repeating tokens.
Matrix keys_of_chunk(TensorView<const float, 2> keys, TensorView<const float, 2> repeat_keys, std::int64_t sinks,
                     const RepeatChunk& chunk) {
  const std::int64_t d = keys.dim(1), length = chunk.end - chunk.begin;
  Matrix all(sinks + length + chunk.rows, d);
  all.topRows(sinks) = as_matrix(keys.data(), sinks, d);
  all.middleRows(sinks, length) = as_matrix(&keys(chunk.begin, 0), length, d);
  all.bottomRows(chunk.rows) = as_matrix(&repeat_keys(chunk.first_row, 0), chunk.rows, d);
  return all;
}

// Raises best [chunk] to what the chunk's tokens receive from the queries [rows, d] of one head.
void raise_to_attention(const float* queries, const Matrix& keys, std::int64_t sinks, const RepeatChunk& chunk,
                        const ModelInfo& model, std::span<float> best) {
  constexpr std::int64_t block = 128;
  const std::int64_t before = sinks + std::ssize(best);  // keys that every query sees
  for (std::int64_t first = 0; first < chunk.rows; first += block) {
    const std::int64_t rows = std::min(block, chunk.rows - first);
    Matrix logits =
        model.attention_scale * (as_matrix(queries + first * model.head_dim, rows, model.head_dim) * keys.transpose());
    if (model.logit_softcap) logits = *model.logit_softcap * (logits / *model.logit_softcap).array().tanh();
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto seen = logits.row(r).head(before + first + r + 1);
      const double top = seen.maxCoeff(), total = (seen.array() - top).exp().sum();
      for (std::size_t j = 0; j < best.size(); ++j)
        best[j] =
            std::max(best[j], static_cast<float>(std::exp(logits(r, sinks + static_cast<std::int64_t>(j)) - top) / total));
    }
  }
}

}  // namespace

RepeatPass read_repeat_pass(const Trace& trace) {
  const std::string text = trace.extension_text(group, "layout");
  if (text.empty()) refuse(trace, "is not in this trace, and KVzip scores by the queries of a second pass");
  const auto json = nlohmann::json::parse(text, nullptr, false);
  RepeatPass pass;
  try {
    pass.context_begin = json.at("context_begin").get<std::int64_t>();
    pass.context_end = json.at("context_end").get<std::int64_t>();
    for (const auto& entry : json.at("chunks")) {
      RepeatChunk chunk{entry.at(0).get<std::int64_t>(), entry.at(1).get<std::int64_t>(), pass.rows,
                        entry.at(2).get<std::int64_t>()};
      if (chunk.rows < 1 || chunk.rows > (std::int64_t{1} << 31))
        refuse(trace, "has a chunk of " + std::to_string(chunk.rows) + " tokens");
      pass.rows += chunk.rows;
      pass.chunks.push_back(chunk);
    }
  } catch (const nlohmann::json::exception&) {
    refuse(trace, "has a layout that is not understood");
  }
  if (pass.chunks.empty()) refuse(trace, "has no chunks");
  std::int64_t covered = pass.context_begin;
  for (const RepeatChunk& chunk : pass.chunks) {
    if (chunk.begin != covered || chunk.end <= chunk.begin) refuse(trace, "has chunks that do not follow each other");
    covered = chunk.end;
  }
  if (pass.context_begin < 0 || covered != pass.context_end || covered > trace.prompt_length())
    refuse(trace, "covers other tokens than the prompt's");
  const ModelInfo& model = trace.model();
  for (const int layer : trace.layers())
    for (const auto& [name, heads] : {std::pair{"query", model.num_query_heads}, std::pair{"key", model.num_kv_heads}}) {
      const auto shape = trace.extension_shape(node_of(layer, name));
      if (shape != std::array<std::int64_t, 3>{heads, pass.rows, model.head_dim})
        throw Error(trace.path() + ":" + node_of(layer, name),
                    shape ? "has another shape than the layout says" : "is not in this trace",
                    "`kvreplay capture --repeat-pass` writes it");
    }
  return pass;
}

Tensor<float, 2> repeat_scores(const Trace& trace, const RepeatPass& pass, int layer) {
  const ModelInfo& model = trace.model();
  const std::int64_t prompt = trace.prompt_length(), heads = model.num_query_heads / model.num_kv_heads;
  const auto keys = trace.read(layer, LayerDataset::key, {}, {0, prompt});
  const auto queries = trace.read_extension(node_of(layer, "query"));
  const auto repeat_keys = trace.read_extension(node_of(layer, "key"));
  Tensor<float, 2> scores({model.num_kv_heads, prompt}, 0.0F);
  parallel_for(model.num_kv_heads, 1, [&](std::int64_t g, std::int64_t) {
    const auto row = scores.view()[g].flat();
    std::fill_n(row.begin(), std::min(scored_sinks, pass.context_begin), 1.0F);
    std::fill(row.begin() + pass.context_end, row.end(), 1.0F);
    const std::int64_t sinks = std::min(scored_sinks, pass.context_begin);
    for (const RepeatChunk& chunk : pass.chunks) {
      const Matrix seen = keys_of_chunk(keys.view()[g], repeat_keys.view()[g], sinks, chunk);
      const auto best =
          row.subspan(static_cast<std::size_t>(chunk.begin), static_cast<std::size_t>(chunk.end - chunk.begin));
      for (std::int64_t h = g * heads; h < (g + 1) * heads; ++h)
        raise_to_attention(&queries(h, chunk.first_row, 0), seen, sinks, chunk, model, best);
    }
  });
  return scores;
}

}  // namespace kvreplay

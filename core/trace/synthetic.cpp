#include "core/trace/synthetic.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "core/kernels/kernels.h"
#include "core/trace/memory_trace.h"
#include "core/trace/synthetic_model_internal.h"

namespace kvreplay {
namespace {

using OutputProjection = SyntheticParameters::OutputProjection;

constexpr std::int64_t block_tokens = 256;  // the writer's chunk: a block goes to the file without waiting for more

std::int64_t first_query(const SyntheticParameters& p) {
  return p.query_window ? std::max<std::int64_t>(0, p.prompt - *p.query_window) : 0;
}

std::int64_t hidden_size(const SyntheticParameters& p) {
  return p.hidden_size > 0 ? p.hidden_size : std::int64_t{p.query_heads} * p.head_dim;
}

std::string manifest_of(const SyntheticParameters& p) {
  nlohmann::json parameters = {{"layers", p.layers},
                               {"query_heads", p.query_heads},
                               {"kv_heads", p.kv_heads},
                               {"head_dim", p.head_dim},
                               {"hidden_size", hidden_size(p)},
                               {"prompt", p.prompt},
                               {"decode", p.decode},
                               {"sink_mass", p.sink_mass},
                               {"local_mass", p.local_mass},
                               {"heavy_mass", p.heavy_mass},
                               {"focus_mass", p.focus_mass},
                               {"sinks", p.sinks},
                               {"heavy_share", p.heavy_share},
                               {"topics", p.topics},
                               {"segment", p.segment},
                               {"drift", p.drift},
                               {"needle", p.needle},
                               {"needle_depth", p.needle_depth},
                               {"needle_mass", p.needle_mass},
                               {"question", p.question},
                               {"copy_groups", p.copy_groups},
                               {"copies", p.copies}};
  const nlohmann::json manifest = {{"synthetic", true},
                                   {"generator_version", 1},
                                   {"seed", p.seed},
                                   {"dtype", element_type_name(p.type)},
                                   {"parameters", std::move(parameters)},
                                   {"program_version", program_version()}};
  return manifest.dump();
}

// What a reader of the file will see.
void round_to(ElementType type, float* values, std::int64_t count) {
  if (type == ElementType::float32) return;
  std::vector<std::uint16_t> stored(static_cast<std::size_t>(count));
  from_float32(type, values, stored.data(), stored.size());
  to_float32(type, stored.data(), values, stored.size());
}

// Rows of one layer: [heads, count, d].
struct LayerRows {
  Tensor<float, 3> key, value, query;
};

LayerRows make_rows(const SyntheticModel& model, int layer, std::int64_t first, std::int64_t count,
                    std::int64_t query_from) {
  const SyntheticParameters& p = model.parameters();
  LayerRows rows;
  const std::int64_t kv_heads = p.kv_heads, query_heads = p.query_heads, d = p.head_dim;
  const std::int64_t skipped = std::clamp<std::int64_t>(query_from - first, 0, count);
  rows.key = Tensor<float, 3>({kv_heads, count, d});
  rows.value = Tensor<float, 3>({kv_heads, count, d});
  rows.query = Tensor<float, 3>({query_heads, count - skipped, d});
  const Tensor<float, 3> table = model.position_table(first, count);
  const Tensor<float, 3> query_table = skipped == 0 ? table : model.position_table(first + skipped, count - skipped);
  const std::int64_t units = 2 * kv_heads + (skipped < count ? query_heads : 0);
  parallel_for(units, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      if (unit < kv_heads) {
        model.keys(layer, static_cast<int>(unit), first, table, rows.key.view()[unit]);
      } else if (unit < 2 * kv_heads) {
        model.values(layer, static_cast<int>(unit - kv_heads), first, rows.value.view()[unit - kv_heads]);
      } else {
        const std::int64_t head = unit - 2 * kv_heads;
        model.queries(layer, static_cast<int>(head), first + skipped, query_table, rows.query.view()[head]);
      }
    }
  });
  return rows;
}

Tensor<float, 3> make_output_projection(const SyntheticModel& model, int layer) {
  const SyntheticParameters& p = model.parameters();
  Tensor<float, 3> matrix({1, hidden_size(p), std::int64_t{p.query_heads} * p.head_dim});
  const std::int64_t columns = matrix.dim(2);
  parallel_for(matrix.dim(1), 64, [&](std::int64_t begin, std::int64_t end) {
    model.output_projection(layer, begin, {matrix.data() + begin * columns, {end - begin, columns}});
  });
  return matrix;
}

// (W_o[:, h])^T W_o[:, h] of each head, from the values of W_o as they would be stored: [Hq, d, d].
Tensor<float, 3> make_output_gram(const SyntheticModel& model, int layer) {
  const SyntheticParameters& p = model.parameters();
  const std::int64_t d = p.head_dim, columns = p.query_heads * d, hidden = hidden_size(p);
  Tensor<float, 3> gram({p.query_heads, d, d}, 0);
  Tensor<float, 2> block({std::min<std::int64_t>(hidden, 256), columns});
  for (std::int64_t first = 0; first < hidden; first += block.dim(0)) {
    const std::int64_t count = std::min(block.dim(0), hidden - first);
    parallel_for(count, 16, [&](std::int64_t begin, std::int64_t end) {
      float* rows = block.data() + begin * columns;
      model.output_projection(layer, first + begin, {rows, {end - begin, columns}});
      round_to(p.type, rows, (end - begin) * columns);
    });
    parallel_for(p.query_heads, 1, [&](std::int64_t head, std::int64_t) {
      Tensor<float, 2> transposed({d, count});
      for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t c = 0; c < count; ++c) transposed(i, c) = block(c, head * d + i);
      const float* a = transposed.data();
      kernels::gemm_nt(d, d, count, 1, a, count, a, count, gram[head].data(), d, true);
    });
  }
  return gram;
}

struct Statistics {
  Tensor<float, 3> log_sum_exp;  // [1, Hq, Tq]
  Tensor<float, 3> column_sum;   // [1, Hq, T]
  Tensor<float, 3> head_output;  // [Hq, Tq, d]
};

// Attention of all queries (rows.query begins at position 0) over rows.key and rows.value, which are as stored.
Statistics attend(const SyntheticParameters& p, const LayerRows& rows) {
  constexpr std::int64_t block = 64;
  const std::int64_t tokens = p.prompt + p.decode, d = p.head_dim, recorded_from = first_query(p);
  const std::int64_t recorded = tokens - recorded_from;
  const int group = p.query_heads / p.kv_heads;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
  Statistics out{Tensor<float, 3>({1, p.query_heads, recorded}), Tensor<float, 3>({1, p.query_heads, tokens}, 0),
                 Tensor<float, 3>({p.query_heads, recorded, d})};
  parallel_for(p.query_heads, 1, [&](std::int64_t head, std::int64_t) {
    const float* key = rows.key[head / group].data();
    const float* value = rows.value[head / group].data();
    std::vector<float> weights(static_cast<std::size_t>(block * tokens)), output(static_cast<std::size_t>(block * d));
    std::vector<double> column(static_cast<std::size_t>(tokens), 0);
    for (std::int64_t from = 0; from < tokens; from += block) {
      const std::int64_t count = std::min(block, tokens - from), seen = from + count;
      kernels::gemm_nt(count, seen, d, scale, rows.query[head].data() + from * d, d, key, d, weights.data(), seen);
      for (std::int64_t i = 0; i < count; ++i) {
        float* row = weights.data() + i * seen;
        const std::int64_t visible = from + i + 1;
        const float largest = kernels::maximum(row, visible);
        const double sum = kernels::exponentiate(row, visible, largest);
        kernels::scale_in_place(row, visible, static_cast<float>(1 / sum));
        std::fill(row + visible, row + seen, 0.0F);
        if (from + i < p.prompt)
          for (std::int64_t j = 0; j < visible; ++j) column[static_cast<std::size_t>(j)] += static_cast<double>(row[j]);
        if (from + i >= recorded_from)
          out.log_sum_exp(0, head, from + i - recorded_from) = largest + static_cast<float>(std::log(sum));
      }
      if (seen <= recorded_from) continue;
      kernels::gemm_nn(count, d, seen, 1, weights.data(), seen, value, d, output.data(), d);
      const std::int64_t skipped = std::max<std::int64_t>(0, recorded_from - from);
      std::copy(output.begin() + skipped * d, output.begin() + count * d,
                out.head_output[head].data() + (from + skipped - recorded_from) * d);
    }
    for (std::int64_t j = 0; j < tokens; ++j)
      out.column_sum(0, head, j) = static_cast<float>(column[static_cast<std::size_t>(j)]);
  });
  return out;
}

LayerRows rounded_layer(const SyntheticModel& model, int layer, std::int64_t query_from) {
  LayerRows rows = make_rows(model, layer, 0, model.tokens(), query_from);
  for (Tensor<float, 3>* tensor : {&rows.key, &rows.value, &rows.query})
    round_to(model.parameters().type, tensor->data(), tensor->size());
  return rows;
}

void require(bool holds, const char* parameter, const std::string& allowed) {
  if (!holds) throw Error(std::string("--") + parameter, "is out of range", "must be " + allowed);
}

TraceLayout layout_of(const SyntheticModel& model) {
  const SyntheticParameters& p = model.parameters();
  TraceLayout layout;
  layout.model.name = "synthetic";
  layout.model.architecture = "synthetic";
  layout.model.num_layers = p.layers;
  layout.model.num_query_heads = p.query_heads;
  layout.model.num_kv_heads = p.kv_heads;
  layout.model.head_dim = p.head_dim;
  layout.model.hidden_size = static_cast<int>(hidden_size(p));
  layout.model.attention_scale = 1 / std::sqrt(static_cast<double>(p.head_dim));
  layout.tokens = model.tokens();
  layout.prompt_length = p.prompt;
  for (std::int64_t t = first_query(p); t < model.tokens(); ++t) layout.query_positions.push_back(static_cast<int>(t));
  layout.tensor_type = p.type;
  layout.output_projection = p.output_projection == OutputProjection::full;
  layout.output_gram = p.output_projection == OutputProjection::gram;
  layout.log_sum_exp = layout.attention_column_sum = layout.head_output = p.attention_statistics;
  layout.nll = false;
  layout.text_bytes = 0;
  for (std::int64_t i = 0; i < model.tokens(); ++i)
    layout.text_bytes += static_cast<std::int64_t>(model.token_text(i).size());
  layout.spans = model.spans();
  layout.manifest = manifest_of(p);
  layout.created_by = program_version();
  return layout;
}

}  // namespace

void check(const SyntheticParameters& p) {
  const auto share = [](double x) { return x >= 0 && x < 1; };
  require(p.layers >= 1 && p.layers <= 1000, "layers", "from 1 to 1000");
  require(p.kv_heads >= 1, "kv-heads", "at least 1");
  require(p.query_heads >= 1 && p.query_heads <= 65536 && p.query_heads % p.kv_heads == 0, "query-heads",
          "a multiple of --kv-heads");
  require(p.head_dim >= 8 && p.head_dim <= 4096 && p.head_dim % 2 == 0, "head-dim", "even, from 8 to 4096");
  require(p.hidden_size >= 0, "hidden", "at least 1, or 0 for query heads times head dimension");
  require(p.prompt >= 1 && p.prompt <= 1 << 30, "prompt", "from 1 to 2^30");
  require(p.decode >= 0 && p.decode <= 1 << 30, "decode", "from 0 to 2^30");
  require(!p.query_window || *p.query_window >= 0, "queries", "all, or window:W with W of at least 0");
  require(!p.query_window || *p.query_window + p.decode > 0, "queries", "at least one: no query would be recorded");
  require(share(p.sink_mass), "sink-mass", "from 0 to below 1");
  require(share(p.local_mass), "local-mass", "from 0 to below 1");
  require(share(p.heavy_mass), "heavy-mass", "from 0 to below 1");
  require(share(p.focus_mass), "focus-mass", "from 0 to below 1");
  require(p.sink_mass + p.local_mass + p.heavy_mass + p.focus_mass <= 0.99, "sink-mass",
          "so small that the four masses add up to 0.99 at most: the rest is background");
  require(p.sinks >= 0 && p.sinks <= p.prompt, "sinks", "from 0 to the prompt's length");
  require(p.heavy_share >= 0 && p.heavy_share <= 1, "heavy-share", "from 0 to 1");
  require(p.topics >= 3 && p.topics <= 1024, "topics", "from 3 to 1024");
  require(p.segment >= 1, "segment", "at least 1");
  require(p.drift >= 0 && p.drift <= 1000, "drift", "from 0 to 1000");
  require(p.needle >= 0, "needle", "at least 0");
  require(p.needle == 0 || p.question >= 1, "question", "at least 1 where there is a needle");
  require(p.needle == 0 || p.sinks + p.needle + p.question <= p.prompt, "needle",
          "so short that sinks, needle and question fit into the prompt; 0 for none");
  require(p.needle_depth >= 0 && p.needle_depth <= 1, "needle-depth", "from 0 to 1");
  require(p.needle_mass > 0 && p.needle_mass < 1, "needle-mass", "above 0 and below 1");
  require(p.copy_groups >= 0 && p.copy_groups <= 1000, "copy-groups", "from 0 to 1000");
  require(p.copies >= 1 && p.copies <= 100000, "copies", "from 1 to 100000");
}

TraceLayout synthetic_layout(const SyntheticParameters& parameters) { return layout_of(SyntheticModel(parameters)); }

void write_synthetic(const std::string& path, const SyntheticParameters& parameters, Job& job, const std::string& command,
                     const std::function<void(std::int64_t)>& on_start) {
  const SyntheticModel model(parameters);
  TraceLayout layout = layout_of(model);
  layout.command = command;
  TraceWriter writer = TraceWriter::create(path, layout);
  if (on_start) on_start(TraceWriter::predicted_size(layout));
  const std::int64_t tokens = model.tokens(), query_from = first_query(parameters);
  const double layers = parameters.layers;
  const double blocks = std::ceil(static_cast<double>(tokens) / static_cast<double>(block_tokens)) * layers;
  double done = 0;
  const auto advance = [&](double by) {
    job.check();
    job.advance_to(done += by);
  };
  job.begin("writing a synthetic trace",
            blocks + (parameters.output_projection != OutputProjection::none ? layers : 0) +
                (parameters.attention_statistics ? layers : 0),
            "blocks");
  for (int layer = 0; layer < parameters.layers && parameters.output_projection != OutputProjection::none; ++layer) {
    if (parameters.output_projection == OutputProjection::full) {
      writer.write_whole(layer, LayerDataset::output_projection, make_output_projection(model, layer));
    } else {
      writer.write_whole(layer, LayerDataset::output_gram, make_output_gram(model, layer));
    }
    advance(1);
  }
  for (std::int64_t first = 0; first < tokens; first += block_tokens) {
    const std::int64_t count = std::min(block_tokens, tokens - first);
    std::vector<std::int32_t> ids;
    std::vector<std::string> texts;
    for (std::int64_t i = first; i < first + count; ++i) {
      ids.push_back(model.token_id(i));
      texts.push_back(model.token_text(i));
    }
    writer.append_tokens(first, ids, {}, texts);
    for (int layer = 0; layer < parameters.layers; ++layer) {
      const LayerRows rows = make_rows(model, layer, first, count, query_from);
      writer.append(layer, LayerDataset::key, rows.key);
      writer.append(layer, LayerDataset::value, rows.value);
      if (rows.query.dim(1) > 0) writer.append(layer, LayerDataset::query, rows.query);
      advance(1);
    }
  }
  if (parameters.attention_statistics)
    for (int layer = 0; layer < parameters.layers; ++layer) {
      const Statistics statistics = attend(parameters, rounded_layer(model, layer, 0));
      writer.append(layer, LayerDataset::log_sum_exp, statistics.log_sum_exp);
      writer.append(layer, LayerDataset::head_output, statistics.head_output);
      writer.write_whole(layer, LayerDataset::attention_column_sum, statistics.column_sum);
      advance(1);
    }
  writer.finish(tokens);
  job.end();
}

std::unique_ptr<Trace> make_synthetic(const SyntheticParameters& parameters) {
  const SyntheticModel model(parameters);
  const TraceLayout layout = layout_of(model);
  MemoryTraceContents contents;
  contents.model = layout.model;
  contents.prompt_length = layout.prompt_length;
  contents.query_positions = layout.query_positions;
  contents.spans = layout.spans;
  contents.manifest = layout.manifest;
  contents.type = parameters.type;
  for (std::int64_t i = 0; i < model.tokens(); ++i) {
    contents.token_ids.push_back(model.token_id(i));
    contents.token_texts.push_back(model.token_text(i));
  }
  for (int layer = 0; layer < parameters.layers; ++layer) {
    contents.layers.push_back(layer);
    if (parameters.attention_statistics) {
      Statistics statistics = attend(parameters, rounded_layer(model, layer, 0));
      contents.tensors[{layer, LayerDataset::log_sum_exp}] = std::move(statistics.log_sum_exp);
      contents.tensors[{layer, LayerDataset::head_output}] = std::move(statistics.head_output);
      contents.tensors[{layer, LayerDataset::attention_column_sum}] = std::move(statistics.column_sum);
    }
    LayerRows rows = rounded_layer(model, layer, first_query(parameters));
    contents.tensors[{layer, LayerDataset::key}] = std::move(rows.key);
    contents.tensors[{layer, LayerDataset::value}] = std::move(rows.value);
    contents.tensors[{layer, LayerDataset::query}] = std::move(rows.query);
    if (parameters.output_projection == OutputProjection::gram)
      contents.tensors[{layer, LayerDataset::output_gram}] = make_output_gram(model, layer);
    if (parameters.output_projection != OutputProjection::full) continue;
    Tensor<float, 3> projection = make_output_projection(model, layer);
    round_to(parameters.type, projection.data(), projection.size());
    contents.tensors[{layer, LayerDataset::output_projection}] = std::move(projection);
  }
  return make_memory_trace(std::move(contents));
}

}  // namespace kvreplay

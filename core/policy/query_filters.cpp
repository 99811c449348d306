#include "core/policy/query_filters.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/base/text_file.h"
#include "core/policy/stages/counter_random.h"

namespace kvreplay {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr const char* format_name = "kvreplay-query-filters";
constexpr const char* remedy = "`kvreplay filters TRACE... --out FILE` writes such a file";

void check_same_model(const std::vector<const Trace*>& traces) {
  if (traces.empty()) throw Error("filters", "need at least one trace");
  const ModelInfo& first = traces.front()->model();
  for (const Trace* trace : traces) {
    const ModelInfo& model = trace->model();
    if (model.num_query_heads != first.num_query_heads || model.num_kv_heads != first.num_kv_heads ||
        model.head_dim != first.head_dim || model.weights_sha256 != first.weights_sha256 || model.name != first.name)
      throw Error(trace->path(), "is of another model than " + traces.front()->path(),
                  "filters belong to one model; derive them from its traces alone");
    if (trace->layers() != traces.front()->layers())
      throw Error(trace->path(), "has other layers than " + traces.front()->path(), "capture the same layers of every text");
  }
}

// `samples` of `count` rows, ascending; all where there are no more. The choice depends on seed, layer and head alone.
std::vector<std::int64_t> sampled_rows(std::int64_t count, std::int64_t samples, int seed, int layer, std::int64_t head) {
  std::vector<std::pair<std::uint64_t, std::int64_t>> order;
  for (std::int64_t i = 0; i < count; ++i)
    order.emplace_back(random_number(static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(layer),
                                     static_cast<std::uint64_t>(head), static_cast<std::uint64_t>(i)),
                       i);
  samples = std::min(samples, count);
  std::nth_element(order.begin(), order.begin() + samples, order.end());
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < samples; ++i) rows.push_back(order[static_cast<std::size_t>(i)].second);
  std::sort(rows.begin(), rows.end());
  return rows;
}

// Sampled queries of every head, [Hq, samples, d].
Tensor<float, 3> sampled_queries(const std::vector<const Trace*>& traces, int layer, int samples, int seed) {
  const ModelInfo& model = traces.front()->model();
  std::int64_t count = 0;
  for (const Trace* trace : traces) count += static_cast<std::int64_t>(trace->query_positions().size());
  Tensor<float, 3> out({model.num_query_heads, std::min<std::int64_t>(samples, count), model.head_dim});
  for (std::int64_t h = 0; h < out.dim(0); ++h) {
    const auto rows = sampled_rows(count, samples, seed, layer, h);
    std::int64_t first = 0, written = 0;
    for (const Trace* trace : traces) {
      const Tensor<float, 3> queries = trace->read(layer, LayerDataset::query, {h, h + 1});
      for (; written < out.dim(1) && rows[static_cast<std::size_t>(written)] < first + queries.dim(1); ++written)
        std::copy_n(&queries(0, rows[static_cast<std::size_t>(written)] - first, 0), model.head_dim, &out(h, written, 0));
      first += queries.dim(1);
    }
  }
  return out;
}

// Minus the first right singular vector, which is turned so that most queries have a positive part along it.
Eigen::VectorXd filter_of(TensorView<const float, 2> queries) {
  Matrix q(queries.dim(0), queries.dim(1));
  std::copy(queries.flat().begin(), queries.flat().end(), q.data());
  const Matrix gram = q.transpose() * q;
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(gram);
  const Eigen::VectorXd direction = solver.eigenvectors().col(q.cols() - 1);
  const auto along = ((q * direction).array() > 0).count();
  return 2 * along > q.rows() ? Eigen::VectorXd(-direction) : direction;
}

std::int64_t integer_of(const nlohmann::json& json, const std::string& path, const char* key) {
  if (!json.contains(key) || !json.at(key).is_number_integer())
    throw Error(path, "has no whole number \"" + std::string(key) + "\"", remedy);
  return json.at(key).get<std::int64_t>();
}

Tensor<float, 2> layer_of(const nlohmann::json& heads, const std::string& path, const std::string& name,
                          const QueryFilters& filters) {
  const auto refuse = [&] {
    throw Error(path,
                "layer \"" + printable(name) + "\" is not " + std::to_string(filters.num_kv_heads) + " lists of " +
                    std::to_string(filters.head_dim) + " numbers",
                remedy);
  };
  Tensor<float, 2> out({filters.num_kv_heads, filters.head_dim});
  if (!heads.is_array() || std::ssize(heads) != out.dim(0)) refuse();
  for (std::int64_t h = 0; h < out.dim(0); ++h) {
    const auto& head = heads[static_cast<std::size_t>(h)];
    if (!head.is_array() || std::ssize(head) != out.dim(1)) refuse();
    for (std::int64_t i = 0; i < out.dim(1); ++i) {
      if (!head[static_cast<std::size_t>(i)].is_number()) refuse();
      out(h, i) = head[static_cast<std::size_t>(i)].get<float>();
      if (!std::isfinite(out(h, i))) refuse();
    }
  }
  return out;
}

}  // namespace

Tensor<float, 2> query_filters_of(TensorView<const float, 3> queries, int num_kv_heads) {
  const std::int64_t group = queries.dim(0) / num_kv_heads;
  std::vector<Eigen::VectorXd> each(static_cast<std::size_t>(queries.dim(0)));
  parallel_for(queries.dim(0), 1,
               [&](std::int64_t h, std::int64_t) { each[static_cast<std::size_t>(h)] = filter_of(queries[h]); });
  Tensor<float, 2> filters({num_kv_heads, queries.dim(2)});
  for (std::int64_t g = 0; g < num_kv_heads; ++g) {
    Eigen::VectorXd mean = Eigen::VectorXd::Zero(queries.dim(2));
    for (std::int64_t h = g * group; h < (g + 1) * group; ++h) mean += each[static_cast<std::size_t>(h)];
    for (std::int64_t i = 0; i < queries.dim(2); ++i)
      filters(g, i) = static_cast<float>(mean[i] / static_cast<double>(group));
  }
  return filters;
}

QueryFilters derive_query_filters(const std::vector<const Trace*>& traces, int samples, int seed, Job& job) {
  check_same_model(traces);
  const ModelInfo& model = traces.front()->model();
  QueryFilters filters{model.name, model.num_kv_heads, model.head_dim, samples, seed, static_cast<int>(traces.size()), {}};
  const auto& layers = traces.front()->layers();
  job.begin("deriving filters", static_cast<double>(layers.size()), "layers");
  for (const int layer : layers) {
    job.check();
    filters.layers[layer] = query_filters_of(sampled_queries(traces, layer, samples, seed), model.num_kv_heads);
    job.advance_to(static_cast<double>(filters.layers.size()));
  }
  job.end();
  return filters;
}

void write_query_filters(const std::string& path, const QueryFilters& filters) {
  nlohmann::ordered_json json;
  json["format"] = format_name;
  json["version"] = 1;
  json["model"] = filters.model;
  json["num_kv_heads"] = filters.num_kv_heads;
  json["head_dim"] = filters.head_dim;
  json["samples"] = filters.samples;
  json["seed"] = filters.seed;
  json["sequences"] = filters.sequences;
  for (const auto& [layer, heads] : filters.layers)
    for (std::int64_t h = 0; h < heads.dim(0); ++h) {
      const auto head = heads.view()[h].flat();
      json["layers"][std::to_string(layer)].push_back(std::vector<float>(head.begin(), head.end()));
    }
  write_text_file(path, json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

QueryFilters read_query_filters(const std::string& path) {
  std::error_code failed;
  constexpr std::uintmax_t limit = std::uintmax_t{1} << 30;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) throw Error(path, "cannot be read", remedy);
  if (size > limit) throw Error(path, "is larger than " + format_bytes(static_cast<double>(limit)));
  std::ifstream file(path, std::ios::binary);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object() || json.value("format", nlohmann::json()) != format_name)
    throw Error(path, "is not a file of query filters", remedy);
  if (integer_of(json, path, "version") != 1) throw Error(path, "is of a version that this program does not know");
  QueryFilters filters;
  if (json.contains("model") && json.at("model").is_string()) filters.model = json.at("model").get<std::string>();
  constexpr std::int64_t most = 1 << 20;
  const std::int64_t heads = integer_of(json, path, "num_kv_heads"), d = integer_of(json, path, "head_dim");
  if (heads < 1 || heads > most || d < 1 || d > most) throw Error(path, "has impossible sizes", remedy);
  filters.num_kv_heads = static_cast<int>(heads);
  filters.head_dim = static_cast<int>(d);
  if (!json.contains("layers") || !json.at("layers").is_object()) throw Error(path, "has no \"layers\"", remedy);
  for (const auto& [name, value] : json.at("layers").items()) {
    if (name.empty() || name.size() > 4 || name.find_first_not_of("0123456789") != std::string::npos)
      throw Error(path, "\"" + printable(name) + "\" is no layer", remedy);
    filters.layers[std::stoi(name)] = layer_of(value, path, name, filters);
  }
  return filters;
}

}  // namespace kvreplay

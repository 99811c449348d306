#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/version.h"
#include "core/trace/chunk_decoding_internal.h"
#include "core/trace/hdf5_internal.h"
#include "core/trace/identity.h"
#include "core/trace/results.h"
#include "core/trace/results_structure_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t chunk_limit = std::int64_t{1} << 20;  // bytes
constexpr int deflate_level = 1;

// Heads and tokens of a chunk of evicted_at: whole heads of one layer, up to about 1 MiB.
std::array<std::int64_t, 2> evicted_chunk(const RunLayout& run) {
  const std::int64_t tokens = std::min(run.tokens, chunk_limit / 4);
  return {std::clamp<std::int64_t>(chunk_limit / (4 * tokens), 1, run.heads), tokens};
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const auto dimension : shape) n *= dimension;
  return n;
}

// As `kvreplay capture --spans` reads them.
std::string spans_text(const std::vector<TextSpan>& spans) {
  nlohmann::json list = nlohmann::json::array();
  for (const TextSpan& span : spans) list.push_back({{"start", span.start}, {"end", span.end}, {"label", span.label}});
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);  // a label need not be UTF-8
}

}  // namespace

struct ResultsWriter::State {
  std::string path, partial;
  hdf5::File file;
  std::vector<RunLayout> runs;
  std::vector<bool> finished_runs;
  bool finished = false;
  int version = 1;

  ~State() {
    const hdf5::Guard guard;
    const bool opened = file.valid();
    file.reset();
    std::error_code ignored;
    if (opened && !finished) std::filesystem::remove(partial, ignored);
  }

  const RunLayout& layout(int run) const {
    if (run < 0 || run >= static_cast<int>(runs.size())) throw Error(partial, "has no run " + std::to_string(run));
    return runs[static_cast<std::size_t>(run)];
  }

  std::string where(const std::string& node) const { return partial + ":" + node; }

  hdf5::Dataset open(const std::string& node) const {
    const hdf5::Properties access(H5Pcreate(H5P_DATASET_ACCESS));
    H5Pset_chunk_cache(access, 1, 0, 0.75);
    return hdf5::Dataset(hdf5::check_id(H5Dopen2(file, node.c_str(), access), where(node), "cannot be opened"));
  }

  hdf5::Dataset create(const std::string& node, hid_t type, const std::vector<std::int64_t>& shape, hid_t properties) const {
    const std::vector<hsize_t> dims(shape.begin(), shape.end());
    const hdf5::Space space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
    return hdf5::Dataset(hdf5::check_id(H5Dcreate2(file, node.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                                        where(node), "cannot be created"));
  }

  // Mostly -1 and 0, so it compresses well.
  void create_evicted(const std::string& node, const RunLayout& run) const {
    const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
    const auto [heads, tokens] = evicted_chunk(run);
    const hsize_t chunk[3] = {1, static_cast<hsize_t>(heads), static_cast<hsize_t>(tokens)};
    H5Pset_chunk(creation, 3, chunk);
    H5Pset_shuffle(creation);
    H5Pset_deflate(creation, deflate_level);
    create(node, H5T_STD_I32LE, {run.layers, run.heads, run.tokens}, creation);
  }

  void create_plain(const std::string& node, const RunLayout::Metric* metric, const std::vector<std::int64_t>& shape) const {
    const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
    const float absent = std::numeric_limits<float>::quiet_NaN();
    H5Pset_fill_value(creation, H5T_NATIVE_FLOAT, &absent);
    const hdf5::Dataset id = create(node, H5T_IEEE_F32LE, shape, creation);
    if (metric == nullptr) return;
    if (!metric->axes.empty()) hdf5::write_attribute(id, where(node), "axes", metric->axes);
    if (!metric->region_names.empty()) hdf5::write_attribute(id, where(node), "regions", metric->region_names);
  }

  void write_layer(const std::string& node, hid_t type, std::int64_t layer_index, const std::vector<std::int64_t>& shape,
                   const void* values) const {
    if (layer_index < 0 || layer_index >= shape[0]) throw Error(where(node), "has no layer " + std::to_string(layer_index));
    if (product(shape) == 0) return;
    const hdf5::Dataset id = open(node);
    std::vector<hsize_t> start(shape.size(), 0), count(shape.begin(), shape.end());
    start[0] = static_cast<hsize_t>(layer_index);
    count[0] = 1;
    const hdf5::Space file_space(H5Dget_space(id)),
        memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr));
    hdf5::check(H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr), where(node),
                "cannot be written");
    hdf5::check(H5Dwrite(id, type, memory, file_space, H5P_DEFAULT, values), where(node), "cannot be written");
  }

  // A reader of version 1 expects evicted_at in every run.
  void require_version_2() {
    if (version == 2) return;
    version = 2;
    const hdf5::Group root(hdf5::check_id(H5Gopen2(file, "/", H5P_DEFAULT), partial, "cannot be written"));
    hdf5::check(H5Adelete(root, "version"), partial, "cannot be written");
    hdf5::write_attribute(root, partial, "version", version);
  }
};

ResultsWriter::ResultsWriter(const std::string& path) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = path;
  s.partial = path + ".partial";
  if (std::filesystem::is_directory(path)) throw Error(path, "is a directory", "give --out a file name");
  const hdf5::Guard guard;
  const hdf5::Properties access = hdf5::file_access();
  s.file = hdf5::File(H5Fcreate(s.partial.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
  if (!s.file.valid()) hdf5::fail(path, "cannot be created", "give --out a folder that can be written to");
  const hdf5::Group root(hdf5::check_id(H5Gopen2(s.file, "/", H5P_DEFAULT), s.partial, "cannot be written"));
  hdf5::write_attribute(root, s.partial, "format", std::string_view("kvreplay-results"));
  hdf5::write_attribute(root, s.partial, "version", s.version);
  hdf5::Group(H5Gcreate2(s.file, "/runs", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

ResultsWriter::~ResultsWriter() = default;
ResultsWriter::ResultsWriter(ResultsWriter&&) noexcept = default;

int ResultsWriter::add_run(const RunLayout& layout) {
  State& s = *state_;
  const hdf5::Guard guard;
  const int run = static_cast<int>(s.runs.size());
  const std::string node = run_node(run);
  if (layout.layers < 1 || layout.heads < 1 || layout.tokens < 1 || layout.prompt_length < 1 ||
      layout.prompt_length > layout.tokens)
    throw Error(s.where(node), "has an impossible shape");
  std::vector<const char*> groups = {""};
  if (!layout.summary_only) groups.push_back("/metrics");
  for (const char* suffix : groups)
    if (!hdf5::Group(H5Gcreate2(s.file, (node + suffix).c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)).valid())
      hdf5::fail(s.where(node), "cannot be written");
  if (layout.summary_only && (layout.scores || !layout.metrics.empty()))
    throw Error(s.where(node), "has summaries only, so neither scores nor metrics");
  if (layout.summary_only) s.require_version_2();
  if (!layout.summary_only) s.create_evicted(node + "/evicted_at", layout);
  if (layout.scores) s.create_plain(node + "/scores", nullptr, {layout.layers, layout.heads, layout.prompt_length});
  for (const auto& metric : layout.metrics) {
    if (metric.shape.empty() || metric.shape[0] != layout.layers)
      throw Error(s.where(node) + "/metrics/" + metric.name, "has another number of layers than its run");
    s.create_plain(node + "/metrics/" + metric.name, &metric, metric.shape);
  }
  s.runs.push_back(layout);
  s.finished_runs.push_back(false);
  return run;
}

EncodedEvictions ResultsWriter::encode_evicted(int run, TensorView<const std::int32_t, 2> evicted_at) const {
  const RunLayout& layout = state_->layout(run);
  if (layout.summary_only || evicted_at.dim(0) != layout.heads || evicted_at.dim(1) != layout.tokens)
    throw Error(state_->where(run_node(run) + "/evicted_at"), "was given another shape");
  // Compressed here, on all threads: HDF5 would do it with one, and let nobody read a trace meanwhile.
  const auto [heads, tokens] = evicted_chunk(layout);
  const std::int64_t down = (layout.heads + heads - 1) / heads, across = (layout.tokens + tokens - 1) / tokens;
  EncodedEvictions encoded{run, std::vector<std::vector<std::byte>>(static_cast<std::size_t>(down * across))};
  parallel_for(down * across, 1, [&, heads = heads, tokens = tokens](std::int64_t i, std::int64_t) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(heads * tokens), 0);
    const std::int64_t head = i / across * heads, token = i % across * tokens;
    for (std::int64_t h = head; h < std::min(head + heads, layout.heads); ++h)
      std::copy_n(&evicted_at(h, token), std::min(tokens, layout.tokens - token), values.data() + (h - head) * tokens);
    encoded.chunks[static_cast<std::size_t>(i)] =
        encode_chunk(std::as_bytes(std::span(values)), sizeof(std::int32_t), deflate_level);
  });
  return encoded;
}

void ResultsWriter::write_evicted(int run, std::int64_t layer_index, const EncodedEvictions& evicted) {
  const RunLayout& layout = state_->layout(run);
  const std::string node = run_node(run) + "/evicted_at";
  if (evicted.run != run) throw Error(state_->where(node), "was given another run's evictions");
  if (layer_index < 0 || layer_index >= layout.layers)
    throw Error(state_->where(node), "has no layer " + std::to_string(layer_index));
  const auto [heads, tokens] = evicted_chunk(layout);
  const std::int64_t across = (layout.tokens + tokens - 1) / tokens;
  const hdf5::Guard guard;
  const hdf5::Dataset id = state_->open(node);
  for (std::size_t i = 0; i < evicted.chunks.size(); ++i) {
    const auto number = static_cast<std::int64_t>(i);
    const std::array<hsize_t, 3> at = {static_cast<hsize_t>(layer_index), static_cast<hsize_t>(number / across * heads),
                                       static_cast<hsize_t>(number % across * tokens)};
    const auto& chunk = evicted.chunks[i];
    hdf5::check(H5Dwrite_chunk(id, H5P_DEFAULT, 0, at.data(), chunk.size(), chunk.data()), state_->where(node),
                "cannot be written");
  }
}

void ResultsWriter::write_evicted(int run, std::int64_t layer_index, TensorView<const std::int32_t, 2> evicted_at) {
  write_evicted(run, layer_index, encode_evicted(run, evicted_at));
}

void ResultsWriter::write_scores(int run, std::int64_t layer_index, TensorView<const float, 2> scores) {
  const RunLayout& layout = state_->layout(run);
  const std::string node = run_node(run) + "/scores";
  if (!layout.scores || scores.dim(0) != layout.heads || scores.dim(1) != layout.prompt_length)
    throw Error(state_->where(node), "was given another shape");
  const hdf5::Guard guard;
  state_->write_layer(node, H5T_NATIVE_FLOAT, layer_index, {layout.layers, layout.heads, layout.prompt_length},
                      scores.data());
}

void ResultsWriter::write_metric(int run, std::int64_t layer_index, const std::string& name, std::span<const float> values) {
  const RunLayout& layout = state_->layout(run);
  const std::string node = run_node(run) + "/metrics/" + name;
  for (const auto& metric : layout.metrics) {
    if (metric.name != name) continue;
    if (static_cast<std::int64_t>(values.size()) * layout.layers != product(metric.shape))
      throw Error(state_->where(node), "was given another shape");
    const hdf5::Guard guard;
    return state_->write_layer(node, H5T_NATIVE_FLOAT, layer_index, metric.shape, values.data());
  }
  throw Error(state_->where(node), "is not in the layout of this run");
}

void ResultsWriter::finish_run(int run, const RunInfo& info) {
  State& s = *state_;
  const RunLayout& layout = s.layout(run);
  const std::string node = run_node(run), where = s.where(node);
  const hdf5::Guard guard;
  const hdf5::Group group(hdf5::check_id(H5Gopen2(s.file, node.c_str(), H5P_DEFAULT), where, "cannot be written"));
  const auto text = [&](const char* name, const std::string& value) {
    hdf5::write_attribute(group, where, name, std::string_view(value));
  };
  text("policy", info.policy);
  text("preset", info.preset);
  text("parameters", info.parameters.empty() ? "{}" : info.parameters);
  hdf5::write_attribute(group, where, "budget", info.budget);
  if (!info.budget_text.empty()) text("budget_text", info.budget_text);
  if (info.equal_bytes > 0) {
    hdf5::write_attribute(group, where, "equal_bytes", info.equal_bytes);
    hdf5::write_attribute(group, where, "equal_bytes_tokens", info.equal_bytes_tokens);
  }
  hdf5::write_attribute(group, where, "cache_bytes", info.cache_bytes);
  hdf5::write_attribute(group, where, "full_cache_bytes", info.full_cache_bytes);
  hdf5::write_attribute(group, where, "peak_cache_bytes", info.peak_cache_bytes);
  if (layout.summary_only) {
    hdf5::write_attribute(group, where, "summary_only", 1);
    for (const auto& [name, value] :
         {std::pair{"layers", layout.layers}, {"heads", layout.heads}, {"tokens", layout.tokens}})
      hdf5::write_attribute(group, where, name, value);
    text("kept_prompt_sha256", info.kept_prompt_sha256);
  } else {
    text("kept_sha256", info.kept_sha256);
  }
  text("position_mode", info.position_mode);
  text("granularity", info.granularity);
  text("trace", info.trace);
  text("trace_sha256", info.trace_sha256);
  text("backend", info.backend);
  text("created_by", info.created_by.empty() ? program_version() : info.created_by);
  if (info.prompt_length > 0) hdf5::write_attribute(group, where, "prompt_length", info.prompt_length);
  if (!info.scope.empty()) text("scope", info.scope);
  if (!info.score_spans.empty()) text("score_spans", spans_text(info.score_spans));
  if (!info.judge_spans.empty()) text("judge_spans", spans_text(info.judge_spans));
  if (!info.edit.empty()) {
    text("edit", info.edit);
    hdf5::write_attribute(group, where, "edit_of", info.edit_of);
  }
  if (info.early_steps > 0) hdf5::write_attribute(group, where, "early_steps", info.early_steps);
  hdf5::write_attribute(group, where, "seconds", info.seconds);
  hdf5::write_attribute(group, where, "peak_bytes", info.peak_bytes);
  if (!info.notes.empty()) text("notes", nlohmann::json(info.notes).dump());
  const hdf5::Group summary(hdf5::check_id(
      H5Gcreate2(s.file, (node + "/summary").c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), where, "cannot be written"));
  for (const auto& [name, value] : info.summary) hdf5::write_attribute(summary, where + "/summary", name.c_str(), value);
  s.finished_runs[static_cast<std::size_t>(run)] = true;
}

void ResultsWriter::finish() {
  State& s = *state_;
  const hdf5::Guard guard;
  for (std::size_t run = 0; run < s.runs.size(); ++run)
    if (!s.finished_runs[run]) throw Error(s.where(run_node(static_cast<int>(run))), "was never finished");
  hdf5::check(H5Fflush(s.file, H5F_SCOPE_GLOBAL), s.partial, "cannot be written");
  if (s.file.reset() < 0) {
    const std::string why = hdf5::reason();
    std::error_code ignored;
    std::filesystem::remove(s.partial, ignored);
    throw Error(s.path, "cannot be written (" + why + ")");
  }
  std::error_code failure;
  std::filesystem::rename(s.partial, s.path, failure);
  if (failure) throw Error(s.path, "cannot be replaced: " + failure.message(), "the results are in " + s.partial);
  s.finished = true;
  remember_written_file(s.path);
}

}  // namespace kvreplay

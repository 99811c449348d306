// The engine against Hugging Face transformers (tests/fixtures/make_model_fixtures.py), against itself, and against bad
// model directories.
#include "core/model/engine.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "core/base/parallel.h"
#include "core/model/weight_files.h"

namespace kvreplay {
namespace {

namespace fs = std::filesystem;

std::string fixtures() { return std::string(KVREPLAY_SOURCE_DIR) + "/tests/fixtures/models"; }

// Everything that the taps show, gathered over blocks: a layer's tensors by name, each [heads, T, columns].
class Recorder final : public EngineObserver {
 public:
  struct Layer {
    Tensor<float, 3> query, key, value, head_output, log_sum_exp, attention, column_sum;
  };

  Recorder(const ModelConfig& config, std::int64_t tokens, std::int64_t prompt) : prompt_(prompt) {
    const std::int64_t hq = config.num_query_heads, hk = config.num_kv_heads, d = config.head_dim;
    for (int layer = 0; layer < config.num_layers; ++layer)
      layers.push_back({Tensor<float, 3>({hq, tokens, d}), Tensor<float, 3>({hk, tokens, d}),
                        Tensor<float, 3>({hk, tokens, d}), Tensor<float, 3>({hq, tokens, d}),
                        Tensor<float, 3>({hq, tokens, 1}), Tensor<float, 3>({hq, tokens, tokens}, 0.0F),
                        Tensor<float, 3>({hq, 1, tokens}, 0.0F)});
  }
  bool wants_attention(std::int64_t) const override { return true; }
  std::int64_t column_sum_end() const override { return prompt_; }
  bool wants_nll() const override { return true; }
  void on_layer(const LayerBlock& block) override {
    Layer& layer = layers[static_cast<std::size_t>(block.layer)];
    put(block.query, block.first, layer.query);
    put(block.key, block.first, layer.key);
    put(block.value, block.first, layer.value);
    put(block.head_output, block.first, layer.head_output);
    for (std::int64_t h = 0; h < layer.query.dim(0); ++h) {
      for (std::int64_t i = 0; i < block.count; ++i) {
        layer.log_sum_exp(h, block.first + i, 0) = block.log_sum_exp(h, i);
        for (std::int64_t j = 0; j < block.first + block.count; ++j)
          layer.attention(h, block.first + i, j) = block.attention(h, i, j);
      }
      if (block.first < prompt_)
        for (std::int64_t j = 0; j < block.first + block.count; ++j)
          layer.column_sum(h, 0, j) += block.attention_column_sum(h, j);
    }
  }
  void on_tokens(std::int64_t first, std::span<const std::int32_t> ids, std::span<const float> values) override {
    EXPECT_EQ(first, static_cast<std::int64_t>(nll.size()));
    EXPECT_EQ(ids.size(), values.size());
    nll.insert(nll.end(), values.begin(), values.end());
  }

  std::vector<Layer> layers;
  std::vector<float> nll;

 private:
  static void put(TensorView<const float, 3> block, std::int64_t first, Tensor<float, 3>& all) {
    for (std::int64_t h = 0; h < block.dim(0); ++h)
      std::memcpy(&all(h, first, 0), &block(h, 0, 0), static_cast<std::size_t>(block.dim(1) * block.dim(2)) * sizeof(float));
  }
  std::int64_t prompt_;
};

struct Pass {
  Recorder seen;
  std::vector<float> logits;
};

Pass run(const Engine& engine, std::span<const std::int32_t> ids, std::int64_t prompt, std::int64_t block) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  Pass pass{Recorder(engine.config(), tokens, prompt), {}};
  Sequence sequence = engine.start(tokens);
  Job job;
  engine.read(sequence, ids, pass.seen, job, {block});
  pass.logits.assign(sequence.logits().begin(), sequence.logits().end());
  return pass;
}

// Within `share` of the largest magnitude of what is expected.
void expect_close(std::span<const float> actual, std::span<const float> expected, double share, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(actual[i])) << what << " at " << i;
      continue;
    }
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    const double difference = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  }
  EXPECT_GT(largest, 0) << what << " is all zeros: nothing is tested";
  EXPECT_LE(worst, share * largest) << what;
}

std::vector<float> read_expected(const std::string& directory, const std::string& name, std::vector<std::int32_t>* ids) {
  std::ifstream file(directory + "/expected.safetensors", std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), 8);
  std::string header(length, ' ');
  file.read(header.data(), static_cast<std::streamsize>(length));
  const auto entry = nlohmann::json::parse(header).at(name);
  const auto begin = entry.at("data_offsets")[0].get<std::int64_t>(), end = entry.at("data_offsets")[1].get<std::int64_t>();
  file.seekg(static_cast<std::streamoff>(8 + length) + begin);
  const auto count = static_cast<std::size_t>(end - begin) / 4;
  std::vector<float> values(ids == nullptr ? count : 0);
  if (ids != nullptr) ids->resize(count);
  file.read(ids != nullptr ? reinterpret_cast<char*>(ids->data()) : reinterpret_cast<char*>(values.data()), end - begin);
  EXPECT_TRUE(file.good()) << directory << " " << name;
  return values;
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fixtures())) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

class EngineAgreesWithTransformers : public testing::TestWithParam<std::string> {};

// 1e-4 in float32 of the largest magnitude, against float64 arithmetic with float32 RoPE angles and norms.
TEST_P(EngineAgreesWithTransformers, InLogitsQueriesKeysValuesAndAttention) {
  const std::string directory = fixtures() + "/" + GetParam();
  const Engine engine = Engine::load(directory);
  std::vector<std::int32_t> ids;
  read_expected(directory, "ids", &ids);
  const Pass pass = run(engine, ids, static_cast<std::int64_t>(ids.size()), 256);
  for (std::size_t layer = 0; layer < pass.seen.layers.size(); ++layer) {
    const auto& seen = pass.seen.layers[layer];
    const std::string at = std::to_string(layer) + ".";
    expect_close(seen.query.flat(), read_expected(directory, at + "query", nullptr), 1e-4, at + "query");
    expect_close(seen.key.flat(), read_expected(directory, at + "key", nullptr), 1e-4, at + "key");
    expect_close(seen.value.flat(), read_expected(directory, at + "value", nullptr), 1e-4, at + "value");
  }
  const auto logits = read_expected(directory, "logits", nullptr);
  const auto vocabulary = static_cast<std::size_t>(engine.config().vocabulary_size);
  expect_close(pass.logits, std::span(logits).last(vocabulary), 1e-4, "logits");
  expect_close(pass.seen.layers.back().attention.flat(), read_expected(directory, "attention", nullptr), 1e-4, "attention");

  // The loss of every token, from the logits of every position.
  std::vector<float> nll = {NAN};
  for (std::size_t t = 1; t < ids.size(); ++t) {
    const auto row = std::span(logits).subspan((t - 1) * vocabulary, vocabulary);
    double total = 0;
    for (const float x : row) total += std::exp(static_cast<double>(x));
    nll.push_back(static_cast<float>(std::log(total) - row[static_cast<std::size_t>(ids[t])]));
  }
  expect_close(pass.seen.nll, nll, 1e-4, "nll");
}

// The taps that follow from the others.
TEST_P(EngineAgreesWithTransformers, InWhatFollowsFromTheAttention) {
  const Engine engine = Engine::load(fixtures() + "/" + GetParam());
  const auto& config = engine.config();
  std::vector<std::int32_t> ids;
  read_expected(fixtures() + "/" + GetParam(), "ids", &ids);
  const std::int64_t tokens = static_cast<std::int64_t>(ids.size()), prompt = 31;
  const Pass pass = run(engine, ids, prompt, 16);
  for (std::size_t layer = 0; layer < pass.seen.layers.size(); ++layer) {
    const auto& seen = pass.seen.layers[layer];
    std::vector<float> output, log_sum_exp, column_sum;
    for (std::int64_t h = 0; h < config.num_query_heads; ++h) {
      std::vector<double> columns(static_cast<std::size_t>(tokens));
      for (std::int64_t t = 0; t < tokens; ++t) {
        double denominator = 0;
        std::vector<double> sum(static_cast<std::size_t>(config.head_dim));
        for (std::int64_t j = 0; j < tokens; ++j) {
          const double weight = seen.attention(h, t, j);
          const int window = config.sliding_window[layer];
          if (j > t || (window > 0 && j <= t - window)) {
            EXPECT_EQ(weight, 0.0) << "masked: head " << h << " query " << t << " key " << j;
            continue;
          }
          if (t < prompt) columns[static_cast<std::size_t>(j)] += weight;
          double score = 0;
          for (std::int64_t c = 0; c < config.head_dim; ++c)
            score += static_cast<double>(seen.query(h, t, c)) * seen.key(h / config.group_size(), j, c);
          score *= config.attention_scale;
          if (config.attention_softcap) score = *config.attention_softcap * std::tanh(score / *config.attention_softcap);
          denominator += std::exp(score);
          for (std::int64_t c = 0; c < config.head_dim; ++c)
            sum[static_cast<std::size_t>(c)] += weight * seen.value(h / config.group_size(), j, c);
        }
        for (const double x : sum) output.push_back(static_cast<float>(x));
        log_sum_exp.push_back(static_cast<float>(std::log(denominator)));
      }
      for (const double x : columns) column_sum.push_back(static_cast<float>(x));
    }
    expect_close(seen.head_output.flat(), output, 1e-5, "head output");
    expect_close(seen.log_sum_exp.flat(), log_sum_exp, 1e-5, "log-sum-exp");
    expect_close(seen.column_sum.flat(), column_sum, 1e-5, "column sum");
  }
}

// Prefill in blocks of any length, and token by token, is the same computation in another order of additions.
TEST_P(EngineAgreesWithTransformers, WhateverTheBlockLength) {
  const Engine engine = Engine::load(fixtures() + "/" + GetParam());
  std::vector<std::int32_t> ids;
  read_expected(fixtures() + "/" + GetParam(), "ids", &ids);
  const Pass whole = run(engine, ids, 40, 256);
  for (const std::int64_t block : {1, 7, 17, 32}) {
    const Pass pieces = run(engine, ids, 40, block);
    const std::string what = "blocks of " + std::to_string(block);
    expect_close(pieces.logits, whole.logits, 2e-5, what + ", logits");
    expect_close(pieces.seen.nll, whole.seen.nll, 2e-5, what + ", nll");
    for (std::size_t layer = 0; layer < whole.seen.layers.size(); ++layer) {
      const auto &a = pieces.seen.layers[layer], &b = whole.seen.layers[layer];
      expect_close(a.query.flat(), b.query.flat(), 2e-5, what + ", query");
      expect_close(a.head_output.flat(), b.head_output.flat(), 2e-5, what + ", head output");
      expect_close(a.log_sum_exp.flat(), b.log_sum_exp.flat(), 2e-5, what + ", log-sum-exp");
      expect_close(a.column_sum.flat(), b.column_sum.flat(), 2e-5, what + ", column sum");
      expect_close(a.attention.flat(), b.attention.flat(), 2e-5, what + ", attention");
    }
  }
}

// Models too large to convert once are converted piece by piece at every use.
TEST_P(EngineAgreesWithTransformers, WithWeightsThatStayInTheirFiles) {
  const std::string directory = fixtures() + "/" + GetParam();
  std::vector<std::int32_t> ids;
  read_expected(directory, "ids", &ids);
  const Pass kept = run(Engine::load(directory), ids, 40, 16);
  const Engine mapped_engine = Engine::load(directory, {.convert_at_most = 0});
  for (const std::int64_t block : {16, 1}) {
    const Pass mapped = run(mapped_engine, ids, 40, block);
    expect_close(mapped.logits, kept.logits, 2e-5, "logits");
    expect_close(mapped.seen.nll, kept.seen.nll, 2e-5, "nll");
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, EngineAgreesWithTransformers, testing::ValuesIn(model_names()),
                         [](const auto& test) { return test.param; });

TEST(EngineResults, DoNotDependOnTheNumberOfThreads) {
  const Engine engine = Engine::load(fixtures() + "/gemma2");
  std::vector<std::int32_t> ids(300);
  std::mt19937 random(5);
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % 80);
  set_thread_count(1);
  const Pass one = run(engine, ids, 200, 128);
  for (const int threads : {2, 3}) {
    set_thread_count(threads);
    const Pass many = run(engine, ids, 200, 128);
    EXPECT_EQ(one.logits, many.logits);
    for (std::size_t layer = 0; layer < one.seen.layers.size(); ++layer) {
      EXPECT_TRUE(std::ranges::equal(one.seen.layers[layer].column_sum.flat(), many.seen.layers[layer].column_sum.flat()));
      EXPECT_TRUE(std::ranges::equal(one.seen.layers[layer].head_output.flat(), many.seen.layers[layer].head_output.flat()));
    }
  }
  set_thread_count(0);
}

TEST(EngineResults, RefuseIdsOutsideTheVocabularyAndMoreThanThereIsRoomFor) {
  const Engine engine = Engine::load(fixtures() + "/qwen3");
  Sequence sequence = engine.start(4);
  EngineObserver none;
  Job job;
  const std::vector<std::int32_t> bad = {3, 80}, negative = {-1}, many = {3, 4, 5, 6, 7}, good = {3, 4, 5, 6};
  EXPECT_THROW(engine.read(sequence, bad, none, job), Error);
  EXPECT_THROW(engine.read(sequence, negative, none, job), Error);
  EXPECT_THROW(engine.read(sequence, many, none, job), Error);
  EXPECT_EQ(sequence.size(), 0);
  engine.read(sequence, good, none, job);
  EXPECT_EQ(sequence.size(), 4);
}

TEST(EngineResults, StopWhenCancelled) {
  struct Stopped final : Job {
    bool cancelled() const override { return true; }
  } job;
  const Engine engine = Engine::load(fixtures() + "/qwen3");
  Sequence sequence = engine.start(4);
  EngineObserver none;
  const std::vector<std::int32_t> ids = {3};
  EXPECT_THROW(engine.read(sequence, ids, none, job), Cancelled);
}

// What the fixtures do not have: keys as other published configurations have them.
TEST(ModelConfigs, AreReadAsTransformersReadsThem) {
  const auto variant = [](const std::string& name, const nlohmann::json& changes) {
    const fs::path folder = fs::path(testing::TempDir()) / ("config_" + std::to_string(getpid()));
    fs::create_directories(folder);
    std::ifstream file(fixtures() + "/" + name + "/config.json");
    auto config = nlohmann::json::parse(file);
    for (const auto& [key, value] : changes.items())
      value == "absent" ? static_cast<void>(config.erase(key)) : static_cast<void>(config[key] = value);
    std::ofstream(folder / "config.json") << config;
    const ModelConfig read = load_model_config(folder.string());
    fs::remove_all(folder);
    return read;
  };
  using Windows = std::vector<int>;
  EXPECT_EQ(variant("gemma2", {{"layer_types", "absent"}}).sliding_window, (Windows{19, 0, 19}));
  EXPECT_EQ(variant("gemma2", {{"sliding_window", nullptr}}).sliding_window, (Windows{0, 0, 0}));
  EXPECT_EQ(variant("gemma2", {{"attn_logit_softcapping", nullptr}}).attention_softcap, std::nullopt);
  EXPECT_EQ(variant("gemma2", {{"attn_logit_softcapping", "absent"}}).attention_softcap, 50.0);
  EXPECT_EQ(variant("gemma2", {{"final_logit_softcapping", "absent"}}).logit_softcap, 30.0);
  EXPECT_EQ(variant("qwen2", {{"layer_types", "absent"}}).sliding_window, (Windows{0, 17, 17}));
  EXPECT_EQ(variant("qwen2", {{"use_sliding_window", false}}).sliding_window, (Windows{0, 0, 0}));
  EXPECT_EQ(variant("qwen2", {{"layer_types", {"full_attention", "full_attention", "sliding_attention"}}}).sliding_window,
            (Windows{0, 0, 17}));
  EXPECT_EQ(variant("mistral", {{"sliding_window", "absent"}}).sliding_window, (Windows{0, 0}));
  EXPECT_EQ(variant("gemma", {{"hidden_act", "gelu"}, {"hidden_activation", nullptr}}).activation, Activation::gelu_tanh);
  EXPECT_EQ(variant("llama2_mha", {{"head_dim", "absent"}, {"num_key_value_heads", "absent"}}).num_kv_heads, 4);
  EXPECT_EQ(variant("llama2_mha", {{"architectures", "absent"}}).architecture, "llama");
  EXPECT_EQ(variant("llama2_mha", {{"rope_parameters", "absent"}, {"rope_theta", 5e5}}).rope.theta, 5e5);
  EXPECT_TRUE(variant("gemma", {{"tie_word_embeddings", "absent"}}).tied_embeddings);
  EXPECT_EQ(variant("llama2_mha", {{"eos_token_id", {5, 6}}}).end_of_text_ids, (std::vector<std::int32_t>{5, 6}));
  EXPECT_THROW(variant("qwen2", {{"layer_types", {"full_attention"}}}), Error);
  EXPECT_THROW(variant("llama2_mha", {{"rope_parameters", {{"rope_type", "dynamic"}, {"factor", 2.0}}}}), Error);
  EXPECT_THROW(variant("llama2_mha", {{"rope_parameters", {{"rope_type", "llama3"}}}}), Error);
}

// --- bad model directories -----------------------------------------------------------------------------------------------

class BadModelDirectory : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / ("bad_model_" + std::to_string(getpid()) + "_" +
                                                 testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::copy(fixtures() + "/llama2_mha", directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
  void change_config(const std::function<void(nlohmann::json&)>& change) const {
    auto config = nlohmann::json::parse(contents(path("config.json")));
    change(config);
    write(path("config.json"), config.dump());
  }
  void change_header(const std::function<void(nlohmann::json&)>& change) const {
    const std::string file = contents(path("model.safetensors"));
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    auto header = nlohmann::json::parse(file.substr(8, length));
    change(header);
    const std::string text = header.dump();
    length = text.size();
    std::string start(8, '\0');
    std::memcpy(start.data(), &length, 8);
    std::uint64_t before = 0;
    std::memcpy(&before, file.data(), 8);
    write(path("model.safetensors"), start + text + file.substr(8 + before));
  }
  // One line that names each of `parts`.
  void expect_error(const std::vector<std::string>& parts) const {
    try {
      Engine::load(directory_.string());
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      const std::string line = error.what();
      EXPECT_EQ(line.find('\n'), std::string::npos);
      EXPECT_EQ(error.exit_code(), 1);
      for (const auto& part : parts) EXPECT_NE(line.find(part), std::string::npos) << line << " lacks " << part;
    }
  }

  fs::path directory_;
  static constexpr const char* norm = "model.layers.1.input_layernorm.weight";
  static constexpr const char* up = "model.layers.0.mlp.up_proj.weight";
};

TEST_F(BadModelDirectory, WithoutATensorNamesFileAndTensor) {
  change_header([](auto& header) { header.erase(norm); });
  expect_error({"model.safetensors", norm, "missing"});
}

TEST_F(BadModelDirectory, WithAnotherShapeNamesBoth) {
  change_config([](auto& config) { config["intermediate_size"] = 65; });
  expect_error({"model.safetensors", "gate_proj", "[66, 40]", "[65, 40]"});
}

TEST_F(BadModelDirectory, OfAnUnknownArchitectureListsTheKnown) {
  change_config([](auto& config) {
    config["architectures"] = {"MambaForCausalLM"};
    config["model_type"] = "mamba";
  });
  expect_error({"config.json", "MambaForCausalLM", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"});
}

TEST_F(BadModelDirectory, CutOffSaysSo) {
  for (const double share : {0.0, 0.0001, 0.001, 0.5, 0.999}) {
    const std::string whole = contents(fixtures() + "/llama2_mha/model.safetensors");
    write(path("model.safetensors"), whole.substr(0, static_cast<std::size_t>(share * static_cast<double>(whole.size()))));
    expect_error({"model.safetensors"});
  }
}

TEST_F(BadModelDirectory, WithOffsetsThatMakeNoSenseNamesTheTensor) {
  const auto offsets = [&](std::int64_t begin, std::int64_t end) {
    return [=](nlohmann::json& header) { header[up]["data_offsets"] = {begin, end}; };
  };
  for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {-10560, 0}, {-1, 10559}, {100, 50}, {std::int64_t{1} << 62, (std::int64_t{1} << 62) + 10560}, {0, 10561}}) {
    fs::copy(fixtures() + "/llama2_mha/model.safetensors", path("model.safetensors"), fs::copy_options::overwrite_existing);
    change_header(offsets(begin, end));
    expect_error({"model.safetensors", up});
  }
}

TEST_F(BadModelDirectory, WithTensorsThatOverlapSaysSo) {
  change_header(
      [](auto& header) { header[up]["data_offsets"] = header["model.layers.1.mlp.up_proj.weight"]["data_offsets"]; });
  expect_error({"model.safetensors", "overlap"});
}

TEST_F(BadModelDirectory, WithShapesThatOverflowSaysSo) {
  change_header([](auto& header) { header[up]["shape"] = {std::int64_t{1} << 62, std::int64_t{1} << 62, 0}; });
  expect_error({"model.safetensors", up});
  change_header([](auto& header) { header[up]["shape"] = {66.5, 40}; });
  expect_error({"model.safetensors", up});
}

TEST_F(BadModelDirectory, WithATypeThatIsNoFloatSaysWhich) {
  change_header([](auto& header) { header[up]["dtype"] = "I32"; });
  expect_error({"model.safetensors", up, "I32", "BF16"});
}

TEST_F(BadModelDirectory, WithValuesOutOfRangeNamesTheKey) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::json>>{
           {"num_hidden_layers", 0},
           {"num_hidden_layers", -3},
           {"num_hidden_layers", 1e30},
           {"hidden_size", "40"},
           {"num_attention_heads", std::uint64_t{18446744073709551615U}},
           {"num_key_value_heads", 3},
           {"vocab_size", nullptr},
           {"rms_norm_eps", -1},
           {"hidden_act", "relu6"},
           {"rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 10000}}},
           {"rope_parameters", 5}}) {
    fs::copy(fixtures() + "/llama2_mha/config.json", path("config.json"), fs::copy_options::overwrite_existing);
    change_config([&](auto& config) { config[key] = value; });
    expect_error({"config.json"});
  }
}

TEST_F(BadModelDirectory, WithoutFilesSaysWhichAreMissing) {
  fs::remove(path("model.safetensors"));
  expect_error({directory_.string(), "model.safetensors.index.json"});
  write(path("pytorch_model.bin"), "x");
  expect_error({"convert"});
  write(path("config.json"), "{\"architectures\": [");
  expect_error({"config.json", "JSON"});
  fs::remove(path("config.json"));
  expect_error({"config.json"});
  EXPECT_THROW(Engine::load(path("nowhere")), Error);
}

TEST_F(BadModelDirectory, WhoseIndexLeadsElsewhereIsRefused) {
  fs::remove(path("model.safetensors"));
  write(path("model.safetensors.index.json"), R"({"weight_map": {"a": "../../etc/passwd"}})");
  expect_error({"index.json", "file name"});
  write(path("model.safetensors.index.json"), R"({"weight_map": {"a": "part.safetensors"}})");
  expect_error({"part.safetensors"});
}

// Nothing but an Error may come of a file with a few bytes changed; what still loads must compute without a crash.
TEST_F(BadModelDirectory, WithRandomDamageIsRefusedOrRead) {
  constexpr unsigned seed = 91;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  int refused = 0, read = 0;
  for (const char* name : {"config.json", "model.safetensors"}) {
    const std::string whole = contents(fixtures() + "/llama2_mha/" + name);
    const std::size_t interesting = std::min<std::size_t>(whole.size(), 2500);  // the header of the weights
    for (int round = 0; round < 150; ++round) {
      std::string damaged = whole;
      for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
        const std::size_t at = random() % interesting;
        damaged[at] = random() % 2 == 0 ? static_cast<char>(random()) : "0123456789-,:[]{}\"e."[random() % 20];
      }
      write(path(name), damaged);
      try {
        const Engine engine = Engine::load(directory_.string());
        Sequence sequence = engine.start(3);
        EngineObserver none;
        Job job;
        const std::vector<std::int32_t> ids = {1, 2, 3};
        engine.read(sequence, ids, none, job);
        ++read;
      } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()).find_first_of("\n\r\x1b"), std::string::npos);
        ++refused;
      }
    }
    write(path(name), whole);
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(read, 10);
}

}  // namespace
}  // namespace kvreplay

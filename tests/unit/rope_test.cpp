// Does the rotation that a trace's attributes describe undo what the engine did to queries and keys?
#include "core/trace/rope.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "core/base/error.h"
#include "core/model/rope_internal.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay {
namespace {

std::vector<double> random_head(int head_dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> head(static_cast<std::size_t>(head_dim));
  for (double& x : head) x = normal(random);
  return head;
}

std::unique_ptr<Trace> trace_of(ModelInfo model) {
  MemoryTraceContents contents = reference::random_contents({.prompt = 40, .steps = 2});
  const ModelInfo shape = contents.model;
  model.num_layers = 1;
  model.num_query_heads = shape.num_query_heads;
  model.num_kv_heads = shape.num_kv_heads;
  model.hidden_size = shape.hidden_size;
  contents.model = model;
  for (auto& [name, tensor] : contents.tensors)
    tensor = Tensor<float, 3>(expected_shape(model, name.second, 42, 42, 0), 1.0F);
  return make_memory_trace(std::move(contents));
}

ModelInfo plain_model() {
  ModelInfo model;
  model.head_dim = 8;
  model.attention_scale = 1;
  model.rope_theta = 10000;
  return model;
}

// Every scaling that the engine knows, from what a capture writes into the trace.
TEST(RopeOfATrace, EqualsTheEngines) {
  int models = 0, scaled = 0;
  for (const auto& entry : std::filesystem::directory_iterator(KVREPLAY_SOURCE_DIR "/tests/fixtures/models")) {
    const ModelConfig config = load_model_config(entry.path());
    const Rope rope = Rope::of(*trace_of(config.info()));
    for (const std::int64_t position : {0, 1, 7, 40, 3001}) {
      const auto before = random_head(config.head_dim, 5);
      std::vector<float> wanted(before.begin(), before.end());
      RopeTable(config.rope, position, 1).apply(0, wanted.data());
      auto got = before;
      rope.at(position).apply(got);
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], wanted[i], 2e-6) << entry.path() << " " << position;  // the engine's is float32
      rope.inverse(position).apply(got);
      for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], before[i], 1e-12) << entry.path() << " " << position;
    }
    ++models;
    scaled += config.rope.scaling.empty() ? 0 : 1;
  }
  EXPECT_GT(models, 5);
  EXPECT_GT(scaled, 3);
}

TEST(RopeOfATrace, TurnsPairsByThePositionInBothLayouts) {
  ModelInfo model = plain_model();
  model.head_dim = 4;  // frequencies 1 and 0.01
  for (const std::string layout : {"half", "interleaved", ""}) {
    model.rope_layout = layout;
    std::vector<double> head = {1, 2, 3, 4};
    Rope::of(*trace_of(model)).at(3).apply(head);
    const bool pairs = layout == "interleaved";
    const double x = head[0], y = head[pairs ? 1 : 2];
    EXPECT_NEAR(x, std::cos(3.0) - (pairs ? 2 : 3) * std::sin(3.0), 1e-15);
    EXPECT_NEAR(y, (pairs ? 2 : 3) * std::cos(3.0) + std::sin(3.0), 1e-15);
    EXPECT_NEAR(head[pairs ? 2 : 1], (pairs ? 3 : 2) * std::cos(0.03) - 4 * std::sin(0.03), 1e-15);
  }
}

TEST(RopeOfATrace, MeanIsTheMeanOfTheRotations) {
  const Rope rope = Rope::of(*trace_of(plain_model()));
  const auto head = random_head(8, 6);
  std::vector<double> mean(8, 0.0), got = head;
  for (int p = 100; p < 164; ++p) {
    auto turned = head;
    rope.at(p).apply(turned);
    for (std::size_t i = 0; i < 8; ++i) mean[i] += turned[i] / 64;
  }
  rope.mean(100, 64).apply(got);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(got[i], mean[i], 1e-13);
}

// Within what the model was trained with, dynamic scaling does nothing; beyond, its base grows with the length.
TEST(RopeOfATrace, DynamicScalingFollowsThePrompt) {
  ModelInfo model = plain_model();
  const auto turned = [](const ModelInfo& m) {
    std::vector<double> head(8, 1.0);
    Rope::of(*trace_of(m)).at(9).apply(head);
    return head;
  };
  const auto plain = turned(model);
  model.rope_scaling = R"({"rope_type": "dynamic", "factor": 2, "original_max_position_embeddings": 40})";
  EXPECT_EQ(turned(model), plain);
  model.rope_scaling = R"({"rope_type": "dynamic", "factor": 2, "original_max_position_embeddings": 20})";
  const auto stretched = turned(model);
  model.rope_scaling.clear();
  model.rope_theta = 10000 * std::pow(2.0 * 40 / 20 - 1, 8.0 / 6);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(stretched[i], turned(model)[i], 1e-14);
}

TEST(RopeOfATrace, SaysWhatIsMissing) {
  const auto refusal = [](const ModelInfo& model) -> std::string {
    try {
      Rope::of(*trace_of(model));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  ModelInfo model = plain_model();
  EXPECT_EQ(refusal(model), "");
  model.rope_theta.reset();
  EXPECT_NE(refusal(model).find("/model: has no attribute rope_theta"), std::string::npos) << refusal(model);
  model = plain_model();
  model.rope_layout = "spiral";
  EXPECT_NE(refusal(model).find("spiral"), std::string::npos);
  model = plain_model();
  for (const char* scaling :
       {R"({"type": "linear"})", R"({"type": "longrope", "factor": 2})", R"({"type": "yarn", "factor": 2})",
        R"({"type": "llama3", "factor": 2, "original_max_position_embeddings": 9})", "[]", "{",
        R"({"partial_rotary_factor": 0.4})", R"({"type": "linear", "factor": -1})"}) {
    model.rope_scaling = scaling;
    EXPECT_NE(refusal(model).find("rope_scaling"), std::string::npos) << scaling << ": " << refusal(model);
  }
}

}  // namespace
}  // namespace kvreplay

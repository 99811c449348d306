#include "tests/gpu/comparison.h"

#include <cstdlib>
#include <map>

#include "core/backend/registry.h"

namespace kvreplay::gpu_test {
namespace {

struct Choice {
  std::unique_ptr<Backend> backend;
  std::string why;
};

const Choice& choice() {
  static const Choice made = [] {
    Choice out;
    try {
      out.backend = make_backend(tested_name());
    } catch (const Error& error) {
      out.why = error.what();
    }
    return out;
  }();
  return made;
}

std::map<std::string, double>& used() {
  static std::map<std::string, double> largest;
  return largest;
}

void note(const std::string& operation, double share) {
  double& largest = used()[operation];
  largest = std::max(largest, share);
}

bool same_special(double got, double want) {
  return (std::isnan(got) && std::isnan(want)) || (std::isinf(want) && got == want);
}

}  // namespace

std::string tested_name() {
  const char* name = std::getenv("KVREPLAY_TEST_BACKEND");
  return name != nullptr && *name != '\0' ? name : "cuda:0";
}
std::string why_not() { return choice().why; }
Backend& tested() { return *choice().backend; }
Backend& reference_backend() {
  static const auto backend = make_cpu_backend();
  return *backend;
}

double logit_tolerance(const Case& test) {
  const double d = test.shape.head_dim;
  const double magnitudes = 0.64 * std::max(1.0, test.shape.sharpness) * std::sqrt(d);
  return 4 * std::sqrt(d) * 0x1p-24 * magnitudes + 1e-6;
}

// ---- layers --------------------------------------------------------------------------------------------------------------

namespace {

Case make_case(const std::string& name, int query_heads, int kv_heads, int head_dim, int prompt, int steps,
               const std::function<void(Case&)>& change = nullptr) {
  Case test;
  test.name = name;
  test.shape.query_heads = query_heads;
  test.shape.kv_heads = kv_heads;
  test.shape.head_dim = head_dim;
  test.shape.prompt = prompt;
  test.shape.steps = steps;
  test.shape.hidden = head_dim + 24;
  test.shape.seed = static_cast<unsigned>(head_dim * 31 + prompt);
  if (change) change(test);
  return test;
}

std::vector<Case> shapes() {
  return {
      make_case("gqa_128", 8, 2, 128, 700, 6),
      make_case("gqa_64", 8, 2, 64, 515, 5),
      make_case("mqa_128", 4, 1, 128, 333, 3),
      make_case("mha_96", 3, 3, 96, 257, 4),
      make_case("group_of_7_80", 7, 1, 80, 401, 2),
      make_case("group_of_6_64", 12, 2, 64, 390, 2),
      make_case("gqa_256", 4, 2, 256, 300, 3),
      make_case("long_128", 4, 1, 128, 4500, 2),
      make_case("small_dim_8", 4, 2, 8, 90, 9),
      make_case("odd_dim_20", 3, 3, 20, 262, 5),
      make_case("one_token", 4, 2, 64, 1, 1),
      make_case("two_tokens_no_step", 4, 2, 128, 2, 0),
      make_case("prompt_of_33_one_step", 8, 2, 128, 33, 1),
      make_case("no_step", 4, 1, 64, 150, 0),
      make_case("sharp_128", 8, 2, 128, 400, 4, [](Case& c) { c.shape.sharpness = 9; }),
      make_case("window_128", 4, 2, 128, 600, 6, [](Case& c) { c.shape.sliding_window = 211; }),
      make_case("window_shorter_than_queries_64", 4, 2, 64, 120, 6, [](Case& c) { c.shape.sliding_window = 21; }),
      make_case("soft_cap_128", 4, 2, 128, 310, 4, [](Case& c) { c.shape.softcap = 3; }),
      make_case("soft_cap_and_window_96", 4, 2, 96, 310, 4,
                [](Case& c) {
                  c.shape.softcap = 5;
                  c.shape.sliding_window = 100;
                }),
      make_case("hidden_below_d_128", 4, 2, 128, 200, 3, [](Case& c) { c.shape.hidden = 40; }),
      make_case("gram_128", 4, 2, 128, 200, 3, [](Case& c) { c.gram = true; }),
      make_case("singular_gram_64", 4, 2, 64, 200, 3,
                [](Case& c) {
                  c.gram = true;
                  c.shape.hidden = 30;
                }),
      make_case("missing_queries_128", 8, 2, 128, 500, 6,
                [](Case& c) {
                  c.first_query = 460;
                  c.missing_decode_step = 2;
                }),
      make_case("log_sum_exp_128", 8, 2, 128, 450, 3, [](Case& c) { c.log_sum_exp = true; }),
  };
}

void round_to(ElementType type, Tensor<float, 3>& tensor) {
  std::vector<std::byte> stored(static_cast<std::size_t>(tensor.size()) * element_size(type));
  from_float32(type, tensor.data(), stored.data(), static_cast<std::size_t>(tensor.size()));
  to_float32(type, stored.data(), tensor.data(), static_cast<std::size_t>(tensor.size()));
}

void replace_projection_by_gram(MemoryTraceContents& contents, const reference::Shape& shape) {
  const auto& projection = contents.tensors.at({0, LayerDataset::output_projection});
  const int d = shape.head_dim;
  Tensor<float, 3> grams({shape.query_heads, d, d});
  for (int h = 0; h < shape.query_heads; ++h)
    for (int i = 0; i < d; ++i)
      for (int j = 0; j < d; ++j) {
        double total = 0;
        for (std::int64_t c = 0; c < projection.dim(1); ++c)
          total += static_cast<double>(projection(0, c, h * d + i)) * projection(0, c, h * d + j);
        grams(h, i, j) = static_cast<float>(total);
      }
  contents.tensors.erase({0, LayerDataset::output_projection});
  contents.tensors[{0, LayerDataset::output_gram}] = std::move(grams);
}

void add_log_sum_exp(MemoryTraceContents& contents, const reference::Shape& shape) {
  const reference::Layer layer{contents};
  Tensor<float, 3> sums({1, shape.query_heads, shape.prompt + shape.steps});
  for (int h = 0; h < shape.query_heads; ++h)
    for (int t = 0; t < shape.prompt + shape.steps; ++t) {
      double top = -1e300, total = 0;
      std::vector<double> logits;
      for (int j = layer.low(t); j <= t; ++j) logits.push_back(layer.logit(h, t, j));
      for (const double z : logits) top = std::max(top, z);
      for (const double z : logits) total += std::exp(z - top);
      sums(0, h, t) = static_cast<float>(top + std::log(total));
    }
  contents.tensors[{0, LayerDataset::log_sum_exp}] = std::move(sums);
}

void drop_queries(MemoryTraceContents& contents, const Case& test) {
  std::vector<std::int32_t> positions;
  for (const int t : contents.query_positions)
    if (t >= test.first_query && t != test.shape.prompt + test.missing_decode_step) positions.push_back(t);
  const auto& all = contents.tensors.at({0, LayerDataset::query});
  Tensor<float, 3> kept({all.dim(0), static_cast<std::int64_t>(positions.size()), all.dim(2)});
  for (std::int64_t h = 0; h < kept.dim(0); ++h)
    for (std::int64_t r = 0; r < kept.dim(1); ++r)
      for (std::int64_t i = 0; i < kept.dim(2); ++i) kept(h, r, i) = all(h, positions[static_cast<std::size_t>(r)], i);
  contents.query_positions = std::move(positions);
  contents.tensors[{0, LayerDataset::query}] = std::move(kept);
}

}  // namespace

std::vector<Case> every_case() {
  std::vector<Case> cases;
  for (const Case& shape : shapes())
    for (const ElementType type : {ElementType::float32, ElementType::float16, ElementType::bfloat16}) {
      cases.push_back(shape);
      cases.back().type = type;
      cases.back().name += "_" + std::string(element_type_name(type));
    }
  return cases;
}

MemoryTraceContents contents_of(const Case& test) {
  MemoryTraceContents contents = reference::random_contents(test.shape);
  contents.type = test.type;
  for (auto& [name, tensor] : contents.tensors) round_to(test.type, tensor);
  if (test.gram) replace_projection_by_gram(contents, test.shape);
  if (test.log_sum_exp) add_log_sum_exp(contents, test.shape);
  if (test.first_query > 0 || test.missing_decode_step >= 0) drop_queries(contents, test);
  return contents;
}

Loaded::Loaded(const Case& which) : test(which), trace(make_memory_trace(contents_of(which))) {
  reference = reference_backend().load(*trace, 0);
  tested = gpu_test::tested().load(*trace, 0);
}

std::vector<int> Loaded::windows() const {
  std::vector<int> fitting;
  for (const int window : {1, 8, 32, 33})
    if (window <= test.shape.prompt - test.first_query) fitting.push_back(window);
  return fitting;
}

// ---- comparing -----------------------------------------------------------------------------------------------------------

void expect_close(const std::string& operation, const std::string& where, std::span<const float> got,
                  std::span<const float> want, const std::function<double(std::size_t)>& allowed) {
  ASSERT_EQ(got.size(), want.size()) << operation << ", " << where;
  std::size_t failures = 0, worst = 0;
  double worst_share = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (same_special(got[i], want[i]) || got[i] == want[i]) continue;
    const double difference = std::abs(static_cast<double>(got[i]) - want[i]), limit = allowed(i);
    // NaN where a number should be, or the other way round, uses up any tolerance.
    const double share = difference <= limit  ? difference / limit
                         : difference > limit ? difference / std::max(limit, 1e-300)
                                              : 1e300;
    if (share > worst_share) {
      worst_share = share;
      worst = i;
    }
    failures += share > 1 ? 1 : 0;
  }
  note(operation, worst_share);
  if (failures > 0)
    ADD_FAILURE() << operation << ", " << where << ": " << failures << " of " << want.size()
                  << " differ; the worst is element " << worst << ": " << got[worst] << " instead of " << want[worst]
                  << ", allowed " << allowed(worst);
}

void expect_close(const std::string& operation, const std::string& where, double got, double want, double allowed) {
  if (same_special(got, want) || got == want) return;
  const double difference = std::abs(got - want);
  note(operation, difference <= allowed || difference > allowed ? difference / std::max(allowed, 1e-300) : 1e300);
  EXPECT_LE(difference, allowed) << operation << ", " << where << ": " << got << " instead of " << want;
}

void expect_same(const std::string& where, const std::vector<float>& got, const std::vector<float>& want) {
  expect_close("exact operations", where, got, want, [](std::size_t) { return 0.0; });
}

void expect_same_selection(const std::string& where, const std::vector<std::int32_t>& got,
                           const std::vector<std::int32_t>& want, std::span<const float> scores, double tolerance) {
  ASSERT_EQ(got.size(), want.size()) << where;
  ASSERT_TRUE(std::is_sorted(got.begin(), got.end())) << where;
  if (got == want) return;
  double cut = std::numeric_limits<double>::infinity();
  for (const auto i : want) cut = std::min<double>(cut, scores[static_cast<std::size_t>(i)]);
  std::vector<std::int32_t> swapped;
  std::set_symmetric_difference(got.begin(), got.end(), want.begin(), want.end(), std::back_inserter(swapped));
  for (const auto i : swapped)
    expect_close("tokens swapped at the cut", where + ", token " + std::to_string(i), scores[static_cast<std::size_t>(i)],
                 cut, tolerance * std::abs(cut));
}

std::string used_tolerances() {
  std::string text;
  for (const auto& [operation, share] : used()) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-44s %10.3g\n", operation.c_str(), share);
    text += line;
  }
  return text;
}

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& x : values) x = normal(random);
  return values;
}

}  // namespace kvreplay::gpu_test

// What the tests of the CUDA backend share: layers in memory of every shape and stored type, the two backends, and a
// comparison that remembers how much of each tolerance was used.
//
// The tested backend is cuda:0; KVREPLAY_TEST_BACKEND names another ("cpu" compares the reference with itself, which shows
// that the tests themselves are sound). Without a device every test is skipped, loudly.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/base/element_type.h"
#include "tests/unit/replay_reference.h"

namespace kvreplay::gpu_test {

// Empty when the tested backend can be had; else why not.
std::string why_not();
std::string tested_name();
Backend& tested();
Backend& reference_backend();  // the CPU's

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!why_not().empty()) GTEST_SKIP() << why_not();
  }
};

// A layer, by the things that make kernels differ.
struct Case {
  std::string name;
  reference::Shape shape;
  ElementType type = ElementType::float32;
  bool gram = false;             // output_gram instead of output_projection
  bool log_sum_exp = false;      // the trace has /layers/../log_sum_exp
  int first_query = 0;           // earlier prompt queries were not recorded
  int missing_decode_step = -1;  // this decode query was not recorded
};
inline void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }

// Shapes × types: MHA, GQA, MQA, groups of 7, head dimensions from 8 to 256, one token, odd sizes, more than one tile,
// sliding windows, soft caps, sharp attention, hidden sizes below d, no decode step, one, missing queries.
std::vector<Case> every_case();

// key, value, query and output projection are rounded to the case's type, so that every backend sees the same numbers.
MemoryTraceContents contents_of(const Case& test);

// One layer loaded by both backends.
struct Loaded {
  explicit Loaded(const Case& test);
  Case test;
  std::unique_ptr<Trace> trace;
  std::shared_ptr<LoadedLayer> reference, tested;

  std::int64_t n() const { return reference->candidates(); }
  std::vector<int> windows() const;  // of 1, 8, 32 and 33 those that fit into the prompt and its recorded queries
};

// The error that a logit may have. Operands are exact; products are summed in float32 over d on both sides, in different
// orders. d terms of mean magnitude m, each partial sum rounded to 2^-24, err by about √d · 2^-24 · √d · m on either side; m
// is scale · E|q||k| = 0.64 · sharpness / √d · √d / d... of these normal numbers, so the sum of magnitudes is 0.64 ·
// sharpness · √d. Four times that for the largest of a million.
double logit_tolerance(const Case& test);

// A weight is the exponential of a logit less the log-sum-exp, so its relative error is that of the logits, plus a few
// units in the last place of the exponential function.
inline double weight_tolerance(const Case& test) { return 2 * logit_tolerance(test) + 2e-6; }

// The relative error that the factor of the Gram matrix brings: float32 layers keep it in float32, others may round it to
// float16 (2^-11 an element at most, and a norm of such products errs less).
inline double factor_tolerance(const Case& test) { return test.type == ElementType::float32 ? 2e-5 : 0x1p-11; }

// |got - want| <= allowed(i) for all i; NaN equals NaN, infinities equal themselves. `operation` is the row of the table of
// used tolerances that the program prints when it ends.
void expect_close(const std::string& operation, const std::string& where, std::span<const float> got,
                  std::span<const float> want, const std::function<double(std::size_t)>& allowed);
void expect_close(const std::string& operation, const std::string& where, double got, double want, double allowed);
void expect_same(const std::string& where, const std::vector<float>& got, const std::vector<float>& want);

// Kept sets are equal but for tokens at the cut: whatever one backend has and the other has not must score within
// `tolerance` (relative) of the reference's lowest kept score.
void expect_same_selection(const std::string& where, const std::vector<std::int32_t>& got,
                           const std::vector<std::int32_t>& want, std::span<const float> scores, double tolerance);

// The largest use of each tolerance so far, as lines of a table.
std::string used_tolerances();

inline std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

// Float32 numbers of a seed, normal.
std::vector<float> random_values(std::int64_t count, unsigned seed);

}  // namespace kvreplay::gpu_test

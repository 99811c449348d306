// The generative model behind core/trace/synthetic.h: any row of any head, in any order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/tensor.h"
#include "core/trace/synthetic.h"

namespace kvreplay {

enum class SyntheticKind : std::uint8_t { ordinary, sink, heavy, copy, needle, question, generated };

struct SyntheticToken {
  SyntheticKind kind = SyntheticKind::ordinary;
  std::uint16_t topic = 0;
  std::int32_t member = -1;  // index in the needle, or group of a near copy
  float heavy = 0;           // strength along `heavy`
  float salience = 0;        // strength along the topic
};

class SyntheticModel {
 public:
  explicit SyntheticModel(const SyntheticParameters& parameters);

  const SyntheticParameters& parameters() const { return parameters_; }
  std::int64_t tokens() const { return static_cast<std::int64_t>(tokens_.size()); }
  const SyntheticToken& token(std::int64_t position) const { return tokens_[static_cast<std::size_t>(position)]; }
  std::int32_t token_id(std::int64_t position) const;
  std::string token_text(std::int64_t position) const;  // " heavy", " topic3", " needle0", ...
  std::vector<TextSpan> spans() const;
  bool is_retrieval_head(int layer, int kv_head) const { return (layer + kv_head) % 2 == 0; }

  // cos and sin of the positional frequencies for `count` positions from `first` on: [reaches, count, 2 * pairs], shared by
  // all layers and heads.
  Tensor<float, 3> position_table(std::int64_t first, std::int64_t count) const;

  // [out] rows [count, d] of the positions of `table`, which begins at `first`.
  void keys(int layer, int kv_head, std::int64_t first, const Tensor<float, 3>& table, TensorView<float, 2> rows) const;
  void values(int layer, int kv_head, std::int64_t first, TensorView<float, 2> rows) const;
  void queries(int layer, int query_head, std::int64_t first, const Tensor<float, 3>& table,
               TensorView<float, 2> rows) const;
  // Rows first, first + 1, ... of W_o: [count, Hq * d].
  void output_projection(int layer, std::int64_t first, TensorView<float, 2> rows) const;

 private:
  struct QueryHead {
    float sink = 0, heavy = 0, focus = 0, needle = 0, local = 0;  // amplitudes B
  };
  struct KvHead {
    float sink = 0, heavy = 0, focus = 0, needle = 0, local = 0;  // amplitudes A
    float key_noise = 0, query_noise = 0;                         // standard deviation of one dimension
    int reach = 0;                                                // which neighbourhood, an index in reaches_
    Tensor<float, 2> directions;                                  // [3, d]: sink, heavy, needle
    Tensor<float, 2> topics;                                      // [topics, d]
    Tensor<float, 2> value_directions;                            // [topics + 1, d]: topics, then the needle
    std::vector<QueryHead> queries;
  };
  struct Reach {                      // how far a head looks back
    std::vector<double> frequencies;  // of the positional pairs
    std::vector<double> near, far;  // mean cosine at distances 0, 1, ... of the neighbourhood, and at a sample of the others
  };
  struct Focus {  // a mixture of two topics
    int from = 0, to = 0;
    float share = 0;  // of `to`
  };

  void measure_reaches();
  void place_segments();
  void place_special();
  void solve_amplitudes(int layer, int kv_head);
  void draw_directions(int layer, int kv_head);
  const KvHead& head(int layer, int kv_head) const {
    return heads_[static_cast<std::size_t>(layer * parameters_.kv_heads + kv_head)];
  }
  Focus focus_at(std::int64_t position) const;
  int focus_topic(int step) const;  // the topics that generation moves through
  bool is_in_focus(int topic, std::int64_t position) const;
  bool looks_for_needle(std::int64_t position) const;
  std::uint64_t stream(int what, int layer, int head, std::uint64_t index) const;

  SyntheticParameters parameters_;
  int pairs_ = 1;  // positional pairs
  std::vector<Reach> reaches_;
  std::vector<SyntheticToken> tokens_;
  double heavy_tokens_ = 0, copy_tokens_ = 0;  // how many
  std::vector<KvHead> heads_;
};

}  // namespace kvreplay

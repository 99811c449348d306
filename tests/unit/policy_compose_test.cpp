// Is a composition the policy whose parts it names?
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/policy/stages/scorers.h"
#include "tests/unit/policy_reference.h"

namespace kvreplay {
namespace {

using reference::evict;
using reference::kept_once;
using reference::Layer;
using reference::Rows;
using reference::shape_of;

TEST(PolicyCompose, MakesThePresets) {
  std::vector<std::pair<std::string, std::string>> same = {
      {"temporal=sum,pooling=max,kernel=7", "snapkv"},
      {"pooling=avg,granularity=query_head", "snapkv@released"},
      {"pooling=avg,allocation=pyramid", "pyramidkv"},
      {"pooling=max,kernel=7,allocation=adaptive", "adakv"},
      {"pooling=max,kernel=7,allocation=adaptive,normalize_heads=true,floor=0.5", "adakv:normalize=true,floor=0.5"},
      {"indicator=reconstruction,temporal=ema,pooling=adaptive,scale=5", "restkv:scale=5"},
      {"indicator=reconstruction,temporal=mean,metric=after,project=false,pooling=avg",
       "restkv:temporal=mean,metric=after,project=false,pooling=avg"},
      {"pooling=avg,allocation=pyramid,step=floor,granularity=query_head", "pyramidkv@released"},
      {"pooling=avg,allocation=adaptive,exact=false,normalize_heads=true,granularity=query_head", "adakv@released"},
      {"indicator=reconstruction,temporal=ema,metric=after,scope=prefix,pooling=adaptive,scale=5,shift=released,"
       "granularity=query_head",
       "restkv@released:metric=after,scale=5"},
      {"indicator=reconstruction,temporal=ema,metric=after,scope=prefix,pooling=avg,granularity=query_head,"
       "allocation=pyramid,step=floor,short_uniform=false",
       "restkv@released:metric=after,pooling=avg,allocation=pyramid"},
      {"indicator=reconstruction,temporal=ema,metric=after,scope=prefix,pooling=avg,padding=replicate,granularity=query_"
       "head",
       "restkv@released:metric=after,pooling=adaptive,scale=1e9"},
      {"indicator=attention_value,temporal=sum,pooling=avg,granularity=query_head", "ablation:indicator=attn-v"},
      {"indicator=accumulated,granularity=query_head,window=8", "h2o@factory"},
      {"indicator=accumulated,mask=full_before_window,granularity=query_head", "h2o@released"},
      {"indicator=key_norm,window=0", "knorm"},
      {"indicator=random,window=0,seed=3,granularity=query_head", "ablation:indicator=random,seed=3"},
      {"temporal=last,window=1,granularity=query_head", "tova@derived"},
      {"indicator=observed_attention,window=0", "observed_attention"},
      {"indicator=keydiff,window=0", "keydiff"},
      {"indicator=keydiff,window=0,allocation=safeguard,safeguard=0.3", "adakv@kvpress:base=keydiff,safeguard=0.3"},
      {"indicator=keydiff,window=0,allocation=safeguard,selection=two_stage", "critical_adakv:base=keydiff"},
      {"indicator=key_norm,window=0,granularity=layer,group=sum,selection=chunks,chunk=7", "chunkkv:base=knorm,chunk=7"},
  };
  same.emplace_back("pooling=max,kernel=7,allocation=table,temperature=2,table=" + reference::head_table(2),
                    "headkv:temperature=2,table=" + reference::head_table(2));
  const auto contents = reference::random_contents(shape_of(201));
  for (const auto& [keys, preset] : same)
    for (const int budget : {35, 60})
      for (const int layer : {0, 1})
        EXPECT_EQ(evict(contents, "compose:" + keys, budget, layer), evict(contents, preset, budget, layer)) << keys;
}

TEST(PolicyCompose, SinksOutOfSightTakeNoRoom) {
  auto shape = shape_of(204);
  shape.sliding_window = 50;  // the prompt's last 50 of 90 tokens
  for (const auto& row : evict(reference::random_contents(shape), "compose:window=10,sinks=42", 30)) {
    EXPECT_EQ(std::count(row.begin() + 40, row.begin() + shape.prompt, -1), 30);
    EXPECT_EQ(row[40] + row[41], -2) << "the two sinks that are left";
  }
}

// Sinks and window are taken out before pooling: nothing of them leaks into their neighbours.
TEST(PolicyCompose, SinksAreKeptAndTakenOutBeforePooling) {
  const auto shape = shape_of(202);
  const auto contents = reference::random_contents(shape);
  const Layer layer{contents};
  const int sinks = 5, window = 10, budget = 40, end = shape.prompt - window;
  Rows want;
  for (int g = 0; g < shape.kv_heads; ++g) {
    std::vector<double> score(static_cast<std::size_t>(end), 0.0), pooled(static_cast<std::size_t>(end), -1.0);
    for (int h = g * layer.group(); h < (g + 1) * layer.group(); ++h)
      for (int t = end; t < shape.prompt; ++t) {
        const auto a = layer.attention(h, t, layer.visible(t));
        for (std::size_t j = 0; j < score.size(); ++j) score[j] += a[j];
      }
    for (int j = sinks; j < end; ++j) {
      pooled[static_cast<std::size_t>(j)] = 0;
      for (int i = std::max(sinks, j - 3); i <= std::min(end - 1, j + 3); ++i)
        pooled[static_cast<std::size_t>(j)] += score[static_cast<std::size_t>(i)];
    }
    auto kept = reference::top(pooled, end, budget - sinks - window);
    for (int t = 0; t < shape.prompt; ++t)
      if (t < sinks || t >= end) kept.insert(t);
    want.push_back(kept_once(shape, kept));
  }
  EXPECT_EQ(evict(contents, "compose:pooling=avg,kernel=7,window=10,sinks=5", budget), want);
  EXPECT_EQ(make_policy(parse_policy("compose:window=10,sinks=5"))->minimum_budget(), 15);
}

TEST(PolicyCompose, EveryPartKeepsTheBudgetWithEveryOther) {
  const auto shape = shape_of(203);
  const auto contents = reference::random_contents(shape);
  const auto& parameters = find_policy("compose").parameters;
  const auto choices = [&](const std::string& key) {
    return std::find_if(parameters.begin(), parameters.end(), [&](const Parameter& p) { return p.key == key; })->choices;
  };
  for (const std::string& indicator : choices("indicator"))
    for (std::string allocation : choices("allocation")) {
      if (allocation == "table") allocation += ",table=" + reference::head_table(shape.layers);
      for (const std::string pooling : {"none", "adaptive"})
        for (const std::string selection : {"top", "two_stage"}) {
          const std::string policy = "compose:indicator=" + indicator + ",allocation=" + allocation + ",pooling=" + pooling +
                                     ",selection=" + selection + ",window=20,sinks=4";
          std::int64_t kept = 0;
          for (int l = 0; l < shape.layers; ++l)
            for (const auto& row : evict(contents, policy, 45, l)) {
              kept += std::count(row.begin(), row.begin() + shape.prompt, -1);
              EXPECT_EQ(std::count(row.begin(), row.begin() + 4, -1), 4) << policy;
              EXPECT_EQ(std::count(row.begin() + shape.prompt - 20, row.begin() + shape.prompt, -1), 20) << policy;
            }
          EXPECT_EQ(kept, 45 * shape.kv_heads * shape.layers) << policy;
        }
    }
}

TEST(PolicyCompose, ContradictionsNameThePolicyAndTheKey) {
  const auto refusal = [](const std::string& keys) -> std::string {
    return reference::refusal_of([&] { parse_policy("compose:" + keys); });
  };
  EXPECT_EQ(refusal("alpha=0.5"),
            "policy compose@paper: \"alpha\" means nothing here; it goes with temporal=ema or inv-ema");
  EXPECT_EQ(refusal("kernel=3"),
            "policy compose@paper: \"kernel\" means nothing here; it goes with pooling=avg, max or adaptive");
  EXPECT_EQ(
      refusal("window=0"),
      "policy compose@paper: \"0\" is not allowed for \"window\" with indicator=attention; it scores with the queries of "
      "the window: at least 1");
  EXPECT_EQ(refusal("window=7,pooling=adaptive"),
            "policy compose@paper: \"7\" is not allowed for \"window\" with pooling=adaptive; it cuts the window into an "
            "older and a newer half: an even number");
  EXPECT_EQ(refusal("granularity=layer,selection=two_stage"),
            "policy compose@paper: \"two_stage\" is not allowed for \"selection\" with granularity=layer; the size of a "
            "projected value belongs to a KV head: granularity=kv_head");
  EXPECT_NE(refusal("indicator=keydiff,granularity=layer").find("\"granularity\" means nothing here"), std::string::npos);
  EXPECT_EQ(refusal("indicator=lagkv,lag=16,sinks=2"), "");
}

}  // namespace
}  // namespace kvreplay

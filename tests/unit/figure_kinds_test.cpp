// Kinds of figure: do the numbers of the sources arrive in the figure, and is what the sources lack said?
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "core/report/redistribution.h"
#include "gui/figure/heat_map.h"
#include "gui/figure/line_chart.h"
#include "gui/figure/redistribution.h"
#include "gui/figure/result_table.h"
#include "gui/figure_kinds/kind.h"

namespace kvreplay::figure {
namespace {

constexpr std::int64_t layers = 2, query_heads = 4, prompt = 8, steps = 3, tokens = prompt + steps;

// Runs in memory: two layers, four query heads over two KV heads, eight prompt tokens, three steps.
class MemoryResults final : public Results {
 public:
  struct Run {
    RunInfo info;
    float error = 0;
    std::int64_t kept = 0;  // of the prompt: the first ones; one more goes after the second step
    std::int64_t heads = 2;
  };
  std::vector<Run> runs;

  void add(const std::string& policy, std::int64_t budget, float error, const std::string& trace = "t.h5") {
    Run run;
    run.info.policy = parse_policy(policy).text();
    run.info.preset = policy.substr(0, policy.find(':'));
    run.info.budget = budget;
    run.info.trace = trace;
    run.info.prompt_length = prompt;
    run.info.granularity = "kv_head";
    run.info.full_cache_bytes = 1000, run.info.cache_bytes = 100 * budget;
    run.info.kept_sha256 = "hash-" + policy;
    run.error = error, run.kept = policy == "full" ? prompt : budget;
    runs.push_back(run);
  }
  const std::string& path() const override { return path_; }
  int num_runs() const override { return static_cast<int>(runs.size()); }
  const RunInfo& info(int run) const override { return at(run).info; }
  std::vector<std::string> metric_names(int) const override {
    return {"output_error", "evicted_mass", "region_mass_before", "region_mass_after"};
  }
  MetricValues metric(int run, const std::string& name) const override {
    const float e = at(run).error;
    // Layer 1 has twice the error of layer 0; step s has (s + 1) / 2 times its mean over steps 0, 1, 2.
    if (name == "output_error") return {{layers, steps}, {"layer", "step"}, {}, {0.5F * e, e, 1.5F * e, e, 2 * e, 3 * e}};
    if (name == "evicted_mass") {
      MetricValues values{{layers, query_heads, steps}, {"layer", "query_head", "step"}, {}, {}};
      for (int i = 0; i < layers * query_heads; ++i)
        for (int s = 0; s < steps; ++s) values.values.push_back(e * static_cast<float>(i));
      return values;
    }
    MetricValues values{{layers, query_heads, steps, 6},
                        {"layer", "query_head", "step", "region"},
                        {region_names.begin(), region_names.end()},
                        {}};
    for (int i = 0; i < layers * query_heads * steps; ++i)
      for (int r = 0; r < 6; ++r) values.values.push_back(static_cast<float>(r) / (name == "region_mass_after" ? 10 : 20));
    return values;
  }
  Tensor<std::int32_t, 3> evicted_at(int run) const override {
    Tensor<std::int32_t, 3> all({layers, at(run).heads, tokens});
    for (std::int64_t l = 0; l < layers; ++l)
      for (std::int64_t h = 0; h < at(run).heads; ++h)
        for (std::int64_t i = 0; i < tokens; ++i)
          all(l, h, i) = i >= prompt || i < at(run).kept - 1 ? -1
                         : at(run).kept == prompt            ? -1
                         : i == at(run).kept - 1             ? 2
                                                             : 0;
    return all;
  }
  Tensor<std::int32_t, 2> evicted_at(int run, std::int64_t layer) const override {
    const auto all = evicted_at(run);
    Tensor<std::int32_t, 2> one({all.dim(1), all.dim(2)});
    std::copy_n(&all(layer, 0, 0), one.size(), one.data());
    return one;
  }
  bool has_scores(int) const override { return false; }
  Tensor<float, 2> scores(int, std::int64_t) const override { return {}; }

 private:
  const Run& at(int run) const { return runs[static_cast<std::size_t>(run)]; }
  std::string path_ = "memory.h5";
};

MemoryResults sample() {
  MemoryResults results;
  for (std::int64_t budget : {2, 4}) {
    results.add("snapkv", budget, 0.4F / static_cast<float>(budget));
    results.add("restkv:alpha=0.1", budget, 0.2F / static_cast<float>(budget));
    results.add("restkv:alpha=0.5", budget, 0.3F / static_cast<float>(budget));
    results.add("oracle_attention", budget, 0.1F / static_cast<float>(budget));
  }
  results.add("full", 4, 0);
  return results;
}

FigureSources sources_of(MemoryResults results) {
  auto report = std::make_shared<ReportSources>();
  report->files.push_back(std::make_unique<MemoryResults>(std::move(results)));
  Job job;
  report->comparison = compare({report->files[0].get()}, {}, job);
  report->metric = "output_error";
  FigureSources sources;
  sources.results = report;
  return sources;
}

FigureSources table_of(const std::string& csv) {
  FigureSources sources;
  sources.tables.push_back(ValueTable::parse(csv, "t.csv"));
  return sources;
}

std::unique_ptr<Figure> draw(const std::string& kind, const FigureSources& sources,
                             const std::map<std::string, std::string>& options = {}) {
  Job job;
  FigureSpec spec;
  spec.kind = kind, spec.files = {"memory.h5"}, spec.options = options;
  return make_figure(spec, sources, job);
}

template <class Kind>
Kind as(const std::unique_ptr<Figure>& figure) {
  return dynamic_cast<const Kind&>(*figure);
}

// What the kind says is missing.
std::string refusal(const std::string& kind, const FigureSources& sources,
                    const std::map<std::string, std::string>& options = {}) {
  try {
    draw(kind, sources, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing is wrong";
}

const Series& find(const std::vector<Series>& all, const std::string& name) {
  for (const auto& series : all)
    if (series.name == name) return series;
  throw std::runtime_error("no series " + name);
}

TEST(FigureKinds, DescribeThemselves) {
  std::set<std::string> names;
  for (const FigureKind* kind : figure_kinds()) {
    EXPECT_TRUE(names.insert(kind->name).second) << kind->name;
    EXPECT_FALSE(kind->idea.empty() || kind->needs.empty()) << kind->name;
    std::set<std::string> keys;
    for (const auto& parameter : kind->parameters) {
      EXPECT_TRUE(keys.insert(parameter.key).second) << kind->name << " " << parameter.key;
      EXPECT_FALSE(parameter.doc.empty()) << kind->name << " " << parameter.key;
      EXPECT_NO_THROW(parameter.check(kind->name, parameter.defaults.at(""))) << kind->name << " " << parameter.key;
    }
    EXPECT_NE(refusal(kind->name, {}).find("it needs"), std::string::npos) << kind->name << ": no sources at all";
  }
  EXPECT_GE(names.size(), 14U);
  EXPECT_THROW(find_figure_kind("head_gird"), UsageError);
}

TEST(FigureKinds, ErrorByBudgetHasTheMeansAndMarksBounds) {
  const auto chart = as<LineChart>(draw("error_by_budget", sources_of(sample())));
  ASSERT_EQ(chart.series.size(), 4U) << "the full cache evicts nothing and is left out";
  const Series& snapkv = find(chart.series, "snapkv");
  EXPECT_EQ(snapkv.x, (std::vector<double>{2, 4}));
  EXPECT_NEAR(snapkv.y[0], 0.3, 1e-6);  // layers at 0.2 and 0.4
  EXPECT_NEAR(snapkv.y[1], 0.15, 1e-6);
  EXPECT_FALSE(snapkv.reference);
  EXPECT_TRUE(find(chart.series, "oracle_attention").reference);
  EXPECT_NE(find(chart.series, "restkv:alpha=0.1").style, snapkv.style);
  const auto two = as<LineChart>(draw("error_by_budget", sources_of(sample()), {{"policy", "restkv:alpha=0.5;snapkv"}}));
  ASSERT_EQ(two.series.size(), 2U);
  EXPECT_EQ(find(two.series, "snapkv").style, snapkv.style) << "a policy looks the same in every figure";
}

TEST(FigureKinds, SeveralTracesGiveIntervals) {
  MemoryResults results = sample();
  for (std::int64_t budget : {2, 4}) results.add("snapkv", budget, 0.8F / static_cast<float>(budget), "u.h5");
  const auto chart = as<LineChart>(draw("error_by_budget", sources_of(results)));
  const Series& snapkv = find(chart.series, "snapkv");
  EXPECT_NEAR(snapkv.y[0], 0.45, 1e-6);  // traces at 0.3 and 0.6
  ASSERT_EQ(snapkv.low.size(), 2U);
  EXPECT_NEAR(snapkv.low[0], 0.3, 1e-6);
  EXPECT_NEAR(snapkv.high[0], 0.6, 1e-6);
}

TEST(FigureKinds, ByLayerAndByStepAreMeansOverTheRest) {
  const auto by_layer = as<LineChart>(draw("error_by_layer", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}}));
  ASSERT_EQ(by_layer.series.size(), 1U);
  EXPECT_NEAR(by_layer.series[0].y[0], 0.1, 1e-6);
  EXPECT_NEAR(by_layer.series[0].y[1], 0.2, 1e-6);
  const auto by_step = as<LineChart>(draw("error_by_step", sources_of(sample()), {{"budget", "50%"}, {"policy", "snapkv"}}));
  EXPECT_EQ(by_step.series[0].x, (std::vector<double>{1, 2, 3}));
  EXPECT_NEAR(by_step.series[0].y[0], (0.05 + 0.1) / 2, 1e-6);
  const auto one =
      as<LineChart>(draw("error_by_step", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}, {"layer", "1"}}));
  EXPECT_NEAR(one.series[0].y[2], 0.3, 1e-6);
}

TEST(FigureKinds, HeadGridHasAValueAHeadAndDifferences) {
  const auto grid = as<HeatMap>(draw("head_grid", sources_of(sample()), {{"budget", "4"}}));
  ASSERT_EQ(grid.panels.size(), 4U);
  EXPECT_EQ(grid.rows, layers);
  EXPECT_EQ(grid.columns, query_heads);
  EXPECT_NEAR(grid.panels[0].values[5], 0.1 * 5, 1e-6);
  const auto minus = as<HeatMap>(
      draw("head_grid", sources_of(sample()), {{"budget", "4"}, {"policy", "restkv:alpha=0.1"}, {"minus", "snapkv"}}));
  EXPECT_EQ(minus.color_map, ColorMap::diverging);
  EXPECT_NEAR(minus.panels[0].values[5], (0.05 - 0.1) * 5, 1e-6);
  const auto maps =
      as<HeatMap>(draw("head_grid", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}, {"cells", "map"}}));
  EXPECT_EQ(maps.column_group, tokens);
  EXPECT_EQ(maps.columns, 2 * tokens);
  EXPECT_EQ(maps.panels[0].values[2], 1.0F);
  EXPECT_EQ(maps.panels[0].values[3], 0.0F);
}

TEST(FigureKinds, EvictionMapTellsPromptEvictionFromLaterOnesAndFromKept) {
  const auto map = as<HeatMap>(draw("eviction_map", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}}));
  EXPECT_EQ(map.rows, layers * 2);
  EXPECT_EQ(map.row_group, 2);
  const std::vector<float> first(map.panels[0].values.begin(), map.panels[0].values.begin() + tokens);
  EXPECT_EQ(first, (std::vector<float>{4, 4, 4, 2, 0, 0, 0, 0, 4, 4, 4}));
  ASSERT_EQ(map.states.size(), 2U);
  EXPECT_EQ(map.states[0].value, 0);
  EXPECT_EQ(map.states[1].value, 4);
  const auto part = as<HeatMap>(draw("eviction_map", sources_of(sample()),
                                     {{"budget", "4"}, {"policy", "snapkv"}, {"layer", "1"}, {"tokens", "2:5"}}));
  EXPECT_EQ(part.panels[0].values, (std::vector<float>{4, 2, 0, 4, 2, 0}));
  EXPECT_EQ(part.first_column, 2);
  // At 4 tokens one policy against the full cache, which keeps everything.
  const auto minus = as<HeatMap>(draw("eviction_map", sources_of(sample()),
                                      {{"budget", "4"}, {"policy", "snapkv"}, {"minus", "full"}, {"layer", "0"}}));
  EXPECT_EQ(minus.panels[0].values[3], 2 - 4);
  EXPECT_EQ(minus.panels[0].values[4], 0 - 4);
  const auto by_layer =
      as<HeatMap>(draw("eviction_map", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}, {"rows", "layers"}}));
  EXPECT_EQ(by_layer.rows, layers);
  EXPECT_EQ(by_layer.panels[0].values[2], 1.0F);
  EXPECT_EQ(by_layer.panels[0].values[3], 0.0F);
}

TEST(FigureKinds, PolicyByLayerKeptMapAndRankingHaveARowAPolicy) {
  const auto map = as<HeatMap>(draw("policy_by_layer", sources_of(sample()), {{"budget", "4"}}));
  EXPECT_EQ(map.row_names.front(), "snapkv");
  EXPECT_NEAR(map.panels[0].values[1], 0.2, 1e-6);
  const auto minus = as<HeatMap>(draw("policy_by_layer", sources_of(sample()), {{"budget", "4"}, {"minus", "snapkv"}}));
  EXPECT_EQ(minus.rows, 3);
  EXPECT_NEAR(minus.panels[0].values[1], 0.1 - 0.2, 1e-6);
  const auto kept = as<HeatMap>(draw("kept_map", sources_of(sample()), {{"budget", "2"}, {"tokens", "0:4"}}));
  EXPECT_EQ(std::vector<float>(kept.panels[0].values.begin(), kept.panels[0].values.begin() + 4),
            (std::vector<float>{1, 0, 0, 0}));
  const auto ranking = as<LineChart>(draw("head_ranking", sources_of(sample()), {{"budget", "4"}, {"policy", "snapkv"}}));
  EXPECT_NEAR(ranking.series[0].y.back(), 0.7, 1e-6);
  EXPECT_NEAR(ranking.series[0].x.front(), 12.5, 1e-9);
}

TEST(FigureKinds, SensitivityFollowsOneParameterAndMarksItsDefault) {
  const auto chart = as<LineChart>(draw("sensitivity", sources_of(sample())));
  EXPECT_EQ(chart.x.label, "alpha");
  ASSERT_EQ(chart.series.size(), 2U) << "one line a budget";
  EXPECT_EQ(chart.series[0].x, (std::vector<double>{0.1, 0.5}));
  EXPECT_NEAR(chart.series[0].y[1], 0.225, 1e-6);
  ASSERT_EQ(chart.x_marks.size(), 1U);
  EXPECT_EQ(chart.x_marks[0].value, 0.3);
  MemoryResults one;
  one.add("snapkv", 2, 0.1F), one.add("snapkv", 4, 0.1F);
  EXPECT_NE(refusal("sensitivity", sources_of(one)).find("several values of a parameter"), std::string::npos);
}

TEST(FigureKinds, TableRanksPoliciesAtEachBudget) {
  const auto table = as<ResultTable>(draw("table", sources_of(sample())));
  ASSERT_EQ(table.columns.size(), 2U);
  ASSERT_EQ(table.rows.size(), 4U);
  EXPECT_EQ(table.rank(1, 0), 1);  // restkv:alpha=0.1
  EXPECT_EQ(table.rank(2, 0), 2);
  EXPECT_TRUE(table.rows[3].reference);
  const auto statistics = as<ResultTable>(draw("table", sources_of(sample()), {{"columns", "statistic"}, {"budget", "4"}}));
  EXPECT_EQ(statistics.columns.size(), 4U);
  EXPECT_NEAR(statistics.rows[0].values[1], 0.15, 1e-6);
  EXPECT_EQ(as<ResultTable>(draw("table", sources_of(sample()), {{"columns", "metric"}})).columns[0].title,
            "Layer output error");
}

TEST(FigureKinds, RedistributionOfMeansHasTheRegions) {
  const auto chart = as<RedistributionChart>(
      draw("redistribution", sources_of(sample()), {{"view", "mean"}, {"policy", "snapkv"}, {"budget", "4"}}));
  ASSERT_EQ(chart.sections.size(), 1U);
  EXPECT_EQ(chart.sections[0].bars[2].name, "second third");
  EXPECT_NEAR(chart.sections[0].bars[2].before, 0.1, 1e-6);
  EXPECT_NEAR(chart.sections[0].bars[2].after, 0.2, 1e-6);
  EXPECT_NE(refusal("redistribution", sources_of(sample()), {{"policy", "snapkv"}}).find("--view mean"), std::string::npos);
}

constexpr const char* published =
    "paper,model,policy,budget,budget_unit,context,metric,value,unit\n"
    "P,m,full,,full,,score,40,points\n"
    "P,m,snapkv,128,tokens,,score,31,points\n"
    "P,m,snapkv,64,tokens,,score,30,points\n"
    "P,m,restkv,64,tokens,,score,35,points\n"
    "P,m,restkv,128,tokens,,score,36,points\n";

TEST(FigureKinds, PublishedValuesAreDrawnTheSame) {
  const auto chart = as<LineChart>(draw("error_by_budget", table_of(published)));
  EXPECT_EQ(find(chart.series, "snapkv").x, (std::vector<double>{64, 128}));
  EXPECT_EQ(find(chart.series, "snapkv").y, (std::vector<double>{30, 31}));
  const Series& full = find(chart.series, "full");
  EXPECT_TRUE(full.reference && full.line_only);
  EXPECT_EQ(full.y, (std::vector<double>{40, 40}));
  const auto table = as<ResultTable>(draw("table", table_of(published), {{"where", "budget_unit=tokens"}}));
  EXPECT_EQ(table.rank(1, 0), 1) << "points: more is better";
  EXPECT_NE(refusal("error_by_budget", table_of(published), {{"where", "model=x"}}).find("model is m"), std::string::npos);
  EXPECT_NE(refusal("error_by_budget", table_of(std::string(published) + "P,n,snapkv,64,tokens,,score,1,points\n"),
                    {{"where", "policy=snapkv"}, {"policy", "restkv"}})
                .find("none of these policies"),
            std::string::npos);
}

TEST(FigureKinds, NeedleGridBinsDepthAndLength) {
  const auto grid = as<HeatMap>(
      draw("needle_grid", table_of("policy,depth,context,value\nsnapkv,0,1024,1\nsnapkv,10,1024,0\nsnapkv,100,8192,0.5\n"),
           {{"bins", "4"}}));
  EXPECT_EQ(grid.rows, 4);
  EXPECT_EQ(grid.column_names, (std::vector<std::string>{"1k", "8k"}));
  EXPECT_EQ(grid.panels[0].values[0], 0.5F) << "mean of two in the first bin";
  EXPECT_EQ(grid.panels[0].values[7], 0.5F) << "a depth of 100 % is in the last";
  EXPECT_TRUE(std::isnan(grid.panels[0].values[1]));
  EXPECT_NE(refusal("needle_grid", table_of(published)).find("no column \"depth\""), std::string::npos);
}

TEST(FigureKinds, CostsHaveTheirFloor) {
  const std::string costs =
      "policy,context,value,unit\nfull,1000,0.02,s\nfull,2000,30,ms\nfull,1000,10,GB\nfull,2000,12,GB\n";
  const auto chart =
      as<LineChart>(draw("cost_by_context", table_of(costs),
                         {{"bandwidth", "1000"}, {"weights", "5"}, {"bytes_per_token", "1000000"}, {"kept", "500"}}));
  ASSERT_EQ(chart.panels.size(), 2U);
  EXPECT_EQ(find(chart.panels[0].series, "full").y, (std::vector<double>{20, 30}));
  EXPECT_EQ(find(chart.panels[1].series, "full").y, (std::vector<double>{10, 12}));
  // (5 GB + 1 MB · tokens) / 1000 GB/s
  EXPECT_NEAR(find(chart.panels[0].series, "floor, full cache").y[1], 7, 1e-9);
  EXPECT_NEAR(find(chart.panels[0].series, "floor, 500 tokens kept").y[1], 5.5, 1e-9);
  EXPECT_NE(refusal("cost_by_context", table_of(published)).find("no times or sizes"), std::string::npos);
  EXPECT_NE(refusal("cost_by_context", sources_of(sample())).find("prompts of one length"), std::string::npos);
}

TEST(FigureKinds, WhatIsMissingIsSaid) {
  const FigureSources sources = sources_of(sample());
  EXPECT_NE(refusal("error_by_budget", sources, {{"metric", "output_eror"}}).find("did you mean output_error?"),
            std::string::npos);
  EXPECT_NE(refusal("head_grid", sources, {{"metric", "output_error"}}).find("no value for each head"), std::string::npos);
  EXPECT_NE(refusal("error_by_layer", sources, {{"policy", "h2o"}}).find("no run has the policy"), std::string::npos);
  EXPECT_NE(refusal("error_by_layer", sources, {{"policy", "restkv"}}).find("restkv:alpha=0.1 or restkv:alpha=0.5"),
            std::string::npos);
  EXPECT_NE(refusal("error_by_layer", sources, {{"budget", "3"}}).find("there are 2 (25 %) and 4 (50 %)"),
            std::string::npos);
  EXPECT_NE(refusal("error_by_step", sources, {{"layer", "7"}}).find("layers are 0 to 1"), std::string::npos);
  EXPECT_NE(refusal("eviction_map", sources, {{"tokens", "5:3"}}).find("within 0:11"), std::string::npos);
  EXPECT_NE(refusal("token_strip", sources, {{"policy", "snapkv"}}).find("not there any more"), std::string::npos);
  EXPECT_NE(refusal("needle_grid", sources, {{"metric", "output_error"}}).find("not there any more"), std::string::npos);
  EXPECT_NE(refusal("head_grid", sources, {{"cells", "numbr"}}).find("number or map"), std::string::npos);
  EXPECT_THROW(draw("head_grid", sources, {{"polcy", "snapkv"}}), UsageError);
  MemoryResults one;
  one.add("snapkv", 4, 0.1F);
  EXPECT_NE(refusal("error_by_budget", sources_of(one)).find("all runs have the same budget"), std::string::npos);
  MemoryResults idle;
  idle.add("full", 4, 0);
  EXPECT_NE(refusal("error_by_layer", sources_of(idle)).find("no run evicted anything"), std::string::npos);
}

TEST(FigureKinds, ProvenanceHasTheCommandAndThePolicies) {
  const auto figure =
      draw("error_by_layer", sources_of(sample()), {{"policy", "snapkv;restkv:alpha=0.5"}, {"title", "It's mine"}});
  EXPECT_EQ(figure->title, "It's mine");
  EXPECT_EQ(figure->provenance[0].second,
            "kvreplay figure error_by_layer memory.h5 --policy snapkv --policy restkv:alpha=0.5 --title 'It'\\''s mine'");
  std::string all;
  for (const auto& [key, value] : figure->provenance) all += key + ": " + value + "\n";
  EXPECT_NE(all.find("policy: " + parse_policy("restkv:alpha=0.5").text()), std::string::npos);
  EXPECT_NE(all.find("evicted: snapkv at 2: hash-snapkv"), std::string::npos);
  EXPECT_EQ(all.find("oracle"), std::string::npos) << "only what is drawn";
}

TEST(FigureSpecs, ReadWhatTheyWrite) {
  const auto folder = std::filesystem::temp_directory_path() / "kvreplay_figure_spec_test";
  std::filesystem::create_directories(folder);
  FigureSpec spec;
  spec.kind = "table";
  spec.files = {(folder / "r.h5").string(), (folder.parent_path() / "t.csv").string()};
  spec.options = {{"policy", "snapkv;restkv:alpha=0.3,kernel=5"}, {"budget", "10%"}};
  spec.output = {.medium = Medium::print, .dark = true, .width = column_width, .heading = false};
  const auto path = folder / "figure.json";
  std::ofstream(path) << spec.to_json(folder.string());
  const FigureSpec again = FigureSpec::read(path.string());
  EXPECT_EQ(again.kind, spec.kind);
  EXPECT_EQ(again.files, spec.files);
  EXPECT_EQ(again.options, spec.options);
  EXPECT_EQ(again.output.width, column_width);
  EXPECT_TRUE(again.output.dark && again.output.medium == Medium::print && !again.output.heading);
  EXPECT_EQ(again.to_json(folder.string()), spec.to_json(folder.string()));
  for (const char* broken :
       {"{", "[]", "{\"kind\": 3}", "{}", "{\"kind\": \"table\", \"colour\": 1}", "{\"kind\": \"table\", \"files\": 1}",
        "{\"kind\": \"table\", \"output\": {\"width\": 5}}", "{\"kvreplay_figure\": 2, \"kind\": \"table\"}",
        "{\"kind\": \"table\", \"options\": {\"policy\": {}}}",
        "{\"kind\": \"table\", \"output\": {\"medium\": \"ink\"}}"}) {
    std::ofstream(path) << broken;
    EXPECT_THROW(FigureSpec::read(path.string()), Error) << broken;
  }
  std::filesystem::remove_all(folder);
  EXPECT_EQ(parse_figure_width("column"), column_width);
  for (const char* width : {"", "wide", "0", "1e9", "nan", "300px"}) {
    EXPECT_THROW(parse_figure_width(width), Error) << width;
  }
}

TEST(ValueTables, SayWhatIsWrongInWhichRow) {
  EXPECT_EQ(ValueTable::parse("policy,value\na,1\nb,-2.5e3\n", "t.csv").value(1), -2500);
  for (const auto& [text, words] :
       std::vector<std::pair<std::string, std::string>>{{"", "is empty"},
                                                        {"policy,score\na,1\n", "no column \"value\""},
                                                        {"policy,value\na\n", "row 1"},
                                                        {"policy,value\na,1\nb,x\n", "row 2"},
                                                        {"policy,value\n", "has no values"}}) {
    try {
      ValueTable::parse(text, "t.csv");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace kvreplay::figure

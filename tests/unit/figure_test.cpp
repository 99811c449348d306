// Figures: are they the same bytes each time, do they hold what they should, are ticks and colours right?
//
// The pictures in tests/golden/figures are what the library draws for the data below. After a deliberate change:
//   KVREPLAY_WRITE_GOLDEN=1 build/dev/bin/kvreplay_unit_tests --gtest_filter='FigureGolden*'
// and look at every one of them before they are committed.
#include <gtest/gtest.h>

#include <QtGlobal>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>

#include "core/base/error.h"
#include "gui/figure/canvas.h"
#include "gui/figure/heat_map.h"
#include "gui/figure/line_chart.h"
#include "gui/figure/redistribution.h"
#include "gui/figure/result_table.h"
#include "gui/figure/token_strip.h"

namespace kvreplay::figure {
namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

LineChart budget_chart() {
  LineChart chart;
  chart.title = "Output error against budget";
  chart.subtitle = "output_error, mean over layers and steps; whiskers: 5th to 95th percentile over layers";
  chart.provenance = {{"trace", "example.h5"}, {"model", "example <model> & more"}};
  chart.x = {.label = "budget (tokens per head)", .logarithmic = true, .minimum = {}, .maximum = {}, .ticks = {}};
  chart.y = {
      .label = "relative error of the layer's output", .logarithmic = true, .minimum = {}, .maximum = {}, .ticks = {}};
  const std::vector<double> budgets = {64, 128, 256, 512, 1024};
  for (double budget : budgets)
    chart.x.ticks.push_back({budget, number_label(budget, 4) + "\n" + number_label(budget / 40.96) + " %"});
  const std::vector<std::pair<std::string, double>> policies = {{"random", 0.9}, {"streaming_llm", 0.62},   {"h2o", 0.38},
                                                                {"tova", 0.33},  {"snapkv", 0.27},          {"restkv", 0.2},
                                                                {"full", 0},     {"oracle_attention", 0.13}};
  for (const auto& [name, start] : policies) {
    Series series;
    series.name = name;
    series.reference = name == "oracle_attention";
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const double y = start * std::pow(0.62 - 0.02 * static_cast<double>(i), static_cast<double>(i));
      series.x.push_back(budgets[i]);
      series.y.push_back(y);
      series.low.push_back(y * 0.55);
      series.high.push_back(y * 1.8);
    }
    chart.series.push_back(series);
  }
  return chart;
}

LineChart layer_chart() {
  LineChart chart;
  chart.title = "Output error by layer";
  chart.subtitle = "budget 410 tokens per head (10 % of the prompt); mean over steps";
  chart.x = {.label = "layer", .integers = true, .minimum = {}, .maximum = {}, .ticks = {}};
  chart.y = {.label = "relative error of the layer's output", .minimum = {}, .maximum = {}, .ticks = {}};
  for (int policy = 0; policy < 3; ++policy) {
    Series series;
    series.name = std::vector<std::string>{"snapkv", "restkv", "oracle_attention"}[static_cast<std::size_t>(policy)];
    series.reference = policy == 2;
    for (int layer = 0; layer < 8; ++layer) {
      series.x.push_back(layer);
      series.y.push_back(policy == 1 && layer == 5 ? nan_value
                                                   : 0.1 + 0.05 * std::sin(layer * 1.1 + policy) + 0.02 * (2 - policy));
    }
    chart.series.push_back(series);
  }
  return chart;
}

LineChart panel_chart() {
  LineChart chart = budget_chart();
  chart.title = "The middle and the worst layers";
  chart.subtitle = "Quantiles over layers, each a mean over steps";
  for (auto& series : chart.series) series.low.clear(), series.high.clear();
  chart.series[3].name = "compose:indicator=reconstruction,temporal=ema,alpha=0.3,pooling=avg,kernel=7,allocation=adaptive";
  for (const char* title : {"median", "95th percentile", "99th percentile"}) {
    chart.panels.push_back({title, chart.series});
    for (auto& series : chart.panels.back().series)
      for (auto& y : series.y) y *= static_cast<double>(chart.panels.size());
  }
  chart.series.clear();
  return chart;
}

HeatMap head_map() {
  HeatMap map;
  map.title = "Evicted attention mass by head";
  map.subtitle = "budget 410 tokens per head (10 % of the prompt); mean over steps";
  map.rows = 8, map.columns = 8;
  map.row_label = "layer", map.column_label = "query head";
  map.value_label = "share of the attention that was on evicted tokens";
  for (const char* name : {"random", "streaming_llm", "h2o", "snapkv", "restkv", "oracle_attention"}) {
    HeatMap::Panel panel{name, {}};
    for (int i = 0; i < 64; ++i)
      panel.values.push_back(static_cast<float>(0.5 + 0.5 * std::sin(0.7 * i + static_cast<double>(map.panels.size()))) *
                             (0.9F - 0.13F * static_cast<float>(map.panels.size())));
    if (map.panels.size() == 2) panel.values[10] = nan_value;
    map.panels.push_back(panel);
  }
  return map;
}

HeatMap position_map() {
  HeatMap map;
  map.title = "Where the kept tokens are";
  map.subtitle = "share of heads that keep each token of the prompt";
  map.rows = 3, map.columns = 4096;
  map.row_names = {"streaming_llm", "snapkv", "oracle_attention"};
  map.column_label = "position in the prompt";
  map.value_label = "share of heads that keep the token";
  map.color_map = ColorMap::cividis;
  map.minimum = 0, map.maximum = 1;
  map.marks = {{1200, 1260, "needle"}, {4050, 4090, "question"}};
  HeatMap::Panel panel;
  for (int row = 0; row < 3; ++row)
    for (int i = 0; i < 4096; ++i)
      panel.values.push_back(row == 0                               ? (i < 4 || i > 3700 ? 1.0F : 0.0F)
                             : i == 2000 || (i >= 1200 && i < 1260) ? 0.9F
                                                                    : static_cast<float>((i * 37 % 101) / 400.0));
  map.panels.push_back(panel);
  return map;
}

HeatMap difference_map() {
  HeatMap map;
  map.title = "Difference between two runs";
  map.rows = 4, map.columns = 6;
  map.row_label = "layer", map.column_label = "query head";
  map.value_label = "restkv − snapkv, evicted mass";
  map.color_map = ColorMap::diverging;
  HeatMap::Panel panel;
  for (int i = 0; i < 24; ++i) panel.values.push_back(static_cast<float>(0.3 * std::sin(i * 0.9)));
  map.panels.push_back(panel);
  return map;
}

TokenStrip strip() {
  TokenStrip strip;
  strip.title = "What snapkv keeps";
  strip.subtitle = "budget 64 tokens per head; all layers and heads";
  const std::vector<std::string> words = {"<s>", "It",      " was",    " a",      " bright",  " cold",     " day",
                                          ",",   " and",    " the",    " clocks", " were",    " striking", " nine",
                                          ".\n", "The",     " secret", " number", " is",      " 74",       "21",
                                          ".",   " Nobody", " looked", " up",     "\xe2\x80", "\xa6"};
  for (std::size_t i = 0; i < words.size(); ++i) {
    TokenStrip::Token token{words[i], static_cast<float>(i * 7 % 12) / 11.0F};
    if (i % 3 == 1) token.kept = 0;
    if (i >= 15 && i < 22) token.mark = "needle";
    strip.tokens.push_back(token);
  }
  return strip;
}

// Long names, more policies than colours, a line of one point, a value that is missing, zeros on a logarithmic axis.
LineChart hard_chart() {
  LineChart chart;
  chart.title = "Twelve policies whose names say every parameter, on a logarithmic axis with zeros";
  chart.x = {.label = "budget (tokens per head)", .logarithmic = true, .minimum = {}, .maximum = {}, .ticks = {}};
  chart.y = {.label = "relative error", .logarithmic = true, .minimum = {}, .maximum = {}, .ticks = {}};
  for (int policy = 0; policy < 12; ++policy) {
    Series series;
    series.name = "compose:indicator=reconstruction,temporal=ema,alpha=0." + std::to_string(policy) + ",kernel=7";
    for (int i = 0; i < (policy == 3 ? 1 : 4); ++i) {
      series.x.push_back(64 << i);
      series.y.push_back(policy == 5 && i == 2 ? nan_value : policy == 7 && i > 1 ? 0 : std::pow(0.5, i) / (policy + 1));
    }
    chart.series.push_back(series);
  }
  for (const char* bound : {"oracle_attention", "oracle_output"}) {
    Series series;
    series.name = bound;
    series.reference = true;
    series.x = {64, 512}, series.y = {0.06, bound[7] == 'a' ? 0.01 : 0.006};
    chart.series.push_back(series);
  }
  return chart;
}

// Time and memory: panels with axes of their own, a floor without markers, a place that is named.
LineChart cost_chart() {
  LineChart chart;
  chart.title = "Time and memory against context";
  chart.x = {.label = "context (tokens)", .logarithmic = true, .minimum = {}, .maximum = {}, .ticks = {}};
  Axis time, memory;
  time.logarithmic = true;
  const std::vector<double> contexts = {4096, 16384, 65536, 262144};
  for (double context : contexts) chart.x.ticks.push_back({context, number_label(context / 1024) + "k"});
  Series full{.name = "full", .x = contexts, .y = {29, 35, 60, 180}, .style = 0};
  Series floor{.name = "floor", .x = contexts, .y = {5, 5.6, 8, 18}, .reference = true, .line_only = true};
  Series bytes{.name = "full", .x = contexts, .y = {15, 16.6, 23, 48}, .style = 0};
  chart.panels = {{"time per token (ms)", {full, floor}, time}, {"peak memory (GB)", {bytes}, memory}};
  chart.x_marks = {{32768, "window"}};
  return chart;
}

// When tokens died, by layer and head.
HeatMap death_map() {
  HeatMap map;
  map.title = "When h2o evicts each token";
  map.rows = 6, map.columns = 40;
  map.row_group = 2, map.row_names = {"0", "3", "5"};
  map.row_label = "layer", map.column_label = "position";
  map.first_column = 100;
  map.value_label = "decode step after which the token was evicted";
  map.color_start = 0.25;
  map.minimum = 1, map.maximum = 8;
  map.states = {{0, "evicted when the prompt ended", false}, {9, "kept to the end", true}};
  map.marks = {{12, 18, "needle"}};
  HeatMap::Panel panel;
  for (int i = 0; i < 240; ++i) panel.values.push_back(static_cast<float>(i % 7 == 0 ? 9 : i % 5 == 0 ? i % 8 + 1 : 0));
  panel.values[41] = nan_value;
  map.panels.push_back(panel);
  return map;
}

HeatMap number_map() {
  HeatMap map;
  map.title = "Evidence recall by depth and length";
  map.rows = 3, map.columns = 3;
  map.row_names = {"0–33 %", "33–67 %", "67–100 %"}, map.column_names = {"1k", "8k", "128k"};
  map.row_label = "depth", map.column_label = "prompt (tokens)";
  map.value_label = "Evidence recall";
  map.color_map = ColorMap::cividis;
  map.numbers = true;
  map.minimum = 0, map.maximum = 1;
  map.panels = {{"snapkv", {0, 0.5F, 1, 0.25F, nan_value, 0.004F, 0.1F, 0.2F, 0.3F}},
                {"restkv", {1, 1, 1, 0.5F, 0.5F, 0.5F, 0, 0, 0}}};
  return map;
}

// Each head's own small map.
HeatMap grouped_map() {
  HeatMap map;
  map.title = "What each head keeps of the text";
  map.rows = 3, map.columns = 4 * 16;
  map.column_group = 16;
  map.row_label = "layer", map.column_label = "KV head";
  map.value_label = "share of the tokens of a stretch";
  map.color_map = ColorMap::cividis;
  map.minimum = 0, map.maximum = 1;
  HeatMap::Panel panel;
  for (int i = 0; i < 3 * 64; ++i) panel.values.push_back(static_cast<float>(i % 16 == 15 ? 1 : i * 13 % 17 / 40.0));
  map.panels.push_back(panel);
  return map;
}

RedistributionChart redistribution() {
  RedistributionChart chart;
  chart.title = "Where the evicted attention goes";
  chart.subtitle = "snapkv, budget 512 tokens per head; layer 3, query head 1, decode step 7";
  chart.has_factors = true;
  chart.factors = {0.774, 1.97, 0.92, 1.6574};
  chart.sections = {
      {"Attention by region",
       {{"sinks", 0.045, 0.198}, {"first third", 0.431, 0.0066}, {"recent", 0.1, 0.444}, {"generated", 0, 0}}},
      {"Kept tokens that receive most", {{" is", 0.045, 0.198, "position 4,083"}, {"\n\xff", 0.003, 0.013, "position 12"}}},
      {"Evicted tokens that had most",
       {{" a-very-long-token-that-goes-on-and-on-and-on", 0.048, 0, "position 1,030", true},
        {"4", 0.00001, 0, "position 1,033", true}}}};
  return chart;
}

ResultTable result_table() {
  ResultTable table;
  table.title = "Layer output error by budget";
  table.subtitle = "Mean over 4 traces; bold: best, underlined: second";
  table.provenance = {{"command", "kvreplay figure table r.h5"}};
  table.row_label = "policy";
  table.columns = {{"budget", "128"}, {"budget", "1,024"}, {"", "evidence recall", true}, {"", "bytes", false, false}};
  table.rows = {{"random", {0.705, 0.446, 0.1, 512}, {0.02, 0.01, nan_value, nan_value}},
                {"snapkv", {0.28404, 0.11, 0.313, 512}, {0.021, 0.012, 0.1, nan_value}},
                {"restkv_50%", {0.28396, 0.123, nan_value, 512}, {}},
                {"oracle", {0.2, 0.05, 0.5, 512}, {}, true}};
  return table;
}

struct Example {
  const char* name;
  std::unique_ptr<Figure> figure;
  Output output;
};

template <class Kind>
std::unique_ptr<Figure> own(Kind kind) {
  return std::make_unique<Kind>(std::move(kind));
}

std::vector<Example> examples() {
  std::vector<Example> all;
  all.push_back({"line_chart_screen", own(budget_chart()), {}});
  all.push_back({"line_chart_narrow_dark", own(budget_chart()), {.dark = true, .width = 360}});
  all.push_back({"line_chart_print", own(layer_chart()), {.medium = Medium::print, .width = column_width}});
  all.push_back({"line_chart_panels", own(panel_chart()), {}});
  all.push_back({"line_chart_panels_narrow", own(panel_chart()), {.width = 360}});
  all.push_back({"heat_map_screen", own(head_map()), {}});
  all.push_back({"heat_map_print_dark", own(head_map()), {.medium = Medium::print, .dark = true, .width = page_width}});
  all.push_back({"heat_map_narrow", own(head_map()), {.width = 360}});
  all.push_back({"heat_map_positions", own(position_map()), {}});
  all.push_back({"heat_map_difference", own(difference_map()), {.medium = Medium::print, .width = column_width}});
  all.push_back({"line_chart_hard", own(hard_chart()), {.medium = Medium::print, .width = column_width}});
  all.push_back({"line_chart_hard_dark", own(hard_chart()), {.dark = true, .width = 1000}});
  all.push_back({"line_chart_own_axes", own(cost_chart()), {.medium = Medium::print, .width = page_width}});
  all.push_back({"heat_map_states", own(death_map()), {}});
  all.push_back(
      {"heat_map_states_narrow_dark", own(death_map()), {.medium = Medium::print, .dark = true, .width = column_width}});
  all.push_back({"heat_map_numbers", own(number_map()), {.medium = Medium::print, .width = column_width}});
  all.push_back({"heat_map_groups", own(grouped_map()), {.width = 420}});
  all.push_back({"redistribution_screen", own(redistribution()), {}});
  all.push_back(
      {"redistribution_narrow_dark", own(redistribution()), {.medium = Medium::print, .dark = true, .width = column_width}});
  all.push_back({"result_table_screen", own(result_table()), {}});
  all.push_back({"result_table_narrow", own(result_table()), {.medium = Medium::print, .width = 200}});
  all.push_back({"token_strip_screen", own(strip()), {}});
  all.push_back({"token_strip_narrow_dark", own(strip()), {.dark = true, .width = 360}});
  return all;
}

std::filesystem::path golden_folder() { return std::filesystem::path(KVREPLAY_SOURCE_DIR) / "tests/golden/figures"; }

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(FigureGolden, SvgIsByteForByteWhatWasLookedAt) {
  const bool write = std::getenv("KVREPLAY_WRITE_GOLDEN") != nullptr;
  if (!write && std::string(qVersion()).rfind("6.4.", 0) != 0)
    GTEST_SKIP() << "the pictures in tests/golden/figures are Qt 6.4's; this is Qt " << qVersion();
  for (const auto& example : examples()) {
    const auto path = golden_folder() / (std::string(example.name) + ".svg");
    const std::string svg = render_figure(*example.figure, Format::svg, example.output);
    if (write) {
      std::filesystem::create_directories(golden_folder());
      std::ofstream(path, std::ios::binary) << svg;
      continue;
    }
    ASSERT_TRUE(std::filesystem::exists(path)) << path;
    EXPECT_TRUE(svg == read(path)) << path << " differs from what is drawn now (see the top of this file)";
  }
}

TEST(Figure, SameInputGivesSameBytesInEveryFormat) {
  for (const auto& example : examples()) {
    for (Format format : {Format::svg, Format::pdf, Format::png}) {
      const std::string once = render_figure(*example.figure, format, example.output);
      EXPECT_GT(once.size(), 1000U) << example.name;
      EXPECT_TRUE(once == render_figure(*example.figure, format, example.output)) << example.name;
    }
  }
}

TEST(Figure, PdfHasTheSameDateAlways) {
  const std::string pdf = render_figure(layer_chart(), Format::pdf);
  EXPECT_EQ(pdf.rfind("%PDF-", 0), 0U);
  const auto at = pdf.find("/CreationDate (D:");
  if (at != std::string::npos) {
    EXPECT_EQ(pdf.substr(at + 17, 14), "20000101000000");
  }
}

TEST(Figure, SvgHoldsTextAsTextAndItsProvenanceEscaped) {
  const std::string svg = render_figure(budget_chart(), Format::svg);
  EXPECT_NE(svg.find(">oracle_attention</text>"), std::string::npos);
  EXPECT_NE(svg.find("example &lt;model&gt; &amp; more"), std::string::npos);
  EXPECT_EQ(svg.find("<model>"), std::string::npos);
  EXPECT_EQ(svg.find("font-family=\"Sans Serif\""), std::string::npos);
}

TEST(Figure, MatrixIsOneImageAPanel) {
  const std::string svg = render_figure(head_map(), Format::svg);
  std::size_t images = 0;
  for (std::size_t at = 0; (at = svg.find("<image ", at)) != std::string::npos; ++at) ++images;
  EXPECT_EQ(images, head_map().panels.size() + 1);  // and the colour scale
}

TEST(Figure, PngIsAsLargeAsAsked) {
  const auto path = std::filesystem::temp_directory_path() / "kvreplay_figure_test.png";
  write_figure(layer_chart(), path.string(), {.width = 300, .height = 200, .pixel_ratio = 3});
  const std::string png = read(path);
  std::filesystem::remove(path);
  const auto number = [&](std::size_t at) {
    return static_cast<unsigned char>(png[at + 2]) * 256 + static_cast<unsigned char>(png[at + 3]);
  };
  ASSERT_GT(png.size(), 24U);
  EXPECT_EQ(number(16), 900);
  EXPECT_EQ(number(20), 600);
}

TEST(Figure, UnknownExtensionAndUnwritablePathAreErrors) {
  EXPECT_THROW(write_figure(layer_chart(), "a.gif"), Error);
  EXPECT_THROW(write_figure(layer_chart(), "/no/such/folder/a.svg"), Error);
}

TEST(Figure, EmptyDataStillDraws) {
  EXPECT_FALSE(render_figure(LineChart{}, Format::svg).empty());
  EXPECT_FALSE(render_figure(HeatMap{}, Format::svg).empty());
  EXPECT_FALSE(render_figure(TokenStrip{}, Format::svg).empty());
  EXPECT_FALSE(render_figure(RedistributionChart{}, Format::svg).empty());
  EXPECT_FALSE(render_figure(ResultTable{}, Format::svg).empty());
  EXPECT_NE(render_figure(LineChart{}, Format::svg).find(">no values</text>"), std::string::npos);
  LineChart all_nan;
  all_nan.y.logarithmic = true;
  all_nan.series.push_back({.name = "nothing", .x = {1, 2}, .y = {nan_value, nan_value}});
  EXPECT_FALSE(render_figure(all_nan, Format::svg).empty());
}

TEST(Figure, DataTableHasARowForEveryPoint) {
  EXPECT_EQ(budget_chart().data().rows.size(), 40U);
  EXPECT_EQ(panel_chart().data().rows.size(), 120U);
  EXPECT_EQ(head_map().data().rows.size(), 6U * 64U);
  EXPECT_EQ(strip().data().rows.size(), 27U);
  EXPECT_EQ(head_map().data().csv().substr(0, 27), "panel,layer,query head,shar");
  EXPECT_EQ(position_map().data().rows.size(), 4096U);  // named rows are columns of their own
  EXPECT_EQ(position_map().data().columns[2], "snapkv");
}

TEST(FigureLineChart, ManyPointsKeepTheirPeakAndTheirGap) {
  const auto drawn = [](double peak, bool gap) {
    LineChart chart;
    chart.y.minimum = 0, chart.y.maximum = 2;
    Series series;
    for (int i = 0; i < 131072; ++i) {
      series.x.push_back(i);
      series.y.push_back(i == 77777 ? peak : gap && i > 100000 && i < 110000 ? nan_value : 1);
    }
    chart.series = {series};
    EXPECT_EQ(chart.data().rows.size(), 131072U) << "the data is not decimated";
    return render_figure(chart, Format::svg);
  };
  const auto lines = [](const std::string& svg) {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = svg.find("<polyline", at)) != std::string::npos; ++at) ++count;
    return count;
  };
  const std::string with_peak = drawn(2, true);
  EXPECT_LT(with_peak.size(), 400000U) << "a few points a pixel column";
  EXPECT_NE(with_peak, drawn(1, true)) << "one point of 131,072 is seen";
  EXPECT_LT(lines(drawn(1, true)) + 30, lines(drawn(1, false))) << "a gap of 8 % of the points is no line";
}

TEST(FigureTable, RanksByWhatIsPrintedAndLeavesReferencesOut) {
  const ResultTable table = result_table();
  EXPECT_EQ(table.text(1, 0), "0.284");
  EXPECT_EQ(table.text(2, 0), "0.284");
  EXPECT_EQ(table.rank(1, 0), 1);
  EXPECT_EQ(table.rank(2, 0), 1) << "a difference that is not printed is none";
  EXPECT_EQ(table.rank(0, 0), 2);
  EXPECT_EQ(table.rank(3, 0), 0) << "a bound competes with nobody";
  EXPECT_EQ(table.rank(1, 2), 1) << "higher is better";
  EXPECT_EQ(table.rank(2, 2), 0) << "no value";
  EXPECT_EQ(table.rank(0, 3), 0) << "not ranked";
  EXPECT_EQ(table.text(2, 2), "–");
}

TEST(FigureTable, LatexIsEscapedRankedAndRuled) {
  const std::string latex = result_table().latex();
  for (const char* part :
       {"\\begin{tabular}{lrrrr}", "\\multicolumn{2}{c}{budget}", "\\cmidrule(lr){2-3}", "restkv\\_50\\% & \\textbf{0.284}",
        "\\underline{0.705} {\\scriptsize$\\pm$0.020}", "% command: kvreplay figure table r.h5", "& -- &", "\\bottomrule"})
    EXPECT_NE(latex.find(part), std::string::npos) << part << "\n" << latex;
  EXPECT_GT(latex.find("oracle"), latex.rfind("\\midrule")) << "below a rule of its own";
}

TEST(FigureAxis, LinearTicksAreNiceAndInside) {
  std::vector<std::string> labels;
  for (const auto& tick : linear_ticks(0, 0.9, 5)) labels.push_back(tick.label);
  EXPECT_EQ(labels, (std::vector<std::string>{"0.0", "0.2", "0.4", "0.6", "0.8"}));
  for (const auto& tick : linear_ticks(-0.3, 7.2, 4, true)) EXPECT_EQ(tick.value, std::round(tick.value));
  EXPECT_EQ(linear_ticks(0, 4096, 5)[1].label, "1,000");
}

TEST(FigureAxis, LogTicksCoverManyDecadesAndPartsOfOne) {
  std::vector<std::string> labels;
  for (const auto& tick : log_ticks(0.02, 0.6, 5)) labels.push_back(tick.label);
  EXPECT_EQ(labels, (std::vector<std::string>{"0.02", "0.05", "0.1", "0.2", "0.5"}));
  for (const auto& tick : log_ticks(1e-9, 1, 4))
    EXPECT_NEAR(std::log10(tick.value), std::round(std::log10(tick.value)), 1e-9);
  EXPECT_LE(log_ticks(1e-9, 1, 4).size(), 5U);
  EXPECT_GE(log_ticks(0.31, 0.39, 4).size(), 2U);
}

TEST(FigureHeatMap, ReductionKeepsASinglePeak) {
  std::vector<float> values(131072, 0.0F);
  values[77777] = 1;
  const auto reduced = reduce_matrix(values, 1, 131072, 1, 700, Reduction::maximum);
  EXPECT_EQ(reduced.size(), 700U);
  EXPECT_EQ(*std::max_element(reduced.begin(), reduced.end()), 1.0F);
  EXPECT_EQ(std::count(reduced.begin(), reduced.end(), 1.0F), 1);
  const auto mean = reduce_matrix({1, 3, nan_value, nan_value}, 1, 4, 1, 2, Reduction::mean);
  EXPECT_EQ(mean[0], 2.0F);
  EXPECT_TRUE(std::isnan(mean[1]));
}

TEST(FigureColor, MapsRiseInLightness) {
  for (ColorMap map : {ColorMap::viridis, ColorMap::cividis}) {
    double before = -1;
    for (int i = 0; i <= 50; ++i) {
      const Rgb rgb = color_at(map, i / 50.0);
      const double lightness = 0.2126 * rgb.red + 0.7152 * rgb.green + 0.0722 * rgb.blue;
      EXPECT_GT(lightness, before - 0.5) << i;
      before = lightness;
    }
  }
}

}  // namespace
}  // namespace kvreplay::figure

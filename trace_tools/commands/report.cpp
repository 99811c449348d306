#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/base/text_file.h"
#include "trace_tools/command.h"
#include "trace_tools/report/formats.h"

namespace kvreplay::cli {
namespace {

constexpr int usual_width = 120;  // columns of a table that goes to a file or to another program

TerminalStyle terminal_style() {
  TerminalStyle style;
  style.width = usual_width;
  if (isatty(STDOUT_FILENO) == 0) return style;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) style.width = size.ws_col;
  const char* dumb = std::getenv("NO_COLOR");  // no-color.org
  style.escapes = dumb == nullptr || *dumb == '\0';
  return style;
}

void write_text(const std::string& path, const std::string& text) {
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return;
  }
  write_text_file(path, text);
}

class ReportCommand final : public Command {
 public:
  std::string_view name() const override { return "report"; }
  std::string_view summary() const override { return "compare the runs of results files: tables, a page with figures"; }
  std::string_view usage() const override {
    return "RESULTS.h5... [--csv [FILE]] [--json] [--html [FILE]] [--trace T.h5] [--metric NAME] [--budget N]";
  }
  std::string_view description() const override {
    return "Sets every policy beside every other at each budget: mean, median, 95th and 99th percentile over heads, how far "
           "from\n"
           "the bound found in hindsight, what was evicted (with its hash) and in how many bytes.\n"
           "\n"
           "  kvreplay report r.h5                      tables in the terminal\n"
           "  kvreplay report r.h5 --html report.html   one page that needs nothing else: figures, text, tables, "
           "provenance\n"
           "  kvreplay report a.h5 b.h5 --csv           one row a run; several traces are averaged, with intervals, in the\n"
           "                                            other forms";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("csv", options::value<std::string>()->value_name("FILE")->implicit_value("-"),
                          "one row a run as CSV, on standard output when no file is named")(
        "html", options::value<std::string>()->value_name("FILE")->implicit_value("-"),
        "one self-contained page, on standard output when no file is named")(
        "trace", options::value<std::string>()->value_name("T.h5"), "the trace, where it is not where the results say")(
        "metric", options::value<std::string>()->value_name("NAME"),
        "what tables and figures lead with (default: output_error)")(
        "wide", "every number of every headline metric in the tables, however wide")(
        "regimes", "tables with the means over the first steps after the prompt and over the rest, too")(
        "budget", options::value<std::int64_t>()->value_name("N"),
        "budget in tokens of the figures that show one budget (default: nearest a tenth of the prompt)");
    hidden.add_options()("results", options::value<std::vector<std::string>>());
    positional.add("results", -1);
  }

  int run(const Invocation& call) const override {
    const auto text_of = [&](const char* option) {
      return call.values.count(option) != 0 ? call.values[option].as<std::string>() : std::string();
    };
    const std::string csv = text_of("csv"), html = text_of("html");
    if ((csv == "-") + (html == "-") + (call.json ? 1 : 0) > 1)
      throw UsageError("kvreplay report", "standard output can take one of --csv -, --html - and --json",
                       "name files instead");
    if (call.values.count("results") == 0)
      throw UsageError("kvreplay report", "no results file is given", "`kvreplay replay` makes one");
    ReportRequest request;
    request.paths = call.values["results"].as<std::vector<std::string>>();
    request.trace = text_of("trace");
    request.metric = text_of("metric");
    const ReportSources sources = open_sources(request, call.job);
    PageOptions page;
    page.command_line = call.command_line;
    if (call.values.count("budget") != 0) page.budget = call.values["budget"].as<std::int64_t>();
    check_budget(sources, page.budget);

    if (!csv.empty()) write_text(csv, report_as_csv(sources));
    if (!html.empty()) {
      write_text(html, report_as_html(sources, page, call.job));
      if (html != "-" && csv != "-" && !call.json) say_where(html);
    }
    if (call.json) write_text("-", report_as_json(sources));
    if (csv.empty() && html.empty() && !call.json) {
      TerminalStyle style = terminal_style();
      if (call.values.count("wide") != 0) style.width = 0;
      style.regimes = call.values.count("regimes") != 0;
      write_text("-", report_as_text(sources, style));
    }
    return 0;
  }

 private:
  static void check_budget(const ReportSources& sources, std::int64_t budget) {
    if (budget == 0 || sources.comparison.find_budget(budget) != nullptr) return;
    std::vector<std::string> there;
    for (const auto& group : sources.comparison.budgets) there.push_back(std::to_string(group.budget));
    throw Error("--budget " + std::to_string(budget), "no run has this budget", "there are " + join(there, ", ", " and "));
  }

  static void say_where(const std::string& path) {
    std::printf("%s: open it in a browser%s\n", path.c_str(),
                KVREPLAY_WITH_FIGURES != 0 ? "" : " (tables only: this build has no figures)");
  }
};

}  // namespace

const Command& report_command() {
  static const ReportCommand command;
  return command;
}

}  // namespace kvreplay::cli

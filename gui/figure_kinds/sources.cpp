// Opens what a figure is made from.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/backend/backend.h"
#include "core/base/error.h"
#include "core/base/text.h"
#include "core/replay/replay.h"
#include "core/trace/file_summary.h"
#include "gui/figure_kinds/kind.h"

namespace kvreplay::figure {
namespace {

// A folder that goes with the results that were replayed into it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvreplay-figure-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Error(name, "cannot be made", "TMPDIR names another folder");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

std::string option(const std::map<std::string, std::string>& options, const std::string& key) {
  const auto found = options.find(key);
  return found == options.end() || found->second == "all" || found->second == "auto" || found->second == "none"
             ? ""
             : found->second;
}

// What the options name, replayed on the traces.
void replay_traces(const std::vector<std::string>& traces, const std::map<std::string, std::string>& options,
                   const std::string& out, Job& job) {
  ReplayRequest request;
  for (const char* key : {"policy", "minus"})
    for (const auto& policy : split(option(options, key), ';'))
      if (!policy.empty()) request.policies.push_back(parse_policy(policy));
  if (request.policies.empty())
    throw Error("figure", "there is a trace and no results file, and no policy is named",
                "name a results file of `kvreplay replay`, or --policy and --budget");
  const std::string budgets = option(options, "budget");
  for (const auto& budget : split(budgets.empty() ? "10%" : budgets, ';')) request.budgets.push_back(Budget::parse(budget));
  ResultsWriter results(out);
  const auto backend = make_cpu_backend();
  for (const auto& path : traces) replay(*open_trace(path), request, *backend, results, job);
  results.finish();
}

}  // namespace

FigureSources open_figure_sources(const std::vector<std::string>& paths, const std::map<std::string, std::string>& options,
                                  Job& job) {
  FigureSources sources;
  ReportRequest request;
  for (const auto& path : paths) {
    if (std::filesystem::path(path).extension() == ".csv") {
      sources.tables.push_back(ValueTable::read(path));
      continue;
    }
    const std::string format = summarise_file(path).format;
    if (format == "kvreplay-results") {
      request.paths.push_back(path);
    } else if (format == "kvreplay-trace") {
      request.traces.push_back(path);
    } else {
      throw Error(path, "is neither a results file, a trace nor a table of values (.csv)");
    }
  }
  std::shared_ptr<TemporaryFolder> folder;
  if (request.paths.empty() && !request.traces.empty()) {
    folder = std::make_shared<TemporaryFolder>();
    request.paths.push_back(folder->file("results.h5"));
    replay_traces(request.traces, options, request.paths[0], job);
  }
  if (request.paths.empty()) return sources;
  auto* opened = new ReportSources(open_sources(request, job));
  // The folder outlives the results that are read from it.
  sources.results = std::shared_ptr<const ReportSources>(opened, [folder](const ReportSources* all) { delete all; });
  return sources;
}

}  // namespace kvreplay::figure

#include "core/trace/file_summary.h"

#include "core/base/error.h"
#include "core/trace/source_internal.h"

namespace kvreplay {
namespace {

constexpr std::size_t max_nodes = 200'000;
constexpr int max_depth = 16;

std::string filter_name(int filter) {
  switch (filter) {
    case 1: return "deflate";
    case 2: return "shuffle";
    case 3: return "fletcher32";
    default: return "filter " + std::to_string(filter);
  }
}

class Walker {
 public:
  explicit Walker(const Source& source) : source_(source) {}

  FileSummary walk() {
    out_.file_size = source_.file_size();
    out_.left_open = source_.left_open();
    visit_group("", 0);
    const auto& root = out_.attributes["/"];
    if (const auto found = root.find("format"); found != root.end())
      if (const auto* text = std::get_if<std::string>(&found->second)) out_.format = *text;
    return std::move(out_);
  }

 private:
  void attributes(const std::string& node) {
    for (const auto& name : source_.attribute_names(node)) {
      try {
        if (auto value = source_.attribute(node, name)) out_.attributes[node][name] = std::move(*value);
      } catch (const Error&) {
        out_.attributes[node][name] = std::string("(unreadable)");
      }
    }
  }

  void visit_group(const std::string& prefix, int depth) {
    attributes(prefix.empty() ? "/" : prefix);
    if (depth > max_depth) return;
    for (const auto& name : source_.children(prefix.empty() ? "/" : prefix)) {
      if (++nodes_ > max_nodes) throw Error(source_.path(), "has too many groups and datasets");
      const std::string node = prefix + "/" + name;
      switch (source_.kind(node)) {
        case NodeKind::group: visit_group(node, depth + 1); break;
        case NodeKind::dataset: visit_dataset(node); break;
        default: break;
      }
    }
  }

  void visit_dataset(const std::string& node) {
    const DatasetInfo info = source_.dataset(node);
    DatasetSummary summary;
    summary.node = node;
    summary.shape = info.shape;
    summary.type = info.bfloat16 ? "bfloat16" : info.type.name();
    summary.chunk = info.chunk;
    for (const int filter : info.filters) summary.filters.push_back(filter_name(filter));
    summary.stored_bytes = info.stored_bytes;
    summary.logical_bytes = info.logical_bytes();
    summary.refusal = info.refusal;
    out_.datasets.push_back(std::move(summary));
    attributes(node);
  }

  const Source& source_;
  FileSummary out_;
  std::size_t nodes_ = 0;
};

}  // namespace

FileSummary summarise_file(const std::string& path, Trust trust) { return Walker(*open_source(path, trust)).walk(); }

}  // namespace kvreplay

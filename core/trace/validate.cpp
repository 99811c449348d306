#include "core/trace/validate.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/trace/validate_internal.h"

namespace kvreplay {
namespace {

constexpr std::size_t most_problems = 2000;

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

void validate_provenance(const TraceStructure& trace, Findings& findings) {
  const auto json = [&](const char* node, const char* name, const std::string& text) {
    if (!text.empty() && !nlohmann::json::accept(text))
      findings.add(node, std::string("attribute \"") + name + "\" is not JSON");
  };
  json("/", "manifest", trace.manifest);
  json("/model", "rope_scaling", trace.model.rope_scaling);
  if (!trace.model.weights_sha256.empty() && !is_sha256(trace.model.weights_sha256))
    findings.add("/model", "attribute \"weights_sha256\" is not 64 hexadecimal digits");
  if (trace.model.name.empty()) findings.add("/model", "has no attribute \"name\"");
  if (trace.model.architecture.empty()) findings.add("/model", "has no attribute \"architecture\"");
}

void validate_trace(const Source& source, ValidationReport& report, Job& job) {
  const TraceStructure trace = read_trace_structure(source, report.problems);
  report.complete = trace.complete;
  Findings findings(report);
  if (!trace.complete && trace.tokens > 0)
    findings.add("/",
                 "is not complete: " + std::to_string(trace.tokens) + " of " + std::to_string(trace.file_tokens) +
                     " tokens were committed before the capture was cut off",
                 "`kvreplay capture --resume` goes on with it");
  if (trace.tokens == 0 || trace.model.head_dim == 0) return;
  validate_provenance(trace, findings);
  validate_checksums(source, trace, findings, job);
  validate_tensors(source, trace, findings, job);
  validate_consistency(source, trace, findings, job);
}

}  // namespace

double rounding_of(ElementType type) {
  switch (type) {
    case ElementType::float32: return 0x1p-24;
    case ElementType::float16: return 0x1p-11;
    case ElementType::bfloat16: return 0x1p-8;
  }
  return 0;
}

void Findings::add(const std::string& node, const std::string& what, const std::string& remedy) {
  if (report_.problems.size() < most_problems) report_.problems.push_back({node, what, remedy});
}

void Findings::add_repeated(const std::string& node, const std::string& rule, const std::string& what) {
  if (++counts_[{node, rule}] <= listed) add(node, what);
}

Findings::~Findings() {
  for (const auto& [key, count] : counts_)
    if (count > listed) add(key.first, key.second + " in " + std::to_string(count - listed) + " more places");
}

ValidationReport validate_file(const std::string& path, Trust trust, Job& job) {
  ValidationReport report;
  const auto source = open_source(path, trust);
  const auto format = source->attribute("/", "format");
  if (format)
    if (const auto* text = std::get_if<std::string>(&*format)) report.format = *text;
  if (report.format == "kvreplay-results") {
    Findings findings(report);
    validate_results(*source, findings, job);
  } else {
    validate_trace(*source, report, job);
    if (report.format != "kvreplay-trace") report.format.clear();
  }
  return report;
}

}  // namespace kvreplay

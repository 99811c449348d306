// The parts of validate_file. Internal to core/trace.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "core/base/job.h"
#include "core/trace/source_internal.h"
#include "core/trace/trace_structure_internal.h"
#include "core/trace/validate.h"

namespace kvreplay {

// Collects problems; a rule that breaks in thousands of places is told a few times and counted.
class Findings {
 public:
  explicit Findings(ValidationReport& report) : report_(report) {}
  ~Findings();
  Findings(const Findings&) = delete;
  Findings& operator=(const Findings&) = delete;

  void add(const std::string& node, const std::string& what, const std::string& remedy = {});
  // At most three of these per node are listed, then a count.
  void add_repeated(const std::string& node, const std::string& rule, const std::string& what);
  void checked(const std::string& what) { report_.checked.push_back(what); }

 private:
  static constexpr int listed = 3;
  ValidationReport& report_;
  std::map<std::pair<std::string, std::string>, std::int64_t> counts_;
};

// Every value finite, attention causal with rows that sum to 1, column sums, negative log-likelihoods.
void validate_tensors(const Source& source, const TraceStructure& trace, Findings& findings, Job& job);
// Chunk by chunk, where /checksums has them.
void validate_checksums(const Source& source, const TraceStructure& trace, Findings& findings, Job& job);
// log_sum_exp, attention and head_output of sample queries, computed again from Q, K and V.
void validate_consistency(const Source& source, const TraceStructure& trace, Findings& findings, Job& job);

void validate_results(const Source& source, Findings& findings, Job& job);

// The largest relative error of storing a value as `type`: half of the last place of its mantissa.
double rounding_of(ElementType type);

}  // namespace kvreplay

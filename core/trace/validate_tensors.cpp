#include <algorithm>
#include <cmath>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/trace/finite_internal.h"
#include "core/trace/tensor_reading_internal.h"
#include "core/trace/trace_skeleton_internal.h"
#include "core/trace/validate_internal.h"

namespace kvreplay {
namespace {

constexpr std::int64_t block_elements = std::int64_t{1} << 22;

// Calls body(head, first row, [1, n, columns]) for blocks of a tensor that fit in a few MiB.
template <class Body>
void for_each_block(const Source& source, const StoredTensor& stored, Job& job, const Body& body) {
  const std::int64_t rows = std::max<std::int64_t>(1, block_elements / std::max<std::int64_t>(1, stored.shape[2]));
  for (std::int64_t head = 0; head < stored.shape[0]; ++head)
    for (std::int64_t first = 0; first < stored.shape[1]; first += rows) {
      job.check();
      const std::int64_t last = std::min(stored.shape[1], first + rows);
      body(head, first, read_stored_tensor(source, stored, {head, head + 1}, {first, last}, false));
    }
}

std::string at(std::int64_t head, std::int64_t row) {
  return "head " + std::to_string(head) + ", row " + std::to_string(row);
}

class TensorRules {
 public:
  TensorRules(const Source& source, const TraceStructure& trace, Findings& findings, Job& job)
      : source_(source), trace_(trace), findings_(findings), job_(job) {}

  void check(const LayerStructure& layer, LayerDataset which, const StoredTensor& stored) {
    for_each_block(source_, stored, job_, [&](std::int64_t head, std::int64_t first, const Tensor<float, 3>& block) {
      const bool flat = stored.info.shape.size() == 2;
      if (!check_finite(stored, head, first, block, flat)) return;
      if (which == LayerDataset::attention) check_attention(layer, stored, head, first, block);
      if (which == LayerDataset::attention_column_sum) check_column_sums(stored, first, block);
    });
  }

 private:
  bool check_finite(const StoredTensor& stored, std::int64_t head, std::int64_t first, const Tensor<float, 3>& block,
                    bool flat) {
    const auto size = static_cast<std::size_t>(block.size());
    const std::size_t bad = first_not_finite(block.data(), size);
    if (bad == size) return true;
    const auto index = static_cast<std::int64_t>(bad);
    const std::int64_t row = first + index / block.dim(2), column = index % block.dim(2);
    const std::string place = std::to_string(row) + ", " + std::to_string(column) + "]";
    findings_.add_repeated(stored.node, "holds NaN or infinite values",
                           std::string("holds ") + (std::isnan(block.data()[bad]) ? "a NaN" : "an infinity") + " at [" +
                               (flat ? "" : std::to_string(head) + ", ") + place);
    return false;
  }

  void check_attention(const LayerStructure& layer, const StoredTensor& stored, std::int64_t head, std::int64_t first,
                       const Tensor<float, 3>& block) {
    // Each weight may be off by half of its last place, or half of the smallest number of its type.
    const double tolerance = stored.type == ElementType::float16 ? 2e-3 + static_cast<double>(block.dim(2)) * 0x1p-25 : 1e-4;
    for (std::int64_t r = 0; r < block.dim(1); ++r) {
      const std::int64_t position = trace_.attention_positions[static_cast<std::size_t>(first + r)];
      const std::int64_t begin =
          layer.sliding_window > 0 ? std::max<std::int64_t>(0, position - layer.sliding_window + 1) : 0;
      double sum = 0;
      bool outside = false, negative = false;
      for (std::int64_t c = 0; c < block.dim(2); ++c) {
        const float weight = block(0, r, c);
        sum += weight;
        negative = negative || weight < 0;
        outside = outside || (weight != 0 && (c > position || c < begin));
      }
      const std::string place = at(head, first + r) + " (the query at " + std::to_string(position) + ")";
      if (outside)
        findings_.add_repeated(stored.node, "has attention outside what the query sees",
                               "attends outside what the query sees at " + place);
      if (negative) findings_.add_repeated(stored.node, "has negative attention", "has negative attention at " + place);
      if (std::abs(sum - 1) > tolerance)
        findings_.add_repeated(stored.node, "has rows that do not sum to 1",
                               "sums to " + format_number(sum) + ", not 1, at " + place);
    }
  }

  // The weights of each prompt query sum to 1, so each head's column sums add up to the number of prompt tokens.
  void check_column_sums(const StoredTensor& stored, std::int64_t first, const Tensor<float, 3>& block) {
    for (std::int64_t h = 0; h < block.dim(1); ++h) {
      double sum = 0;
      for (std::int64_t t = 0; t < block.dim(2); ++t) {
        const float value = block(0, h, t);
        sum += value;
        if (value < 0) findings_.add_repeated(stored.node, "has negative sums", "is negative at " + at(first + h, t));
        if (t >= trace_.prompt_length && value != 0)
          findings_.add_repeated(stored.node, "counts keys past the prompt",
                                 "is not 0 past the prompt at " + at(first + h, t));
      }
      const auto prompt = static_cast<double>(trace_.prompt_length);
      if (std::abs(sum - prompt) > 1e-3 * prompt)
        findings_.add_repeated(stored.node, "does not add up",
                               "adds up to " + format_number(sum) + " in head " + std::to_string(first + h) +
                                   ", not to the " + format_number(prompt) + " prompt tokens");
    }
  }

  const Source& source_;
  const TraceStructure& trace_;
  Findings& findings_;
  Job& job_;
};

void validate_nll(const Source& source, const TraceStructure& trace, Findings& findings) {
  if (!trace.has_nll) return;
  const std::int64_t zero = 0;
  std::vector<float> values(static_cast<std::size_t>(trace.tokens));
  source.read_into("/tokens/nll", {&zero, 1}, {&trace.tokens, 1}, values.data());
  if (!std::isnan(values[0])) findings.add("/tokens/nll", "is not NaN at token 0, which has nothing before it");
  for (std::size_t t = 1; t < values.size(); ++t) {
    if (!std::isfinite(values[t]))
      findings.add_repeated("/tokens/nll", "holds NaN or infinite values",
                            "holds a NaN or an infinity at token " + std::to_string(t));
    else if (values[t] < -1e-4F)  // a probability above 1, beyond what rounding does
      findings.add_repeated("/tokens/nll", "is negative", "is negative at token " + std::to_string(t));
  }
  findings.checked("negative log-likelihoods of " + std::to_string(trace.tokens) + " tokens");
}

class ChecksumRules {
 public:
  ChecksumRules(const Source& source, const TraceStructure& trace, Findings& findings)
      : source_(source), trace_(trace), findings_(findings) {}

  void check(const std::string& node, Job& job) {
    const std::string sums = checksum_node(node);
    if (source_.kind(sums) == NodeKind::absent || source_.kind(node) != NodeKind::dataset) return;
    const DatasetInfo info = source_.dataset(node), sums_info = source_.dataset(sums);
    if (!info.refusal.empty()) return;
    if (!sums_info.refusal.empty() || sums_info.type.kind != StoredKind::unsigned_integer || sums_info.type.size != 4 ||
        sums_info.shape.size() != 1)
      return findings_.add(sums, "is not a list of uint32");
    std::int64_t chunks = 1;
    for (std::size_t axis = 0; axis < info.chunk.size(); ++axis)
      chunks *= (info.shape[axis] + info.chunk[axis] - 1) / info.chunk[axis];
    if (sums_info.shape[0] != chunks && trace_.complete)
      return findings_.add(
          sums, "has " + std::to_string(sums_info.shape[0]) + " checksums for " + std::to_string(chunks) + " chunks");
    if (sums_info.shape[0] != chunks) return;  // killed while its sizes were being settled
    const auto wanted = source_.read_all<std::uint32_t>(sums, sums_info);
    for (std::int64_t i = 0; i < chunks; ++i) {
      if (i % 64 == 0) job.check();
      if (!trace_.complete && !below_the_mark(node, info, i)) continue;
      const auto bytes = source_.stored_chunk(node, i);
      ++checked_;
      if (crc32c(bytes.data(), bytes.size()) != wanted[static_cast<std::size_t>(i)])
        findings_.add_repeated(node, "has chunks with other bytes than their checksums",
                               "has other bytes in chunk " + std::to_string(i) + " than its checksum says");
    }
  }

  std::int64_t count() const { return checked_; }

 private:
  // Chunks of a capture that was cut off count only when all of their rows were committed.
  bool below_the_mark(const std::string& node, const DatasetInfo& info, std::int64_t index) const {
    const auto believed = believed_shape(node, info);
    for (std::size_t axis = info.shape.size(); axis-- > 0;) {
      const std::int64_t chunks = (info.shape[axis] + info.chunk[axis] - 1) / info.chunk[axis];
      const std::int64_t end = std::min((index % chunks + 1) * info.chunk[axis], info.shape[axis]);
      if (end > believed[axis]) return false;
      index /= chunks;
    }
    return true;
  }

  std::vector<std::int64_t> believed_shape(const std::string& node, const DatasetInfo& info) const {
    for (const auto& layer : trace_.layers)
      for (const auto& tensor : layer.tensors)
        if (tensor && tensor->node == node)
          return {tensor->shape.end() - static_cast<std::ptrdiff_t>(info.shape.size()), tensor->shape.end()};
    if (node == "/tokens/ids" || node == "/tokens/nll") return {trace_.tokens};
    return std::vector<std::int64_t>(info.shape.size(), 0);
  }

  const Source& source_;
  const TraceStructure& trace_;
  Findings& findings_;
  std::int64_t checked_ = 0;
};

}  // namespace

void validate_tensors(const Source& source, const TraceStructure& trace, Findings& findings, Job& job) {
  validate_nll(source, trace, findings);
  TensorRules rules(source, trace, findings, job);
  std::int64_t tensors = 0;
  job.begin("validating", static_cast<double>(trace.layers.size()), "layers");
  for (std::size_t i = 0; i < trace.layers.size(); ++i) {
    for (const auto which : all_layer_datasets) {
      const auto& stored = trace.layers[i].tensors[static_cast<std::size_t>(which)];
      if (!stored) continue;
      ++tensors;
      try {
        rules.check(trace.layers[i], which, *stored);
      } catch (const Cancelled&) {
        throw;
      } catch (const Error& error) {
        findings.add(stored->node, std::string("cannot be read: ") + error.what());
      }
    }
    job.advance_to(static_cast<double>(i + 1));
  }
  job.end();
  findings.checked("every value of " + std::to_string(tensors) + " tensors");
}

void validate_checksums(const Source& source, const TraceStructure& trace, Findings& findings, Job& job) {
  if (source.kind("/checksums") != NodeKind::group) return;
  ChecksumRules rules(source, trace, findings);
  std::vector<std::string> nodes = {"/tokens/ids", "/tokens/nll", "/tokens/text", "/tokens/text_offsets"};
  for (const auto& layer : trace.layers)
    for (const auto& tensor : layer.tensors)
      if (tensor) nodes.push_back(tensor->node);
  for (const auto& node : nodes) {
    try {
      rules.check(node, job);
    } catch (const Cancelled&) {
      throw;
    } catch (const Error& error) {
      findings.add(checksum_node(node), std::string("cannot be checked: ") + error.what());
    }
  }
  findings.checked("checksums of " + std::to_string(rules.count()) + " chunks");
}

}  // namespace kvreplay

#include "gpu/evaluate.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "core/base/parallel.h"
#include "gpu/kernels/decode_logits.h"
#include "gpu/kernels/evaluate_full.h"
#include "gpu/kernels/evaluate_kept.h"
#include "gpu/kernels/evaluate_layer.h"
#include "gpu/kernels/evaluate_rank.h"

namespace kvreplay::cuda {
namespace {

// Bounds on what a block of weights and a batch of runs take on the device. The sums over columns and the sort have scratch
// of their own, at most 0.4 GiB. A block holds all KV heads of 131,072 tokens × 64 steps where outputs alone are asked for.
// A batch is small beside a sweep, so that the host reports one while the device computes the next, and has a few thousand
// tiles for the tensor cores all the same.
constexpr std::int64_t block_bytes = std::int64_t{5} << 28, batch_bytes = std::int64_t{3} << 27;
constexpr std::int64_t large_batch_bytes = std::int64_t{1}
                                           << 30;          // where each batch computes the weights of the layer again
constexpr std::int64_t most_rows = std::int64_t{1} << 22;  // runs × steps of a batch: what a grid can count

EvaluationBlock block_of(const LoadedLayer& layer, int first_kv_head, int kv_heads, std::int64_t first_step,
                         std::int64_t steps) {
  EvaluationBlock block;
  block.first_kv_head = first_kv_head;
  block.kv_heads = kv_heads;
  block.group = layer.group();
  block.num_query_heads = layer.num_query_heads;
  block.dim = layer.head_dim;
  block.first_step = static_cast<int>(first_step);
  block.steps = static_cast<int>(steps);
  block.prompt = static_cast<int>(layer.prompt);
  block.sliding_window = layer.sliding_window;
  block.origin = static_cast<int>(layer.first_visible(layer.prompt + first_step));
  block.columns = static_cast<int>(layer.prompt + first_step + steps) - block.origin;
  const auto bounds = region_bounds(layer.prompt, layer.tokens);
  for (std::size_t r = 0; r < num_regions; ++r) block.regions[r] = static_cast<int>(bounds[r]);
  return block;
}

std::int64_t largest_column_count(const LoadedLayer& layer, std::int64_t steps) {
  return layer.sliding_window > 0 ? std::min<std::int64_t>(layer.tokens, layer.sliding_window + steps) : layer.tokens;
}

// A number of steps that fills tiles of rows, where there is room for so many.
std::int64_t whole_tiles(std::int64_t steps) {
  for (const std::int64_t tile : {64, 16, 4})
    if (steps > tile) return steps / tile * tile;
  return std::max<std::int64_t>(steps, 1);
}

const void* element_at(const DeviceTensor& tensor, std::int64_t index) {
  return tensor.bytes.data() == nullptr ? nullptr
                                        : tensor.bytes.data() + static_cast<std::size_t>(index) * element_size(tensor.type);
}

// For each decode step the row of the layer's recorded decode queries, or -1.
std::vector<std::int32_t> query_rows(const CudaLayer& layer, const CudaLayer::Queries& queries) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(layer.steps()), -1);
  for (std::size_t i = 0; i < queries.positions.size(); ++i)
    rows[static_cast<std::size_t>(queries.positions[i] - layer.prompt)] = static_cast<std::int32_t>(i);
  return rows;
}

// Tensor cores take queries in the keys' type.
auto logits_launcher(const CudaLayer::Queries& queries, const DeviceTensor& key) {
  return queries.rows.type == key.type ? launch_decode_logits : launch_decode_logits_plain;
}

// Host memory that the device copies to at full speed. Making it is slow, so it is kept for the next layer.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::size_t bytes) {
    const std::lock_guard lock(mutex());
    auto best = pool().end();
    for (auto it = pool().begin(); it != pool().end(); ++it)
      if (it->bytes >= bytes && (best == pool().end() || it->bytes < best->bytes)) best = it;
    if (best != pool().end()) {
      piece_ = *best;
      pool().erase(best);
      return;
    }
    piece_.bytes = std::max<std::size_t>(bytes, 1);
    check(cudaHostAlloc(&piece_.data, piece_.bytes, cudaHostAllocPortable), "allocating pinned memory");
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  // What does not fit a later layer is given back.
  ~PinnedMemory() {
    // When an error passes, the device may still be copying.
    if (std::uncaught_exceptions() > exceptions_) cudaDeviceSynchronize();
    const std::lock_guard lock(mutex());
    pool().push_back(piece_);
    if (pool().size() <= most_pieces) return;
    const auto least =
        std::min_element(pool().begin(), pool().end(), [](const Piece& a, const Piece& b) { return a.bytes < b.bytes; });
    cudaFreeHost(least->data);
    pool().erase(least);
  }
  void* data() const { return piece_.data; }

 private:
  struct Piece {
    void* data = nullptr;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t most_pieces = 32;
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  // Never destroyed: at exit the driver may be gone before it.
  static std::vector<Piece>& pool() {
    static auto* pieces = new std::vector<Piece>;
    return *pieces;
  }
  Piece piece_;
  const int exceptions_ = std::uncaught_exceptions();
};

// What a run keeps, as lists of positions for the device.
struct RunLists {
  std::vector<KeptList> lists;              // by stored head; offsets within `positions`
  std::span<const std::int32_t> positions;  // of the run's own kept sets, or of `made`
  std::vector<std::int32_t> made;
  std::int64_t most_kept = 0;  // over heads and steps, of heads that evict anything; an upper bound
};

void note_kept(RunLists& run, const LoadedLayer& layer, std::int64_t count) {
  if (count < layer.candidates()) run.most_kept = std::max(run.most_kept, count + layer.steps());
}

// From evicted_at [T] of one stored head. Positions that no decode step sees are left out.
void add_list(RunLists& run, const LoadedLayer& layer, const std::int32_t* evicted_at) {
  std::vector<std::int32_t> there, until;
  bool timed = false;
  for (std::int64_t i = layer.first_candidate; i < layer.tokens; ++i) {
    const bool generated = i >= layer.prompt;
    timed |= evicted_at[i] > 0 || (evicted_at[i] == 0 && generated);
    if (evicted_at[i] == 0 && !generated) continue;
    there.push_back(static_cast<std::int32_t>(i));
    until.push_back(evicted_at[i] < 0 ? INT_MAX : evicted_at[i]);
  }
  if (!timed) there.resize(there.size() - static_cast<std::size_t>(layer.steps()));  // generated tokens are not listed
  const auto count = static_cast<std::int32_t>(there.size());
  run.lists.push_back({static_cast<std::int64_t>(run.made.size()), count, timed ? 1 : 0});
  run.made.insert(run.made.end(), there.begin(), there.end());
  if (timed) {
    run.made.insert(run.made.end(), until.begin(), until.end());
    run.most_kept = std::max<std::int64_t>(run.most_kept, count);
  } else {
    note_kept(run, layer, count);
  }
}

void fill_lists(RunLists& lists, const LoadedLayer& layer, const RunEvictions& run) {
  if (run.kept == nullptr) {
    for (std::int64_t h = 0; h < run.heads(); ++h) add_list(lists, layer, run.evicted_at[h].data());
    lists.positions = lists.made;
    return;
  }
  for (std::int64_t h = 0; h < run.heads(); ++h) {
    const auto count = static_cast<std::int64_t>((*run.kept)[h].size());
    lists.lists.push_back({run.kept->offset[static_cast<std::size_t>(h)], static_cast<std::int32_t>(count), 0});
    note_kept(lists, layer, count);
  }
  lists.positions = run.kept->position;
}

// The results of some runs, under their indices among all.
class RenumberedSink final : public EvaluationSink {
 public:
  RenumberedSink(EvaluationSink& sink, const std::vector<std::size_t>& runs) : sink_(sink), runs_(runs) {}
  void head(std::size_t run, int query_head, std::int64_t step, const HeadStep& values) override {
    sink_.head(runs_[run], query_head, step, values);
  }
  void layer(std::size_t run, std::int64_t step, const LayerStep& values) override { sink_.layer(runs_[run], step, values); }

 private:
  EvaluationSink& sink_;
  const std::vector<std::size_t>& runs_;
};

void evaluate_on_cpu(const CudaLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
                     EvaluationSink& sink) {
  const auto backend = make_cpu_backend();
  backend->evaluate(*backend->load(*layer.trace, layer.layer), runs, request, sink);
}

// Weights, outputs and ranks of a block: what all runs share.
class FullCache {
 public:
  // needed: ranks that any run asks for; 0: none.
  FullCache(const CudaLayer& layer, const EvaluationRequest& request, const EvaluationPlan& plan, int needed)
      : layer_(layer),
        request_(request),
        device_(*layer.device),
        needed_(needed),
        queries_(layer.recorded_queries(layer.prompt, layer.tokens)),
        query_row_host_(query_rows(layer, queries_)),
        query_row_(uploaded(device_, query_row_host_)) {
    const std::int64_t columns = largest_column_count(layer, plan.steps);
    const std::int64_t rows = static_cast<std::int64_t>(plan.steps) * layer.group(), all_rows = rows * plan.kv_heads;
    const std::int64_t dim = layer.head_dim;
    logits_ = Buffer<float>(device_, columns * rows);
    query = Buffer<float>(device_, all_rows * dim);
    summary = Buffer<RowSummary>(device_, all_rows);
    top_ = Buffer<unsigned long long>(device_, rows);
    exponential = Buffer<float>(device_, columns * all_rows);
    if (request.single_removals) single = Buffer<float>(device_, columns * all_rows);
    if (needed > 0) rank = Buffer<std::int32_t>(device_, columns * all_rows);
    if (!with_outputs()) return;
    sum = Buffer<double>(device_, all_rows * dim);
    output = Buffer<float>(device_, all_rows * dim);
    single_of_largest_ = Buffer<float>(device_, all_rows);
  }

  bool recorded(std::int64_t step) const { return query_row_host_[static_cast<std::size_t>(step)] >= 0; }

  // Does nothing when this is the block already.
  void prepare(const EvaluationBlock& block) {
    if (prepared_ && prepared_->first_kv_head == block.first_kv_head && prepared_->kv_heads == block.kv_heads &&
        prepared_->first_step == block.first_step && prepared_->steps == block.steps)
      return;
    prepared_ = block;
    launch_gather_queries(queries_.rows.data(), queries_.rows.type, static_cast<std::int64_t>(queries_.positions.size()),
                          query_row_.data() + block.first_step, block.first_kv_head * block.group,
                          block.kv_heads * block.group, block.steps, block.dim, query.data(), device_.stream());
    for (int k = 0; k < block.kv_heads; ++k) prepare_head(block, k);
  }

  Buffer<float> query;         // [KV heads, rows, d]
  Buffer<RowSummary> summary;  // [KV heads, rows]
  Buffer<float> exponential;   // [KV heads, columns, rows]
  Buffer<float> single;        // the same, if asked for
  Buffer<std::int32_t> rank;   // the same, if asked for
  Buffer<double> sum;          // [KV heads, rows, d], if asked for
  Buffer<float> output;        // the same

 private:
  bool with_outputs() const { return request_.outputs || request_.single_removals; }

  void prepare_head(const EvaluationBlock& block, int k) {
    const cudaStream_t stream = device_.stream();
    const std::int64_t rows = block.rows(), weights = k * rows * block.columns, vectors = k * rows * block.dim;
    const std::int64_t head = block.first_kv_head + k, first_element = head * layer_.tokens * block.dim;
    RowSummary* const row_summary = summary.data() + k * rows;
    logits_launcher(queries_, layer_.key)(query.data() + vectors, element_at(layer_.key, first_element), layer_.key.type,
                                          query_row_.data() + block.first_step, block,
                                          static_cast<float>(layer_.attention_scale),
                                          static_cast<float>(layer_.logit_softcap), logits_.data(), stream, top_.data());
    {
      const Buffer<double> partial(device_, weight_partial_count(block));
      launch_weights(logits_.data(), top_.data(), block, exponential.data() + weights, partial.data(), row_summary, stream);
    }
    if (!rank.empty()) {
      Buffer<std::byte> scratch(device_, static_cast<std::int64_t>(rank_scratch_bytes(block, needed_)));
      launch_ranks(logits_.data(), block, needed_, scratch.data(), rank.data() + weights, stream);
    }
    if (!with_outputs()) return;
    const void* value = element_at(layer_.value, first_element);
    Buffer<double> partial(device_, std::max(full_partial_count(block), single_partial_count(block)));
    launch_full_outputs(exponential.data() + weights, value, layer_.value.type, block, partial.data(), sum.data() + vectors,
                        output.data() + vectors, single_of_largest_.data() + k * rows, row_summary, stream);
    if (!single.empty())
      launch_single_removals(exponential.data() + weights, value, layer_.value.type, block, output.data() + vectors,
                             single_of_largest_.data() + k * rows, single.data() + weights, partial.data(), row_summary,
                             stream);
  }

  const CudaLayer& layer_;
  const EvaluationRequest request_;
  Device& device_;
  const int needed_;
  const CudaLayer::Queries& queries_;
  const std::vector<std::int32_t> query_row_host_;
  const Buffer<std::int32_t> query_row_;
  Buffer<float> logits_, single_of_largest_;
  Buffer<unsigned long long> top_;
  std::optional<EvaluationBlock> prepared_;
};

// Runs [begin, end) of all, with their lists on the device.
struct Batch {
  std::size_t begin = 0, end = 0;
  std::optional<PinnedMemory> host;  // what is being copied to `bytes`
  Buffer<std::byte> bytes;
  const KeptList* lists = nullptr;
  const std::int32_t *first_list = nullptr, *list_heads = nullptr, *positions = nullptr;
  bool by_query_head = false;
  std::vector<std::int64_t> evicted;  // [runs, steps of the block]: Σ over heads; on the host

  std::int64_t runs() const { return static_cast<std::int64_t>(end - begin); }
};

// Does not wait for the copy: one for everything, from pinned memory that the batch holds.
std::shared_ptr<Batch> upload_batch(const CudaLayer& layer, const std::vector<RunLists>& runs, std::size_t begin,
                                    std::size_t end) {
  auto batch = std::make_shared<Batch>();
  batch->begin = begin;
  batch->end = end;
  std::vector<std::size_t> first_list = {0}, first_position = {0};
  for (std::size_t r = begin; r < end; ++r) {
    first_list.push_back(first_list.back() + runs[r].lists.size());
    first_position.push_back(first_position.back() + runs[r].positions.size());
    batch->by_query_head |= static_cast<int>(runs[r].lists.size()) == layer.num_query_heads && layer.group() > 1;
  }
  const std::size_t count = end - begin, lists_bytes = first_list.back() * sizeof(KeptList), run_bytes = count * 4;
  const std::size_t bytes = lists_bytes + 2 * run_bytes + first_position.back() * 4;
  const auto place = [&](std::byte* base) {
    batch->lists = reinterpret_cast<const KeptList*>(base);
    batch->first_list = reinterpret_cast<const std::int32_t*>(base + lists_bytes);
    batch->list_heads = reinterpret_cast<const std::int32_t*>(base + lists_bytes + run_bytes);
    batch->positions = reinterpret_cast<const std::int32_t*>(base + lists_bytes + 2 * run_bytes);
  };
  batch->host.emplace(bytes);
  auto* const host = static_cast<std::byte*>(batch->host->data());
  place(host);
  parallel_for(static_cast<std::int64_t>(count), 16, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      const RunLists& run = runs[begin + i];
      const_cast<std::int32_t*>(batch->first_list)[i] = static_cast<std::int32_t>(first_list[i]);
      const_cast<std::int32_t*>(batch->list_heads)[i] = static_cast<std::int32_t>(run.lists.size());
      for (std::size_t l = 0; l < run.lists.size(); ++l) {
        KeptList list = run.lists[l];
        list.offset += static_cast<std::int64_t>(first_position[i]);
        const_cast<KeptList*>(batch->lists)[first_list[i] + l] = list;
      }
      std::copy(run.positions.begin(), run.positions.end(), const_cast<std::int32_t*>(batch->positions) + first_position[i]);
    }
  });
  batch->bytes = Buffer<std::byte>(*layer.device, static_cast<std::int64_t>(bytes));
  batch->bytes.upload(host);
  place(batch->bytes.data());
  return batch;
}

// What the device is still computing, and what the host does with it then.
class Pending {
 public:
  Pending(cudaStream_t stream, std::function<void()> report) : report_(std::move(report)) {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
    check(cudaEventRecord(event_, stream), "recording an event");
  }
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending() { cudaEventDestroy(event_); }
  void finish() const {
    check(cudaEventSynchronize(event_), "waiting for the device");
    report_();
  }

 private:
  cudaEvent_t event_ = nullptr;
  std::function<void()> report_;
};

class Evaluation {
 public:
  Evaluation(const CudaLayer& layer, const std::vector<RunLists>& runs, const EvaluationRequest& request,
             const EvaluationPlan& plan, const CudaLayer::OutputProjection* projection, EvaluationSink& sink)
      : layer_(layer),
        runs_(runs),
        request_(request),
        plan_(plan),
        projection_(projection),
        sink_(sink),
        device_(*layer.device),
        full_(layer, request, plan, request.overlap ? ranks_needed() : 0),
        width_(static_cast<std::int64_t>(layer.num_query_heads) * layer.head_dim) {
    const std::int64_t rows = plan.runs * plan.kv_heads * plan.steps * layer.group();
    cells_ = Buffer<KeptCell>(device_, rows);
    kept_sum_ = Buffer<double>(device_, rows);
    repairs_ = Buffer<unsigned long long>(device_, rows + 1);
    if (!request.outputs) return;
    outputs_ = Buffer<float>(device_, plan.steps * width_);
    difference_ = Buffer<float>(device_, plan.runs * plan.steps * width_);
    sums_ = Buffer<LayerSums>(device_, plan.runs * plan.steps);
    output_squared_ = Buffer<double>(device_, plan.steps);
    if (projection == nullptr) return;
    unit_ = Buffer<float>(device_, plan.runs * plan.steps);
    before_ = Buffer<float>(device_, plan.steps * layer.hidden_size);
    partial_ = Buffer<LayerSums>(device_, layer_partial_count(plan.runs * plan.steps, layer.hidden_size));
  }

  // The host reports one batch while the device computes the next.
  void run() {
    try {
      for (std::int64_t step = 0; step < layer_.steps(); step += plan_.steps) {
        const std::int64_t steps = std::min<std::int64_t>(plan_.steps, layer_.steps() - step);
        for (std::size_t begin = 0; begin < runs_.size(); begin += static_cast<std::size_t>(plan_.runs)) {
          const std::size_t end = std::min(begin + static_cast<std::size_t>(plan_.runs), runs_.size());
          run_batch(upload_batch(layer_, runs_, begin, end), step, steps);
        }
      }
      finish_until(0);
    } catch (...) {
      cudaStreamSynchronize(device_.stream());  // pinned memory is given back to other work after this
      throw;
    }
  }

 private:
  int ranks_needed() const {
    std::int64_t most = 0;
    for (const RunLists& run : runs_) most = std::max(most, run.most_kept);
    return static_cast<int>(std::min(most, layer_.tokens));
  }

  void run_batch(const std::shared_ptr<Batch>& batch, std::int64_t first_step, std::int64_t steps) {
    batch->evicted.assign(static_cast<std::size_t>(batch->runs() * steps), 0);
    const std::size_t most_pending = 4;
    std::size_t own = 0;
    for (int head = 0; head < layer_.num_kv_heads; head += plan_.kv_heads, ++own) {
      const EvaluationBlock block =
          block_of(layer_, head, std::min(plan_.kv_heads, layer_.num_kv_heads - head), first_step, steps);
      full_.prepare(block);
      measure(batch, block);
      finish_until(most_pending);
    }
    if (request_.outputs) {
      measure_layer(batch, first_step, steps);
      ++own;
    }
    finish_until(std::min(own, most_pending));  // what came before this batch
  }

  // Reports, oldest first, until at most `left` are still to come.
  void finish_until(std::size_t left) {
    while (pending_.size() > left) {
      pending_.front()->finish();
      pending_.pop_front();
    }
  }

  void measure(const std::shared_ptr<Batch>& batch, const EvaluationBlock& block) {
    KeptArguments a;
    a.block = block;
    a.runs = static_cast<int>(batch->runs());
    a.lists = batch->lists;
    a.first_list = batch->first_list;
    a.list_heads = batch->list_heads;
    a.positions = batch->positions;
    a.by_query_head = batch->by_query_head;
    a.summary = full_.summary.data();
    a.exponential = full_.exponential.data();
    a.single = full_.single.data();
    a.rank = full_.rank.data();
    a.head_stride = layer_.tokens * layer_.head_dim;
    a.key = element_at(layer_.key, block.first_kv_head * a.head_stride);
    a.value = element_at(layer_.value, block.first_kv_head * a.head_stride);
    a.key_type = layer_.key.type;
    a.value_type = layer_.value.type;
    a.query = full_.query.data();
    a.scale = static_cast<float>(layer_.attention_scale);
    a.cap = static_cast<float>(layer_.logit_softcap);
    a.cells = cells_.data();
    a.kept_sum = kept_sum_.data();
    a.repairs = repairs_.data();
    if (request_.outputs) {
      a.sum = full_.sum.data();
      a.difference = difference_.data();
      if (batch->begin == 0) launch_place_outputs(full_.output.data(), block, outputs_.data(), device_.stream());
    }
    launch_kept(a, device_.multiprocessors(), device_.stream());

    const std::int64_t count = a.cell_count(), rows = static_cast<std::int64_t>(block.kv_heads) * block.rows();
    const auto cells = downloaded(cells_.data(), count);
    const auto summaries = downloaded(full_.summary.data(), rows);
    add_pending([this, batch, block, cells, summaries] {
      report_heads(*batch, block, static_cast<const KeptCell*>(cells->data()),
                   static_cast<const RowSummary*>(summaries->data()));
    });
  }

  void add_pending(std::function<void()> report) {
    pending_.push_back(std::make_unique<Pending>(device_.stream(), std::move(report)));
  }

  // Pinned memory that holds the numbers when the stream has come this far.
  template <class T>
  std::shared_ptr<PinnedMemory> downloaded(const T* source, std::int64_t count) const {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    auto target = std::make_shared<PinnedMemory>(bytes);
    check(cudaMemcpyAsync(target->data(), source, bytes, cudaMemcpyDeviceToHost, device_.stream()),
          "copying results from the device");
    return target;
  }

  void report_heads(Batch& batch, const EvaluationBlock& block, const KeptCell* cells, const RowSummary* summaries) {
    const std::int64_t rows = block.rows(), stride = block.kv_heads * rows;
    // Each head's results come from one thread, step after step.
    parallel_for(static_cast<std::int64_t>(block.kv_heads) * block.group, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) {
        const int query_head = block.first_kv_head * block.group + static_cast<int>(h);
        // What does not depend on the run.
        std::vector<HeadStep> full;
        for (int s = 0; s < block.steps; ++s) full.push_back(full_step(block, s, summaries[h * block.steps + s]));
        for (std::int64_t r = 0; r < batch.runs(); ++r)
          for (int s = 0; s < block.steps; ++s) {
            const std::int64_t row = h * block.steps + s;  // = KV head · rows + row within it
            HeadStep& step = full[static_cast<std::size_t>(s)];
            if (step.recorded) fill(step, cells[r * stride + row]);
            sink_.head(batch.begin + static_cast<std::size_t>(r), query_head, block.first_step + s, step);
          }
      }
    });
    parallel_for(batch.runs(), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t row = 0; row < stride; ++row)
          if (summaries[row].largest >= 0)
            batch.evicted[static_cast<std::size_t>(r * block.steps + row % block.steps)] +=
                visible(block, static_cast<int>(row % block.steps)) - cells[r * stride + row].kept;
    });
  }

  static std::int64_t visible(const EvaluationBlock& block, int step) {
    const int position = block.position(step);
    return position + 1 - block.first_visible(position);
  }

  HeadStep full_step(const EvaluationBlock& block, int s, const RowSummary& summary) const {
    HeadStep step;
    step.recorded = summary.largest >= 0;
    if (!step.recorded) return step;
    step.visible = visible(block, s);
    step.full_log_sum_exp = summary.top + std::log(summary.total);
    if (request_.entropy) step.entropy = summary.entropy;
    if (request_.regions)
      for (std::size_t r = 0; r < num_regions; ++r) step.mass_before[r] = summary.mass[r];
    if (request_.outputs) step.output_norm = summary.output_norm;
    return step;
  }

  // Every field that depends on the run.
  void fill(HeadStep& step, const KeptCell& cell) const {
    step.evicted = step.visible - cell.kept;
    step.evicted_mass = cell.evicted_mass;
    step.redistribution_kl = cell.divergence;
    step.kept_log_sum_exp = step.full_log_sum_exp - step.redistribution_kl;
    if (request_.overlap)
      step.oracle_overlap = step.evicted == 0 ? 1 : static_cast<double>(cell.shared) / static_cast<double>(cell.kept);
    if (request_.single_removals) step.single_removal_sum = cell.single_removal_sum;
    if (request_.regions)
      for (std::size_t r = 0; r < num_regions; ++r) step.mass_after[r] = cell.mass_after[r];
    if (request_.outputs) {
      step.difference_norm = cell.difference_norm;
      step.displacement = cell.displacement;
    }
  }

  // Of all runs alike: before_ and output_squared_ from outputs_, which is left in the form of tensor cores.
  void project_outputs(std::int64_t steps) {
    const cudaStream_t stream = device_.stream();
    if (projection_ == nullptr) {
      launch_squared_norms(outputs_.data(), steps, width_, output_squared_.data(), stream);
      return;
    }
    const DeviceTensor& stored = projection_->stored;
    const std::int64_t hidden = stored.shape[1];
    if (projection_->on_tensor_cores()) {
      launch_split_rows(outputs_.data(), steps, width_, unit_.data(), stream);
      launch_project_split(outputs_.data(), unit_.data(), steps, projection_->half_projection(), before_.data(), stream);
    } else {
      launch_project(outputs_.data(), steps, stored.data(), stored.type, hidden, width_, before_.data(), stream);
    }
    launch_squared_norms(before_.data(), steps, hidden, output_squared_.data(), stream);
  }

  // sums_ from difference_, which is left in the form of tensor cores.
  void sum_differences(std::int64_t rows, std::int64_t steps) {
    const cudaStream_t stream = device_.stream();
    if (projection_ == nullptr) {
      launch_concatenated_sums(difference_.data(), rows, width_, outputs_.data(), steps, sums_.data(), stream);
    } else if (projection_->on_tensor_cores()) {
      launch_split_rows(difference_.data(), rows, width_, unit_.data(), stream);
      launch_layer_sums_split(difference_.data(), unit_.data(), rows, projection_->half_projection(), before_.data(), steps,
                              partial_.data(), sums_.data(), stream);
    } else {
      const DeviceTensor& stored = projection_->stored;
      launch_layer_sums(difference_.data(), rows, stored.data(), stored.type, stored.shape[1], width_, before_.data(), steps,
                        partial_.data(), sums_.data(), stream);
    }
  }

  void measure_layer(const std::shared_ptr<Batch>& batch, std::int64_t first_step, std::int64_t steps) {
    const std::int64_t rows = batch->runs() * steps;
    if (batch->begin == 0) project_outputs(steps);
    sum_differences(rows, steps);
    const auto sums = downloaded(sums_.data(), rows);
    const auto squared = downloaded(output_squared_.data(), steps);
    add_pending([this, batch, first_step, steps, sums, squared] {
      report_layer(*batch, first_step, steps, static_cast<const LayerSums*>(sums->data()),
                   static_cast<const double*>(squared->data()));
    });
  }

  void report_layer(const Batch& batch, std::int64_t first_step, std::int64_t steps, const LayerSums* sums,
                    const double* squared) const {
    parallel_for(batch.runs(), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        for (std::int64_t s = 0; s < steps; ++s) {
          const LayerSums& of = sums[r * steps + s];
          LayerStep step;
          step.recorded = full_.recorded(first_step + s);
          step.projected = projection_ != nullptr;
          step.evicted = batch.evicted[static_cast<std::size_t>(r * steps + s)];
          step.difference_norm = std::sqrt(of.difference);
          step.output_norm = std::sqrt(squared[s]);
          step.kept_output_norm = std::sqrt(of.kept);
          step.inner_product = of.inner;
          sink_.layer(batch.begin + static_cast<std::size_t>(r), first_step + s, step);
        }
    });
  }

  const CudaLayer& layer_;
  const std::vector<RunLists>& runs_;
  const EvaluationRequest request_;
  const EvaluationPlan plan_;
  const CudaLayer::OutputProjection* const projection_;  // null: the trace has none, or outputs are not asked for
  EvaluationSink& sink_;
  Device& device_;
  FullCache full_;
  const std::int64_t width_;  // Hq · d
  Buffer<KeptCell> cells_;
  Buffer<double> kept_sum_;
  Buffer<unsigned long long> repairs_;
  Buffer<float> outputs_, difference_, unit_, before_;
  Buffer<LayerSums> partial_, sums_;
  Buffer<double> output_squared_;
  std::deque<std::unique_ptr<Pending>> pending_;
};

}  // namespace

EvaluationPlan::EvaluationPlan(const LoadedLayer& layer, std::int64_t run_count, const EvaluationRequest& request,
                               std::int64_t projection_bytes) {
  const std::int64_t matrices = 1 + (request.single_removals ? 1 : 0) + (request.overlap ? 1 : 0);
  const std::int64_t group = layer.group(), dim = layer.head_dim, width = layer.num_query_heads * dim;
  // Weights of one KV head at one step, beside the logits of one KV head.
  const std::int64_t columns = largest_column_count(layer, layer.steps());
  const std::int64_t step_bytes = columns * group * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most_steps = std::clamp<std::int64_t>(block_bytes / (step_bytes * (matrices + 1)), 1, layer.steps());
  steps = static_cast<int>(most_steps == layer.steps() ? most_steps : whole_tiles(most_steps));
  const std::int64_t left = block_bytes - step_bytes * steps;
  kv_heads = static_cast<int>(std::clamp<std::int64_t>(left / (step_bytes * steps * matrices), 1, layer.num_kv_heads));

  const std::int64_t rows = steps * group * kv_heads;
  const std::int64_t tiles = projection_bytes > 0 ? layer_partial_count(1, layer.hidden_size) : 0;
  const auto cell_bytes = static_cast<std::int64_t>(sizeof(KeptCell) + sizeof(double) + sizeof(unsigned long long)) * rows;
  const auto run_bytes =
      cell_bytes +
      (request.outputs ? steps * (width * 4 + 4 + (tiles + 1) * static_cast<std::int64_t>(sizeof(LayerSums))) : 0);
  const bool once = kv_heads == layer.num_kv_heads && steps == layer.steps();
  runs = std::clamp<std::int64_t>((once ? batch_bytes : large_batch_bytes) / run_bytes, 1,
                                  std::max<std::int64_t>(run_count, 1));
  runs = std::min(runs, std::max<std::int64_t>(most_rows / steps, 1));
  const std::int64_t batches = (std::max<std::int64_t>(run_count, 1) + runs - 1) / runs;
  runs = (std::max<std::int64_t>(run_count, 1) + batches - 1) / batches;  // batches of one size

  const EvaluationBlock block = block_of(layer, 0, kv_heads, 0, steps);
  const auto row_bytes = static_cast<std::int64_t>(sizeof(RowSummary)) + 12 + dim * 16;
  bytes = step_bytes * steps * (1 + matrices * kv_heads) + rows * row_bytes + runs * run_bytes + projection_bytes +
          steps * (width + layer.hidden_size + 2) * 4;
  std::int64_t scratch = std::max({full_partial_count(block), single_partial_count(block), weight_partial_count(block)}) * 8;
  if (request.overlap)
    for (const int needed : {block.columns, block.columns / 4})  // all are sorted, or the most that are selected first
      scratch = std::max(scratch, static_cast<std::int64_t>(rank_scratch_bytes(block, needed)));
  bytes += scratch;
}

void evaluate(const CudaLayer& layer, const std::vector<RunEvictions>& runs, const EvaluationRequest& request,
              EvaluationSink& sink) {
  if (layer.steps() == 0 || runs.empty()) return;
  std::vector<std::size_t> plain_runs, changed_runs;
  for (std::size_t r = 0; r < runs.size(); ++r)
    (runs[r].changes != nullptr && !runs[r].changes->empty() ? changed_runs : plain_runs).push_back(r);
  if (!changed_runs.empty()) {
    std::vector<RunEvictions> changed;
    for (const std::size_t r : changed_runs) changed.push_back(runs[r]);
    RenumberedSink renumbered(sink, changed_runs);
    evaluate_on_cpu(layer, changed, request, renumbered);
  }
  if (plain_runs.empty()) return;

  std::vector<RunLists> lists(plain_runs.size());
  parallel_for(static_cast<std::int64_t>(lists.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      fill_lists(lists[static_cast<std::size_t>(i)], layer, runs[plain_runs[static_cast<std::size_t>(i)]]);
  });
  const CudaLayer::OutputProjection* projection = nullptr;
  if (request.outputs && layer.trace->has(layer.layer, LayerDataset::output_projection))
    projection = &layer.output_projection();
  const EvaluationPlan plan(
      layer, static_cast<std::int64_t>(lists.size()), request,
      projection == nullptr ? 0 : static_cast<std::int64_t>(projection->stored.bytes.bytes() + projection->half.bytes()));
  RenumberedSink renumbered(sink, plain_runs);
  EvaluationSink& of_plain_runs = changed_runs.empty() ? sink : renumbered;
  Evaluation(layer, lists, request, plan, projection, of_plain_runs).run();
}

Tensor<float, 2> decode_logits(const CudaLayer& layer, int query_head) {
  const std::int64_t steps = layer.steps(), tokens = layer.tokens, dim = layer.head_dim;
  Tensor<float, 2> logits({steps, tokens});
  if (steps == 0) return logits;
  Device& device = *layer.device;
  const auto& queries = layer.recorded_queries(layer.prompt, tokens);
  const Buffer<std::int32_t> rows = uploaded(device, query_rows(layer, queries));
  device.synchronize();
  const std::int64_t at_once = std::clamp<std::int64_t>(block_bytes / 4 / (tokens * 4), 1, steps);
  const Buffer<float> query(device, at_once * dim), on_device(device, at_once * tokens);
  const int kv_head = query_head / layer.group();
  for (std::int64_t first = 0; first < steps; first += at_once) {
    EvaluationBlock block = block_of(layer, kv_head, 1, first, std::min(at_once, steps - first));
    block.group = 1;
    block.origin = 0;
    block.columns = static_cast<int>(tokens);
    launch_gather_queries(queries.rows.data(), queries.rows.type, static_cast<std::int64_t>(queries.positions.size()),
                          rows.data() + first, query_head, 1, block.steps, block.dim, query.data(), device.stream());
    logits_launcher(queries, layer.key)(query.data(), element_at(layer.key, kv_head * tokens * dim), layer.key.type,
                                        rows.data() + first, block, static_cast<float>(layer.attention_scale),
                                        static_cast<float>(layer.logit_softcap), on_device.data(), device.stream(), nullptr);
    check(cudaMemcpyAsync(logits.data() + first * tokens, on_device.data(),
                          static_cast<std::size_t>(block.steps * tokens) * sizeof(float), cudaMemcpyDeviceToHost,
                          device.stream()),
          "copying logits from the device");
    device.synchronize();
  }
  return logits;
}

Buffer<float> decode_attention_sum(const CudaLayer& layer) {
  Device& device = *layer.device;
  const std::int64_t n = layer.candidates(), group = layer.group(), count = layer.num_query_heads * n;
  Buffer<double> total(device, count);
  total.fill_bytes(0);
  Buffer<float> sums(device, count);
  const EvaluationRequest weights_alone{
      .outputs = false, .single_removals = false, .overlap = false, .regions = false, .entropy = false};
  if (layer.steps() > 0) {
    EvaluationPlan plan(layer, 1, weights_alone, 0);
    plan.kv_heads = 1;
    FullCache full(layer, weights_alone, plan, 0);
    for (int head = 0; head < layer.num_kv_heads; ++head)
      for (std::int64_t step = 0; step < layer.steps(); step += plan.steps) {
        const EvaluationBlock block =
            block_of(layer, head, 1, step, std::min<std::int64_t>(plan.steps, layer.steps() - step));
        full.prepare(block);
        launch_add_attention(full.exponential.data(), full.summary.data(), block, static_cast<int>(layer.first_candidate),
                             static_cast<int>(n), total.data() + head * group * n, device.stream());
      }
  }
  launch_narrow(total.data(), count, sums.data(), device.stream());
  return sums;
}

}  // namespace kvreplay::cuda

#include "core/model/byte_pair_encoding.h"

#include <algorithm>
#include <array>
#include <limits>

namespace kvreplay {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

// Below this many symbols a scan over all pairs is faster than a heap (most words have fewer than ten).
constexpr std::size_t few = 24;

}  // namespace

MergeTable::MergeTable(std::size_t expected_merges) {
  std::size_t capacity = 16;
  while (capacity * 2 < expected_merges * 3) capacity *= 2;
  slots_.resize(capacity);
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15ULL) >> 20) & mask;
  while (slots_[slot].pair != empty && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  if ((size_ + 1) * 3 > slots_.size() * 2) {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.pair != empty) slots_[slot_of(slot.pair)] = slot;
  }
  Slot& slot = slots_[slot_of(pair_key(left, right))];
  if (slot.pair == empty) ++size_;
  slot = {pair_key(left, right), merge};
}

MergeTable::Merge MergeTable::find(std::int32_t left, std::int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.pair == empty ? Merge{} : slot.merge;
}

void MergeTable::apply(std::vector<std::int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= few) {
    apply_few(symbols);
  } else {
    apply_many(symbols);
  }
}

void MergeTable::apply_few(std::vector<std::int32_t>& symbols) const {
  std::array<Merge, few> merges;  // of symbol i with symbol i + 1
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) merges[i] = find(symbols[i], symbols[i + 1]);
  for (;;) {
    std::size_t best = count;
    std::uint32_t best_rank = std::numeric_limits<std::uint32_t>::max();
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (merges[i].id < 0 || (best < count && merges[i].rank >= best_rank)) continue;
      best = i;
      best_rank = merges[i].rank;
    }
    if (best == count) break;
    symbols[best] = merges[best].id;
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 2, symbols.begin() + static_cast<std::ptrdiff_t>(count),
              symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    if (best + 2 < count) std::copy(&merges[best + 2], merges.data() + count, &merges[best + 1]);
    --count;
    if (best > 0) merges[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(count);
}

void MergeTable::apply_many(std::vector<std::int32_t>& symbols) const {
  struct Node {
    std::int32_t symbol, previous, next;  // previous, next: index or -1; symbol -1: merged into its left neighbour
  };
  struct Candidate {
    std::uint32_t rank, left;
    std::int32_t id;
    // std::*_heap keeps the largest on top: the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  const auto count = static_cast<std::int32_t>(symbols.size());
  std::vector<Node> nodes(symbols.size());
  std::vector<Candidate> heap;
  heap.reserve(symbols.size());
  const auto propose = [&](std::int32_t left) {
    const Node& node = nodes[static_cast<std::size_t>(left)];
    if (node.next < 0) return false;
    const Merge merge = find(node.symbol, nodes[static_cast<std::size_t>(node.next)].symbol);
    if (merge.id < 0) return false;
    heap.push_back({merge.rank, static_cast<std::uint32_t>(left), merge.id});
    return true;
  };

  for (std::int32_t i = 0; i < count; ++i)
    nodes[static_cast<std::size_t>(i)] = {symbols[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  for (std::int32_t i = 0; i < count; ++i) propose(i);
  std::make_heap(heap.begin(), heap.end());

  while (!heap.empty()) {
    const Candidate candidate = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    Node& left = nodes[candidate.left];
    if (left.symbol < 0 || left.next < 0) continue;
    Node& right = nodes[static_cast<std::size_t>(left.next)];
    if (find(left.symbol, right.symbol).id != candidate.id) continue;  // a neighbour has merged since it was proposed
    left.symbol = candidate.id;
    right.symbol = -1;
    left.next = right.next;
    if (left.next >= 0) nodes[static_cast<std::size_t>(left.next)].previous = static_cast<std::int32_t>(candidate.left);
    if (left.previous >= 0 && propose(left.previous)) std::push_heap(heap.begin(), heap.end());
    if (propose(static_cast<std::int32_t>(candidate.left))) std::push_heap(heap.begin(), heap.end());
  }

  std::size_t kept = 0;
  for (std::int32_t i = 0; i >= 0; i = nodes[static_cast<std::size_t>(i)].next)
    symbols[kept++] = nodes[static_cast<std::size_t>(i)].symbol;
  symbols.resize(kept);
}

}  // namespace kvreplay

// The merge step of byte-pair encoding: of all neighbouring symbols that may merge, the pair of the lowest rank (the
// leftmost of equals) merges first, until none is left. O(n log n) for n symbols.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvreplay {

class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank = 0;
    std::int32_t id = -1;  // of the merged symbol; -1: the pair does not merge
  };

  explicit MergeTable(std::size_t expected_merges = 0);
  // The later of two entries for the same pair counts.
  void add(std::int32_t left, std::int32_t right, Merge merge);
  Merge find(std::int32_t left, std::int32_t right) const;
  std::size_t size() const { return size_; }

  // Merges symbols until no pair of neighbours is in the table. At most 2^31 symbols.
  void apply(std::vector<std::int32_t>& symbols) const;

 private:
  struct Slot {
    std::uint64_t pair = empty;
    Merge merge;
  };
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  std::size_t slot_of(std::uint64_t pair) const;
  void apply_few(std::vector<std::int32_t>& symbols) const;
  void apply_many(std::vector<std::int32_t>& symbols) const;

  std::vector<Slot> slots_;  // open addressing, a power of two, at most 2/3 full
  std::size_t size_ = 0;
};

}  // namespace kvreplay

// 256 resident rows against a stream of rows, 128 at a time: the common frame of column sums (resident keys, streamed
// queries) and of log-sum-exps (resident queries, streamed keys). Every logit lives in registers only, for a moment.
//
// A block has three warpgroups. Warpgroup 0 gives its registers away, and one thread of it keeps a ring of tiles in shared
// memory filled through the TMA. Warpgroups 1 and 2 hold 128 resident rows each, as A fragments in registers for the whole
// kernel (64 registers at d = 128), and two accumulators of 64 × 128: while the tensor cores fill one, the exponentials of
// the other are summed.
//
// What bounds it: a tile of 64 × 128 at d = 128 takes the tensor cores 512 cycles, and its 8,192 exponentials take the
// special function units 512 cycles as well (16 a cycle), so both must run all the time, or a share of the exponentials must
// go to the FMA units (exp2_polynomial). Shared memory: B 50 %, TMA writes 12 %, the queries' shifts 6 % of its cycles. The
// L2 cache delivers 256 rows · 2 d bytes for 256 × 256 · 2 d operations: 2.9 TB/s at 752 TFLOP/s.
#pragma once

#include "gpu/kernels/hopper.cuh"

namespace kvreplay::cuda::hopper {

constexpr int stream_rows = 128;    // of a tile
constexpr int half_rows = 64;       // resident rows of one product
constexpr int resident_rows = 256;  // of a block
constexpr int stream_threads = 3 * warpgroup_threads;
constexpr int consumer_warps = 8;

// Shared memory: `stages` tiles, for each tile 128 float numbers that may come with its rows (column sums), and barriers.
template <int HeadDim, int Stages = 4 * 128 / HeadDim>
struct StreamRing {
  static constexpr int tile_bytes = stream_rows * HeadDim * 2;
  static constexpr int piece_bytes = stream_rows * piece_columns * 2;
  static constexpr int number_bytes = stream_rows * static_cast<int>(sizeof(float));
  static constexpr int stages = Stages;
  static constexpr int bytes = 1024 + stages * (tile_bytes + number_bytes + 2 * static_cast<int>(sizeof(std::uint64_t)));

#if KVREPLAY_HOPPER_CODE
  unsigned char* tiles;
  float* numbers;
  std::uint64_t *full, *empty;

  // All threads of the block.
  __device__ explicit StreamRing(unsigned char* memory) {
    tiles = memory + (1024 - shared_address(memory) % 1024) % 1024;
    numbers = reinterpret_cast<float*>(tiles + stages * tile_bytes);
    full = reinterpret_cast<std::uint64_t*>(tiles + stages * (tile_bytes + number_bytes));
    empty = full + stages;
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < stages; ++stage) {
        barrier_init(full + stage, 1);
        barrier_init(empty + stage, consumer_warps);
      }
      barrier_init_fence();
    }
    __syncthreads();
  }

  // Tile i of the stream goes to stage i % stages. One thread: waits until the stage's former tile is read, then asks for
  // rows [row, row + 128) of `head`, and for 128 numbers unless `source` is null.
  __device__ void fill(int i, const CUtensorMap* map, int row, int head, const float* source) {
    const int stage = i % stages;
    barrier_wait(empty + stage, i / stages % 2 ^ 1);  // of a fresh barrier, the phase before the first counts as complete
    barrier_expect(full + stage, tile_bytes + (source == nullptr ? 0 : number_bytes));
    for (int piece = 0; piece < HeadDim / piece_columns; ++piece)
      copy_box(tiles + stage * tile_bytes + piece * piece_bytes, map, piece * piece_columns, row, head, full + stage);
    if (source != nullptr) copy_bytes(numbers + stage * stream_rows, source, number_bytes, full + stage);
  }
  __device__ void wait(int i) const { barrier_wait(full + i % stages, i / stages % 2); }
  // All lanes of a consumer's warp.
  __device__ void release(int i) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + i % stages);
  }
  __device__ const float* tile_numbers(int i) const { return numbers + i % stages * stream_rows; }

  // d = a · tileᵀ, as one group that is under way when this returns.
  template <class Element>
  __device__ void start_product(float (&d)[64], const std::uint32_t (&a)[HeadDim / 16][4], int i) const {
    const std::uint32_t address = shared_address(tiles) + i % stages * tile_bytes;
    products_begin();
#pragma unroll
    for (int k = 0; k < HeadDim / 16; ++k)
      multiply<Element, 0>(d, a[k], rows_transposed(address + k / 4 * piece_bytes + k % 4 * 32), k == 0 ? 0 : 1);
    products_commit();
  }
#endif
};

#if KVREPLAY_HOPPER_CODE

// The loop of one consumer warpgroup over `count` > 0 tiles. consume(d, half, i) gets the products of resident rows
// [64 half, 64 half + 64) of this warpgroup with tile i.
template <class Element, int HeadDim, class Consume>
__device__ inline void consume_stream(const StreamRing<HeadDim>& ring, const std::uint32_t (&low)[HeadDim / 16][4],
                                      const std::uint32_t (&high)[HeadDim / 16][4], int count, Consume&& consume) {
  // One product is under way while the other is consumed, and every wait is for all: ptxas serialises products that are
  // under way when a loop comes round (its message C7514).
  float d0[64], d1[64];
  ring.wait(0);
  ring.template start_product<Element>(d0, low, 0);
  products_wait<0>();
  settle(d0);
  for (int i = 0; i + 1 < count; ++i) {
    ring.template start_product<Element>(d1, high, i);
    consume(d0, 0, i);
    products_wait<0>();
    settle(d1);
    ring.wait(i + 1);
    ring.template start_product<Element>(d0, low, i + 1);
    consume(d1, 1, i);
    ring.release(i);
    products_wait<0>();
    settle(d0);
  }
  ring.template start_product<Element>(d1, high, count - 1);
  consume(d0, 0, count - 1);
  products_wait<0>();
  settle(d1);
  consume(d1, 1, count - 1);
  ring.release(count - 1);
}

// Element `index` of a thread's 64 goes to the polynomial when its turn has come: Share of every 8, spread evenly.
template <int Share>
__device__ inline float exp2_shared(float x, int index) {
  return index * Share % 8 < Share ? exp2_polynomial(x) : exp2_unit(x);
}

// Sums of float32 numbers with the rounding errors carried along (Kahan).
struct CarefulSum {
  float sum = 0, excess = 0;  // what `sum` has too much
  __device__ void add(float value) {
    const float wanted = value - excess;
    const float next = sum + wanted;
    excess = (next - sum) - wanted;
    sum = next;
  }
  __device__ double total() const { return static_cast<double>(sum) - static_cast<double>(excess); }
};

#endif

}  // namespace kvreplay::cuda::hopper

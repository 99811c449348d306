// What the scoring kernels on Hopper share: a ring of tiles that the TMA fills, and products beside the one of hopper.cuh:
// with A in shared memory, and with any N that is a multiple of 16.
#pragma once

#include "gpu/kernels/hopper.cuh"

namespace kvreplay::cuda::hopper {

constexpr int tile_threads = 3 * warpgroup_threads;  // of a block: one warpgroup that asks for tiles and two that compute
constexpr int tile_alignment = 1024;                 // of tiles with the 128-byte swizzle

constexpr int round_up(int bytes, int unit) { return (bytes + unit - 1) / unit * unit; }

// `Stages` tiles of `Rows` rows, each tile in pieces of 64 columns.
//
// Two warpgroups read every tile, or they take turns: one reads the even tiles, the other the odd ones. A wait names a phase
// by its parity alone, so whoever waits at a barrier must have seen the phase before. With an odd number of stages a stage
// passes from one warpgroup to the other and back; then every stage has two barriers, one for each warpgroup. (With one, a
// warpgroup whose tile had arrived early would find the phase before the one it wants still open, take it for the one after,
// read a tile that is not there, and release what it never had: a launch failure, rarely, where reading is the bound.)
template <int HeadDim, int Rows, int Stages>
struct TileRing {
  static constexpr int piece_bytes = Rows * piece_columns * 2;
  static constexpr int tile_bytes = Rows * HeadDim * 2;
  static constexpr int stages = Stages;
  static constexpr int bytes = Stages * tile_bytes;  // from an address that is a multiple of tile_alignment
  static constexpr int full_barriers = Stages % 2 == 0 ? Stages : 2 * Stages;
  static constexpr int barrier_count = full_barriers + Stages;

#if KVREPLAY_HOPPER_CODE
  unsigned char* tiles;
  std::uint64_t *full, *empty;

  __device__ TileRing(unsigned char* memory, std::uint64_t* barriers)
      : tiles(memory), full(barriers), empty(barriers + full_barriers) {}

  // One thread; the block synchronises afterwards. consumer_warps: that release each tile.
  __device__ void init(int consumer_warps) {
    for (int i = 0; i < full_barriers; ++i) barrier_init(full + i, 1);
    for (int stage = 0; stage < Stages; ++stage) barrier_init(empty + stage, consumer_warps);
    barrier_init_fence();
  }
  // Use i of the ring is stage i % Stages. One thread: waits until the stage's former tile is read.
  __device__ void fill(int i, const CUtensorMap* map, int row, int head) {
    const int stage = i % Stages;
    std::uint64_t* arrived = full + i % full_barriers;
    barrier_wait(empty + stage, i / Stages % 2 ^ 1);  // of a fresh barrier, the phase before the first counts as complete
    barrier_expect(arrived, tile_bytes);
#pragma unroll
    for (int piece = 0; piece < HeadDim / piece_columns; ++piece)
      copy_box(tiles + stage * tile_bytes + piece * piece_bytes, map, piece * piece_columns, row, head, arrived);
  }
  __device__ void wait(int i) const { barrier_wait(full + i % full_barriers, i / full_barriers % 2); }
  // All lanes of a consumer's warp.
  __device__ void release(int i) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + i % Stages);
  }
  __device__ std::uint32_t address(int i) const { return shared_address(tiles) + i % Stages * tile_bytes; }
#endif
};

#if KVREPLAY_HOPPER_CODE

__device__ inline unsigned char* aligned_tiles(unsigned char* memory) {
  return memory + (tile_alignment - shared_address(memory) % tile_alignment) % tile_alignment;
}

#define KVREPLAY_OUT8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define KVREPLAY_OUT16 KVREPLAY_OUT8(0), KVREPLAY_OUT8(8)
#define KVREPLAY_OUT24 KVREPLAY_OUT16, KVREPLAY_OUT8(16)
#define KVREPLAY_OUT32 KVREPLAY_OUT24, KVREPLAY_OUT8(24)
#define KVREPLAY_OUT40 KVREPLAY_OUT32, KVREPLAY_OUT8(32)
#define KVREPLAY_OUT48 KVREPLAY_OUT40, KVREPLAY_OUT8(40)
#define KVREPLAY_OUT56 KVREPLAY_OUT48, KVREPLAY_OUT8(48)
#define KVREPLAY_OUT64 KVREPLAY_OUT56, KVREPLAY_OUT8(56)
#define KVREPLAY_NAMES8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define KVREPLAY_NAMES16 KVREPLAY_NAMES8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define KVREPLAY_NAMES24 KVREPLAY_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define KVREPLAY_NAMES32 KVREPLAY_NAMES24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define KVREPLAY_NAMES40 KVREPLAY_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define KVREPLAY_NAMES48 KVREPLAY_NAMES40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define KVREPLAY_NAMES56 KVREPLAY_NAMES48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define KVREPLAY_NAMES64 KVREPLAY_NAMES56 ", %56, %57, %58, %59, %60, %61, %62, %63"

// The operands behind the accumulators have the numbers given as text.
#define KVREPLAY_WGMMA_SHARED(n, type, names, outs, a_name, b_name, flag)                                         \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " flag                                         \
               ", 0;\n"                                                                                           \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" names "}, " a_name ", " b_name \
               ", accumulate, 1, 1, 0, 0;\n}\n"                                                                   \
               : outs                                                                                             \
               : "l"(a), "l"(b), "r"(accumulate))
#define KVREPLAY_WGMMA_HALF(n, names, outs, a0, a1, a2, a3, b_name, flag)                                        \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " flag                                        \
               ", 0;\n"                                                                                          \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" names "}, {" a0 ", " a1 ", " a2 ", " a3 \
               "}, " b_name ", accumulate, 1, 1, 0;\n}\n"                                                        \
               : outs                                                                                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

// D[64, N] = A · B or D += A · B with A[64, 16] and B[16, N] in shared memory, both as rows_transposed describes rows (of A:
// row m, element k). N = 2 · Count: 32, 64 or 128. Shared memory delivers both: 75 % of its cycles at N = 128.
template <class Element, int Count>
__device__ inline void multiply_shared(float (&d)[Count], std::uint64_t a, std::uint64_t b, int accumulate) {
  static_assert(Count == 16 || Count == 32 || Count == 64);
  constexpr bool half = std::is_same_v<Element, __half>;
  if constexpr (Count == 64) {
    if constexpr (half)
      KVREPLAY_WGMMA_SHARED("128", "f16", KVREPLAY_NAMES64, KVREPLAY_OUT64, "%64", "%65", "%66");
    else
      KVREPLAY_WGMMA_SHARED("128", "bf16", KVREPLAY_NAMES64, KVREPLAY_OUT64, "%64", "%65", "%66");
  } else if constexpr (Count == 32) {
    if constexpr (half)
      KVREPLAY_WGMMA_SHARED("64", "f16", KVREPLAY_NAMES32, KVREPLAY_OUT32, "%32", "%33", "%34");
    else
      KVREPLAY_WGMMA_SHARED("64", "bf16", KVREPLAY_NAMES32, KVREPLAY_OUT32, "%32", "%33", "%34");
  } else {
    if constexpr (half)
      KVREPLAY_WGMMA_SHARED("32", "f16", KVREPLAY_NAMES16, KVREPLAY_OUT16, "%16", "%17", "%18");
    else
      KVREPLAY_WGMMA_SHARED("32", "bf16", KVREPLAY_NAMES16, KVREPLAY_OUT16, "%16", "%17", "%18");
  }
}

// The first N columns of D, float16: D[64, N] = A · B or += with A in registers. The accumulators of N columns are the first
// N / 2 of those of more.
template <int N, int Count>
__device__ inline void multiply_columns(float (&d)[Count], const std::uint32_t (&a)[4], std::uint64_t b, int accumulate) {
  static_assert(N % 16 == 0 && N <= 128 && N / 2 <= Count);
  if constexpr (N == 16)
    KVREPLAY_WGMMA_HALF("16", KVREPLAY_NAMES8, KVREPLAY_OUT8(0), "%8", "%9", "%10", "%11", "%12", "%13");
  else if constexpr (N == 32)
    KVREPLAY_WGMMA_HALF("32", KVREPLAY_NAMES16, KVREPLAY_OUT16, "%16", "%17", "%18", "%19", "%20", "%21");
  else if constexpr (N == 48)
    KVREPLAY_WGMMA_HALF("48", KVREPLAY_NAMES24, KVREPLAY_OUT24, "%24", "%25", "%26", "%27", "%28", "%29");
  else if constexpr (N == 64)
    KVREPLAY_WGMMA_HALF("64", KVREPLAY_NAMES32, KVREPLAY_OUT32, "%32", "%33", "%34", "%35", "%36", "%37");
  else if constexpr (N == 80)
    KVREPLAY_WGMMA_HALF("80", KVREPLAY_NAMES40, KVREPLAY_OUT40, "%40", "%41", "%42", "%43", "%44", "%45");
  else if constexpr (N == 96)
    KVREPLAY_WGMMA_HALF("96", KVREPLAY_NAMES48, KVREPLAY_OUT48, "%48", "%49", "%50", "%51", "%52", "%53");
  else if constexpr (N == 112)
    KVREPLAY_WGMMA_HALF("112", KVREPLAY_NAMES56, KVREPLAY_OUT56, "%56", "%57", "%58", "%59", "%60", "%61");
  else
    KVREPLAY_WGMMA_HALF("128", KVREPLAY_NAMES64, KVREPLAY_OUT64, "%64", "%65", "%66", "%67", "%68", "%69");
}

#undef KVREPLAY_WGMMA_HALF
#undef KVREPLAY_WGMMA_SHARED
#undef KVREPLAY_NAMES64
#undef KVREPLAY_NAMES56
#undef KVREPLAY_NAMES48
#undef KVREPLAY_NAMES40
#undef KVREPLAY_NAMES32
#undef KVREPLAY_NAMES24
#undef KVREPLAY_NAMES16
#undef KVREPLAY_NAMES8
#undef KVREPLAY_OUT64
#undef KVREPLAY_OUT56
#undef KVREPLAY_OUT48
#undef KVREPLAY_OUT40
#undef KVREPLAY_OUT32
#undef KVREPLAY_OUT24
#undef KVREPLAY_OUT16
#undef KVREPLAY_OUT8

// Two products that take turns: while the tensor cores fill one accumulator, the numbers of the other are used.
// start(d, i) asks for product i, which is under way when it returns; done(i) is called when it is complete; use(d, i) gets
// its numbers. Products first, first + step, .. below count.
//
// Every wait is for all: ptxas serialises products that are under way when a loop comes round (its message C7514).
template <int Count, class Start, class Done, class Use>
__device__ inline void take_turns(int first, int step, int count, Start&& start, Done&& done, Use&& use) {
  if (first >= count) return;
  float d0[Count], d1[Count];
  int i = first;
  start(d0, i);
  products_wait<0>();
  settle(d0);
  done(i);
  for (; i + 2 * step < count; i += 2 * step) {
    start(d1, i + step);
    use(d0, i);
    products_wait<0>();
    settle(d1);
    done(i + step);
    start(d0, i + 2 * step);
    use(d1, i + step);
    products_wait<0>();
    settle(d0);
    done(i + 2 * step);
  }
  if (i + step < count) {
    start(d1, i + step);
    use(d0, i);
    products_wait<0>();
    settle(d1);
    done(i + step);
    use(d1, i + step);
  } else {
    use(d0, i);
  }
}

// Sums over the four lanes of a quad of `Count` numbers each (2, 4 or 8): exchanges that halve what a lane goes on with.
// Afterwards values[k], k < kept, is the sum of number source(lane) + k.
template <int Count>
struct QuadSums {
  static constexpr int kept = Count > 4 ? Count / 4 : 1;
  static __device__ int source(int lane) {
    if constexpr (Count == 2) return lane % 4 / 2;
    return (lane & 2) / 2 * (Count / 2) + (lane & 1) * (Count / 4);
  }
  // With two numbers, two lanes have the same sum: one writes.
  static __device__ bool writes(int lane) { return Count > 2 || lane % 2 == 0; }
  static __device__ void reduce(float (&values)[Count], int lane) {
    halve<Count>(values, lane, 2);
    if constexpr (Count > 2)
      halve<Count / 2>(values, lane, 1);
    else
      values[0] += __shfl_xor_sync(0xffffffffU, values[0], 1);
  }

 private:
  template <int Now>
  static __device__ void halve(float (&values)[Count], int lane, int offset) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < Now / 2; ++i) {
      const float sent = upper ? values[i] : values[i + Now / 2];
      const float own = upper ? values[i + Now / 2] : values[i];
      values[i] = own + __shfl_xor_sync(0xffffffffU, sent, offset);
    }
  }
};

#endif  // KVREPLAY_HOPPER_CODE

}  // namespace kvreplay::cuda::hopper

// Building blocks for kernels on Hopper (sm_90a): barriers in shared memory, copies by the tensor memory accelerator (TMA),
// and warpgroup matrix products (wgmma). Facts are from the PTX ISA, sections "Asynchronous Warpgroup Level Matrix
// Instructions" and "Tensor copies".
//
// One product is computed everywhere here: D[64, N] += A[64, 16] · B[16, N] with A in registers and B in shared memory, by
// the 128 threads of a warpgroup. A in registers matters: shared memory delivers 128 bytes a cycle, B of m64nNk16 alone
// takes half of that, and A would take the other half at N = 64 and a quarter at N = 128, beside what the TMA writes.
//
// Who holds what, for warp w of the warpgroup and its lane l:
//   D: element i of a thread is row 16 w + l / 4 + 8 ((i / 2) % 2), column 8 (i / 4) + 2 (l % 4) + i % 2
//   A: register r holds two elements: row 16 w + l / 4 + 8 (r % 2), columns 2 (l % 4) + 8 (r / 2) and the next
//
// Tiles of B lie as the TMA writes them with the 128-byte swizzle: pieces of 64 elements (128 bytes) by `rows` rows,
// 1024-byte aligned. Used as K-major (B = rowsᵀ, as keys in Q·Kᵀ) or as N-major (B = rows, as values in P·V).
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

// Code for sm_90a alone: every other architecture of the same binary gets kernels that trap, and no launcher chooses them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KVREPLAY_HOPPER_CODE 1
#else
#define KVREPLAY_HOPPER_CODE 0
#endif

namespace kvreplay::cuda::hopper {

constexpr int warpgroup_threads = 128;
constexpr int piece_columns = 64;  // elements of two bytes in one swizzled row of 128 bytes

#if KVREPLAY_HOPPER_CODE

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- barriers --------------------------------------------------------------------------------------------------------

__device__ inline void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// By the thread that initialised barriers, before the block synchronises: the TMA sees them too.
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// One arrival, and the phase also waits for `bytes` of copies.
__device__ inline void barrier_expect(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity is complete.
__device__ inline void barrier_wait(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// ---- copies to shared memory by the TMA; one thread asks ---------------------------------------------------------------

// A box of the tensor at (column, row, head), as the map says; what lies outside of the tensor becomes 0.
__device__ inline void copy_box(void* target, const CUtensorMap* map, int column, int row, int head,
                                std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(shared_address(target)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head)
      : "memory");
}
// `bytes` contiguous bytes; addresses and size are multiples of 16.
__device__ inline void copy_bytes(void* target, const void* source, int bytes, std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(target)),
               "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// ---- matrix products ---------------------------------------------------------------------------------------------------

// B[k, n] = row n, element k of a tile: rows of 128 bytes, groups of 8 rows 1024 bytes apart. 16 more elements of k are 32
// bytes on, within the swizzled row.
__device__ inline std::uint64_t rows_transposed(std::uint32_t address) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 16) |
         ((address & 0x3ffffU) >> 4);
}
// B[k, n] = row k, element n of a tile whose pieces of 64 columns are `piece_bytes` apart. 16 more rows are 2048 bytes on.
__device__ inline std::uint64_t rows_as_they_are(std::uint32_t address, int piece_bytes) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{1024 >> 4} << 32) | (static_cast<std::uint64_t>(piece_bytes >> 4) << 16) |
         ((address & 0x3ffffU) >> 4);
}

// Before the first product, and again after other instructions touched registers of D or A.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `Pending` committed groups are under way.
template <int Pending>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Keeps the compiler from reading D before, or from moving it across, the wait that it stands behind.
template <int Count>
__device__ inline void settle(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define KVREPLAY_OUT8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define KVREPLAY_OUT32(d, i) KVREPLAY_OUT8(d, i), KVREPLAY_OUT8(d, i + 8), KVREPLAY_OUT8(d, i + 16), KVREPLAY_OUT8(d, i + 24)
#define KVREPLAY_NAMES32                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KVREPLAY_NAMES64                                                             \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KVREPLAY_WGMMA_N128(type)                                                        \
  asm volatile(                                                                          \
      "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %69, 0;\n"                     \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" KVREPLAY_NAMES64 \
      "}, {%64, %65, %66, %67}, %68, accumulate, 1, 1, %70;\n}\n"                        \
      : KVREPLAY_OUT32(d, 0), KVREPLAY_OUT32(d, 32)                                      \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(ColumnMajor))
#define KVREPLAY_WGMMA_N64(type)                                                        \
  asm volatile(                                                                         \
      "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %37, 0;\n"                    \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" KVREPLAY_NAMES32 \
      "}, {%32, %33, %34, %35}, %36, accumulate, 1, 1, %38;\n}\n"                       \
      : KVREPLAY_OUT32(d, 0)                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(ColumnMajor))

// D = A · B, or D += A · B. Count is N / 2: 64 or 32. ColumnMajor 0: b is rows_transposed; 1: rows_as_they_are.
template <class Element, int ColumnMajor, int Count>
__device__ inline void multiply(float (&d)[Count], const std::uint32_t (&a)[4], std::uint64_t b, int accumulate) {
  static_assert(Count == 64 || Count == 32);
  if constexpr (Count == 64) {
    if constexpr (std::is_same_v<Element, __half>)
      KVREPLAY_WGMMA_N128("f16");
    else
      KVREPLAY_WGMMA_N128("bf16");
  } else {
    if constexpr (std::is_same_v<Element, __half>)
      KVREPLAY_WGMMA_N64("f16");
    else
      KVREPLAY_WGMMA_N64("bf16");
  }
}

#undef KVREPLAY_WGMMA_N64
#undef KVREPLAY_WGMMA_N128
#undef KVREPLAY_NAMES64
#undef KVREPLAY_NAMES32
#undef KVREPLAY_OUT32
#undef KVREPLAY_OUT8

// ---- the rest ----------------------------------------------------------------------------------------------------------

// Registers a thread may have from here on; all warps of the warpgroup say so.
template <int Registers>
__device__ inline void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ inline void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// A of 64 rows of d elements in global memory, of which this thread has parts of two: `upper` is row 16 w + l / 4, `lower`
// the one 8 further on. A row that is null reads as 0.
template <class Element, int HeadDim>
__device__ inline void load_rows(std::uint32_t (&a)[HeadDim / 16][4], const Element* upper, const Element* lower) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < HeadDim / 16; ++k)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const Element* row = r % 2 == 0 ? upper : lower;
      a[k][r] = row == nullptr ? 0U : reinterpret_cast<const std::uint32_t*>(row)[8 * k + lane + 4 * (r / 2)];
    }
}
// The same of contiguous rows, of which `valid` are there.
template <class Element, int HeadDim>
__device__ inline void load_rows(std::uint32_t (&a)[HeadDim / 16][4], const Element* rows, int valid) {
  const int row = threadIdx.x % warpgroup_threads / 32 * 16 + threadIdx.x % 32 / 4;
  load_rows<Element, HeadDim>(a, row < valid ? rows + row * HeadDim : nullptr,
                              row + 8 < valid ? rows + (row + 8) * HeadDim : nullptr);
}

// Two numbers as two 16-bit elements of one register, and back.
template <class Element>
__device__ inline std::uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<Element, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }
}
template <class Element>
__device__ inline float2 unpack(std::uint32_t word) {
  if constexpr (std::is_same_v<Element, __half>)
    return __half22float2(reinterpret_cast<const __half2&>(word));
  else
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(word));
}

// 2^x by the special function unit, 16 a cycle and SM: relative error 2^-22, results below 2^-126 become 0.
__device__ inline float exp2_unit(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 2^x for x < 127 by ordinary arithmetic, 128 a cycle and SM of each step: x = n + r with |r| <= 1/2, a polynomial of degree
// 5 for 2^r (minimax, relative error 7.5e-8), n added to the exponent. Results below 2^-126 become about 2^-126.
__device__ inline float exp2_polynomial(float x) {
  constexpr float shifter = 12582912.0F;  // 1.5 · 2^23: adding it rounds to an integer, in the low bits
  x = fmaxf(x, -126.0F);
  const float shifted = __fadd_rn(x, shifter);
  const float r = __fsub_rn(x, __fsub_rn(shifted, shifter));
  float p = 0.0013276472F;
  p = __fmaf_rn(p, r, 0.00967554133F);
  p = __fmaf_rn(p, r, 0.0555071327F);
  p = __fmaf_rn(p, r, 0.240221197F);
  p = __fmaf_rn(p, r, 0.693146967F);
  p = __fmaf_rn(p, r, 1.00000007F);
  return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

#endif  // KVREPLAY_HOPPER_CODE

}  // namespace kvreplay::cuda::hopper

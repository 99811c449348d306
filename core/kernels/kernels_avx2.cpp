// The kernels for x86-64 with AVX2; core/CMakeLists.txt gives this file the options for it.
#if defined(__x86_64__)
#define KVREPLAY_VECTOR_FLOATS 8
#define KVREPLAY_ROW_BLOCK 6
#define KVREPLAY_TABLE avx2_kernels
#define KVREPLAY_TABLE_NAME "avx2"
#define KVREPLAY_HALF_TO_FLOAT half_to_float
#define KVREPLAY_FLOAT_TO_HALF float_to_half
#include "core/kernels/half_impl.inc"
#include "core/kernels/kernels_impl.inc"
#endif

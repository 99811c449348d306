// The kernels for any x86-64 (four floats in a register, no fused multiply-add) and for other processors.
#define KVREPLAY_VECTOR_FLOATS 4
#define KVREPLAY_ROW_BLOCK 6
#define KVREPLAY_TABLE baseline_kernels
#define KVREPLAY_TABLE_NAME "baseline"
#define KVREPLAY_HALF_TO_FLOAT nullptr
#define KVREPLAY_FLOAT_TO_HALF nullptr
#include "core/kernels/kernels_impl.inc"

// The kernels' source as AVX-512 compiles it (16 floats in a vector, 12 rows a block), for whatever this machine has: the
// compiler splits the vectors. Slow, and the same arithmetic, so that shuffles and tails are tested on machines without
// AVX-512, too.
#define KVREPLAY_VECTOR_FLOATS 16
#define KVREPLAY_ROW_BLOCK 12
#define KVREPLAY_TABLE wide_kernels
#define KVREPLAY_TABLE_NAME "wide"
#define KVREPLAY_HALF_TO_FLOAT nullptr
#define KVREPLAY_FLOAT_TO_HALF nullptr
namespace kvreplay::kernels {
struct KernelTable;
extern const KernelTable wide_kernels;
}  // namespace kvreplay::kernels
#include "core/kernels/kernels_impl.inc"

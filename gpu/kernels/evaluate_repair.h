// Cells of launch_kept() where a difference of sums would lose its digits. Internal to gpu/kernels.
#pragma once

#include "gpu/kernels/evaluate_kept.h"

namespace kvreplay::cuda {

// Works off arguments.repairs. A cell costs a pass over all tokens that its row sees; few have any need of it.
void launch_repairs(const KeptArguments& arguments, int multiprocessors, cudaStream_t stream);

}  // namespace kvreplay::cuda

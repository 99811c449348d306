// Which devices the code of a build runs on. Internal to gpu.
#pragma once

#include <string_view>

namespace kvreplay::cuda {

// `architectures` as CMake's CUDA_ARCHITECTURES has them, or with commas: "80-real;90a-real;90-virtual". Code of 8.0 runs
// on 8.0 and later minors of the same major, PTX (virtual, or neither suffix) on everything later, code and PTX of 90a
// on 9.0 alone.
bool has_code_for(std::string_view architectures, int major, int minor);

}  // namespace kvreplay::cuda

// Reading a slice of a stored tensor as float32. Internal to core/trace.
#pragma once

#include <string>

#include "core/trace/source_internal.h"
#include "core/trace/trace_structure_internal.h"

namespace kvreplay {

// With check_finite, throws Error naming the first NaN or infinity.
Tensor<float, 3> read_stored_tensor(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows,
                                    bool check_finite = true);

// The slice's bytes as they are stored, unchecked.
void read_stored_bytes(const Source& source, const StoredTensor& stored, IndexRange heads, IndexRange rows, std::byte* out);

}  // namespace kvreplay

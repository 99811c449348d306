// What every backend's load() says of a layer before it reads any tensor.
#pragma once

#include "core/backend/backend.h"

namespace kvreplay {

// Fills in all members of LoadedLayer from the trace's model.
void describe_layer(LoadedLayer& loaded, const Trace& trace, int layer);

}  // namespace kvreplay

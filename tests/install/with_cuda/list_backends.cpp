#include <cstdio>

#include "core/backend/registry.h"
#include "gpu/cuda.h"

int main() {
  kvreplay::register_cuda_backend();
  for (const kvreplay::BackendKind& kind : kvreplay::backend_kinds()) {
    std::string why;
    const auto devices = kind.devices(why);
    if (devices.empty())
      std::printf("%s: none, %s\n", kind.name.c_str(), why.c_str());
    else
      std::printf("%s: %zu device%s\n", kind.name.c_str(), devices.size(), devices.size() == 1 ? "" : "s");
  }
  return 0;
}

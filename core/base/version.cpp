#include "core/base/version.h"
namespace kvreplay {
const char* program_version() { return "kvreplay " KVREPLAY_VERSION; }
}  // namespace kvreplay

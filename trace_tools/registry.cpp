#include "trace_tools/command.h"

namespace kvreplay::cli {

#define KVREPLAY_COMMAND(name) const Command& name##_command();
#include "trace_tools/commands.def"
#undef KVREPLAY_COMMAND

const std::vector<const Command*>& commands() {
  static const std::vector<const Command*> all = {
#define KVREPLAY_COMMAND(name) &name##_command(),
#include "trace_tools/commands.def"
#undef KVREPLAY_COMMAND
  };
  return all;
}

}  // namespace kvreplay::cli

// --backend, for every command that computes.
#pragma once

#include <memory>
#include <vector>

#include "core/backend/registry.h"
#include "trace_tools/command.h"

namespace kvreplay::cli {

void declare_backend(options::options_description& visible);

// What --backend asks for: one, or several when its devices can share the layers. Throws Error that says what there is.
std::vector<std::unique_ptr<Backend>> chosen_backends(const Invocation& call);
std::unique_ptr<Backend> chosen_backend(const Invocation& call);  // the first of them

}  // namespace kvreplay::cli

#include "trace_tools/backend_option.h"

namespace kvreplay::cli {

void declare_backend(options::options_description& visible) {
  visible.add_options()("backend", options::value<std::string>()->value_name("B")->default_value("auto"),
                        "what computes: auto (the GPUs where there are any, else the CPU), cpu, cuda, or cuda:N for one of "
                        "several GPUs; `kvreplay info` lists them");
}

std::vector<std::unique_ptr<Backend>> chosen_backends(const Invocation& call) {
  return make_backends(call.values["backend"].as<std::string>());
}

std::unique_ptr<Backend> chosen_backend(const Invocation& call) {
  return make_backend(call.values["backend"].as<std::string>());
}

}  // namespace kvreplay::cli

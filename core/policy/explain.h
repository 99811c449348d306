// The page of a policy: idea, paper, stages, what it needs, variants with their differences, parameters with type, range
// and default by variant. The same text for `kvreplay policies --explain` and for the documentation.
#pragma once

#include <string>

#include "core/policy/policy.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {

std::string explain_policy(const PolicyDescription& policy);              // for a terminal
std::string explain_policy_as_markdown(const PolicyDescription& policy);  // one section

// What can be put around any policy.
std::string explain_wrapper(const PolicyWrapper& wrapper);
std::string explain_wrappers_as_markdown();  // one section for all

}  // namespace kvreplay

// The page of a policy: idea, paper, stages, what it needs, variants with their differences, parameters with type, range
// and default by variant. The same text for `kvreplay policies --explain` and for the documentation.
#pragma once

#include <string>

#include "core/policy/policy.h"

namespace kvreplay {

std::string explain_policy(const PolicyDescription& policy);              // for a terminal
std::string explain_policy_as_markdown(const PolicyDescription& policy);  // one section

}  // namespace kvreplay

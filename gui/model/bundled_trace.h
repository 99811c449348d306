// The trace that opens when no other is asked for: the bundled model reads the bundled prompt, a page of prose with a number
// planted in it that is asked for at the end. Made once, in about two seconds, and kept in the user's cache folder.
#pragma once

#include <string>

#include "core/base/job.h"

namespace kvreplay::gui {

// Where models and prompts are: $KVREPLAY_DATA, beside an installed program, or in the tree that it was built from. Throws
// Error where there are none. Needs a QCoreApplication.
std::string data_folder();

// Where the bundled trace is, or will be.
std::string bundled_trace_path();

// Makes it unless it is there. Throws Error, or Cancelled, and then leaves nothing.
void make_bundled_trace(const std::string& data, const std::string& path, Job& job);

}  // namespace kvreplay::gui

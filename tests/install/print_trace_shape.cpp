// What a program outside kvreplay needs to read a trace: one header, one target.
#include <core/base/error.h>
#include <core/trace/trace.h>

#include <iostream>

int main(int count, char** arguments) {
  if (count != 2) return 2;
  try {
    const auto trace = kvreplay::open_trace(arguments[1]);
    const auto key = trace->read(trace->layers().front(), kvreplay::LayerDataset::key);
    std::cout << trace->layers().size() << " layer, key [" << key.dim(0) << ", " << key.dim(1) << ", " << key.dim(2)
              << "], prompt " << trace->prompt_length() << " of " << trace->num_tokens() << " tokens\n";
  } catch (const kvreplay::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
  return 0;
}

// What a program outside kvreplay needs to use the library: one header, one target.
#include <core/base/version.h>
#include <core/trace/trace.h>

#include <iostream>

int main() {
  std::cout << kvreplay::program_version() << " " << kvreplay::layer_dataset_name(kvreplay::LayerDataset::key) << "\n";
  return 0;
}

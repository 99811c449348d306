// What a GPU can do, measured: the denominators of every floor. No CUDA type appears here.
#pragma once

#include <string>

namespace kvreplay {

struct DeviceRates {
  double read = 0;       // bytes/s of device memory, read by a sum over more than any cache holds
  double copy = 0;       // bytes/s, those read and those written together, of a copy within the device
  double from_host = 0;  // bytes/s to the device from pinned memory
  double float16 = 0;  // operations/s (an addition and a multiplication are two) with float32 sums: the best of what follows
  std::string float16_by;  // "cuBLAS, 8192³" where that library can be loaded and is the faster, else "products alone"
};

// Takes about a second and 4 GiB, less where less is free. Throws Error when there is no such device.
DeviceRates measure_device_rates(int device);

}  // namespace kvreplay

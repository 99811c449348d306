// What launchers have in common: values known when a kernel starts as constants of its template, and its shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "core/base/element_type.h"
#include "gpu/device.h"

namespace kvreplay::cuda {

// Lets blocks of a kernel have that much dynamic shared memory (more than 48 KiB has to be asked for).
template <class Kernel>
void allow_shared_memory(Kernel kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "asking for shared memory");
}

// body(Element{}, dim): elements of two bytes, head dimensions of 64 and 128 as a constant.
template <class Body>
void with_half_and_dim(ElementType type, int dim, Body&& body) {
  const auto with_dim = [&](auto element) {
    if (dim == 64)
      body(element, std::integral_constant<int, 64>{});
    else
      body(element, std::integral_constant<int, 128>{});
  };
  if (type == ElementType::float16)
    with_dim(__half{});
  else
    with_dim(__nv_bfloat16{});
}

// The same with the heads that a block takes together, 1, 2 or 4 (anything above 2), as another constant: body(Element{},
// dim, heads).
template <class Body>
void with_half_dim_and_heads(ElementType type, int dim, int heads, Body&& body) {
  with_half_and_dim(type, dim, [&](auto element, auto constant_dim) {
    if (heads == 1)
      body(element, constant_dim, std::integral_constant<int, 1>{});
    else if (heads == 2)
      body(element, constant_dim, std::integral_constant<int, 2>{});
    else
      body(element, constant_dim, std::integral_constant<int, 4>{});
  });
}

}  // namespace kvreplay::cuda

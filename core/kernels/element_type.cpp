// Declared in core/base/element_type.h; here because the conversions are kernels.
#include "core/base/element_type.h"

#include <bit>
#include <cstring>

#include "core/kernels/table.h"

namespace kvreplay {
namespace {

float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31U;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13));
  if (exponent == 0) return (sign ? -1.0F : 1.0F) * static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
}

std::uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 0x3ffU));
  if (magnitude >= 0x477ff000U) return sign | 0x7c00U;             // 65520 and above round to infinity
  if (magnitude < 0x38800000U) {                                   // below 2^-14: a subnormal half
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;  // the addition rounds to a multiple of 2^-24
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

std::uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace

std::string_view element_type_name(ElementType type) {
  switch (type) {
    case ElementType::float32: return "float32";
    case ElementType::float16: return "float16";
    case ElementType::bfloat16: return "bfloat16";
  }
  return "unknown";
}

void to_float32(ElementType type, const void* source, float* target, std::size_t count) {
  if (type == ElementType::float32) {
    std::memcpy(target, source, count * sizeof(float));
    return;
  }
  const auto* bits = static_cast<const std::uint16_t*>(source);
  const auto& fast = kernels::active_kernels();
  const auto convert = type == ElementType::float16 ? fast.half_to_float : fast.bfloat16_to_float;
  if (convert != nullptr) return convert(bits, target, count);
  if (type == ElementType::float16) {
    for (std::size_t i = 0; i < count; ++i) target[i] = half_to_float(bits[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) target[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits[i]) << 16);
  }
}

void from_float32(ElementType type, const float* source, void* target, std::size_t count) {
  if (type == ElementType::float32) {
    std::memcpy(target, source, count * sizeof(float));
    return;
  }
  auto* bits = static_cast<std::uint16_t*>(target);
  const auto& fast = kernels::active_kernels();
  const auto convert = type == ElementType::float16 ? fast.float_to_half : fast.float_to_bfloat16;
  if (convert != nullptr) return convert(source, bits, count);
  if (type == ElementType::float16) {
    for (std::size_t i = 0; i < count; ++i) bits[i] = float_to_half(source[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) bits[i] = float_to_bfloat16(source[i]);
  }
}

}  // namespace kvreplay

// How a number is stored in a trace or in a weights file, and conversion to and from float32.
// Conversions use the machine's vector units where it has them (chosen at run time) and round to nearest, ties to even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvreplay {

enum class ElementType : std::uint8_t { float32, float16, bfloat16 };

// Bytes of one element.
constexpr std::size_t element_size(ElementType type) { return type == ElementType::float32 ? 4 : 2; }

std::string_view element_type_name(ElementType type);  // "float32", "float16", "bfloat16"

// [in] source: count elements of `type`. [out] target: count floats. NaN and infinities are kept.
void to_float32(ElementType type, const void* source, float* target, std::size_t count);

// [in] source: count floats. [out] target: count elements of `type`. Overflow gives infinity.
void from_float32(ElementType type, const float* source, void* target, std::size_t count);

}  // namespace kvreplay

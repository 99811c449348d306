#include "core/trace/source_internal.h"

#include <cstring>

namespace kvreplay {

std::string StoredType::name() const {
  const std::string bits = std::to_string(size * 8);
  switch (kind) {
    case StoredKind::floating: return "float" + bits;
    case StoredKind::signed_integer: return "int" + bits;
    case StoredKind::unsigned_integer: return "uint" + bits;
    case StoredKind::text: return "text of " + std::to_string(size) + " bytes";
    case StoredKind::other: break;
  }
  return "of a type that traces do not use";
}

std::int64_t DatasetInfo::elements() const {
  std::int64_t n = 1;
  for (const auto dimension : shape) n *= dimension;
  return n;
}

std::optional<ElementType> DatasetInfo::element_type() const {
  if (bfloat16) return ElementType::bfloat16;
  if (type.kind != StoredKind::floating) return std::nullopt;
  if (type.size == 4) return ElementType::float32;
  if (type.size == 2) return ElementType::float16;
  return std::nullopt;
}

void Source::read_into(const std::string& node, std::span<const std::int64_t> start, std::span<const std::int64_t> count,
                       void* target) const {
  auto* at = static_cast<std::byte*>(target);
  read(node, start, count, [&at](std::span<const std::byte> piece) {
    std::memcpy(at, piece.data(), piece.size());
    at += piece.size();
  });
}

std::string place(const Source& source, const std::string& node) { return source.path() + ":" + node; }

}  // namespace kvreplay

// Runs measured again with one token restored or dropped: the error that it is worth.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/backend/backend.h"
#include "core/base/tensor.h"

namespace kvreplay {

struct TokenEdit {
  enum class Kind : std::uint8_t {
    restore,  // never evicted
    drop,     // evicted when the prompt ends; a generated token, right after its own step
  };
  Kind kind = Kind::restore;
  int layer = -1;          // the model's own index; -1: every layer
  std::int64_t head = -1;  // row of evicted_at: a query head, a KV head or 0, by the policy's granularity; -1: every row
  std::int64_t token = 0;

  // "HEAD:TOKEN" or "LAYER:HEAD:TOKEN"; HEAD and LAYER may be "*". Throws Error.
  static TokenEdit parse(Kind kind, std::string_view text);
  std::string text() const;  // "restore 3:117", "drop 0:*:12"

  bool touches(int layer_of_model) const { return layer < 0 || layer == layer_of_model; }
  // Changes the evictions [H, T] of a layer that it touches; everything else stays as the policy had it. Returns in how many
  // rows the token was not yet as asked for.
  std::int64_t apply(const LoadedLayer& loaded, Tensor<std::int32_t, 2>& evicted_at) const;
};

}  // namespace kvreplay

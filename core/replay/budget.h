// How much a policy may keep: tokens, a share of the prompt, or bytes. Window and sinks are included.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/policy/policy.h"

namespace kvreplay {

struct Budget {
  enum class Kind : std::uint8_t { tokens, ratio, bytes };
  Kind kind = Kind::tokens;
  double value = 0;  // tokens; percent of the prompt; bytes of the whole cache
  std::string text;  // as written

  // "256", "10%", "2MiB" (B, KiB, MiB, GiB, kB, MB, GB). Throws Error for anything else and for 0.
  static Budget parse(std::string_view text);

  // Tokens per stored head and layer when the prompt ends. x% is ⌊P·x/100⌋; bytes are divided over layers, stored heads
  // (Hq for query_head, else Hk) and 2·d·e bytes a token. Throws Error when less than one token comes out.
  std::int64_t resolve(const Trace& trace, Granularity granularity) const;
};

// Bytes of one token's key and value of one head as the trace stores them.
std::int64_t token_bytes(const Trace& trace);

}  // namespace kvreplay

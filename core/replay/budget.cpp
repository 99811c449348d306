#include "core/replay/budget.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {
namespace {

constexpr std::array<std::pair<std::string_view, double>, 7> units = {{{"KiB", 1024.0},
                                                                       {"MiB", 1024.0 * 1024},
                                                                       {"GiB", 1024.0 * 1024 * 1024},
                                                                       {"kB", 1e3},
                                                                       {"MB", 1e6},
                                                                       {"GB", 1e9},
                                                                       {"B", 1.0}}};

[[noreturn]] void refuse(std::string_view text) {
  throw Error("--budget", "\"" + std::string(text) + "\" is not a budget",
              "write tokens (256), a share of the prompt (10%) or bytes (2MiB), above 0");
}

}  // namespace

Budget Budget::parse(std::string_view text) {
  Budget budget;
  budget.text = text;
  std::string_view number = text;
  if (number.ends_with('%')) {
    budget.kind = Kind::ratio;
    number.remove_suffix(1);
  } else {
    for (const auto& [unit, factor] : units)
      if (number.ends_with(unit)) {
        budget.kind = Kind::bytes;
        budget.value = factor;
        number.remove_suffix(unit.size());
        break;
      }
  }
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (number.empty() || error != std::errc{} || end != number.data() + number.size() || !std::isfinite(value)) refuse(text);
  if (value <= 0) throw Error("--budget", "\"" + std::string(text) + "\" keeps nothing", "a budget is above 0");
  if (budget.kind == Kind::tokens && (value != std::floor(value) || value > 1e15)) refuse(text);
  budget.value = budget.kind == Kind::bytes ? budget.value * value : value;
  return budget;
}

std::int64_t token_bytes(const Trace& trace) {
  return 2 * trace.model().head_dim *
         static_cast<std::int64_t>(element_size(trace.type(trace.layers().front(), LayerDataset::key)));
}

std::int64_t Budget::resolve(const Trace& trace, Granularity granularity) const {
  std::int64_t tokens = 0;
  switch (kind) {
    case Kind::tokens: tokens = static_cast<std::int64_t>(value); break;
    case Kind::ratio:
      tokens = static_cast<std::int64_t>(std::floor(static_cast<double>(trace.prompt_length()) * value / 100));
      break;
    case Kind::bytes: {
      const std::int64_t per_token =
          static_cast<std::int64_t>(trace.layers().size()) * stored_heads(granularity, trace.model()) * token_bytes(trace);
      tokens = static_cast<std::int64_t>(std::floor(value / static_cast<double>(per_token)));
      break;
    }
  }
  if (tokens < 1)
    throw Error("--budget", "\"" + text + "\" is less than one token per head of " + trace.path(), "ask for more");
  return tokens;
}

}  // namespace kvreplay

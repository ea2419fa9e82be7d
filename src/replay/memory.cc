// Budgets from what the machine says of itself.
#include "replay/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "exec/cpu/topology.h"

namespace pkv {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kUnknownCacheBytes = std::int64_t{32} << 20;
constexpr double kGib = 1073741824.0;

}  // namespace

std::int64_t memory_budget_bytes(std::optional<std::int64_t> limit_bytes) {
  const std::int64_t available = available_memory_bytes();
  return std::min(available > 0 ? available : kUnlimited, limit_bytes.value_or(kUnlimited));
}

Status check_memory(std::int64_t needed_bytes, std::int64_t budget_bytes, std::string_view what) {
  if (needed_bytes <= budget_bytes) {
    return {};
  }
  return Error{
      ErrorCode::kResourceExhausted,
      fmt::format("{} needs {} bytes ({:.2f} GiB), {} bytes ({:.2f} GiB) are available", what, needed_bytes,
                  static_cast<double>(needed_bytes) / kGib, budget_bytes, static_cast<double>(budget_bytes) / kGib),
      "memory"};
}

std::int64_t machine_cache_bytes() {
  const auto topology = read_topology();
  const std::int64_t bytes = topology.ok() ? topology->last_level_cache_bytes() : 0;
  return bytes > 0 ? bytes : kUnknownCacheBytes;
}

std::int64_t saturating_mul(std::int64_t a, std::int64_t b) {
  return a != 0 && b > kUnlimited / a ? kUnlimited : a * b;
}

std::int64_t saturating_add(std::int64_t a, std::int64_t b) { return b > kUnlimited - a ? kUnlimited : a + b; }

}  // namespace pkv

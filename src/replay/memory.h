// What the machine has: memory that may be allocated, and the size of the last-level cache.
// Not here: allocation (base/aligned_buffer.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "persistentkv/result.h"

namespace pkv {

/// Bytes that can be allocated without swapping: MemAvailable of the system, or what the process's
/// control group leaves, whichever is less.
std::int64_t available_memory_bytes();

/// The least of available_memory_bytes() and the limit.
std::int64_t memory_budget_bytes(std::optional<std::int64_t> limit_bytes);

/// kResourceExhausted with both figures if needed > budget.
Status check_memory(std::int64_t needed_bytes, std::int64_t budget_bytes, std::string_view what);

/// Sum over the last-level caches of the CPUs that the process may use; a typical 32 MiB where
/// the system does not tell (some virtual machines).
std::int64_t last_level_cache_bytes();

/// a * b, or INT64_MAX when that overflows: sizes from user data are compared before they are used.
/// Requires a, b >= 0.
std::int64_t saturating_mul(std::int64_t a, std::int64_t b);
/// a + b likewise.
std::int64_t saturating_add(std::int64_t a, std::int64_t b);

}  // namespace pkv

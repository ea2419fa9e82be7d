// What a run may allocate, and sizes from user data that must not overflow on the way there.
// Not here: what the machine has (exec/cpu/topology.h), allocation (base/aligned_buffer.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "persistentkv/result.h"

namespace pkv {

/// The least of the memory that is available now and of the limit. INT64_MAX if neither is known.
std::int64_t memory_budget_bytes(std::optional<std::int64_t> limit_bytes);

/// kResourceExhausted with both figures if needed > budget.
Status check_memory(std::int64_t needed_bytes, std::int64_t budget_bytes, std::string_view what);

/// Last-level caches of the usable CPUs together; 32 MiB where the system does not tell (some virtual
/// machines): the pool of a replay is sized by it, so that a guess on the large side is the safe one.
std::int64_t machine_cache_bytes();

/// a * b, or INT64_MAX when that overflows: sizes from user data are compared before they are used.
/// Requires a, b >= 0.
std::int64_t saturating_mul(std::int64_t a, std::int64_t b);
/// a + b likewise.
std::int64_t saturating_add(std::int64_t a, std::int64_t b);

}  // namespace pkv

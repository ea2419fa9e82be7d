// Which physical pages hold something, and the order in which they are dealt out.
// Not here: who owns a page (persistentkv/page_pool.h), K,V data.
#pragma once

#include <cstdint>
#include <vector>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

/// Physical page ids are below it: ceil(num_pages / (1 - hole_fraction)) (paper, "The traces").
/// Requires 0 <= hole_fraction < 1. Errors: kInvalidArgument (more than INT32_MAX physical pages).
Result<std::int64_t> count_physical_pages(std::int64_t num_pages, double hole_fraction);

/// The first `num_pages` of a seeded random permutation of [0, num_physical_pages); the ids left out are
/// holes. Takes 4 bytes and a random memory access a page. Requires num_pages <= num_physical_pages.
std::vector<std::int32_t> deal_pages(std::int64_t num_pages, std::int64_t num_physical_pages, std::uint64_t seed);

}  // namespace pkv::trace_internal

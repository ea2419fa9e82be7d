// Which physical pages hold something, and the order in which they are dealt out.
// Not here: who owns a page (persistentkv/page_pool.h), K,V data.
#pragma once

#include <cstdint>
#include <vector>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

struct PageDeal {
  /// Physical pages in the order they are dealt; the ids left out are holes.
  std::vector<std::int32_t> order;
  /// Physical page ids are below it: ceil(order.size() / (1 - hole_fraction)) (paper, "The traces").
  std::int64_t num_physical_pages = 0;
};

/// The first `num_pages` of a seeded random permutation of all physical pages.
/// Requires 0 <= hole_fraction < 1. Errors: kInvalidArgument (more than INT32_MAX physical pages).
Result<PageDeal> deal_pages(std::int64_t num_pages, double hole_fraction, std::uint64_t seed);

}  // namespace pkv::trace_internal

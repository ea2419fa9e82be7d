// A seeded Fisher-Yates shuffle over the physical page ids, stopped after the pages that are needed.
// Not here: who owns a page (persistentkv/page_pool.h), K,V data.
#include "trace/page_deal.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/random.h"

namespace pkv::trace_internal {

Result<std::int64_t> count_physical_pages(std::int64_t num_pages, double hole_fraction) {
  constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
  const double physical = std::ceil(static_cast<double>(num_pages) / (1.0 - hole_fraction));
  if (physical > static_cast<double>(kMaxPages)) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("{} pages with hole_fraction {} need {:.0f} physical pages, the limit is {}",
                                        num_pages, hole_fraction, physical, kMaxPages),
                 .where = {}};
  }
  return static_cast<std::int64_t>(physical);
}

std::vector<std::int32_t> deal_pages(std::int64_t num_pages, std::int64_t num_physical_pages, std::uint64_t seed) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(num_physical_pages));
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 random(seed);
  for (std::size_t i = 0; i < static_cast<std::size_t>(num_pages); ++i) {
    const std::size_t j = i + random.below(order.size() - i);
    std::swap(order[i], order[j]);
  }
  order.resize(static_cast<std::size_t>(num_pages));
  return order;
}

}  // namespace pkv::trace_internal

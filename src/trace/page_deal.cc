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

Result<PageDeal> deal_pages(std::int64_t num_pages, double hole_fraction, std::uint64_t seed) {
  constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
  const double physical = std::ceil(static_cast<double>(num_pages) / (1.0 - hole_fraction));
  if (physical > static_cast<double>(kMaxPages)) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("{} pages with hole_fraction {} need {:.0f} physical pages, the limit is {}",
                                        num_pages, hole_fraction, physical, kMaxPages),
                 .where = {}};
  }
  PageDeal deal;
  deal.num_physical_pages = static_cast<std::int64_t>(physical);
  deal.order.resize(static_cast<std::size_t>(deal.num_physical_pages));
  std::iota(deal.order.begin(), deal.order.end(), 0);
  SplitMix64 random(seed);
  for (std::size_t i = 0; i < static_cast<std::size_t>(num_pages); ++i) {
    const std::size_t j = i + random.below(deal.order.size() - i);
    std::swap(deal.order[i], deal.order[j]);
  }
  deal.order.resize(static_cast<std::size_t>(num_pages));
  return deal;
}

}  // namespace pkv::trace_internal

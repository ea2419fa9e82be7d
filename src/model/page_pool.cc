// Reference counts and the rings of free pages.
#include "persistentkv/page_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>

namespace pkv {
namespace {

// Reference count of a page that is never dealt.
constexpr std::int32_t kHole = -1;

std::string page_name(std::int32_t page) { return fmt::format("page {}", page); }

Status check_count(std::int64_t num_pages) {
  if (num_pages < 0 || num_pages > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 0 to 2147483647", num_pages), "num_pages"};
  }
  return {};
}

template <typename Make>
Result<PagePool> make_or_exhaust(std::int64_t num_pages, const Make& make) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("no memory for the counts of {} pages", num_pages),
                 "page pool"};
  }
}

}  // namespace

Result<PagePool> PagePool::make(std::int64_t num_pages) {
  PKV_RETURN_IF_ERROR(check_count(num_pages));
  return make_or_exhaust(num_pages, [&]() -> Result<PagePool> {
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_pages));
    std::iota(order.begin(), order.end(), 0);
    return deal(num_pages, order, 0);
  });
}

Result<PagePool> PagePool::make(std::int64_t num_pages, std::span<const std::int32_t> order) {
  return make(num_pages, order, 0);
}

Result<PagePool> PagePool::make(std::int64_t num_pages, std::span<const std::int32_t> order,
                                std::int64_t pages_per_node) {
  PKV_RETURN_IF_ERROR(check_count(num_pages));
  if (pages_per_node < 0 || pages_per_node > num_pages) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 0 to {}", pages_per_node, num_pages),
                 "pages_per_node"};
  }
  return make_or_exhaust(num_pages, [&] { return deal(num_pages, order, pages_per_node); });
}

Result<PagePool> PagePool::deal(std::int64_t num_pages, std::span<const std::int32_t> order,
                                std::int64_t pages_per_node) {
  PagePool pool;
  pool.pages_per_node_ = pages_per_node;
  pool.rings_.resize(static_cast<std::size_t>(pages_per_node == 0 ? 1 : num_pages / pages_per_node));
  pool.references_.assign(static_cast<std::size_t>(num_pages), kHole);
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (order[i] < 0 || order[i] >= num_pages) {
      return Error{ErrorCode::kOutOfRange, fmt::format("page {} is outside 0 to {}", order[i], num_pages - 1),
                   fmt::format("order[{}]", i)};
    }
    std::int32_t& references = pool.references_[static_cast<std::size_t>(order[i])];
    if (references != kHole) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("page {} occurs twice", order[i]),
                   fmt::format("order[{}]", i)};
    }
    references = 0;
    pool.ring_of(order[i]).pages.push_back(order[i]);
  }
  for (Ring& ring : pool.rings_) {
    ring.num_free = static_cast<std::int64_t>(ring.pages.size());
  }
  pool.num_dealt_ = static_cast<std::int64_t>(order.size());
  pool.num_free_ = pool.num_dealt_;
  return pool;
}

std::int32_t PagePool::Ring::pop() {
  const std::int32_t page = pages[head];
  head = head + 1 == pages.size() ? 0 : head + 1;
  --num_free;
  return page;
}

void PagePool::Ring::push(std::int32_t page) {
  pages[(head + static_cast<std::size_t>(num_free)) % pages.size()] = page;
  ++num_free;
}

PagePool::Ring& PagePool::ring_of(std::int32_t page) {
  const std::int64_t node = pages_per_node_ == 0 ? 0 : page / pages_per_node_;
  return rings_[std::min(static_cast<std::size_t>(node), rings_.size() - 1)];
}

PagePool::Ring& PagePool::fullest() { return *std::ranges::max_element(rings_, {}, &Ring::num_free); }

std::int32_t PagePool::take(Ring& preferred) {
  const std::int32_t page = preferred.num_free > 0 ? preferred.pop() : fullest().pop();
  --num_free_;
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

Result<std::int32_t> PagePool::allocate() {
  if (num_free_ == 0) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("1 page needed, 0 free of {}", num_dealt_), "page pool"};
  }
  return take(fullest());
}

Status PagePool::allocate(std::int64_t count, std::vector<std::int32_t>& pages) {
  if (count < 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("count {} is negative", count), "page pool"};
  }
  if (count > num_free_) {
    return Error{ErrorCode::kResourceExhausted,
                 fmt::format("{} pages needed, {} free of {}", count, num_free_, num_dealt_), "page pool"};
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const bool near_last = !pages.empty() && references(pages.back()) > 0;
    pages.push_back(take(near_last ? ring_of(pages.back()) : fullest()));
  }
  return {};
}

Status PagePool::check_owned(std::int32_t page) const {
  if (page < 0 || page >= num_pages()) {
    return Error{ErrorCode::kOutOfRange, fmt::format("is outside 0 to {}", num_pages() - 1), page_name(page)};
  }
  const std::int32_t references = references_[static_cast<std::size_t>(page)];
  if (references <= 0) {
    return Error{ErrorCode::kInvalidArgument, references == kHole ? "is a hole and never dealt" : "is free",
                 page_name(page)};
  }
  return {};
}

Status PagePool::share(std::int32_t page) {
  PKV_RETURN_IF_ERROR(check_owned(page));
  std::int32_t& references = references_[static_cast<std::size_t>(page)];
  if (references == std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("has {} owners, the limit", references), page_name(page)};
  }
  ++references;
  return {};
}

Status PagePool::free(std::int32_t page) {
  PKV_RETURN_IF_ERROR(check_owned(page));
  if (--references_[static_cast<std::size_t>(page)] == 0) {
    ring_of(page).push(page);
    ++num_free_;
  }
  return {};
}

Result<PagePool::WritablePage> PagePool::make_last_writable(std::vector<std::int32_t>& pages) {
  if (pages.empty()) {
    return Error{ErrorCode::kInvalidArgument, "has 0 pages; at least 1 is needed", "page list"};
  }
  const std::int32_t last = pages.back();
  PKV_RETURN_IF_ERROR(check_owned(last));
  if (references_[static_cast<std::size_t>(last)] == 1) {
    return WritablePage{.page = last, .copy_from = last};
  }
  if (num_free_ == 0) {
    return allocate().error();
  }
  const std::int32_t fresh = take(ring_of(last));
  --references_[static_cast<std::size_t>(last)];
  pages.back() = fresh;
  return WritablePage{.page = fresh, .copy_from = last};
}

std::int32_t PagePool::references(std::int32_t page) const {
  if (page < 0 || page >= num_pages()) {
    return 0;
  }
  return std::max(0, references_[static_cast<std::size_t>(page)]);
}

}  // namespace pkv

// Reference counts and the ring of free pages.
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
    return deal(num_pages, order);
  });
}

Result<PagePool> PagePool::make(std::int64_t num_pages, std::span<const std::int32_t> order) {
  PKV_RETURN_IF_ERROR(check_count(num_pages));
  return make_or_exhaust(num_pages, [&] { return deal(num_pages, order); });
}

Result<PagePool> PagePool::deal(std::int64_t num_pages, std::span<const std::int32_t> order) {
  PagePool pool;
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
  }
  pool.ring_.assign(order.begin(), order.end());
  pool.num_free_ = static_cast<std::int64_t>(order.size());
  return pool;
}

Result<std::int32_t> PagePool::allocate() {
  if (num_free_ == 0) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("1 page needed, 0 free of {}", ring_.size()), "page pool"};
  }
  const std::int32_t page = ring_[head_];
  head_ = head_ + 1 == ring_.size() ? 0 : head_ + 1;
  --num_free_;
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

Status PagePool::allocate(std::int64_t count, std::vector<std::int32_t>& pages) {
  if (count < 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("count {} is negative", count), "page pool"};
  }
  if (count > num_free_) {
    return Error{ErrorCode::kResourceExhausted,
                 fmt::format("{} pages needed, {} free of {}", count, num_free_, ring_.size()), "page pool"};
  }
  for (std::int64_t i = 0; i < count; ++i) {
    pages.push_back(allocate().value());
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
    const std::size_t tail = (head_ + static_cast<std::size_t>(num_free_)) % ring_.size();
    ring_[tail] = page;
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
  Result<std::int32_t> fresh = allocate();
  if (!fresh.ok()) {
    return fresh.error();
  }
  --references_[static_cast<std::size_t>(last)];
  pages.back() = *fresh;
  return WritablePage{.page = *fresh, .copy_from = last};
}

std::int32_t PagePool::references(std::int32_t page) const {
  if (page < 0 || page >= num_pages()) {
    return 0;
  }
  return std::max(0, references_[static_cast<std::size_t>(page)]);
}

}  // namespace pkv

// PagePool: who owns which physical page. Counts references; holds no K,V data.
// Not here: the data of pages, eviction policy, admission (src/trace).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "persistentkv/result.h"

namespace pkv {

/// A fixed set of physical pages with reference counts. Not thread-safe.
/// Pages are dealt in the order given at creation, then in the order they came back (FIFO), so a
/// fixed sequence of calls gives fixed ids.
class PagePool {
 public:
  /// Pages 0 to num_pages - 1, dealt in that order.
  /// Errors: kInvalidArgument unless 0 <= num_pages <= INT32_MAX; kResourceExhausted (memory).
  static Result<PagePool> make(std::int64_t num_pages);
  /// The same, dealt in `order`, which must be a permutation of a subset of [0, num_pages): ids that
  /// it leaves out are holes and are never dealt. Errors: kOutOfRange, kInvalidArgument (duplicate).
  static Result<PagePool> make(std::int64_t num_pages, std::span<const std::int32_t> order);

  /// A page with one reference. Errors: kResourceExhausted.
  Result<std::int32_t> allocate();
  /// Appends `count` fresh pages to `pages`, or none at all. Errors: kResourceExhausted with both numbers.
  Status allocate(std::int64_t count, std::vector<std::int32_t>& pages);
  /// One more owner. Errors: kOutOfRange (no such page), kInvalidArgument (page is free).
  Status share(std::int32_t page);
  /// One owner less; the page is free when none is left. Errors as share.
  Status free(std::int32_t page);

  /// What a writer must do before it appends to `pages.back()`.
  struct WritablePage {
    std::int32_t page = 0;
    /// Page whose used slots must be copied into `page` first; equal to `page` when nothing is to copy.
    std::int32_t copy_from = 0;
  };
  /// Copy on write of the last page: returns it when it has one owner; else takes a fresh page into
  /// its place in `pages`, drops one reference of the old one, and says what to copy.
  /// Errors: kInvalidArgument (no pages), kResourceExhausted (nothing changed).
  Result<WritablePage> make_last_writable(std::vector<std::int32_t>& pages);

  [[nodiscard]] std::int64_t num_pages() const { return static_cast<std::int64_t>(references_.size()); }
  [[nodiscard]] std::int64_t num_free() const { return num_free_; }
  /// Owners of a page; 0 for a free page, a hole or an id out of range.
  [[nodiscard]] std::int32_t references(std::int32_t page) const;

 private:
  static Result<PagePool> deal(std::int64_t num_pages, std::span<const std::int32_t> order);
  Status check_owned(std::int32_t page) const;

  std::vector<std::int32_t> references_;  // by page; kHole for pages that are never dealt
  std::vector<std::int32_t> ring_;        // free pages, first in first out
  std::size_t head_ = 0;
  std::int64_t num_free_ = 0;
};

}  // namespace pkv

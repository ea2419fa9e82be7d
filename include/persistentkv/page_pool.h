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
/// fixed sequence of calls gives fixed ids. With several NUMA nodes that holds for the pages of each: a list of
/// pages grows on the node of its last page, a new one on the node with most free pages (the first of equals),
/// and what a node lacks comes from the one with most.
class PagePool {
 public:
  /// Pages 0 to num_pages - 1, dealt in that order.
  /// Errors: kInvalidArgument unless 0 <= num_pages <= INT32_MAX; kResourceExhausted (memory).
  static Result<PagePool> make(std::int64_t num_pages);
  /// The same, dealt in `order`, which must be a permutation of a subset of [0, num_pages): ids that
  /// it leaves out are holes and are never dealt. Errors: kOutOfRange, kInvalidArgument (duplicate).
  static Result<PagePool> make(std::int64_t num_pages, std::span<const std::int32_t> order);
  /// The same, where page p lies on node p / pages_per_node and the last node has the rest (see PagedKv); 0: there
  /// is one node. Errors: also kInvalidArgument (negative, or more than num_pages).
  static Result<PagePool> make(std::int64_t num_pages, std::span<const std::int32_t> order,
                               std::int64_t pages_per_node);

  /// A page with one reference, from the node with most free pages. Errors: kResourceExhausted.
  Result<std::int32_t> allocate();
  /// Appends `count` fresh pages to `pages`, or none at all, near pages.back() if there is one. Errors:
  /// kResourceExhausted with both numbers.
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
  /// Free pages of one node, first in first out.
  struct Ring {
    std::vector<std::int32_t> pages;
    std::size_t head = 0;
    std::int64_t num_free = 0;

    std::int32_t pop();
    void push(std::int32_t page);
  };

  static Result<PagePool> deal(std::int64_t num_pages, std::span<const std::int32_t> order,
                               std::int64_t pages_per_node);
  Status check_owned(std::int32_t page) const;
  Ring& ring_of(std::int32_t page);
  Ring& fullest();
  /// Requires a free page. The ring's own page if it has one, else the fullest one's.
  std::int32_t take(Ring& preferred);

  std::vector<std::int32_t> references_;  // by page; kHole for pages that are never dealt
  std::vector<Ring> rings_;               // by node
  std::int64_t pages_per_node_ = 0;       // 0: one node
  std::int64_t num_dealt_ = 0;
  std::int64_t num_free_ = 0;
};

}  // namespace pkv

// KvPool: physical pages full of random K and V, on a device too, and the rotation that keeps them out of the cache.
// Not here: which pages a row holds (step_source.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "exec/device_tensor.h"
#include "persistentkv/layout.h"
#include "persistentkv/result.h"
#include "replay/random_data.h"

namespace pkv {

class KvPool {
 public:
  /// How a pool is filled.
  struct Filling {
    const RandomBlock& block;
    Crew& crew;
    const std::function<bool()>& cancelled;
    /// NUMA nodes that share the pages (placement.h); fewer than two: pages lie where they are first touched.
    std::span<const std::int32_t> nodes = {};
  };
  /// Allocates, places and fills every page. Errors: kResourceExhausted, kUnsupported (nodes), kCancelled.
  static Result<KvPool> make(const KvLayout& layout, DType dtype, std::int64_t num_pages, const Filling& filling);

  /// Copies every page to a device, in pieces between which `cancelled` is asked; run_view() is the copy from
  /// then on. Errors: kResourceExhausted, those of upload(), kCancelled.
  Status mirror(DeviceMemory& device, const std::function<bool()>& cancelled);

  /// The same memory as pages of another layout of the same type, as many as fit; any cut of random values is
  /// random. Pages of another layout lie anywhere. Requires a layout of which at least `min_pages` fit.
  void show_as(const KvLayout& layout, std::int64_t min_pages);

  /// Bytes of K and V of one page.
  static std::int64_t page_bytes(const KvLayout& layout, DType dtype);

  /// Bytes that a pool allocates, in host memory and on a device alike: tensors begin at multiples of 2 MiB.
  static std::int64_t allocated_bytes(const KvLayout& layout, DType dtype, std::int64_t num_pages);
  /// What they are at most beyond num_pages * page_bytes().
  static constexpr std::int64_t kPaddingBytes = std::int64_t{4} << 20;

  /// Pages in host memory.
  [[nodiscard]] const PagedKv& view() const { return view_; }
  /// The same pages where a backend reads them: on the device if there is a mirror.
  [[nodiscard]] const PagedKv& run_view() const { return mirror_ ? mirror_view_ : view_; }

 private:
  AlignedBuffer memory_;
  PagedKv view_;
  std::optional<DeviceTensor> mirror_;
  PagedKv mirror_view_;
};

/// Pages of a pool for a trace of `trace_pages`: at least 8 times the last-level cache, so that a pass
/// over any part of it finds less than an eighth of it in the cache, but no more than the budget allows.
std::int64_t choose_pool_pages(std::int64_t trace_pages, std::int64_t page_bytes, std::int64_t cache_bytes,
                               std::int64_t budget_bytes);

/// Another shift of all page ids for every execution. With several NUMA nodes a step's list of ids is cut into a
/// part a node, and ids are shifted inside the pages of their node: neighbours in a row stay on one node, a single
/// long row uses all. Two ids that differ by a multiple of a node's pages may then meet: such a page is read twice
/// in a step, by a step that holds more pages than a node has.
class PageRotation {
 public:
  /// `num_pages` on each of `num_nodes`; `stride`: pages from one execution's shift to the next, in [0, num_pages).
  PageRotation(std::int64_t num_pages, std::int64_t stride, std::int64_t num_nodes = 1)
      : num_pages_(num_pages), stride_(stride), num_nodes_(num_nodes) {}

  /// Golden-section stride: any few consecutive shifts lie far apart. For steps that use a part of the pool.
  static PageRotation spread(std::int64_t num_pages, std::int64_t num_nodes = 1);

  /// Begins elsewhere: `part` in [0, 1) of the pool further.
  void start_at(double part);

  /// Writes the ids under the next shift to `shifted` (same size).
  void next(std::span<const std::int32_t> page_ids, std::vector<std::int32_t>& shifted);

 private:
  void shift_by_node(std::span<const std::int32_t> page_ids, std::vector<std::int32_t>& shifted) const;

  std::int64_t num_pages_;  // on each node
  std::int64_t stride_;
  std::int64_t num_nodes_;
  std::int64_t shift_ = 0;
};

}  // namespace pkv

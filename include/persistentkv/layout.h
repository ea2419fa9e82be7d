// KvLayout and PagedKv: where an element of a paged KV cache lies, as strides.
// Not here: which page belongs to which row (block_table.h), who owns pages (page_pool.h).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "persistentkv/dtype.h"
#include "persistentkv/result.h"
#include "persistentkv/shape.h"

namespace pkv {

inline constexpr std::int32_t kMaxPageSize = 256;

/// Order of the axes inside a page. HND: [kv_head][slot][d]; NHD: [slot][kv_head][d].
enum class KvOrder : std::uint8_t { kHND, kNHD };

/// K and V in two tensors, or in one as [page][2][...] with K first (FlashInfer's packed cache).
enum class KvPacking : std::uint8_t { kSeparate, kPacked };

std::string_view kv_order_name(KvOrder order);
/// "HND" or "NHD", any case. Errors: kInvalidArgument that lists the names.
Result<KvOrder> parse_kv_order(std::string_view name);

/// Distances in elements. The d elements of one (page, kv_head, slot) are contiguous.
struct PageStrides {
  std::int64_t page = 0;
  std::int64_t kv_head = 0;
  std::int64_t slot = 0;

  friend bool operator==(const PageStrides&, const PageStrides&) = default;
};

/// The element (page, kv_head, slot, i) of K lies at
///   k + page * k_strides.page + kv_head * k_strides.kv_head + slot * k_strides.slot + i
/// and V likewise: the caches of existing runtimes are read in place by filling in their strides.
struct KvLayout {
  /// Tokens a page, 1 to 256.
  std::int32_t page_size = 16;
  PageStrides k_strides;
  PageStrides v_strides;
  /// Elements from the K base to the V base in one packed tensor; 0 when K and V are apart.
  std::int64_t v_offset = 0;

  /// Dense strides of one of the four common layouts.
  /// Errors: kInvalidArgument for a page size outside 1 to 256 or a shape that is not valid.
  static Result<KvLayout> make(KvOrder order, KvPacking packing, std::int32_t page_size, const AttentionShape& shape);

  /// Elements of one page of K (dense extent: the stride between pages).
  [[nodiscard]] std::int64_t page_elements() const { return k_strides.page; }

  friend bool operator==(const KvLayout&, const KvLayout&) = default;
};

/// A view of the K,V pages of one layer. The caller owns the memory.
struct PagedKv {
  const void* k = nullptr;
  const void* v = nullptr;
  DType dtype = DType::kF16;
  KvLayout layout;
  /// Physical pages that may be named by a block table: ids 0 to num_pages - 1.
  std::int64_t num_pages = 0;
  /// Pages [i * pages_per_node, (i + 1) * pages_per_node) lie on the i-th NUMA node of the CPU backend's workers,
  /// who then take their tasks by it; the last node has the rest. 0: they may lie anywhere. See place_pages (cpu.h).
  std::int64_t pages_per_node = 0;

  /// The i-th of num_nodes. Requires pages_per_node > 0.
  [[nodiscard]] std::int32_t node_of(std::int64_t page, std::int32_t num_nodes) const {
    return static_cast<std::int32_t>(std::min<std::int64_t>(page / pages_per_node, num_nodes - 1));
  }

  /// View of one packed tensor: v is derived from layout.v_offset.
  static PagedKv packed(const void* base, DType dtype, const KvLayout& layout, std::int64_t num_pages);
};

/// Checks pointers, page size, strides (positive, slots at least head_dim long, no axis inside
/// another) and that no address overflows. Errors: kInvalidArgument, kOutOfRange.
Status validate(const PagedKv& kv, const AttentionShape& shape);

/// Bytes of K and V of `tokens` tokens over all KV heads: what a step must at least read.
std::int64_t kv_bytes(std::int64_t tokens, const AttentionShape& shape, DType dtype);

}  // namespace pkv

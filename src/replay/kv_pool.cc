// One mapping for K and V; separate tensors start on a 2 MiB boundary each.
#include "replay/kv_pool.h"

#include <algorithm>
#include <limits>

#include "base/math.h"
#include "replay/memory.h"

namespace pkv {
namespace {

constexpr std::int64_t kHugePageBytes = std::int64_t{2} << 20;
constexpr std::int64_t kCachesInPool = 8;

}  // namespace

std::int64_t KvPool::page_bytes(const KvLayout& layout, DType dtype) {
  // A packed page holds K and V, so its stride counts both.
  const std::int64_t tensors = layout.v_offset == 0 ? 2 : 1;
  return tensors * layout.k_strides.page * dtype_bytes(dtype);
}

Result<KvPool> KvPool::make(const KvLayout& layout, DType dtype, std::int64_t num_pages, const Filling& filling) {
  const std::int64_t element_bytes = dtype_bytes(dtype);
  const bool separate = layout.v_offset == 0;
  const std::int64_t tensor_elements = round_up(num_pages * layout.k_strides.page, kHugePageBytes / element_bytes);
  const std::int64_t elements = separate ? 2 * tensor_elements : num_pages * layout.k_strides.page;
  auto memory = AlignedBuffer::allocate(static_cast<std::size_t>(elements * element_bytes));
  if (!memory.ok()) {
    return memory.error();
  }
  KvPool pool;
  pool.memory_ = std::move(*memory);
  PKV_RETURN_IF_ERROR(filling.block.fill(pool.memory_.data(), elements, filling.crew, filling.cancelled));
  const auto* base = pool.memory_.as<std::uint8_t>();
  pool.view_ = separate ? PagedKv{.k = base,
                                  .v = base + tensor_elements * element_bytes,
                                  .dtype = dtype,
                                  .layout = layout,
                                  .num_pages = num_pages}
                        : PagedKv::packed(base, dtype, layout, num_pages);
  return pool;
}

std::int64_t choose_pool_pages(std::int64_t trace_pages, std::int64_t page_bytes, std::int64_t cache_bytes,
                               std::int64_t budget_bytes) {
  constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
  const std::int64_t wanted = ceil_div(saturating_mul(kCachesInPool, cache_bytes), page_bytes);
  const std::int64_t affordable = budget_bytes / page_bytes;
  return std::max({trace_pages, std::min({wanted, affordable, kMaxPages}), std::int64_t{1}});
}

PageRotation PageRotation::spread(std::int64_t num_pages) {
  constexpr double kGoldenSection = 0.6180339887498949;
  return {num_pages, static_cast<std::int64_t>(static_cast<double>(num_pages) * kGoldenSection)};
}

void PageRotation::next(std::span<const std::int32_t> page_ids, std::vector<std::int32_t>& shifted) {
  shift_ = (shift_ + stride_) % num_pages_;
  const auto shift = static_cast<std::int32_t>(shift_);
  const auto wrap = static_cast<std::int32_t>(num_pages_ - shift_);
  shifted.resize(page_ids.size());
  for (std::size_t i = 0; i < page_ids.size(); ++i) {
    shifted[i] = page_ids[i] < wrap ? page_ids[i] + shift : page_ids[i] - wrap;
  }
}

}  // namespace pkv

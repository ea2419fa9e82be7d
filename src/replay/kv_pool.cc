// One mapping for K and V; separate tensors start on a 2 MiB boundary each.
// Not here: random values (random_data.h).
#include "replay/kv_pool.h"

#include <algorithm>
#include <limits>

#include "base/math.h"
#include "exec/cpu/placement.h"
#include "replay/memory.h"

namespace pkv {
namespace {

constexpr std::int64_t kHugePageBytes = std::int64_t{2} << 20;
constexpr std::int64_t kCachesInPool = 8;
// Large enough for full speed, small enough to answer Ctrl-C.
constexpr std::int64_t kUploadBytes = std::int64_t{64} << 20;

/// Elements of one tensor, with what lies between it and the next one.
std::int64_t tensor_elements(const KvLayout& layout, DType dtype, std::int64_t num_pages) {
  return round_up(num_pages * layout.k_strides.page, kHugePageBytes / dtype_bytes(dtype));
}

PagedKv view_at(const std::byte* base, const KvLayout& layout, DType dtype, std::int64_t num_pages) {
  if (layout.v_offset != 0) {
    return PagedKv::packed(base, dtype, layout, num_pages);
  }
  return {.k = base,
          .v = base + tensor_elements(layout, dtype, num_pages) * dtype_bytes(dtype),
          .dtype = dtype,
          .layout = layout,
          .num_pages = num_pages};
}

}  // namespace

std::int64_t KvPool::page_bytes(const KvLayout& layout, DType dtype) {
  // A packed page holds K and V, so its stride counts both.
  const std::int64_t tensors = layout.v_offset == 0 ? 2 : 1;
  return tensors * layout.k_strides.page * dtype_bytes(dtype);
}

std::int64_t KvPool::allocated_bytes(const KvLayout& layout, DType dtype, std::int64_t num_pages) {
  const std::int64_t elements =
      layout.v_offset == 0 ? 2 * tensor_elements(layout, dtype, num_pages) : num_pages * layout.k_strides.page;
  return elements * dtype_bytes(dtype);
}

Result<KvPool> KvPool::make(const KvLayout& layout, DType dtype, std::int64_t num_pages, const Filling& filling) {
  const std::int64_t bytes = allocated_bytes(layout, dtype, num_pages);
  auto memory = AlignedBuffer::allocate(static_cast<std::size_t>(bytes));
  if (!memory.ok()) {
    return memory.error();
  }
  KvPool pool;
  pool.memory_ = std::move(*memory);
  pool.view_ = view_at(pool.memory_.as<std::byte>(), layout, dtype, num_pages);
  PKV_RETURN_IF_ERROR(place_on_nodes(pool.view_, filling.nodes));
  PKV_RETURN_IF_ERROR(
      filling.block.fill(pool.memory_.data(), bytes / dtype_bytes(dtype), filling.crew, filling.cancelled));
  return pool;
}

Status KvPool::mirror(DeviceMemory& device, const std::function<bool()>& cancelled) {
  const auto bytes = static_cast<std::int64_t>(memory_.size());
  DeviceTensor copy(device);
  PKV_RETURN_IF_ERROR(copy.grow(bytes));
  for (std::int64_t begin = 0; begin < bytes; begin += kUploadBytes) {
    if (cancelled()) {
      return Error{ErrorCode::kCancelled, "stopped by the caller", "copying K and V to the device"};
    }
    PKV_RETURN_IF_ERROR(device.upload(copy.as<std::byte>() + begin, memory_.as<std::byte>() + begin,
                                      std::min(kUploadBytes, bytes - begin)));
  }
  mirror_view_ = view_at(copy.as<std::byte>(), view_.layout, view_.dtype, view_.num_pages);
  mirror_ = std::move(copy);
  return {};
}

void KvPool::show_as(const KvLayout& layout, std::int64_t min_pages) {
  constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
  const std::int64_t fitting =
      (static_cast<std::int64_t>(memory_.size()) - kPaddingBytes) / page_bytes(layout, view_.dtype);
  const std::int64_t num_pages = std::clamp(fitting, min_pages, std::max(min_pages, kMaxPages));
  if (layout == view_.layout && num_pages == view_.num_pages) {
    return;
  }
  view_ = view_at(memory_.as<std::byte>(), layout, view_.dtype, num_pages);
  if (mirror_) {
    mirror_view_ = view_at(mirror_->as<std::byte>(), layout, view_.dtype, num_pages);
  }
}

std::int64_t choose_pool_pages(std::int64_t trace_pages, std::int64_t page_bytes, std::int64_t cache_bytes,
                               std::int64_t budget_bytes) {
  constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
  const std::int64_t wanted = ceil_div(saturating_mul(kCachesInPool, cache_bytes), page_bytes);
  const std::int64_t affordable = budget_bytes / page_bytes;
  return std::max({trace_pages, std::min({wanted, affordable, kMaxPages}), std::int64_t{1}});
}

PageRotation PageRotation::spread(std::int64_t num_pages, std::int64_t num_nodes) {
  constexpr double kGoldenSection = 0.6180339887498949;
  return {num_pages, static_cast<std::int64_t>(static_cast<double>(num_pages) * kGoldenSection), num_nodes};
}

void PageRotation::start_at(double part) { shift_ = static_cast<std::int64_t>(static_cast<double>(num_pages_) * part); }

void PageRotation::next(std::span<const std::int32_t> page_ids, std::vector<std::int32_t>& shifted) {
  shift_ = (shift_ + stride_) % num_pages_;
  if (num_nodes_ > 1) {
    shift_by_node(page_ids, shifted);
    return;
  }
  const auto shift = static_cast<std::int32_t>(shift_);
  const auto wrap = static_cast<std::int32_t>(num_pages_ - shift_);
  shifted.resize(page_ids.size());
  for (std::size_t i = 0; i < page_ids.size(); ++i) {
    shifted[i] = page_ids[i] < wrap ? page_ids[i] + shift : page_ids[i] - wrap;
  }
}

void PageRotation::shift_by_node(std::span<const std::int32_t> page_ids, std::vector<std::int32_t>& shifted) const {
  const auto count = static_cast<std::int64_t>(page_ids.size());
  shifted.resize(page_ids.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t node = i * num_nodes_ / count;
    const std::int64_t local = (page_ids[static_cast<std::size_t>(i)] + shift_) % num_pages_;
    shifted[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(node * num_pages_ + local);
  }
}

}  // namespace pkv

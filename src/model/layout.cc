// Strides of the common layouts, and the checks of a paged cache.
#include "persistentkv/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <string>

namespace pkv {
namespace {

Error invalid(std::string where, std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(where)};
}

Status validate_page_size(std::int32_t page_size) {
  if (page_size < 1 || page_size > kMaxPageSize) {
    return invalid("page_size", fmt::format("{} is outside 1 to {}", page_size, kMaxPageSize));
  }
  return {};
}

// Last element of a page, relative to its base; -1 if the sum does not fit into 64 bits.
std::int64_t page_extent(const PageStrides& strides, std::int32_t page_size, const AttentionShape& shape) {
  std::int64_t heads = 0;
  std::int64_t slots = 0;
  std::int64_t sum = 0;
  if (__builtin_mul_overflow(strides.kv_head, std::int64_t{shape.num_kv_heads - 1}, &heads) ||
      __builtin_mul_overflow(strides.slot, std::int64_t{page_size - 1}, &slots) ||
      __builtin_add_overflow(heads, slots, &sum) || __builtin_add_overflow(sum, shape.head_dim - 1, &sum)) {
    return -1;
  }
  return sum;
}

bool address_overflows(const PageStrides& strides, std::int64_t extent, std::int64_t num_pages, DType dtype) {
  std::int64_t last_page = 0;
  std::int64_t elements = 0;
  std::int64_t bytes = 0;
  return extent < 0 || __builtin_mul_overflow(strides.page, num_pages, &last_page) ||
         __builtin_add_overflow(last_page, extent, &elements) ||
         __builtin_mul_overflow(elements, dtype_bytes(dtype), &bytes);
}

// Two axes may not land on the same element: the smaller stride, walked to its end, stays below the larger.
bool axes_overlap(const PageStrides& strides, std::int32_t page_size, const AttentionShape& shape) {
  const bool slots_inside = strides.slot <= strides.kv_head;
  const std::int64_t inner = slots_inside ? strides.slot : strides.kv_head;
  const std::int64_t outer = slots_inside ? strides.kv_head : strides.slot;
  const std::int32_t inner_count = slots_inside ? page_size : shape.num_kv_heads;
  const std::int32_t outer_count = slots_inside ? shape.num_kv_heads : page_size;
  const bool inner_fits = inner_count == 1 || inner >= shape.head_dim;
  return !inner_fits || (outer_count > 1 && outer < inner * (inner_count - 1) + shape.head_dim);
}

Status validate_strides(std::string_view name, const PagedKv& kv, const PageStrides& strides,
                        const AttentionShape& shape) {
  const auto where = [&] {
    return fmt::format("layout.{}_strides", name);
  };  // made for errors only: run() allocates nothing
  if (strides.page < 1 || strides.kv_head < 1 || strides.slot < 1) {
    return invalid(where(), fmt::format("page {}, kv_head {}, slot {}: strides must be at least 1", strides.page,
                                        strides.kv_head, strides.slot));
  }
  const std::int64_t extent = page_extent(strides, kv.layout.page_size, shape);
  if (address_overflows(strides, extent, kv.num_pages, kv.dtype)) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} pages with stride {} do not fit into 63-bit addresses", kv.num_pages, strides.page),
                 where()};
  }
  if (axes_overlap(strides, kv.layout.page_size, shape) || (kv.num_pages > 1 && strides.page <= extent)) {
    return invalid(
        where(),
        fmt::format("page {}, kv_head {}, slot {} overlap for {} KV heads, page size {}, head_dim {}", strides.page,
                    strides.kv_head, strides.slot, shape.num_kv_heads, kv.layout.page_size, shape.head_dim));
  }
  return {};
}

}  // namespace

std::string_view kv_order_name(KvOrder order) { return order == KvOrder::kHND ? "HND" : "NHD"; }

Result<KvOrder> parse_kv_order(std::string_view name) {
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (upper == "HND") {
    return KvOrder::kHND;
  }
  if (upper == "NHD") {
    return KvOrder::kNHD;
  }
  return invalid("layout", fmt::format("unknown layout '{}'; known: HND, NHD", name));
}

Result<KvLayout> KvLayout::make(KvOrder order, KvPacking packing, std::int32_t page_size, const AttentionShape& shape) {
  PKV_RETURN_IF_ERROR(validate(shape));
  PKV_RETURN_IF_ERROR(validate_page_size(page_size));
  const std::int64_t d = shape.head_dim;
  const std::int64_t page = d * shape.num_kv_heads * page_size;
  PageStrides strides;
  strides.page = packing == KvPacking::kPacked ? 2 * page : page;
  strides.kv_head = order == KvOrder::kHND ? d * page_size : d;
  strides.slot = order == KvOrder::kHND ? d : d * shape.num_kv_heads;
  return KvLayout{.page_size = page_size,
                  .k_strides = strides,
                  .v_strides = strides,
                  .v_offset = packing == KvPacking::kPacked ? page : 0};
}

PagedKv PagedKv::packed(const void* base, DType dtype, const KvLayout& layout, std::int64_t num_pages) {
  const auto* bytes = static_cast<const std::byte*>(base);
  return {.k = base,
          .v = bytes + layout.v_offset * dtype_bytes(dtype),
          .dtype = dtype,
          .layout = layout,
          .num_pages = num_pages};
}

Status validate(const PagedKv& kv, const AttentionShape& shape) {
  PKV_RETURN_IF_ERROR(validate(shape));
  PKV_RETURN_IF_ERROR(validate_page_size(kv.layout.page_size));
  if (kv.num_pages < 0 || kv.num_pages > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kOutOfRange, fmt::format("{} is outside 0 to 2147483647", kv.num_pages), "kv.num_pages"};
  }
  if (kv.pages_per_node < 0) {
    return invalid("kv.pages_per_node", fmt::format("is {}, must be at least 0", kv.pages_per_node));
  }
  if (kv.num_pages > 0 && (kv.k == nullptr || kv.v == nullptr)) {
    return invalid(kv.k == nullptr ? "kv.k" : "kv.v", fmt::format("is null, but there are {} pages", kv.num_pages));
  }
  PKV_RETURN_IF_ERROR(validate_strides("k", kv, kv.layout.k_strides, shape));
  return validate_strides("v", kv, kv.layout.v_strides, shape);
}

std::int64_t kv_bytes(std::int64_t tokens, const AttentionShape& shape, DType dtype) {
  return tokens * shape.num_kv_heads * shape.head_dim * 2 * dtype_bytes(dtype);
}

}  // namespace pkv

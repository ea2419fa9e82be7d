// Sums that cannot overflow: sizes come from the user.
// Not here: bytes, which depend on the type that a library computes in.
#include "replay/mlp_sizes.h"

#include <algorithm>

#include "replay/memory.h"

namespace pkv {

GemmSizes layer_gemms(const AttentionShape& shape, const MlpProxy& sizes) {
  const std::int64_t q_width = std::int64_t{shape.num_q_heads} * shape.head_dim;
  const std::int64_t kv_width = std::int64_t{shape.num_kv_heads} * shape.head_dim;
  const std::int64_t hidden = sizes.hidden;
  const std::int64_t inner = sizes.intermediate;
  return {{{hidden, q_width},
           {hidden, kv_width},
           {hidden, kv_width},
           {q_width, hidden},
           {hidden, inner},
           {hidden, inner},
           {inner, hidden}}};
}

std::int64_t largest_in(const GemmSizes& sizes) {
  return std::max_element(sizes.begin(), sizes.end(), [](auto& a, auto& b) { return a.in < b.in; })->in;
}

std::int64_t largest_out(const GemmSizes& sizes) {
  return std::max_element(sizes.begin(), sizes.end(), [](auto& a, auto& b) { return a.out < b.out; })->out;
}

std::int64_t largest_weight(const GemmSizes& sizes) {
  std::int64_t largest = 0;
  for (const GemmSize& size : sizes) {
    largest = std::max(largest, saturating_mul(size.in, size.out));
  }
  return largest;
}

std::int64_t layer_elements(const GemmSizes& sizes, std::int64_t max_rows) {
  std::int64_t elements = saturating_mul(max_rows, largest_in(sizes) + largest_out(sizes));
  for (const GemmSize& size : sizes) {
    elements = saturating_add(elements, saturating_mul(size.in, size.out));
  }
  return elements;
}

}  // namespace pkv

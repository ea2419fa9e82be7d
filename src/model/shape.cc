// Limits and defaults of AttentionShape.
#include "persistentkv/shape.h"

#include <fmt/format.h>

#include <cmath>

namespace pkv {
namespace {

Error invalid(std::string where, std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(where)};
}

Status validate_heads(const AttentionShape& shape) {
  if (shape.num_kv_heads < 1 || shape.num_kv_heads > kMaxKvHeads) {
    return invalid("num_kv_heads", fmt::format("{} is outside 1 to {}", shape.num_kv_heads, kMaxKvHeads));
  }
  if (shape.num_q_heads < 1 || shape.num_q_heads % shape.num_kv_heads != 0) {
    return invalid("num_q_heads", fmt::format("{} is not a positive multiple of num_kv_heads = {}", shape.num_q_heads,
                                              shape.num_kv_heads));
  }
  if (shape.group_size() > kMaxGroupSize) {
    return invalid("num_q_heads", fmt::format("group size {} ({} / {}) is above the limit of {}", shape.group_size(),
                                              shape.num_q_heads, shape.num_kv_heads, kMaxGroupSize));
  }
  if (shape.head_dim < kMinHeadDim || shape.head_dim > kMaxHeadDim || shape.head_dim % kHeadDimMultiple != 0) {
    return invalid("head_dim", fmt::format("{} is not a multiple of {} in {} to {}", shape.head_dim, kHeadDimMultiple,
                                           kMinHeadDim, kMaxHeadDim));
  }
  return {};
}

}  // namespace

float AttentionShape::scale() const { return softmax_scale.value_or(1.0F / std::sqrt(static_cast<float>(head_dim))); }

Status validate(const AttentionShape& shape) {
  PKV_RETURN_IF_ERROR(validate_heads(shape));
  if (shape.softmax_scale.has_value() && !std::isfinite(*shape.softmax_scale)) {
    return invalid("softmax_scale", fmt::format("{} is not finite", *shape.softmax_scale));
  }
  if (shape.logit_soft_cap.has_value() && !(std::isfinite(*shape.logit_soft_cap) && *shape.logit_soft_cap > 0.0F)) {
    return invalid("logit_soft_cap", fmt::format("{} is not finite and above 0", *shape.logit_soft_cap));
  }
  if (shape.sliding_window_tokens.has_value() && *shape.sliding_window_tokens < 1) {
    return invalid("sliding_window_tokens", fmt::format("{} is below 1", *shape.sliding_window_tokens));
  }
  return {};
}

}  // namespace pkv

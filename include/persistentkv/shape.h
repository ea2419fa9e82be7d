// AttentionShape: what one decode-attention call computes, apart from lengths and memory.
// Not here: layouts (layout.h), batches (batch.h).
#pragma once

#include <cstdint>
#include <optional>

#include "persistentkv/result.h"

namespace pkv {

inline constexpr std::int32_t kMaxGroupSize = 64;
inline constexpr std::int32_t kMinHeadDim = 8;
inline constexpr std::int32_t kMaxHeadDim = 512;
inline constexpr std::int32_t kHeadDimMultiple = 8;
inline constexpr std::int32_t kMaxKvHeads = 4096;

/// Whether each query head has an attention sink: one more logit, without a value vector, in the
/// softmax denominator. The logits themselves differ by layer, so they are an argument of run.
enum class Sinks : std::uint8_t { kNone, kPerQueryHead };

/// Half-open range of token positions of one row.
struct TokenRange {
  std::int32_t begin = 0;
  std::int32_t end = 0;

  [[nodiscard]] std::int32_t size() const { return end - begin; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

/// Grouped-query decode attention with one query token a row, for row r and query head h:
///   x_j = softmax_scale * dot(q[r][h], k_j[h / group_size]),  j in the attended range
///   x_j = soft_cap * tanh(x_j / soft_cap)                     if logit_soft_cap is set
///   out[r][h] = sum_j exp(x_j) v_j / (sum_j exp(x_j) + exp(sink[h]) if sinks are used)
///   lse[r][h] = natural logarithm of that denominator
/// A row with nothing to attend gives out = 0 and lse = -inf (or sink[h] with sinks).
struct AttentionShape {
  std::int32_t num_q_heads = 32;
  std::int32_t num_kv_heads = 8;
  /// Elements of one q, k or v vector; the value head dimension is equal to it.
  std::int32_t head_dim = 128;
  /// Factor of the logits; 1 / sqrt(head_dim) when not set.
  std::optional<float> softmax_scale = std::nullopt;
  /// Positive; logits are squashed into (-cap, cap) when set.
  std::optional<float> logit_soft_cap = std::nullopt;
  /// Number of most recent tokens attended, the newest one included (FlashInfer's window_left + 1).
  /// Everything is attended when not set.
  std::optional<std::int32_t> sliding_window_tokens = std::nullopt;
  Sinks sinks = Sinks::kNone;

  /// Query heads per KV head. Requires a valid shape.
  [[nodiscard]] std::int32_t group_size() const { return num_q_heads / num_kv_heads; }
  /// softmax_scale, or its default.
  [[nodiscard]] float scale() const;
  /// Token positions that a row of seq_len tokens attends to: the last
  /// min(seq_len, sliding_window_tokens) of them.
  [[nodiscard]] TokenRange attended(std::int32_t seq_len) const {
    const std::int32_t window = sliding_window_tokens.value_or(seq_len);
    return {.begin = seq_len > window ? seq_len - window : 0, .end = seq_len};
  }

  friend bool operator==(const AttentionShape&, const AttentionShape&) = default;
};

/// Checks every field against its limits: heads positive and divisible, group size 1 to 64,
/// head_dim 8 to 512 in multiples of 8, scale finite, soft cap finite and positive, window positive.
/// Errors: kInvalidArgument that names field, value and limit.
Status validate(const AttentionShape& shape);

}  // namespace pkv

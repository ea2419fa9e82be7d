// PartialState: what a task leaves behind when its row is split, and the layout of many of them.
// Not here: the merge itself (src/reference/merge.h, src/exec/*/merge).
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "persistentkv/shape.h"

namespace pkv {

/// State of one query head over one split (paper, "The engine"), FP32:
///   m = max x_j, l = sum exp(x_j - m), acc = sum exp(x_j - m) v_j
/// The neutral state of a split without tokens is m = -inf, l = 0, acc = 0. Sinks are not part of it:
/// they join once, when the output is written.
struct PartialState {
  float m = -std::numeric_limits<float>::infinity();
  float l = 0.0F;
  std::span<const float> acc;  // [head_dim]
};

/// Where the states of a step lie: ml [num_slots][group_size][2] as (m, l) pairs and
/// acc [num_slots][group_size][head_dim], both FP32. A slot is one (row, KV head, split).
struct PartialStates {
  float* ml = nullptr;
  float* acc = nullptr;
  std::int32_t group_size = 0;
  std::int32_t head_dim = 0;

  [[nodiscard]] float* ml_at(std::int64_t slot, std::int32_t group_idx) const {
    return ml + (slot * group_size + group_idx) * 2;
  }
  [[nodiscard]] float* acc_at(std::int64_t slot, std::int32_t group_idx) const {
    return acc + (slot * group_size + group_idx) * head_dim;
  }
  [[nodiscard]] PartialState at(std::int64_t slot, std::int32_t group_idx) const {
    const float* pair = ml_at(slot, group_idx);
    return {.m = pair[0], .l = pair[1], .acc = {acc_at(slot, group_idx), static_cast<std::size_t>(head_dim)}};
  }
};

}  // namespace pkv

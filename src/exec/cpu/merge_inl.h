// The merge kernel: joins the partial states of a row's splits into its output.
// Not here: how the states were made (decode_inl.h), how they are shared out among workers.
//
// 1. Maths, over the splits s of one query head (paper, "The engine"):
//      m = max m_s;  l = sum exp(m_s - m) l_s;  acc = sum exp(m_s - m) acc_s;  out = acc / l
//    Neutral states (m = -inf, l = 0, acc = 0) get the factor 0. The sink joins in write_head.
// 2. Traffic: splits * (head_dim + 2) * 4 bytes a query head, one FMA an element: bound by the cache that
//    the states lie in.
// 3. Layouts: partial_state.h. Slots of KV head h begin at slot_begin + h * num_splits.
// 4. Mapping: a call owns one KV head of one row; vectors run along head_dim.
// 5. Invariants: splits are added in their order, so a plan's result does not depend on who merges.
#if defined(PKV_MERGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PKV_MERGE_INL_H_
#undef PKV_MERGE_INL_H_
#else
#define PKV_MERGE_INL_H_
#endif

#include <algorithm>

#include "exec/cpu/kernels.h"
#include "exec/cpu/output_inl.h"
#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

/// factors[s] = exp(m_s - m); returns m. Requires states.
HWY_INLINE float split_factors(const PartialStates& states, std::int64_t first_slot, std::int32_t num_splits,
                               std::int32_t group_idx, float* factors) {
  float m = kMinusInfinity;
  for (std::int32_t s = 0; s < num_splits; ++s) {
    factors[s] = *states.ml_at(first_slot + s, group_idx);
    m = std::max(m, factors[s]);
  }
  const float reference = m == kMinusInfinity ? 0.0F : m;  // -inf - -inf would be NaN
  const F32 d;
  // Scratch is padded to whole vectors; what lies past num_splits is never used.
  for (std::int32_t s = 0; s < num_splits; s += kLanes) {
    hn::StoreU(exp_nonpositive(d, hn::Sub(hn::LoadU(d, factors + s), hn::Set(d, reference))), d, factors + s);
  }
  return m;
}

/// The accumulators of a query head, split by split.
struct MergeColumns {
  const float* acc;
  std::int64_t stride;  // floats from one split to the next
  std::int32_t num_splits;
  const float* factors;
};

/// Columns of 4 vectors: as many additions at a time as hide the latency of one.
inline constexpr std::int32_t kMergeVectors = 4;

/// to[begin, + kVectors * lanes) = sum over splits of factor * acc.
template <std::int32_t kVectors>
HWY_INLINE void merge_columns(const MergeColumns& columns, std::int32_t begin, float* to) {
  const F32 d;
  VF sums[kVectors];
  HWY_UNROLL(4)
  for (std::int32_t v = 0; v < kVectors; ++v) {
    sums[v] = hn::Zero(d);
  }
  const float* acc = columns.acc + begin;
  for (std::int32_t s = 0; s < columns.num_splits; ++s, acc += columns.stride) {
    const VF factor = hn::Set(d, columns.factors[s]);
    HWY_UNROLL(4)
    for (std::int32_t v = 0; v < kVectors; ++v) {
      sums[v] = hn::MulAdd(factor, hn::LoadU(d, acc + v * kLanes), sums[v]);
    }
  }
  HWY_UNROLL(4)
  for (std::int32_t v = 0; v < kVectors; ++v) {
    hn::StoreU(sums[v], d, to + begin + v * kLanes);
  }
}

HWY_INLINE void merge_head(const StepArgs& args, const MergeRange& range, std::int32_t q_head, std::int64_t first_slot,
                           const Scratch& scratch) {
  const PartialStates& states = args.partials;
  const std::int32_t group_idx = q_head % states.group_size;
  const std::int32_t head_dim = args.shape.head_dim;
  const float m = split_factors(states, first_slot, range.num_splits, group_idx, scratch.factors);
  float l = 0.0F;
  for (std::int32_t s = 0; s < range.num_splits; ++s) {
    l += scratch.factors[s] * states.ml_at(first_slot + s, group_idx)[1];
  }
  const MergeColumns columns = {.acc = states.acc_at(first_slot, group_idx),
                                .stride = std::int64_t{states.group_size} * head_dim,
                                .num_splits = range.num_splits,
                                .factors = scratch.factors};
  std::int32_t i = 0;
  for (; i + kMergeVectors * kLanes <= head_dim; i += kMergeVectors * kLanes) {
    merge_columns<kMergeVectors>(columns, i, scratch.acc);
  }
  for (; i + kLanes <= head_dim; i += kLanes) {
    merge_columns<1>(columns, i, scratch.acc);
  }
  for (; i < head_dim; ++i) {
    float sum = 0.0F;
    for (std::int32_t s = 0; s < range.num_splits; ++s) {
      sum += scratch.factors[s] * columns.acc[s * columns.stride + i];
    }
    scratch.acc[i] = sum;
  }
  write_head(args, range.row, q_head, m, l, scratch.acc);
}

inline void merge(const StepArgs& args, const MergeRange& range, std::int32_t kv_head, const Scratch& scratch) {
  const std::int32_t group_size = args.shape.group_size();
  const std::int64_t first_slot = range.slot_begin + static_cast<std::int64_t>(kv_head) * range.num_splits;
  for (std::int32_t g = 0; g < group_size; ++g) {
    merge_head(args, range, kv_head * group_size + g, first_slot, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#endif  // PKV_MERGE_INL_H_

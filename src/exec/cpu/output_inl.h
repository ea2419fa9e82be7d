// Writes a finished head: the sink joins, the accumulator is divided, the type is narrowed, LSE is stored.
// Not here: where the state came from (decode_inl.h, merge_inl.h).
#if defined(PKV_OUTPUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PKV_OUTPUT_INL_H_
#undef PKV_OUTPUT_INL_H_
#else
#define PKV_OUTPUT_INL_H_
#endif

#include <cmath>
#include <limits>

#include "base/half.h"
#include "exec/cpu/kernels.h"
#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// What turns a head's state into its output: out = acc * factor, and its LSE.
struct Normaliser {
  float factor = 0.0F;
  float lse = kMinusInfinity;
};

/// Denominator exp(m) l + exp(sink), taken relative to the larger of m and sink so that neither overflows.
HWY_INLINE Normaliser normaliser(float m, float l, float sink) {
  if (l == 0.0F && sink == kMinusInfinity) {
    return {};  // nothing attended, no sink
  }
  const float top = m > sink ? m : sink;
  const float weight = std::exp(m - top);
  const float denominator = weight * l + std::exp(sink - top);
  return {.factor = weight / denominator, .lse = top + std::log(denominator)};
}

/// Rounds to nearest even; NaN stays NaN.
template <DType kType>
HWY_INLINE void store_vector(F32 d, VF v, std::byte* to) {
  if constexpr (kType == DType::kF32) {
    hn::StoreU(v, d, reinterpret_cast<float*>(to));
  } else if constexpr (kType == DType::kF16 && HWY_TARGET == HWY_EMU128) {
    HWY_ALIGN float lanes[kLanes];  // Highway's emulation truncates
    hn::Store(v, d, lanes);
    for (std::int32_t i = 0; i < kLanes; ++i) {
      store_element(to, kType, i, lanes[i]);
    }
  } else if constexpr (kType == DType::kF16) {
    const hn::Rebind<hwy::float16_t, F32> d16;
    hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(to));
  } else {
    const hn::Rebind<std::uint32_t, F32> d32;
    const hn::Rebind<std::uint16_t, F32> d16;
    const auto bits = hn::BitCast(d32, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1U));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFU)));
    const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000U));
    const auto kept = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
    const hn::Rebind<std::int32_t, F32> di;
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::ShiftRight<16>(kept))), d16, reinterpret_cast<std::uint16_t*>(to));
  }
}

template <DType kType>
HWY_INLINE void store_row(const float* acc, float factor, std::int32_t head_dim, std::byte* to) {
  const F32 d;
  const VF factors = hn::Set(d, factor);
  std::int32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    store_vector<kType>(d, hn::Mul(hn::LoadU(d, acc + i), factors), to + i * dtype_bytes(kType));
  }
  for (; i < head_dim; ++i) {
    store_element(to, kType, i, acc[i] * factor);
  }
}

/// State (m, l, acc [head_dim]) of one query head of one row, complete but for the sink.
HWY_INLINE void write_head(const StepArgs& args, std::int32_t row, std::int32_t q_head, float m, float l,
                           const float* acc) {
  const float sink = args.sinks == nullptr ? kMinusInfinity : args.sinks[q_head];
  const Normaliser norm = normaliser(m, l, sink);
  const OutputView& out = args.out;
  std::byte* to =
      static_cast<std::byte*>(out.data) + (row * out.row_stride + q_head * out.head_stride) * dtype_bytes(out.dtype);
  switch (out.dtype) {
    case DType::kF32: store_row<DType::kF32>(acc, norm.factor, args.shape.head_dim, to); break;
    case DType::kF16: store_row<DType::kF16>(acc, norm.factor, args.shape.head_dim, to); break;
    case DType::kBF16: store_row<DType::kBF16>(acc, norm.factor, args.shape.head_dim, to); break;
  }
  if (args.lse != nullptr) {
    args.lse[static_cast<std::int64_t>(row) * args.shape.num_q_heads + q_head] = norm.lse;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#endif  // PKV_OUTPUT_INL_H_

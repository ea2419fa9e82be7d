// Vector helpers of the kernels: loads as FP32, sums across lanes, exp, tanh. Compiled once an ISA.
// Not here: anything that knows about attention, pages or tasks.

// No include guard in the usual sense: the file is compiled again for every instruction set.
#if defined(PKV_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PKV_VECTOR_MATH_INL_H_
#undef PKV_VECTOR_MATH_INL_H_
#else
#define PKV_VECTOR_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "persistentkv/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using VF = hn::Vec<F32>;
inline constexpr std::int32_t kLanes = static_cast<std::int32_t>(HWY_LANES(float));

/// FP16 without instructions for it: as an FP32 bit pattern the value is 2^112 too small, and the product is
/// exact. Highway's own emulation works lane by lane.
template <class D>
HWY_INLINE hn::Vec<D> widen_f16_bits(D d, hn::Vec<hn::Rebind<std::uint32_t, D>> bits) {
  const hn::Rebind<std::uint32_t, D> d32;
  const auto magnitude = hn::And(bits, hn::Set(d32, 0x7FFFU));
  const auto scaled = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112F));
  const auto sign = hn::ShiftLeft<16>(hn::Sub(bits, magnitude));
  // Scaled infinities and NaN are 2^16 and above, where no finite FP16 is.
  const auto special = hn::VecFromMask(d, hn::Ge(scaled, hn::Set(d, 0x1p16F)));
  const auto exponent = hn::And(hn::BitCast(d32, special), hn::Set(d32, 0x7F800000U));
  return hn::BitCast(d, hn::Or(hn::Or(hn::BitCast(d32, scaled), exponent), sign));
}

/// Lanes of `d` consecutive elements, as FP32. No alignment is asked for.
template <DType kType, class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const std::byte* from) {
  if constexpr (kType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(from));
  } else if constexpr (kType == DType::kF16 && HWY_TARGET == HWY_EMU128) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::Rebind<std::uint32_t, D> d32;
    return widen_f16_bits(d, hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from))));
  } else if constexpr (kType == DType::kF16) {
    const hn::Rebind<hwy::float16_t, D> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
  } else {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::Rebind<std::uint32_t, D> d32;
    const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from)));
    return hn::BitCast(d, hn::ShiftLeft<16>(bits));
  }
}

/// The last 8 elements of a row whose length is no multiple of 16, on 16 lanes: the upper 8 are zero.
template <DType kType>
HWY_INLINE VF load_f32_tail(F32 d, const std::byte* from) {
  if constexpr (kLanes > 8) {
    const hn::Half<F32> half;
    return hn::ZeroExtendVector(d, load_f32<kType>(half, from));
  } else {
    return load_f32<kType>(d, from);
  }
}

/// Whether a row of head_dim elements, a multiple of 8, ends in a tail.
HWY_INLINE bool has_tail(std::int32_t head_dim) { return kLanes > 8 && head_dim % kLanes != 0; }

/// In every 128-bit block: the block's sums of a, b, c and d, in that order.
HWY_INLINE VF sums_of_blocks(F32 d32, VF a, VF b, VF c, VF d) {
  const hn::Repartition<double, F32> d64;
  const VF ab = hn::Add(hn::InterleaveLower(d32, a, b), hn::InterleaveUpper(d32, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(d32, c, d), hn::InterleaveUpper(d32, c, d));
  const auto ab64 = hn::BitCast(d64, ab);
  const auto cd64 = hn::BitCast(d64, cd);
  return hn::Add(hn::BitCast(d32, hn::InterleaveLower(d64, ab64, cd64)),
                 hn::BitCast(d32, hn::InterleaveUpper(d64, ab64, cd64)));
}

/// Lane i is the sum of all lanes of v[i]. A tree of pairwise interleaves: 45 operations for 16 vectors,
/// a fraction of what one horizontal sum a vector costs.
HWY_INLINE VF transpose_sums(F32 d, const VF (&v)[kLanes]) {
  const VF s0 = sums_of_blocks(d, v[0], v[1], v[2], v[3]);
  if constexpr (kLanes == 4) {
    return s0;
  } else {
    const VF s1 = sums_of_blocks(d, v[4], v[5], v[6], v[7]);
    if constexpr (kLanes == 8) {
      return hn::Add(hn::ConcatLowerLower(d, s1, s0), hn::ConcatUpperUpper(d, s1, s0));
    } else {
      const VF s2 = sums_of_blocks(d, v[8], v[9], v[10], v[11]);
      const VF s3 = sums_of_blocks(d, v[12], v[13], v[14], v[15]);
      const VF s02 = hn::Add(hn::ConcatLowerLower(d, s2, s0), hn::ConcatUpperUpper(d, s2, s0));
      const VF s13 = hn::Add(hn::ConcatLowerLower(d, s3, s1), hn::ConcatUpperUpper(d, s3, s1));
      // s02 holds the blocks [s0 s0 s2 s2], s13 [s1 s1 s3 s3]; a pair's sum is what is left to do.
      return hn::Add(hn::OddEvenBlocks(hn::SwapAdjacentBlocks(s13), s02),
                     hn::OddEvenBlocks(s13, hn::SwapAdjacentBlocks(s02)));
    }
  }
}

/// Combines the lanes of every aligned segment of kSegment lanes; all lanes of it hold the result.
template <int kSegment, class Combine>
HWY_INLINE VF combine_segments(F32 d, VF v, const Combine& combine) {
  static_assert(kSegment <= kLanes);
  if constexpr (kSegment >= 2) {
    v = combine(v, hn::Shuffle2301(v));
  }
  if constexpr (kSegment >= 4) {
    v = combine(v, hn::Shuffle1032(v));
  }
  if constexpr (kSegment >= 8) {
    v = combine(v, hn::SwapAdjacentBlocks(v));
  }
  if constexpr (kSegment >= 16) {
    v = combine(v, hn::ConcatLowerUpper(d, v, v));
  }
  return v;
}

template <int kSegment>
HWY_INLINE VF max_of_segments(F32 d, VF v) {
  return combine_segments<kSegment>(d, v, [](VF a, VF b) { return hn::Max(a, b); });
}

template <int kSegment>
HWY_INLINE VF sum_of_segments(F32 d, VF v) {
  return combine_segments<kSegment>(d, v, [](VF a, VF b) { return hn::Add(a, b); });
}

/// exp(x) for x <= 0, -inf included; exactly 0 below -87; NaN stays NaN. Relative error under 2e-7:
/// x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 q(r), q of degree 4 by minimax (3.1e-9),
/// the rest is rounding.
HWY_INLINE VF exp_nonpositive(F32 d, VF x) {
  const hn::RebindToSigned<F32> di;
  const VF lowest = hn::Set(d, -87.0F);
  const auto too_low = hn::Lt(x, lowest);
  const VF clamped = hn::IfThenElse(too_low, lowest, x);  // Max would drop NaN on some targets
  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504F)));
  const VF nf = hn::ConvertTo(d, n);
  VF r = hn::NegMulAdd(nf, hn::Set(d, 0.693359375F), clamped);  // ln 2 in two parts: the product is exact
  r = hn::NegMulAdd(nf, hn::Set(d, -2.12194440e-4F), r);
  VF q = hn::MulAdd(r, hn::Set(d, 1.38146000e-3F), hn::Set(d, 8.36871751e-3F));
  q = hn::MulAdd(q, r, hn::Set(d, 4.16683890e-2F));
  q = hn::MulAdd(q, r, hn::Set(d, 1.66665211e-1F));
  q = hn::MulAdd(q, r, hn::Set(d, 4.99999940e-1F));
  const VF exp_r = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0F));
  const auto power_bits = hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127)));
  return hn::IfThenZeroElse(too_low, hn::Mul(exp_r, hn::BitCast(d, power_bits)));
}

/// tanh(x), relative error under 5e-7: x + x^3 q(x^2) for |x| < 0.625 (q of degree 4 by minimax, 4.4e-9),
/// (1 - e) / (1 + e) with e = exp(-2 |x|) above.
HWY_INLINE VF tanh_f32(F32 d, VF x) {
  const VF y = hn::Abs(x);
  const VF z = hn::Mul(x, x);
  VF q = hn::MulAdd(z, hn::Set(d, -5.70496498e-3F), hn::Set(d, 2.06390675e-2F));
  q = hn::MulAdd(q, z, hn::Set(d, -5.37397079e-2F));
  q = hn::MulAdd(q, z, hn::Set(d, 1.33314416e-1F));
  q = hn::MulAdd(q, z, hn::Set(d, -3.33332807e-1F));
  const VF small = hn::MulAdd(hn::Mul(x, z), q, x);
  const VF e = exp_nonpositive(d, hn::Mul(y, hn::Set(d, -2.0F)));
  const VF one = hn::Set(d, 1.0F);
  const VF large = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  return hn::IfThenElse(hn::Lt(y, hn::Set(d, 0.625F)), small, large);
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#endif  // PKV_VECTOR_MATH_INL_H_

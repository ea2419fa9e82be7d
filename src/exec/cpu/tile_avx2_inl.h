// Vectors of the tile kernel for AVX2, FMA and F16C: 8 lanes, half of the 16 registers for sums.
// Not here: what is done with them (tile_inl.h, which includes this file).

// No include guard: a part of tile_inl.h.

PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {

using Floats = __m256;
using Mask = __m256;  // lanes of all ones or all zeros
inline constexpr int kVectorLanes = 8;
/// Accumulators of QK and PV: 8 just hide the latency of two FMAs a cycle (4 cycles), and leave registers for keys
/// or weights and for the sums of the last block.
inline constexpr int kSums = 8;
/// Vectors that are loaded together.
inline constexpr int kLoadedVectors = 1;
/// Whether the tree of the last block is spread over the first steps of a block, or comes before them. Spread is 1% at
/// G 4; but it writes a step three times, and a tile of unrolled rows is then 60 KB of code (NHD, G 8: 6.5 GB/s in
/// cache instead of 7.4).
inline constexpr bool kTreeBetweenSteps = false;

PKV_TILE_INLINE Floats zero() { return _mm256_setzero_ps(); }
PKV_TILE_INLINE Floats splat(float x) { return _mm256_set1_ps(x); }
PKV_TILE_INLINE Floats load(const float* from) { return _mm256_load_ps(from); }
PKV_TILE_INLINE void store(float* to, Floats v) { _mm256_store_ps(to, v); }
PKV_TILE_INLINE void store_unaligned(float* to, Floats v) { _mm256_storeu_ps(to, v); }
PKV_TILE_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
PKV_TILE_INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
PKV_TILE_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
PKV_TILE_INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
/// a b + c.
PKV_TILE_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
PKV_TILE_INLINE Floats max_of(Floats a, Floats b) { return _mm256_max_ps(a, b); }
PKV_TILE_INLINE Floats magnitude(Floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x); }
/// x with the sign of `sign`; x is not negative.
PKV_TILE_INLINE Floats with_sign(Floats x, Floats sign) {
  return _mm256_or_ps(x, _mm256_and_ps(sign, _mm256_set1_ps(-0.0F)));
}

PKV_TILE_INLINE Mask greater(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
PKV_TILE_INLINE Mask equal(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
PKV_TILE_INLINE bool any(Mask mask) { return _mm256_movemask_ps(mask) != 0; }
/// a where the mask holds, else b.
PKV_TILE_INLINE Floats select(Mask mask, Floats a, Floats b) { return _mm256_blendv_ps(b, a, mask); }
/// Lanes whose index modulo kPeriod, a power of two, is below `end`.
template <int kPeriod>
PKV_TILE_INLINE Mask lanes_below(std::int32_t end) {
  const __m256i lane = _mm256_and_si256(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(kPeriod - 1));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

/// The least exponent of a normal number. Below it 2^x is 0.
inline constexpr float kLeastExponent = -126.0F;

/// x, at least kLeastExponent; NaN stays NaN (the second operand is what a maximum with NaN returns).
PKV_TILE_INLINE Floats raised_to_least(Floats x) { return _mm256_max_ps(_mm256_set1_ps(kLeastExponent), x); }
/// x - floor(x); 0 for -inf.
PKV_TILE_INLINE Floats fraction(Floats x) {
  const Floats raised = raised_to_least(x);
  return _mm256_sub_ps(raised, _mm256_floor_ps(raised));
}
/// y 2^floor(x) of y in [1, 2] and x <= 0, by an addition to the exponent. What fraction() has computed as well the
/// compiler finds.
PKV_TILE_INLINE Floats scale_by_floor(Floats y, Floats x) {
  const __m256i exponent = _mm256_cvtps_epi32(_mm256_floor_ps(raised_to_least(x)));
  const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(exponent, 23));
  const Mask too_low = _mm256_cmp_ps(x, _mm256_set1_ps(kLeastExponent), _CMP_LT_OQ);
  return _mm256_andnot_ps(too_low, _mm256_castsi256_ps(scaled));
}

/// sum += a b. In assembly, as gcc would load again what is used more than once (two loads a cycle are what there is)
/// and copy sums about (20 copies beside 32 FMAs; some cores take four instructions a cycle).
PKV_TILE_INLINE void accumulate(Floats& sum, Floats a, Floats b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}
/// The same of eight floats in memory.
PKV_TILE_INLINE void accumulate(Floats& sum, Floats a, const float* b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "m"(*reinterpret_cast<const Floats*>(b)));
}
/// Whether PV keeps the weight of a block's h-th head in a register.
constexpr bool keeps_weight(int /*h*/) { return false; }
PKV_TILE_INLINE Floats keep(Floats v) { return v; }
/// sum += *weight * value. A broadcasting load takes a load unit and nothing else; the vectors of a column share it.
PKV_TILE_INLINE void add_weighted(Floats& sum, const float* weight, Floats value) {
  accumulate(sum, value, _mm256_broadcast_ss(weight));
}

/// 8 elements in order. bf16: both halves of the register hold the 8 elements, and a byte shuffle puts four of them
/// above zeros: a load and a shuffle, no unit that FMAs need (widening and shifting: a shuffle and an FMA unit).
template <Kind kKind, int kVectors>
PKV_TILE_INLINE void load_elements(const std::byte* from, Floats* to) {
  static_assert(kVectors == 1);
  if constexpr (kKind == Kind::kF32) {
    to[0] = _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  } else {
    const __m128i elements = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    if constexpr (kKind == Kind::kF16) {
      to[0] = _mm256_cvtph_ps(elements);
    } else {
      static_assert(kKind == Kind::kBF16);
      constexpr char kZero = -1;
      const __m256i places =
          _mm256_setr_epi8(kZero, kZero, 0, 1, kZero, kZero, 2, 3, kZero, kZero, 4, 5, kZero, kZero, 6, 7,  //
                           kZero, kZero, 8, 9, kZero, kZero, 10, 11, kZero, kZero, 12, 13, kZero, kZero, 14, 15);
      to[0] = _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(elements), places));
    }
  }
}

/// Vectors are loaded one by one, in order.
template <Kind kKind>
PKV_TILE_INLINE void to_loaded_order(Floats& /*low*/, Floats& /*high*/) {}
template <Kind kKind>
PKV_TILE_INLINE void from_loaded_order(Floats& /*low*/, Floats& /*high*/) {}

/// v, every lane exchanged with the one kDistance away in the same aligned segment of 2 kDistance.
template <int kDistance>
PKV_TILE_INLINE Floats exchange_lanes(Floats v) {
  if constexpr (kDistance == 1) {
    return _mm256_permute_ps(v, 0xB1);
  } else if constexpr (kDistance == 2) {
    return _mm256_permute_ps(v, 0x4E);
  } else {
    static_assert(kDistance == 4);
    return _mm256_permute2f128_ps(v, v, 0x01);
  }
}

/// The tree that adds the lanes of sums.
struct SumTree {
  /// In every aligned segment of 2 kDistance lanes the lower half is the sum of a's halves, the upper one of b's. For
  /// single lanes that is another order than a horizontal addition has.
  template <int kDistance>
  PKV_TILE_INLINE Floats fold(Floats a, Floats b) const {
    if constexpr (kDistance == 4) {
      return _mm256_add_ps(_mm256_blend_ps(a, b, 0xF0), _mm256_permute2f128_ps(a, b, 0x21));
    } else if constexpr (kDistance == 2) {
      return _mm256_add_ps(_mm256_blend_ps(a, b, 0xCC), _mm256_shuffle_ps(a, b, 0x4E));
    } else {
      static_assert(kDistance == 1);
      return _mm256_add_ps(_mm256_blend_ps(a, b, 0xAA), _mm256_permute_ps(_mm256_blend_ps(b, a, 0xAA), 0xB1));
    }
  }
};

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END

// Vectors of the tile kernel for AVX-512: 16 lanes, half of the 32 registers for sums.
// Not here: what is done with them (tile_inl.h, which includes this file).

// No include guard: a part of tile_inl.h.

PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {

using Floats = __m512;
using Mask = __mmask16;
inline constexpr int kVectorLanes = 16;
/// Accumulators of QK and PV: 4 are needed to hide the latency of an FMA, 16 of 32 registers let 16 / H tokens
/// or dims share what they load.
inline constexpr int kSums = 16;
/// Vectors that are loaded together.
inline constexpr int kLoadedVectors = 2;
/// Whether the tree of the last block is spread over the first steps of a block, or comes before them.
inline constexpr bool kTreeBetweenSteps = true;

PKV_TILE_INLINE Floats zero() { return _mm512_setzero_ps(); }
PKV_TILE_INLINE Floats splat(float x) { return _mm512_set1_ps(x); }
PKV_TILE_INLINE Floats load(const float* from) { return _mm512_load_ps(from); }
PKV_TILE_INLINE void store(float* to, Floats v) { _mm512_store_ps(to, v); }
PKV_TILE_INLINE void store_unaligned(float* to, Floats v) { _mm512_storeu_ps(to, v); }
PKV_TILE_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
PKV_TILE_INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
PKV_TILE_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
PKV_TILE_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
/// a b + c.
PKV_TILE_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
PKV_TILE_INLINE Floats max_of(Floats a, Floats b) { return _mm512_max_ps(a, b); }
PKV_TILE_INLINE Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
/// x with the sign of `sign`; x is not negative.
PKV_TILE_INLINE Floats with_sign(Floats x, Floats sign) {
  return _mm512_or_ps(x, _mm512_and_ps(sign, _mm512_set1_ps(-0.0F)));
}

PKV_TILE_INLINE Mask greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
PKV_TILE_INLINE Mask equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
PKV_TILE_INLINE bool any(Mask mask) { return mask != 0; }
/// a where the mask holds, else b.
PKV_TILE_INLINE Floats select(Mask mask, Floats a, Floats b) { return _mm512_mask_mov_ps(b, mask, a); }
/// Lanes whose index modulo kPeriod, a power of two, is below `end`.
template <int kPeriod>
PKV_TILE_INLINE Mask lanes_below(std::int32_t end) {
  const __m512i lane = _mm512_and_si512(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                        _mm512_set1_epi32(kPeriod - 1));
  return _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
}

/// x - floor(x); 0 for -inf.
PKV_TILE_INLINE Floats fraction(Floats x) { return _mm512_reduce_ps(x, 0x09); }
/// y 2^floor(x).
PKV_TILE_INLINE Floats scale_by_floor(Floats y, Floats x) { return _mm512_scalef_ps(y, x); }

/// sum += a b.
PKV_TILE_INLINE void accumulate(Floats& sum, Floats a, Floats b) { sum = _mm512_fmadd_ps(a, b, sum); }
/// The same of 16 floats in memory.
PKV_TILE_INLINE void accumulate(Floats& sum, Floats a, const float* b) { accumulate(sum, a, load(b)); }
/// Whether PV keeps the weight of a block's h-th head in a register: every second one. On Zen 5 a broadcast by the
/// multiplication itself is a load for each, and two FMAs a cycle are as many loads as there are: with half of the
/// weights in registers PV is limited by FMAs again (in cache G 4 and G 8 8% faster; with all of them as fast). On Zen
/// 4, whose broadcasting loads take a shuffle unit (16 FMAs with 8 of them: 18 cycles for 16), the fewer the better.
constexpr bool keeps_weight(int h) { return h % 2 == 0; }
PKV_TILE_INLINE Floats keep(Floats v) {
  asm("" : "+v"(v));
  return v;
}
/// sum += *weight * value, the weight broadcast by the multiplication itself.
PKV_TILE_INLINE void add_weighted(Floats& sum, const float* weight, Floats value) {
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(value), "m"(*weight));
}

/// 16 elements in order, or, where kVectors is 2, 32: in order, or for bf16 the even and the odd ones.
template <Kind kKind, int kVectors>
PKV_TILE_INLINE void load_elements(const std::byte* from, Floats* to) {
  static_assert(kVectors == 1 || kVectors == 2);
  if constexpr (kKind == Kind::kF32) {
    to[0] = _mm512_loadu_ps(from);
    if constexpr (kVectors == 2) {
      to[1] = _mm512_loadu_ps(from + 64);
    }
  } else if constexpr (kKind == Kind::kF16) {
    to[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    if constexpr (kVectors == 2) {
      to[1] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32)));
    }
  } else if constexpr (kVectors == 1) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  } else {
    const __m512i pairs = _mm512_loadu_si512(from);
    to[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
  }
}

/// Two vectors in order to the order of load_elements<kKind, 2>.
template <Kind kKind>
PKV_TILE_INLINE void to_loaded_order(Floats& low, Floats& high) {
  if constexpr (kKind == Kind::kBF16) {
    const Floats even =
        _mm512_permutex2var_ps(low, _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0), high);
    high =
        _mm512_permutex2var_ps(low, _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1), high);
    low = even;
  }
}
/// The way back. PV takes all bf16 apart, however QK multiplies.
template <Kind kKind>
PKV_TILE_INLINE void from_loaded_order(Floats& low, Floats& high) {
  if constexpr (kKind == Kind::kBF16 || kKind == Kind::kBF16Dot || kKind == Kind::kBF16Amx) {
    const Floats first =
        _mm512_permutex2var_ps(low, _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0), high);
    high = _mm512_permutex2var_ps(low, _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8),
                                  high);
    low = first;
  }
}

/// v, every lane exchanged with the one kDistance away in the same aligned segment of 2 kDistance.
template <int kDistance>
PKV_TILE_INLINE Floats exchange_lanes(Floats v) {
  if constexpr (kDistance == 1) {
    return _mm512_permute_ps(v, 0xB1);
  } else if constexpr (kDistance == 2) {
    return _mm512_permute_ps(v, 0x4E);
  } else if constexpr (kDistance == 4) {
    return _mm512_shuffle_f32x4(v, v, 0xB1);
  } else {
    static_assert(kDistance == 8);
    return _mm512_shuffle_f32x4(v, v, 0x4E);
  }
}

/// The tree that adds the lanes of sums. Its constants are kept in registers: gcc would make them anew for every block.
struct SumTree {
  __mmask16 halves = 0xFF00, quarters = 0xF0F0, pairs = 0xCCCC, lanes = 0xAAAA;
  __m512i swap_quarters = _mm512_set_epi32(27, 26, 25, 24, 15, 14, 13, 12, 19, 18, 17, 16, 7, 6, 5, 4);
  __m512i swap_lanes = _mm512_set_epi32(30, 15, 28, 13, 26, 11, 24, 9, 22, 7, 20, 5, 18, 3, 16, 1);

  PKV_TILE_INLINE SumTree() {
    asm("" : "+Yk"(halves), "+Yk"(quarters), "+Yk"(pairs), "+Yk"(lanes));
    asm("" : "+v"(swap_quarters), "+v"(swap_lanes));
  }

  /// In every aligned segment of 2 kDistance lanes the lower half is the sum of a's halves, the upper one of b's: a
  /// blend, a shuffle and an addition, where two interleaves would need the shuffle unit twice; blends run on every
  /// one.
  template <int kDistance>
  PKV_TILE_INLINE Floats fold(Floats a, Floats b) const {
    if constexpr (kDistance == 8) {
      return _mm512_add_ps(_mm512_mask_mov_ps(a, halves, b), _mm512_shuffle_f32x4(a, b, 0x4E));
    } else if constexpr (kDistance == 4) {
      return _mm512_add_ps(_mm512_mask_mov_ps(a, quarters, b), _mm512_permutex2var_ps(a, swap_quarters, b));
    } else if constexpr (kDistance == 2) {
      return _mm512_add_ps(_mm512_mask_mov_ps(a, pairs, b), _mm512_shuffle_ps(a, b, 0x4E));
    } else {
      static_assert(kDistance == 1);
      return _mm512_add_ps(_mm512_mask_mov_ps(a, lanes, b), _mm512_permutex2var_ps(a, swap_lanes, b));
    }
  }
};

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END

// The decode kernel in intrinsics: one task, a range of tokens and KV heads of one row. For AVX2 and AVX-512.
// Not here: vectors (tile_avx2_inl.h, tile_avx512_inl.h), which shapes it takes (tile_kernels.h), QK and PV by AMX
// (tile_amx_inl.h), merging, and the same maths for other ISAs (decode_inl.h).
//
// 1. Maths: as decode_inl.h, with logits in units of ln 2, x_j = scale log2(e) q.k_j, so that the softmax is
//    exp2: a polynomial of degree 5 on the fraction, scaled by the integer part (relative error under 2e-7). A
//    state is handed over in natural units, m ln 2.
// 2. Traffic: a token and KV head is 2 * head_dim * element bytes and 2 * G * head_dim / L FMAs of L lanes, and as
//    many conversions as G = 1 has FMAs. AVX-512: one FMA (or vdpbf16ps) a cycle is the limit of a Zen 4 core: G = 4,
//    fp16, head_dim 128 needs 64 cycles for 512 bytes, 29.6 GB/s at 3.7 GHz. Two cores then stay ahead of memory up to
//    G = 4. AVX2: two FMAs a cycle; where a conversion takes their place (fp16 on Intel), 16 G + 16 cycles.
// 3. Layouts: K, V by PageStrides. Scratch of a head block, which has H = 8, 4, 2 or 1 places for query heads
//    of one KV head, for L = 8
//    (AVX2) or 16 lanes (AVX-512): q and acc as [head_dim / L][H][L], p as [token block][H][T]. By AVX-512 a bf16
//    vector of 32 elements is taken apart into its even and its odd ones, so the two vectors of q and acc that belong
//    to it hold those; they are put in order when a state is handed over. For vdpbf16ps q is [head_dim / 32][H][32] in
//    bf16.
// 4. Mapping: QK has H x T = L accumulators (AVX-512, H = 1: 8, twice); a tree of blends and shuffles adds their
//    lanes into one vector, lane = head * T + token, and the softmax stays in that order. PV has H x D = L
//    accumulators of head_dim (8 for H = 1), weights are broadcast from p.
// 5. Order of reading: a tile is 32 tokens of all KV heads of the task; 64 in HND pages of 64 and more, 64 or 128
//    where a token has few bytes (tile_tokens). HND: K of all heads, then V of all heads, as they lie in memory;
//    NHD: K and V head by head, and there every token's row has its own load instructions, which then step through
//    memory by one head.
//    Prefetches go in pairs of lines, evenly between the FMAs: while K is worked on HND asks for V of the same tile,
//    while V is, for the next tile's K; NHD asks for the next tile. They follow a list of a tile's pairs, some pieces
//    of it side by side (PairList), into the L2 or the L1, as suits the CPU (TilePrefetch): in the order of memory they
//    keep an Intel core from overlapping them with its arithmetic, an AMD core wants two pieces (decision 0006).
//    Blocks of a group that are alike share them, of unlike ones the first has all. After the last tile comes the first
//    one of the worker's next task.
//    A second request goes to the same rows of the next head. One line of the pages of the tile after the next loads
//    their translation.
// 6. Invariants: only tokens of the task are loaded. A tile that is not full repeats its last token's row in
//    QK, gives the repeats the logit -inf, and leaves them out of PV: 0 * NaN must not come in. Places
//    without a head are left out of QK and PV (by AMX they have queries of zeros); their states are not handed over.
//    The block table is read up to the task's last page. No result depends on which worker runs the task.

// No include guard: compiled for AVX2, for AVX-512, with AVX512-BF16 (both with PKV_TILE_INTO_L1, too) and with AMX,
// with the vectors of the file PKV_TILE_VECTORS, in namespace PKV_TILE_NAMESPACE, between PKV_TILE_BEGIN and
// PKV_TILE_END: with the instructions that PKV_TILE_ISA names, which the rest of the build does not use.

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/math.h"
#include "exec/cpu/tile_target.h"
#include "persistentkv/shape.h"

#define PKV_TILE_BEGIN PKV_TILE_BEGIN_FOR(PKV_TILE_ISA)
#define PKV_TILE_ATTR PKV_TILE_ATTR_FOR(PKV_TILE_ISA)

namespace pkv {
namespace PKV_TILE_NAMESPACE {

// 7. Configuration.

/// How K and V become FP32, and how QK multiplies.
enum class Kind : std::uint8_t {
  kF32,
  kF16,      // vcvtph2ps
  kBF16,     // by shifts and masks, or by a shuffle
  kBF16Dot,  // vdpbf16ps in QK, which is exact for bf16 queries; shifts in PV
  kBF16Amx,  // tdpbf16ps in QK and PV (tile_amx_inl.h)
};

/// Whether the rows of a tile share their load instructions.
enum class Rows : std::uint8_t { kRolled, kUnrolled };
/// As they are in NHD; builds that check, not measure, leave out what takes long to compile.
#ifdef PKV_TILE_ROLLED
inline constexpr Rows kNhdRows = Rows::kRolled;
#else
inline constexpr Rows kNhdRows = Rows::kUnrolled;
#endif

template <Kind kKind>
inline constexpr int kBytes = kKind == Kind::kF32 ? 4 : 2;
inline constexpr int kLine = 64;
inline constexpr int kPairBytes = 2 * kLine;
/// Whether prefetches go into the L1, else into the L2. A constant: a branch made unrolled rows a third slower in
/// cache.
inline constexpr bool kIntoL1 = PKV_TILE_INTO_L1 != 0;
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kLn2 = 0.693147181F;
inline constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
#include PKV_TILE_VECTORS
#include "exec/cpu/tile_pairs_inl.h"
PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {

template <int kHeads>
inline constexpr int kBlockTokens = kSums / kHeads;
/// The heads of a block: places in scratch, a power of two, and how many of them, the first, hold a head. QK and PV
/// leave out the others, whose dot products are 0.
template <int kPlacesT, int kRealT = kPlacesT>
struct Heads {
  static constexpr int kPlaces = kPlacesT;
  static constexpr int kReal = kRealT;
  static_assert(kReal <= kPlaces);
};
/// Vectors of 16 dims, which head_dim is a multiple of.
inline constexpr int kVectorsOf16 = 16 / kVectorLanes;

static_assert(kTileTokens % kSums == 0 && kSums == kVectorLanes && kVectorLanes <= kMaxLanes);

// 8. Functions of vectors.

/// 2^x for x <= 0, -inf included; NaN stays NaN. x = n + r with 0 <= r < 1; 2^r by minimax of degree 5 (7.5e-8).
PKV_TILE_INLINE Floats exp2_nonpositive(Floats x) {
  const Floats r = fraction(x);
  Floats y = multiply_add(r, splat(1.8775767e-3F), splat(8.98933969e-3F));
  y = multiply_add(y, r, splat(5.58263175e-2F));
  y = multiply_add(y, r, splat(2.40153611e-1F));
  y = multiply_add(y, r, splat(6.93153083e-1F));
  y = multiply_add(y, r, splat(9.99999940e-1F));
  return scale_by_floor(y, x);
}

/// tanh(x), relative error under 1e-6: x + x^3 q(x^2) for |x| < 0.625, (1 - e) / (1 + e), e = exp(-2 |x|), above.
PKV_TILE_INLINE Floats tanh_of(Floats x) {
  const Floats z = multiply(x, x);
  Floats q = multiply_add(z, splat(-5.70496498e-3F), splat(2.06390675e-2F));
  q = multiply_add(q, z, splat(-5.37397079e-2F));
  q = multiply_add(q, z, splat(1.33314416e-1F));
  q = multiply_add(q, z, splat(-3.33332807e-1F));
  const Floats small = multiply_add(multiply(x, z), q, x);
  const Floats e = exp2_nonpositive(multiply(magnitude(x), splat(-2.0F * kLog2E)));
  const Floats ratio = divide(subtract(splat(1.0F), e), add(splat(1.0F), e));
  return select(greater(splat(0.625F), magnitude(x)), small, with_sign(ratio, x));
}

/// v[i] for i < kDistance: v[i] and v[i + kDistance] folded.
template <int kDistance>
PKV_TILE_INLINE void fold_all(const SumTree& tree, Floats* v) {
#pragma GCC unroll 8
  for (int i = 0; i < kDistance; ++i) {
    v[i] = tree.fold<kDistance>(v[i], v[i + kDistance]);
  }
}

/// Lane i, and what is kCount lanes from it, together are the sum of v[i], i < kCount.
template <int kCount>
PKV_TILE_INLINE Floats sum_of(const SumTree& tree, Floats* v) {
  if constexpr (kCount > 1) {
    fold_all<kCount / 2>(tree, v);
    return sum_of<kCount / 2>(tree, v);
  }
  return v[0];
}

/// All lanes of an aligned segment of kSegment lanes hold its maximum.
template <int kSegment>
PKV_TILE_INLINE Floats max_of_segments(Floats v) {
  if constexpr (kSegment > 1) {
    v = max_of_segments<kSegment / 2>(v);
    v = max_of(v, exchange_lanes<kSegment / 2>(v));
  }
  return v;
}

// 9. What is read next.

template <int kLines>
PKV_TILE_INLINE void prefetch_lines(const std::byte* from) {
#pragma GCC unroll 16
  for (int i = 0; i < kLines; ++i) {
    __builtin_prefetch(from + i * kLine, 0, kIntoL1 ? 3 : 2);
  }
}

/// Pairs of lines to prefetch; none where `pairs` is null.
struct Ahead {
  const std::byte* const* pairs;

  /// Asks for the pairs of lines [begin, end), which the caller's loops fix.
  PKV_TILE_INLINE void prefetch(int begin, int end) const {
    if (begin == end || pairs == nullptr) {
      return;
    }
#pragma GCC unroll 16
    for (int i = begin; i < end; ++i) {
      prefetch_lines<2>(pairs[i]);
    }
  }
  PKV_TILE_INLINE void advance(int num_pairs) { pairs = pairs == nullptr ? nullptr : pairs + num_pairs; }
};

/// Hands out a list of pairs of lines, which holds as many as will be taken.
class PrefetchCursor {
 public:
  explicit PrefetchCursor(const std::byte* const* pairs) : ahead_{pairs} {}
  /// There is nothing to ask for.
  static PrefetchCursor nothing() { return PrefetchCursor(nullptr); }

  /// The same place, for one of `count` walks over the same bytes, each of which asks for its share: those that it
  /// takes after `turn` others, and then every count-th.
  [[nodiscard]] PKV_TILE_INLINE PrefetchCursor in_turns(std::int32_t count, std::int32_t turn) const {
    PrefetchCursor cursor = *this;
    cursor.count_ = count;
    cursor.others_ = turn;
    return cursor;
  }

  /// What the next `bytes` bytes of arithmetic hide.
  PKV_TILE_INLINE Ahead take(std::int64_t bytes) {
    const bool is_mine = others_ == 0;
    others_ = (is_mine ? count_ : others_) - 1;
    const Ahead taken = {is_mine ? ahead_.pairs : nullptr};
    ahead_.advance(static_cast<int>((bytes + kPairBytes - 1) / kPairBytes));
    return taken;
  }

 private:
  Ahead ahead_;
  std::int32_t count_ = 1;
  std::int32_t others_ = 0;
};

/// The rows of a tile's tokens, of the task's first KV head. Rows past num_tokens repeat the last one.
struct Tile {
  const std::byte* k[kMostTileTokens];
  const std::byte* v[kMostTileTokens];
  std::int32_t num_tokens = 0;
  /// The lines of all KV heads of the task, pair by pair, in the order in which they are asked for.
  const std::byte** k_pairs = nullptr;
  const std::byte** v_pairs = nullptr;
};

/// Scratch of one head block, and where its KV head lies.
struct HeadBlock {
  const float* q;
  float* acc;
  float* p;
  float* m;
  float* l;
  std::int64_t head_offset;  // bytes from the tile's rows to this KV head, of K or of V
  std::int64_t next_offset;  // bytes from one KV head to the next, or 0 at the last
  std::int32_t num_pairs;    // head_dim / 32
  std::int32_t has_odd;      // head_dim % 32 == 16
};

/// Vectors of a row of q or acc.
PKV_TILE_INLINE std::int32_t num_vectors(const HeadBlock& block) {
  return (block.num_pairs * 2 + block.has_odd) * kVectorsOf16;
}

// 10. Phases.

/// sums[h * kTokens + t] += q[h] . k[t], of kVectors vectors of dims that are loaded together.
template <Kind kKind, typename H, int kTokens, int kVectors>
PKV_TILE_INLINE void multiply_keys(const float* q, const std::byte* const* k, std::int64_t at, Floats* sums) {
  Floats keys[kTokens][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    load_elements<kKind, kVectors>(k[t] + at, keys[t]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < kVectors; ++i) {
#pragma GCC unroll 8
    for (int h = 0; h < H::kReal; ++h) {
      const float* query = q + (i * H::kPlaces + h) * kVectorLanes;
      if constexpr (kTokens == 1) {
        accumulate(sums[h], keys[0][i], query);
      } else {
        const Floats in_register = load(query);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          accumulate(sums[h * kTokens + t], keys[t][i], in_register);
        }
      }
    }
  }
}

#if PKV_TILE_BF16
/// The same of 32 dims in bf16: q [places][32], from memory; lanes of k above `mask` are zero.
template <typename H, int kTokens>
PKV_TILE_INLINE void multiply_bf16_keys(const std::byte* q, const __m512i* k, Floats* sums) {
#pragma GCC unroll 8
  for (int h = 0; h < H::kReal; ++h) {
    const __m512i query = _mm512_load_si512(q + h * 64);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      sums[h * kTokens + t] =
          _mm512_dpbf16_ps(sums[h * kTokens + t], reinterpret_cast<__m512bh>(query), reinterpret_cast<__m512bh>(k[t]));
    }
  }
}
#endif

/// What turns a dot product into a logit in units of ln 2.
struct LogitScale {
  float factor;  // scale log2(e), or scale / cap
  float cap;     // soft cap log2(e)
  bool has_cap;
};

/// The sums of the last block of tokens on their way through the tree, which goes on between the FMAs of this
/// block: behind them it would fill the scheduler with a chain of shuffles (9 of 80 cycles a token at G 4).
struct Pending {
  Floats v[kSums / 2];
  float* p;  // where the logits go
  Floats factor;
  Floats maximum;

  PKV_TILE_INLINE void begin(const SumTree& tree, const Floats* sums, float* to) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums / 2; ++i) {
      v[i] = tree.fold<kSums / 2>(sums[i], sums[i + kSums / 2]);
    }
    p = to;
  }
  /// What a first step of the FMAs hides.
  PKV_TILE_INLINE void go_on(const SumTree& tree) {
    if constexpr (kSums == 16) {
      fold_all<4>(tree, v);
    }
  }
  PKV_TILE_INLINE void fold_pairs(const SumTree& tree) { fold_all<2>(tree, v); }
  PKV_TILE_INLINE void store_logits(const SumTree& tree) { take(multiply(tree.fold<1>(v[0], v[1]), factor), p); }
  PKV_TILE_INLINE void take(Floats logits, float* to) {
    store(to, logits);
    maximum = max_of(maximum, logits);
  }
};

/// Whether there is a last block.
enum class After : std::uint8_t { kNothing, kBlock };

/// 32 dims of kTokens keys.
template <Kind kKind, typename H, int kTokens>
PKV_TILE_INLINE void multiply_pair(const float* q, const std::byte* const* k, std::int64_t at, std::int64_t next_offset,
                                   Ahead& ahead, Floats* sums) {
  constexpr int kLinesPerRow = 32 * kBytes<kKind> / kLine;
  constexpr int kPairs = kTokens * kLinesPerRow / 2;
  if constexpr (kKind == Kind::kBF16Dot) {
#if PKV_TILE_BF16
    __m512i keys[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      keys[t] = _mm512_loadu_si512(k[t] + at);
    }
    multiply_bf16_keys<H, kTokens>(reinterpret_cast<const std::byte*>(q), keys, sums);
#endif
  } else {
    constexpr int kLoads = 2 * kVectorsOf16 / kLoadedVectors;
#pragma GCC unroll 4
    for (int i = 0; i < kLoads; ++i) {
      multiply_keys<kKind, H, kTokens, kLoadedVectors>(q + i * kLoadedVectors * H::kPlaces * kVectorLanes, k,
                                                       at + i * (32 / kLoads) * kBytes<kKind>, sums);
    }
  }
  if constexpr (kPairs > 0) {
    ahead.prefetch(0, kPairs);
    ahead.advance(kPairs);
  } else if (at % kPairBytes == 0) {  // a line a step: a pair every second time
    ahead.prefetch(0, 1);
    ahead.advance(1);
  }
  // At the last head these would be the lines just read. Rows that come next instead gain 1% at most (0006).
  if (next_offset != 0) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      prefetch_lines<kLinesPerRow>(k[t] + at + next_offset);
    }
  }
}

/// The last 16 dims of kTokens keys.
template <Kind kKind, typename H, int kTokens>
PKV_TILE_INLINE void multiply_odd(const float* q, const std::byte* const* k, std::int64_t at, Floats* sums) {
  if constexpr (kKind == Kind::kBF16Dot) {
#if PKV_TILE_BF16
    __m512i keys[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      keys[t] = _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(k[t] + at)));
    }
    multiply_bf16_keys<H, kTokens>(reinterpret_cast<const std::byte*>(q), keys, sums);
#endif
  } else {
#pragma GCC unroll 2
    for (int i = 0; i < kVectorsOf16; ++i) {
      multiply_keys<kKind, H, kTokens, 1>(q + i * H::kPlaces * kVectorLanes, k, at + i * kVectorLanes * kBytes<kKind>,
                                          sums);
    }
  }
}

/// Dot products of a block's queries with kTokens keys, not yet added across lanes; meanwhile the last block's are.
template <Kind kKind, typename H, int kTokens, After kAfter>
PKV_TILE_INLINE void dot_products(const HeadBlock& block, const std::byte* const* rows, const SumTree& tree,
                                  PrefetchCursor& cursor, Pending& pending, Floats* sums) {
  constexpr int kStep = 32 * kBytes<kKind>;  // bytes of a row that a step reads
  constexpr int kQueryFloats = (kKind == Kind::kBF16Dot ? 16 : 32) * H::kPlaces;
  const std::byte* k[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    k[t] = rows[t] + block.head_offset;
  }
#pragma GCC unroll 16
  for (int i = 0; i < H::kPlaces * kTokens; ++i) {
    sums[i] = zero();
  }
  Ahead ahead = cursor.take(std::int64_t{block.num_pairs} * kStep * kTokens);
  const float* q = block.q;
  std::int64_t at = 0;
  std::int32_t left = block.num_pairs;
  const auto step = [&]() PKV_TILE_ATTR __attribute__((always_inline)) {
    multiply_pair<kKind, H, kTokens>(q, k, at, block.next_offset, ahead, sums);
    q += kQueryFloats;
    at += kStep;
    --left;
  };
  if constexpr (kAfter == After::kBlock) {
    if (kTreeBetweenSteps && __builtin_expect(left >= 2, 1)) {
      step();
      pending.go_on(tree);
      step();
      pending.fold_pairs(tree);
    } else {
      pending.go_on(tree);
      pending.fold_pairs(tree);
    }
    pending.store_logits(tree);
  }
#pragma GCC unroll 1
  while (left > 0) {
    step();
  }
  if (__builtin_expect(block.has_odd, 0)) {
    multiply_odd<kKind, H, kTokens>(q, k, at, sums);
    constexpr int kOddBytes = kTokens * 16 * kBytes<kKind>;
    if constexpr (kOddBytes % kPairBytes == 0) {  // else what is listed last is not asked for
      cursor.take(kOddBytes).prefetch(0, kOddBytes / kPairBytes);
    }
  }
}

/// Whether a block of tokens is worked on in two parts: pointers of 16 rows would not fit in registers.
template <int kHeads>
inline constexpr bool kInHalves = kBlockTokens<kHeads> == 16;

/// Dot products of a block of tokens, lane = head * T + token, whose logits go to p; those of the last block are
/// stored. The halves of the sums are added, the rest of the tree is pending.
template <Kind kKind, typename H, After kAfter>
PKV_TILE_INLINE void dot_block(const HeadBlock& block, const std::byte* const* rows, const SumTree& tree,
                               PrefetchCursor& cursor, Pending& pending, float* p) {
  Floats sums[kSums];
  if constexpr (kInHalves<H::kPlaces>) {
    dot_products<kKind, Heads<1>, 8, kAfter>(block, rows, tree, cursor, pending, sums);
    const Floats low = sum_of<8>(tree, sums);
    dot_products<kKind, Heads<1>, 8, After::kNothing>(block, rows + 8, tree, cursor, pending, sums);
    pending.take(multiply(tree.fold<kSums / 2>(low, sum_of<8>(tree, sums)), pending.factor), p);
  } else {
    dot_products<kKind, H, kBlockTokens<H::kPlaces>, kAfter>(block, rows, tree, cursor, pending, sums);
    pending.begin(tree, sums, p);
  }
}

/// Lanes of a block whose token is one of the first num_tokens.
template <int kHeads>
PKV_TILE_INLINE Mask valid_lanes(std::int32_t num_tokens) {
  return lanes_below<kBlockTokens<kHeads>>(num_tokens);
}

template <Kind kKind, typename H, int kBlocksLeft>
PKV_TILE_INLINE void dot_unrolled(const HeadBlock& block, const std::byte* const* rows, const SumTree& tree,
                                  PrefetchCursor& cursor, Pending& pending, float* p) {
  asm volatile("" ::: "memory");  // blocks of loads must not mix
  dot_block<kKind, H, After::kBlock>(block, rows, tree, cursor, pending, p);
  if constexpr (kBlocksLeft > 1) {
    dot_unrolled<kKind, H, kBlocksLeft - 1>(block, rows + kBlockTokens<H::kPlaces>, tree, cursor, pending, p + kSums);
  }
}

/// The logits of a tile with a soft cap: p holds the arguments of tanh. Returns their maximum by lane.
template <int kHeads>
__attribute__((noinline)) Floats cap_logits(const HeadBlock& block, std::int32_t num_tokens, float cap) {
  Floats maximum = splat(kMinusInf);
  for (std::int32_t t = 0; t < num_tokens; t += kBlockTokens<kHeads>) {
    float* p = block.p + t * kHeads;
    const Floats logits = multiply(tanh_of(load(p)), splat(cap));
    store(p, logits);
    maximum = select(valid_lanes<kHeads>(num_tokens - t), max_of(maximum, logits), maximum);
  }
  return maximum;
}

/// Repeats of the last token weigh nothing.
template <int kHeads>
PKV_TILE_INLINE void mask_repeats(const HeadBlock& block, std::int32_t num_tokens) {
  constexpr int kTokens = kBlockTokens<kHeads>;
  const std::int32_t begin = num_tokens - num_tokens % kTokens;
  if (begin < num_tokens) {
    float* p = block.p + begin * kHeads;
    store(p, select(valid_lanes<kHeads>(num_tokens - begin), load(p), splat(kMinusInf)));
  }
}

/// Logits of a tile to p; returns their maximum by lane.
template <Kind kKind, typename H, Rows kRows>
PKV_TILE_INLINE Floats logits_of_tile(const HeadBlock& block, const Tile& tile, const LogitScale& scale,
                                      PrefetchCursor& cursor) {
  constexpr int kTokens = kBlockTokens<H::kPlaces>;
  constexpr After kNext = kInHalves<H::kPlaces> ? After::kNothing : After::kBlock;
  const SumTree tree;
  Pending pending;
  pending.factor = splat(scale.factor);
  pending.maximum = splat(kMinusInf);
  dot_block<kKind, H, After::kNothing>(block, tile.k, tree, cursor, pending, block.p);
  std::int32_t t = kTokens;
  if constexpr (kRows == Rows::kUnrolled && !kInHalves<H::kPlaces>) {
    if (tile.num_tokens == kTileTokens) {
      dot_unrolled<kKind, H, kTileTokens / kTokens - 1>(block, tile.k + t, tree, cursor, pending, block.p + kSums);
      t = kTileTokens;
    }
  }
#pragma GCC unroll 1
  for (; t < tile.num_tokens; t += kTokens) {
    dot_block<kKind, H, kNext>(block, tile.k + t, tree, cursor, pending, block.p + t * H::kPlaces);
  }
  if constexpr (!kInHalves<H::kPlaces>) {
    pending.go_on(tree);
    pending.fold_pairs(tree);
    pending.store_logits(tree);
  }
  // The repeats of the last token have its logit, so that the maximum is right with them.
  Floats maximum = pending.maximum;
  if (__builtin_expect(scale.has_cap, 0)) {
    maximum = cap_logits<H::kPlaces>(block, tile.num_tokens, scale.cap);
  }
  mask_repeats<H::kPlaces>(block, tile.num_tokens);
  return maximum;
}

/// Multiplies the accumulators of each head by its factor. kRows: of a vector of acc; row i belongs to head i % kHeads.
template <int kHeads, int kRows>
__attribute__((noinline)) void rescale(const HeadBlock& block, Floats factors) {
  alignas(64) float by_lane[kVectorLanes];
  store(by_lane, factors);
  for (std::int32_t i = 0; i < num_vectors(block); ++i) {
    for (int row = 0; row < kRows; ++row) {
      float* acc = block.acc + (i * kRows + row) * kVectorLanes;
      store(acc, multiply(load(acc), splat(by_lane[row % kHeads * kBlockTokens<kHeads>])));
    }
  }
}

/// Turns the logits in p into weights 2^(x - m), and brings m, l and acc up to date.
template <int kHeads, int kRows = kHeads>
PKV_TILE_INLINE void softmax_of_tile(const HeadBlock& block, Floats lane_maximum, std::int32_t num_tokens) {
  const Floats tile_maximum = max_of_segments<kBlockTokens<kHeads>>(lane_maximum);
  Floats m = load(block.m);
  Floats l = load(block.l);
  // Rare after the first tiles: the n-th tile holds a new maximum once in n times on random data.
  if (__builtin_expect(any(greater(tile_maximum, m)), 0)) {
    const Floats raised = max_of(tile_maximum, m);
    // Heads that stay at -inf keep their empty state: -inf - -inf would be NaN.
    const Floats factors = select(greater(raised, m), exp2_nonpositive(subtract(m, raised)), splat(1.0F));
    rescale<kHeads, kRows>(block, factors);
    l = multiply(l, factors);
    m = raised;
    store(block.m, m);
  }
  // From -inf nothing can be subtracted; from 0 logits of -inf weigh nothing.
  const Floats origin = select(equal(m, splat(kMinusInf)), zero(), m);
#pragma GCC unroll 1
  for (std::int32_t t = 0; t < num_tokens; t += kBlockTokens<kHeads>) {
    float* p = block.p + t * kHeads;
    const Floats weights = exp2_nonpositive(subtract(load(p), origin));
    l = add(l, weights);
    store(p, weights);
  }
  store(block.l, l);
}

/// A token's weights in p: of head h they are h * T further on.
template <int kHeads>
PKV_TILE_INLINE const float* weights_of(const float* p, std::int32_t token) {
  constexpr int kTokens = kBlockTokens<kHeads>;
  return p + token / kTokens * kSums + token % kTokens;
}

/// sums[i * places + h] += weight[h] * v[i], of kVectors vectors: a multiple of kLoadedVectors, or 1 for the odd vector
/// at the end of a row.
template <Kind kKind, typename H, int kVectors>
PKV_TILE_INLINE void add_token(const std::byte* v, const float* weights, Floats* sums) {
  constexpr int kTogether = std::min(kVectors, kLoadedVectors);
  Floats kept[H::kReal];
#pragma GCC unroll 8
  for (int h = 0; h < H::kReal; ++h) {
    if (keeps_weight(h)) {
      kept[h] = keep(splat(weights[h * kBlockTokens<H::kPlaces>]));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; i += kTogether) {
    Floats values[kTogether];
    load_elements<kKind, kTogether>(v + i * kVectorLanes * kBytes<kKind>, values);
#pragma GCC unroll 8
    for (int h = 0; h < H::kReal; ++h) {
#pragma GCC unroll 2
      for (int j = 0; j < kTogether; ++j) {
        Floats& sum = sums[(i + j) * H::kPlaces + h];
        if (keeps_weight(h)) {
          accumulate(sum, kept[h], values[j]);
        } else {
          add_weighted(sum, weights + h * kBlockTokens<H::kPlaces>, values[j]);
        }
      }
    }
  }
}

/// kVectors vectors of every row of V, from `offset` on.
struct Column {
  std::int64_t offset;
  std::int64_t next_offset;  // to the next KV head; 0 at the last, or where these lines have been asked for before
};

/// Tokens of a step through a column: T, or as many as have a pair of lines and 32 FMAs.
template <Kind kKind, int kHeads, int kVectors>
inline constexpr int kStepTokens = std::max({kBlockTokens<kHeads>,
                                             kPairBytes / (kVectors * kVectorLanes * kBytes<kKind>), 32 / kSums});

/// The tokens of a step, with their share of the prefetches.
template <Kind kKind, typename H, int kVectors>
PKV_TILE_INLINE void add_step(const Column& column, const std::byte* const* rows, const float* p,
                              PrefetchCursor& cursor, Floats* sums) {
  constexpr int kTokens = kStepTokens<kKind, H::kPlaces, kVectors>;
  constexpr int kRowBytes = kVectors * kVectorLanes * kBytes<kKind>;
  constexpr int kPairs = kTokens * kRowBytes / kPairBytes;
  const Ahead ahead = cursor.take(kTokens * kRowBytes);
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) {
    const std::byte* v = rows[t] + column.offset;
    add_token<kKind, H, kVectors>(v, weights_of<H::kPlaces>(p, t), sums);
    // Pairs of lines, as evenly as pairs allow.
    ahead.prefetch(t * kPairs / kTokens, (t + 1) * kPairs / kTokens);
    if (column.next_offset != 0) {
      prefetch_lines<(kRowBytes + kLine - 1) / kLine>(v + column.next_offset);
    }
  }
}

template <Kind kKind, typename H, int kVectors, int kStepsLeft>
PKV_TILE_INLINE void add_unrolled(const Column& column, const std::byte* const* rows, const float* p,
                                  PrefetchCursor& cursor, Floats* sums) {
  constexpr int kTokens = kStepTokens<kKind, H::kPlaces, kVectors>;
  add_step<kKind, H, kVectors>(column, rows, p, cursor, sums);
  if constexpr (kStepsLeft > 1) {
    add_unrolled<kKind, H, kVectors, kStepsLeft - 1>(column, rows + kTokens, p + kTokens * H::kPlaces, cursor, sums);
  }
}

/// acc of kVectors vectors from vector `first` on += weights * V, over the tile.
template <Kind kKind, typename H, int kVectors, Rows kRows>
PKV_TILE_INLINE void add_column(const HeadBlock& block, const Tile& tile, std::int32_t first, PrefetchCursor& cursor) {
  constexpr int kTokens = kStepTokens<kKind, H::kPlaces, kVectors>;
  constexpr int kRowBytes = kVectors * kVectorLanes * kBytes<kKind>;
  float* acc = block.acc + first * H::kPlaces * kVectorLanes;
  const std::int64_t first_byte = first * kVectorLanes * kBytes<kKind>;
  const Column column = {.offset = block.head_offset + first_byte,
                         .next_offset = kRowBytes >= kLine || first_byte % kLine == 0 ? block.next_offset : 0};
  Floats sums[H::kPlaces * kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < H::kPlaces * kVectors; ++i) {
    if (i % H::kPlaces < H::kReal) sums[i] = load(acc + i * kVectorLanes);
  }
  std::int32_t t = 0;
  if constexpr (kRows == Rows::kUnrolled && kVectors >= kLoadedVectors) {
    if (tile.num_tokens == kTileTokens) {
      add_unrolled<kKind, H, kVectors, kTileTokens / kTokens>(column, tile.v, block.p, cursor, sums);
      t = kTileTokens;
    }
  }
#pragma GCC unroll 1
  for (; t + kTokens <= tile.num_tokens; t += kTokens) {
    add_step<kKind, H, kVectors>(column, tile.v + t, block.p + t * H::kPlaces, cursor, sums);
  }
#pragma GCC unroll 1
  for (; t < tile.num_tokens; ++t) {
    add_token<kKind, H, kVectors>(tile.v[t] + column.offset, weights_of<H::kPlaces>(block.p, t), sums);
  }
#pragma GCC unroll 16
  for (int i = 0; i < H::kPlaces * kVectors; ++i) {
    if (i % H::kPlaces < H::kReal) store(acc + i * kVectorLanes, sums[i]);
  }
}

/// All of head_dim, in columns of kVectors vectors, then of half as many, down to 16 dims.
template <Kind kKind, typename H, int kVectors, Rows kRows>
PKV_TILE_INLINE void add_columns(const HeadBlock& block, const Tile& tile, std::int32_t first, PrefetchCursor& cursor) {
  const std::int32_t end = num_vectors(block);
#pragma GCC unroll 1
  for (; first + kVectors <= end; first += kVectors) {
    add_column<kKind, H, kVectors, kRows>(block, tile, first, cursor);
  }
  if constexpr (kVectors > kVectorsOf16) {
    add_columns<kKind, H, kVectors / 2, kRows>(block, tile, first, cursor);
  }
}

template <int kHeads>
inline constexpr int kColumnVectors = kSums / kHeads > 8 ? 8 : kSums / kHeads;

/// QK and softmax of one head block over a tile. Not inlined: a phase is a loop nest that registers are given to.
template <Kind kKind, typename H, Rows kRows>
__attribute__((noinline)) void weigh_keys(const HeadBlock& block, const Tile& tile, const LogitScale& scale,
                                          PrefetchCursor& caller_cursor) {
  PrefetchCursor cursor = caller_cursor;
  const Floats maximum = logits_of_tile<kKind, H, kRows>(block, tile, scale, cursor);
  softmax_of_tile<H::kPlaces>(block, maximum, tile.num_tokens);
  caller_cursor = cursor;
}

template <Kind kKind, typename H, Rows kRows>
__attribute__((noinline)) void add_values(const HeadBlock& block, const Tile& tile, PrefetchCursor& caller_cursor) {
  PrefetchCursor cursor = caller_cursor;
  add_columns<kKind, H, kColumnVectors<H::kPlaces>, kRows>(block, tile, 0, cursor);
  caller_cursor = cursor;
}

#if PKV_TILE_AMX
}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END
#include "exec/cpu/tile_amx_inl.h"
PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {
#endif

// 11. A task.

/// Bytes between pages, slots and heads, of K or of V, and how their bytes lie together.
struct Strides {
  const std::byte* base;
  std::int64_t page, slot, head;
};

/// K of all heads, then V of all heads, instead of head by head.
inline bool reads_by_page(const KvLayout& layout) { return layout.k_strides.kv_head >= layout.k_strides.slot; }

/// Tokens of a tile of `token_bytes` bytes of K (or V) a token; `least`: kTileTokens or kLargeTileTokens. Tiles of few
/// bytes are long ones, too: they must last until what is asked for has come, and finding rows and the softmax have a
/// cost a tile. For prefetches into the L1 they are not lengthened beyond 16 KiB of K (one head, page 16: .62 of the
/// probe with 128 tokens, .68 with 64; two heads .68 with 64, .76 with 32).
inline std::int32_t tile_tokens(const KvLayout& layout, std::int64_t token_bytes, std::int32_t least) {
  constexpr std::int64_t kSmallTileBytes = 16384;    // 8 KiB of K a tile: 0.74 of the probe, 16: 0.78, 64: 0.79
  constexpr std::int32_t kMargin = kIntoL1 ? 1 : 2;  // a tile may be so many times kSmallTileBytes
  if (!reads_by_page(layout)) {
    return least;
  }
  if (kMostTileTokens * token_bytes <= kMargin * kSmallTileBytes) {
    return kMostTileTokens;
  }
  const bool large =
      layout.page_size >= kLargeTileTokens || kLargeTileTokens * token_bytes <= kMargin * kSmallTileBytes;
  return large ? kLargeTileTokens : least;
}

using PairList = PairListOf<kVectorLanes / 2>;

/// Finds the tiles of one task and lists their bytes.
class TileFinder {
 public:
  TileFinder(const StepArgs& args, const Task& task, std::int64_t element_bytes, std::int32_t least_tokens)
      : pages_(args.block_table.row(task.row).data()),
        token_end_(task.token_end),
        num_heads_(task.kv_head_end - task.kv_head_begin),
        page_size_(args.kv.layout.page_size),
        row_bytes_(args.shape.head_dim * element_bytes),
        tile_tokens_(tile_tokens(args.kv.layout, num_heads_ * row_bytes_, least_tokens)),
        streams_(args.prefetch.streams),
        k_(strides(args.kv.k, args.kv.layout.k_strides, task.kv_head_begin, element_bytes)),
        v_(strides(args.kv.v, args.kv.layout.v_strides, task.kv_head_begin, element_bytes)) {}

  /// The tile that begins at `begin`: up to the next multiple of the tile's length, so that tiles stay aligned with
  /// pages whatever the window; no tokens at the task's end.
  void locate(std::int32_t begin, Tile& tile, std::int64_t least_pairs) const {
    const std::int64_t aligned_end = std::int64_t{begin} - begin % tile_tokens_ + tile_tokens_;
    tile.num_tokens = static_cast<std::int32_t>(std::min<std::int64_t>(aligned_end, token_end_) - begin);
    if (tile.num_tokens <= 0) {
      tile.num_tokens = 0;
      return;
    }
    const std::int64_t tile_bytes = tile_tokens_ * num_heads_ * row_bytes_;
    PairList k_list(tile.k_pairs, tile_bytes, streams_);
    PairList v_list(tile.v_pairs, tile_bytes, streams_);
    if (page_size_ == 1) {
      find_single_slots(begin, tile);
    } else {
      find_rows(begin, tile, [&](const Run& k, const Run& v) {
        k_list.append(k);
        v_list.append(v);
      });
    }
    for (std::int32_t t = tile.num_tokens; t < tile_tokens_; ++t) {
      tile.k[t] = tile.k[tile.num_tokens - 1];
      tile.v[t] = tile.v[tile.num_tokens - 1];
    }
    if (page_size_ == 1) {  // here a row is where its token's bytes begin
      list_single_slots(tile.k, tile.num_tokens, run_of(k_, k_.base, 1), k_list);
      list_single_slots(tile.v, tile.num_tokens, run_of(v_, v_.base, 1), v_list);
    }
    k_list.finish(least_pairs);
    v_list.finish(least_pairs);
  }

  /// Pairs of lines of a whole tile, at most.
  [[nodiscard]] std::int64_t most_pairs() const { return line_pairs(tile_tokens_, num_heads_, row_bytes_); }

  /// Asks for one line of the pages of the tile at `begin`, so that their translations are loaded in time.
  void touch(std::int64_t begin) const {
    constexpr std::int32_t kMaxPages = 16;
    const std::int64_t end = std::min<std::int64_t>(begin + tile_tokens_, token_end_);
    const std::int32_t* next_page = pages_ + begin / page_size_;
    for (std::int32_t i = 0; i < kMaxPages && begin < end; ++i, begin += page_size_) {
      const std::int64_t page = *next_page++;
      __builtin_prefetch(k_.base + page * k_.page, 0, 2);
      __builtin_prefetch(v_.base + page * v_.page, 0, 2);
    }
  }

 private:
  static Strides strides(const void* base, const PageStrides& elements, std::int64_t head, std::int64_t bytes) {
    return {.base = static_cast<const std::byte*>(base) + head * elements.kv_head * bytes,
            .page = elements.page * bytes,
            .slot = elements.slot * bytes,
            .head = elements.kv_head * bytes};
  }

  /// `count` slots of all heads from `from` on.
  PKV_TILE_INLINE Run run_of(const Strides& strides, const std::byte* from, std::int32_t count) const {
    if (strides.slot == row_bytes_) {
      const std::int64_t bytes = count * row_bytes_;
      if (num_heads_ == 1 || strides.head == bytes) {
        return {.begin = from, .bytes = num_heads_ * bytes};
      }
      return {.begin = from, .bytes = bytes, .count = num_heads_, .stride = strides.head};
    }
    if (strides.head != row_bytes_) {
      return {.begin = from,
              .bytes = row_bytes_,
              .count = num_heads_,
              .outer_count = count,
              .stride = strides.head,
              .outer_stride = strides.slot};
    }
    const std::int64_t bytes = num_heads_ * row_bytes_;
    if (count == 1 || strides.slot == bytes) {
      return {.begin = from, .bytes = count * bytes};
    }
    return {.begin = from, .bytes = bytes, .count = count, .stride = strides.slot};
  }

  /// The rows of a tile, and what(k, v) for what lies together.
  template <typename What>
  PKV_TILE_INLINE void find_rows(std::int32_t begin, Tile& tile, const What& what) const {
    std::int32_t page_idx = begin / page_size_;
    std::int32_t slot = begin - page_idx * page_size_;
    for (std::int32_t t = 0; t < tile.num_tokens; ++page_idx, slot = 0) {
      const std::int64_t page = pages_[page_idx];
      const std::int32_t count = std::min(page_size_ - slot, tile.num_tokens - t);
      const std::byte* k = k_.base + page * k_.page + slot * k_.slot;
      const std::byte* v = v_.base + page * v_.page + slot * v_.slot;
      what(run_of(k_, k, count), run_of(v_, v, count));
      for (const std::int32_t end = t + count; t < end; ++t, k += k_.slot, v += v_.slot) {
        tile.k[t] = k;
        tile.v[t] = v;
      }
    }
  }

  /// Pages of one token: no slots to step through. Written for speed, as a page is only a token's bytes: of one
  /// head of 256 bytes the general way takes as long as QK and PV.
  void find_single_slots(std::int32_t begin, Tile& tile) const {
    const std::int32_t* pages = pages_ + begin;
    for (std::int32_t t = 0; t < tile.num_tokens; ++t) {
      tile.k[t] = k_.base + pages[t] * k_.page;
      tile.v[t] = v_.base + pages[t] * v_.page;
    }
  }
  static void list_single_slots(const std::byte* const* rows, std::int32_t count, Run run, PairList& list) {
    if (run.count == 1 && run.outer_count == 1) {
      list.append(rows, count, run.bytes);
      return;
    }
    for (std::int32_t t = 0; t < count; ++t) {
      run.begin = rows[t];
      list.append(run);
    }
  }

  const std::int32_t* pages_;
  std::int32_t token_end_;
  std::int32_t num_heads_;
  std::int32_t page_size_;
  std::int64_t row_bytes_;
  std::int32_t tile_tokens_;
  std::int32_t streams_;
  Strides k_, v_;
};

/// Walks one task. A class, so that the phases share what a task fixes.
template <Kind kKind>
class TaskRun {
 public:
  TaskRun(const StepArgs& args, const Task& task, const Scratch& scratch)
      : args_(args),
        task_(task),
        scratch_(scratch),
        finder_(args, task, kElementBytes, least_tokens(args.kv.layout)),
        group_size_(args.shape.group_size()),
        group_rows_(rows_of_group(group_size_)),
        num_sharing_(blocks_that_share(group_size_)),
        row_floats_(padded_dim(args.shape.head_dim)),
        num_kv_heads_(task.kv_head_end - task.kv_head_begin),
        num_pairs_(args.shape.head_dim / 32),
        has_odd_(args.shape.head_dim % 32 / 16),
        k_head_(args.kv.layout.k_strides.kv_head * kElementBytes),
        v_head_(args.kv.layout.v_strides.kv_head * kElementBytes) {}

  void run(const Lookahead& lookahead) {
#if PKV_TILE_AMX
    const TmmScope configured;
#endif
    Tile tiles[2];
    for (int i = 0; i < 2; ++i) {
      tiles[i].k_pairs = scratch_.line_pairs + (2 * i) * scratch_.pairs_per_list;
      tiles[i].v_pairs = scratch_.line_pairs + (2 * i + 1) * scratch_.pairs_per_list;
    }
    Tile* tile = &tiles[0];
    Tile* next = &tiles[1];
    const std::int64_t most_pairs = finder_.most_pairs();
    std::int32_t begin = task_.token_begin;
    finder_.locate(begin, *tile, most_pairs);
    prefetch_first(*tile);
    start();
    while (tile->num_tokens > 0) {
      begin += tile->num_tokens;
      finder_.locate(begin, *next, most_pairs);
      if (next->num_tokens > 0) {
        finder_.touch(std::int64_t{begin} + next->num_tokens);
        walk(*tile, *next);
      } else {
        locate_next_task(lookahead, *next);
        walk(*tile, *next);
        break;
      }
      std::swap(tile, next);
    }
    finish();
  }

 private:
  static constexpr std::int64_t kElementBytes = kBytes<kKind>;
  static constexpr bool kByAmx = kKind == Kind::kBF16Amx;
  /// By AMX, four blocks of 16 tokens share a load of queries, and acc is loaded and stored once for all of them; not
  /// where blocks have to be copied (pages of one token: .47 of the probe with 32, .38 with 64).
  static std::int32_t least_tokens(const KvLayout& layout) {
    constexpr std::int32_t kBlockOfAmx = 16;
    return kByAmx && layout.page_size >= kBlockOfAmx ? kLargeTileTokens : kTileTokens;
  }

  /// The first K of a task, unless the worker's last task asked for it already; then this costs little.
  void prefetch_first(const Tile& tile) const {
    constexpr std::int64_t kFirstBytes = 16384;
    if (tile.num_tokens == 0) {  // nothing is listed
      return;
    }
    const std::int64_t num_pairs = std::min(finder_.most_pairs(), kFirstBytes / kPairBytes);
    for (std::int64_t i = 0; i < num_pairs; ++i) {
      prefetch_lines<2>(tile.k_pairs[i]);
    }
  }

  /// One tile; `next` is what is read after it.
  void walk(const Tile& tile, const Tile& next) const {
    const Places places = places_of(tile);
    PrefetchCursor next_k = next.num_tokens > 0 ? PrefetchCursor(next.k_pairs) : PrefetchCursor::nothing();
    if (reads_by_page(args_.kv.layout)) {
      PrefetchCursor this_v(tile.v_pairs);
      for (std::int32_t head = 0; head < num_kv_heads_; ++head) {
        weigh_head<Rows::kRolled>(head, tile, places, this_v);
      }
      for (std::int32_t head = 0; head < num_kv_heads_; ++head) {
        add_head<Rows::kRolled>(head, tile, places, next_k);
      }
    } else {
      PrefetchCursor next_v = next.num_tokens > 0 ? PrefetchCursor(next.v_pairs) : PrefetchCursor::nothing();
      for (std::int32_t head = 0; head < num_kv_heads_; ++head) {
        weigh_head<kNhdRows>(head, tile, places, next_k);
        add_head<kNhdRows>(head, tile, places, next_v);
      }
    }
  }

  /// What the phases know of a tile besides its rows.
#if PKV_TILE_AMX
  using Places = EvenBlocks;
  [[nodiscard]] Places places_of(const Tile& tile) const {
    const std::int64_t k_stride = args_.kv.layout.k_strides.slot * kElementBytes;
    const std::int64_t v_stride = args_.kv.layout.v_strides.slot * kElementBytes;
    return {.k = even_blocks(tile.k, tile.num_tokens, k_stride),
            .v = even_blocks(tile.v, tile.num_tokens, v_stride),
            .k_stride = k_stride,
            .v_stride = v_stride};
  }
#else
  struct Places {};
  [[nodiscard]] Places places_of(const Tile& /*tile*/) const { return {}; }
#endif

  /// visit(part, block, cursor) for the blocks of a group. Blocks that are alike share what they ask for ahead; else
  /// the first asks for all of it.
  template <typename Visit>
  PKV_TILE_INLINE void visit_blocks(std::int32_t head, std::int64_t head_stride, PrefetchCursor& cursor,
                                    Visit visit) const {
    const PrefetchCursor begin = cursor;
    std::int32_t turn = 0;
    for_each_part(group_size_, [&](const GroupPart& part) PKV_TILE_ATTR {
      const HeadBlock block = head_block(head, part, head_stride);
      if (turn < num_sharing_) {
        PrefetchCursor own = begin.in_turns(num_sharing_, turn);
        visit(part, block, own);
        cursor = own.in_turns(1, 0);
      } else {
        PrefetchCursor none = PrefetchCursor::nothing();
        visit(part, block, none);
      }
      ++turn;
    });
  }

  template <Rows kRows>
  PKV_TILE_INLINE void weigh_head(std::int32_t head, const Tile& tile, [[maybe_unused]] const Places& places,
                                  PrefetchCursor& cursor) const {
    visit_blocks(head, k_head_, cursor, [&](const GroupPart& part, const HeadBlock& block, PrefetchCursor& own) {
#if PKV_TILE_AMX
      switch (part.places) {
        case 16: weigh_keys_by_tmm<16>(block, tile, places, scale_, own); break;
        case 8: weigh_keys_by_tmm<8>(block, tile, places, scale_, own); break;
        default: weigh_keys_by_tmm<4>(block, tile, places, scale_, own); break;
      }
#else
      const auto by = [&]<typename H>(H) { weigh_keys<kKind, H, kRows>(block, tile, scale_, own); };
      with_heads(part, by);
#endif
    });
  }

  template <Rows kRows>
  PKV_TILE_INLINE void add_head(std::int32_t head, const Tile& tile, [[maybe_unused]] const Places& places,
                                PrefetchCursor& cursor) const {
    visit_blocks(head, v_head_, cursor, [&](const GroupPart& part, const HeadBlock& block, PrefetchCursor& own) {
#if PKV_TILE_AMX
      switch (part.places) {
        case 16: add_values_by_tmm<16>(block, tile, places, own); break;
        case 8: add_values_by_tmm<8>(block, tile, places, own); break;
        default: add_values_by_tmm<4>(block, tile, places, own); break;
      }
#else
      const auto by = [&]<typename H>(H) { add_values<kKind, H, kRows>(block, tile, own); };
      with_heads(part, by);
#endif
    });
  }

  struct GroupPart {
    std::int32_t first;   // head of the group
    std::int32_t row;     // of a KV head's scratch
    std::int32_t places;  // as of Heads
    std::int32_t real;
  };

  /// visit(Heads<...>) as the part is.
  template <typename Visit>
  static void with_heads(const GroupPart& part, Visit visit) {
    if (part.places == 8) {
      switch (part.real) {
        case 8: return visit(Heads<8>());
        case 7: return visit(Heads<8, 7>());
        case 6: return visit(Heads<8, 6>());
        default: return visit(Heads<8, 5>());
      }
    }
    switch (part.real) {
      case 4: return visit(Heads<4>());
      case 3: return visit(Heads<4, 3>());
      case 2: return visit(Heads<2>());
      default: return visit(Heads<1>());
    }
  }

  /// Whether the last head of a group is a block of its own, which was faster than places that hold nothing: 9, and 5
  /// where K and V are converted (decision 0006).
  static bool leaves_one(std::int32_t group_size) {
    return group_size == 9 || (group_size == 5 && kKind != Kind::kF32);
  }

  /// visit(part) for the parts of a group, a block each. A group of up to 8 is one, as each block reads and converts K
  /// and V anew; larger ones are blocks of 8 places that hold equal parts. By AMX, 16 heads each, then one block of 16,
  /// 8 or 4 that need not be full.
  template <typename Visit>
  PKV_TILE_INLINE static void for_each_part(std::int32_t group_size, Visit visit) {
    GroupPart part = {};
    for (; part.first < group_size; part.first += part.real, part.row += part.places) {
      const std::int32_t left = group_size - part.first;
      if constexpr (kByAmx) {
        part.places = left > 8 ? 16 : left > 4 ? 8 : 4;
        part.real = std::min(left, part.places);
      } else if (leaves_one(group_size)) {
        part.places = part.real = left > 1 ? left - 1 : 1;
      } else if (group_size > 4) {
        part.places = 8;
        part.real = ceil_div(left, ceil_div(left, part.places));
      } else {
        part.places = left == 3 ? 4 : left;
        part.real = left;
      }
      visit(part);
    }
  }

  /// Rows of scratch of a KV head: no more than padded_group.
  static std::int32_t rows_of_group(std::int32_t group_size) {
    if constexpr (kByAmx) {
      return padded_group(group_size);
    }
    std::int32_t rows = 0;
    for_each_part(group_size, [&](const GroupPart& part) PKV_TILE_ATTR { rows += part.places; });
    return rows;
  }

  /// Blocks that share what a group asks for ahead: all, where all are alike, or the first alone.
  static std::int32_t blocks_that_share(std::int32_t group_size) {
    std::int32_t blocks = 0;
    std::int32_t places = 0;
    bool are_alike = true;
    for_each_part(group_size, [&](const GroupPart& part) PKV_TILE_ATTR {
      are_alike = are_alike && (blocks == 0 || part.places == places);
      places = part.places;
      ++blocks;
    });
    return are_alike ? blocks : 1;
  }

  [[nodiscard]] PKV_TILE_INLINE HeadBlock head_block(std::int32_t head, const GroupPart& part,
                                                     std::int64_t head_stride) const {
    const std::int64_t local = std::int64_t{head} * group_rows_ + part.row;
    return {.q = scratch_.q + local * row_floats_,
            .acc = scratch_.acc + local * row_floats_,
            .p = scratch_.p + local * kMostTileTokens,
            .m = scratch_.m + local * kMaxLanes,
            .l = scratch_.l + local * kMaxLanes,
            .head_offset = head * head_stride,
            .next_offset = part.first == 0 && head + 1 < num_kv_heads_ ? head_stride : 0,
            .num_pairs = num_pairs_,
            .has_odd = has_odd_};
  }

  /// The first tile of what this worker does next, to be prefetched.
  void locate_next_task(const Lookahead& lookahead, Tile& next) const {
    const Task* task = lookahead.next(lookahead.context);
    if (task != nullptr && task->kv_head_end - task->kv_head_begin <= num_kv_heads_) {
      TileFinder(args_, *task, kElementBytes, least_tokens(args_.kv.layout))
          .locate(task->token_begin, next, finder_.most_pairs());
    }
  }

  /// Queries as FP32 (or bf16), and neutral states.
  void start() {
    const float cap = args_.shape.logit_soft_cap.value_or(0.0F);
    scale_ = args_.shape.logit_soft_cap ? LogitScale{.factor = args_.scale / cap, .cap = cap * kLog2E, .has_cap = true}
                                        : LogitScale{.factor = args_.scale * kLog2E, .cap = 0.0F, .has_cap = false};
    const std::int64_t num_rows = std::int64_t{num_kv_heads_} * group_rows_;
    for (std::int32_t head = 0; head < num_kv_heads_; ++head) {
      for_each_part(group_size_, [&](const GroupPart& part) PKV_TILE_ATTR {
        float* to = scratch_.q + (std::int64_t{head} * group_rows_ + part.row) * row_floats_;
        const std::int32_t q_head = (task_.kv_head_begin + head) * group_size_ + part.first;
#if PKV_TILE_AMX
        pack_queries(query(q_head), args_.q.head_stride * dtype_bytes(DType::kBF16), part.real, num_pairs_, to);
#else
        for (std::int32_t h = 0; h < part.real; ++h) {
          load_query(q_head + h, h, part.places, to);
        }
#endif
      });
    }
    for (std::int64_t i = 0; i < num_rows * row_floats_; i += kVectorLanes) {
      store(scratch_.acc + i, zero());
    }
    for (std::int64_t i = 0; i < num_rows; ++i) {
      store(scratch_.m + i * kMaxLanes, splat(kMinusInf));
      store(scratch_.l + i * kMaxLanes, zero());
    }
  }

  [[nodiscard]] const std::byte* query(std::int32_t q_head) const {
    const QueryView& q = args_.q;
    return static_cast<const std::byte*>(q.data) +
           (task_.row * q.row_stride + q_head * q.head_stride) * dtype_bytes(q.dtype);
  }

  /// Query head `q_head` to place h of a block of `heads` at `to`.
  void load_query(std::int32_t q_head, std::int32_t h, std::int32_t heads, float* to) const {
    const QueryView& q = args_.q;
    const std::byte* from = query(q_head);
#if PKV_TILE_BF16
    if constexpr (kKind == Kind::kBF16Dot) {
      auto* bytes = reinterpret_cast<std::byte*>(to);
      for (std::int32_t i = 0; i < num_pairs_; ++i) {
        _mm512_store_si512(bytes + (i * heads + h) * 64, _mm512_loadu_si512(from + i * 64));
      }
      if (has_odd_ != 0) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + num_pairs_ * 64));
        _mm512_store_si512(bytes + (num_pairs_ * heads + h) * 64, _mm512_zextsi256_si512(half));
      }
      return;
    }
#endif
    const auto vector = [&](std::int32_t i) PKV_TILE_ATTR {
      Floats loaded = zero();
      const std::byte* at = from + i * kVectorLanes * dtype_bytes(q.dtype);
      switch (q.dtype) {
        case DType::kF32: load_elements<Kind::kF32, 1>(at, &loaded); break;
        case DType::kF16: load_elements<Kind::kF16, 1>(at, &loaded); break;
        case DType::kBF16: load_elements<Kind::kBF16, 1>(at, &loaded); break;
      }
      return loaded;
    };
    const std::int32_t count = args_.shape.head_dim / kVectorLanes;
    std::int32_t i = 0;
    for (; i + 2 <= count; i += 2) {
      Floats low = vector(i);
      Floats high = vector(i + 1);
      to_loaded_order<kKind>(low, high);
      store(to + (i * heads + h) * kVectorLanes, low);
      store(to + ((i + 1) * heads + h) * kVectorLanes, high);
    }
    if (i < count) {
      store(to + (i * heads + h) * kVectorLanes, vector(i));
    }
  }

  /// Hands every head's state over: to the output, or to its partial slot.
  void finish() const {
    for (std::int32_t head = 0; head < num_kv_heads_; ++head) {
      for_each_part(group_size_, [&](const GroupPart& part) PKV_TILE_ATTR {
        const HeadBlock block = head_block(head, part, 0);
        const std::int32_t tokens = kSums / part.places;
        for (std::int32_t h = 0; h < part.real; ++h) {
          const float* l = block.l + h * tokens;
          hand_over(head, part.first + h, block.m[h * tokens] * kLn2, std::accumulate(l, l + tokens, 0.0F), block, h,
                    part.places);
        }
      });
    }
  }

  void hand_over(std::int32_t head, std::int32_t group_idx, float m, float l, const HeadBlock& block, std::int32_t h,
                 std::int32_t heads) const {
    if (task_.partial_slot == kNoSlot) {
      alignas(64) float row[kMaxHeadDim];
      put_in_order(block, h, heads, row);
      args_.write_head(args_, task_.row, (task_.kv_head_begin + head) * group_size_ + group_idx, m, l, row);
      return;
    }
    const std::int64_t slot = task_.partial_slot + static_cast<std::int64_t>(head) * task_.slot_stride;
    float* ml = args_.partials.ml_at(slot, group_idx);
    ml[0] = m;
    ml[1] = l;
    put_in_order(block, h, heads, args_.partials.acc_at(slot, group_idx));
  }

  /// The accumulator of head h as a row of head_dim floats.
  void put_in_order(const HeadBlock& block, std::int32_t h, std::int32_t heads, float* row) const {
    const std::int32_t rows = kByAmx ? std::max(heads, 8) : heads;  // of a vector
    const auto vector = [&](std::int32_t i) PKV_TILE_ATTR {
      const float* acc = block.acc + (i * rows + h) * kVectorLanes;
      if (kByAmx && heads == 4) {  // high and low parts of the weights, apart
        return add(load(acc), load(acc + 4 * kVectorLanes));
      }
      return load(acc);
    };
    const std::int32_t count = args_.shape.head_dim / kVectorLanes;
    std::int32_t i = 0;
    for (; i + 2 <= count; i += 2) {
      Floats low = vector(i);
      Floats high = vector(i + 1);
      from_loaded_order<kKind>(low, high);
      store_unaligned(row + i * kVectorLanes, low);
      store_unaligned(row + (i + 1) * kVectorLanes, high);
    }
    if (i < count) {
      store_unaligned(row + i * kVectorLanes, vector(i));
    }
  }

  const StepArgs& args_;
  const Task& task_;
  const Scratch& scratch_;
  const TileFinder finder_;
  const std::int32_t group_size_;
  const std::int32_t group_rows_;   // of scratch, a KV head
  const std::int32_t num_sharing_;  // blocks_that_share
  const std::int32_t row_floats_;
  const std::int32_t num_kv_heads_;
  const std::int32_t num_pairs_;
  const std::int32_t has_odd_;
  const std::int64_t k_head_;
  const std::int64_t v_head_;
  LogitScale scale_ = {};
};

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END

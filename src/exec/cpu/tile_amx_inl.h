// QK and PV of the tile kernel by AMX: phases for TaskRun<Kind::kBF16Amx>.
// Not here: how a task is walked, the softmax, what is prefetched (tile_inl.h, which includes this file).
//
// 1. Maths: as tile_inl.h. tdpbf16ps adds products of two bf16, exact in FP32, and takes subnormal bf16 for
//    zeros. A weight w in [0, 1] is two bf16, w = high + low, relative error under 2^-16: PV is done with both.
// 2. Traffic: QK of 16 tokens is head_dim / 32 tdpbf16ps for up to 16 heads, PV of 16 tokens as many for 4 heads,
//    twice that for 8, four times for 16; 16 cycles each on an Emerald Rapids core. head_dim 128: 8, 12 and 20
//    cycles a token of 512 bytes, where vectors need 48, 96 and 192 FMAs.
// 3. Layouts: eight registers of 16 rows of 64 bytes, always full, so that they are configured once a task.
//    QK: A = 16 tokens x 32 dims, as they lie in the page; B = [dim pair][16 heads][2] bf16, packed once a task;
//    C = [16 tokens][16 heads].
//    PV: B = 16 tokens x 32 dims, as they lie in the page. tdpbf16ps sums over pairs of B's neighbours, which are
//    two dims of one token; so A holds weights beside zeros: (w, 0) sums even dims, (0, w) odd ones. That needs
//    twice the multiplications, and no vector has to interleave V. C = [rows][16 even or odd dims]; a vector of acc
//    and its heads, as for Kind::kBF16:
//      4 heads   rows: even dims high [4], low [4], odd dims high [4], low [4]: acc has 8 rows a vector
//      8 heads   rows: even [8], odd [8]; A once of the high, once of the low parts
//      16 heads  rows: even [16], another C for odd [16]; high and low parts as before
// 4. Mapping: a block of heads is 16, 8 or 4 query heads of one KV head. Groups are padded: queries of zeros.
// 5. Invariants: a block of 16 tokens that is not full, or does not lie at one stride, is copied first; rows past
//    the end repeat the last token in QK and get logits of -inf, in V they are zeros.

// No include guard: a part of tile_inl.h.

PKV_TILE_BEGIN
namespace pkv {
namespace PKV_TILE_NAMESPACE {

// 6. Configuration.

inline constexpr int kTmmRows = 16;
inline constexpr int kTmmRowBytes = 64;
inline constexpr int kTmmBytes = kTmmRows * kTmmRowBytes;
inline constexpr int kTmmFloats = kTmmBytes / 4;
/// Blocks of 16 tokens of the longest tile.
inline constexpr int kMostTmmBlocks = kMostTileTokens / kTmmRows;
/// Weights of 16 tokens: registers of A.
template <int kHeads>
inline constexpr int kWeightTmms = kHeads <= 4 ? 1 : kHeads / 4;
static_assert(kMostTileTokens % kTmmRows == 0);

// 7. Registers. Their numbers are part of the instruction; gcc has no type for them. All of them clobber memory, as
// what they read and write is not in their operands.

template <int kTo>
PKV_TILE_INLINE void tmm_load(const void* from, std::int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTo), "r"(from), "r"(stride) : "memory");
}
template <int kFrom>
PKV_TILE_INLINE void tmm_store(void* to) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kFrom), "r"(to), "r"(std::int64_t{kTmmRowBytes}) : "memory");
}
template <int kTmm>
PKV_TILE_INLINE void tmm_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTmm) : "memory");
}
/// C += A * B.
template <int kC, int kA, int kB>
PKV_TILE_INLINE void tmm_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB) : "memory");
}

/// The operand of ldtilecfg.
struct alignas(64) TmmConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// All registers full, for as long as it lives.
class TmmScope {
 public:
  PKV_TILE_INLINE TmmScope() {
    TmmConfig config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kTmmRowBytes;
      config.rows[i] = kTmmRows;
    }
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  PKV_TILE_INLINE ~TmmScope() { asm volatile("tilerelease" : : : "memory"); }
  TmmScope(const TmmScope&) = delete;
  TmmScope& operator=(const TmmScope&) = delete;
};

// 8. Vectors.

/// Transposes 4 x 4 quarters: v[i] holds the quarters i of the four.
PKV_TILE_INLINE void transpose_quarters(__m512& v0, __m512& v1, __m512& v2, __m512& v3) {
  const __m512 low01 = _mm512_shuffle_f32x4(v0, v1, 0x44);
  const __m512 high01 = _mm512_shuffle_f32x4(v0, v1, 0xEE);
  const __m512 low23 = _mm512_shuffle_f32x4(v2, v3, 0x44);
  const __m512 high23 = _mm512_shuffle_f32x4(v2, v3, 0xEE);
  v0 = _mm512_shuffle_f32x4(low01, low23, 0x88);
  v1 = _mm512_shuffle_f32x4(low01, low23, 0xDD);
  v2 = _mm512_shuffle_f32x4(high01, high23, 0x88);
  v3 = _mm512_shuffle_f32x4(high01, high23, 0xDD);
}

/// Transposes the quarters of kParts times four vectors; v[kParts * j + i] becomes quarters j of part i.
template <int kParts>
PKV_TILE_INLINE void deal_quarters(__m512 (&part)[kParts][4], __m512* v) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    transpose_quarters(part[i][0], part[i][1], part[i][2], part[i][3]);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      v[kParts * j + i] = part[i][j];
    }
  }
}

/// v[j] = [kSize][16 / kSize] becomes [j of the source][16 / kSize]: a transposition of kSize x kSize segments.
template <int kSize>
PKV_TILE_INLINE void transpose_segments(__m512* v) {
  static_assert(kSize == 4 || kSize == 8 || kSize == 16);
  if constexpr (kSize == 4) {
    transpose_quarters(v[0], v[1], v[2], v[3]);
  } else if constexpr (kSize == 8) {
    __m512 part[2][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512d a = _mm512_castps_pd(v[2 * i]);
      const __m512d b = _mm512_castps_pd(v[2 * i + 1]);
      part[0][i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      part[1][i] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
    deal_quarters(part, v);
  } else {
    __m512 part[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v[4 * i], v[4 * i + 1]));
      const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v[4 * i], v[4 * i + 1]));
      const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v[4 * i + 2], v[4 * i + 3]));
      const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v[4 * i + 2], v[4 * i + 3]));
      part[0][i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
      part[1][i] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
      part[2][i] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
      part[3][i] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
    }
    deal_quarters(part, v);
  }
}

/// Rounds to bf16, ties away from zero; the lower halves of the lanes are zeros.
PKV_TILE_INLINE __m512i round_to_bf16(__m512 v) {
  const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U)));
}

// 9. Rows.

/// Which blocks of 16 tokens of a tile, of K and of V, are full and lie at the layout's stride: bits.
struct EvenBlocks {
  std::uint32_t k = 0;
  std::uint32_t v = 0;
  std::int64_t k_stride = 0;
  std::int64_t v_stride = 0;
};

inline std::uint32_t even_blocks(const std::byte* const* rows, std::int32_t num_tokens, std::int64_t stride) {
  const __m512i steps =
      _mm512_set_epi64(7 * stride, 6 * stride, 5 * stride, 4 * stride, 3 * stride, 2 * stride, stride, 0);
  std::uint32_t even = 0;
  for (std::int32_t i = 0; i < num_tokens / kTmmRows; ++i, rows += kTmmRows) {
    const __m512i low = _mm512_add_epi64(_mm512_set1_epi64(reinterpret_cast<std::int64_t>(rows[0])), steps);
    const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(8 * stride));
    const bool is_even = (_mm512_cmpneq_epi64_mask(low, _mm512_loadu_si512(rows)) |
                          _mm512_cmpneq_epi64_mask(high, _mm512_loadu_si512(rows + 8))) == 0;
    even |= std::uint32_t{is_even} << i;
  }
  return even;
}

/// 16 rows to load.
struct TmmRows {
  const std::byte* from;
  std::int64_t stride;
};

/// What stands in for tokens past the end.
enum class Fill : std::uint8_t { kLastToken, kZeros };

/// Copies `lines` lines of each of 16 rows from `offset` on, num_tokens of them valid.
template <Fill kFill>
__attribute__((noinline)) TmmRows copy_rows(const std::byte* const* rows, std::int32_t num_tokens, std::int64_t offset,
                                            std::int32_t lines, std::byte* to) {
  const std::int64_t stride = std::int64_t{lines} * kLine;
  const std::int32_t valid = std::min<std::int32_t>(num_tokens, kTmmRows);
  std::byte* row = to;
  for (std::int32_t t = 0; t < valid; ++t, row += stride) {
    const std::byte* from = rows[t] + offset;
    for (std::int32_t i = 0; i < lines; ++i) {
      _mm512_store_si512(row + i * kLine, _mm512_loadu_si512(from + i * kLine));
    }
  }
  for (std::int32_t t = valid; t < kTmmRows; ++t, row += stride) {
    for (std::int32_t i = 0; i < lines; ++i) {
      _mm512_store_si512(row + i * kLine,
                         kFill == Fill::kZeros ? _mm512_setzero_si512() : _mm512_load_si512(row - stride + i * kLine));
    }
  }
  return {.from = to, .stride = stride};
}

/// A line for every line of a register. The same lines of the next KV head are not asked for again, as vectors do:
/// without that, 10% faster in cache and as fast from memory.
PKV_TILE_INLINE void prefetch_ahead(PrefetchCursor& cursor) {
  cursor.take(kTmmBytes).prefetch(0, kTmmBytes / kPairBytes);
}

// 10. QK.

/// Queries [num_valid][head_dim] bf16, row_bytes apart, as B of QK; other lanes are zeros.
inline void pack_queries(const std::byte* q, std::int64_t row_bytes, std::int32_t num_valid, std::int32_t num_pairs,
                         float* to) {
  for (std::int32_t i = 0; i < num_pairs; ++i) {
    __m512 lines[kTmmRows];
    for (std::int32_t h = 0; h < kTmmRows; ++h) {
      lines[h] = h < num_valid ? _mm512_loadu_ps(q + h * row_bytes + i * kLine) : _mm512_setzero_ps();
    }
    transpose_segments<kTmmRows>(lines);
    for (std::int32_t r = 0; r < kTmmRows; ++r) {
      _mm512_store_ps(to + i * kTmmFloats + r * kVectorLanes, lines[r]);
    }
  }
}

/// 32 dims of the blocks from kBlock on.
template <int kBlock, int kBlocks>
PKV_TILE_INLINE void tmm_dot_blocks(const TmmRows* rows, std::int64_t at, PrefetchCursor& cursor) {
  constexpr int kKeys = 4 + kBlock % 2;
  tmm_load<kKeys>(rows[kBlock].from + at, rows[kBlock].stride);
  tmm_dot<kBlock, kKeys, 6>();
  prefetch_ahead(cursor);
  if constexpr (kBlock + 1 < kBlocks) {
    tmm_dot_blocks<kBlock + 1, kBlocks>(rows, at, cursor);
  }
}

template <int kBlock, int kBlocks>
PKV_TILE_INLINE void tmm_zero_sums() {
  tmm_zero<kBlock>();
  if constexpr (kBlock + 1 < kBlocks) {
    tmm_zero_sums<kBlock + 1, kBlocks>();
  }
}

template <int kBlock, int kBlocks>
PKV_TILE_INLINE void tmm_store_sums(float* to) {
  tmm_store<kBlock>(to + kBlock * kTmmFloats);
  if constexpr (kBlock + 1 < kBlocks) {
    tmm_store_sums<kBlock + 1, kBlocks>(to);
  }
}

/// Dot products of kBlocks blocks of 16 tokens: dots [token][16 heads].
template <int kBlocks>
PKV_TILE_INLINE void dot_blocks(const HeadBlock& block, const Tile& tile, const EvenBlocks& even, std::int32_t first,
                                PrefetchCursor& cursor, float* dots) {
  alignas(64) std::byte copies[kBlocks][kTmmRows * kMaxHeadDim * 2];
  TmmRows rows[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    const std::int32_t begin = (first + i) * kTmmRows;
    if (__builtin_expect((even.k >> (first + i) & 1U) != 0, 1)) {
      rows[i] = {tile.k[begin] + block.head_offset, even.k_stride};
    } else {
      rows[i] = copy_rows<Fill::kLastToken>(tile.k + begin, tile.num_tokens - begin, block.head_offset, block.num_pairs,
                                            copies[i]);
    }
  }
  tmm_zero_sums<0, kBlocks>();
  for (std::int32_t i = 0; i < block.num_pairs; ++i) {
    tmm_load<6>(block.q + i * kTmmFloats, kTmmRowBytes);
    tmm_dot_blocks<0, kBlocks>(rows, i * kLine, cursor);
  }
  tmm_store_sums<0, kBlocks>(dots + first * kTmmFloats);
}

/// Dot products of 16 / kHeads tokens, [token][16 heads] in memory, as lane = head * T + token.
template <int kHeads>
PKV_TILE_INLINE __m512 gather_dots(const float* dots) {
  if constexpr (kHeads == 16) {
    return _mm512_load_ps(dots);
  } else if constexpr (kHeads == 8) {
    const __m512i lanes = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutex2var_ps(_mm512_load_ps(dots), lanes, _mm512_load_ps(dots + kVectorLanes));
  } else {
    static_assert(kHeads == 4);
    const __m512i lanes = _mm512_set_epi32(19, 3, 19, 3, 18, 2, 18, 2, 17, 1, 17, 1, 16, 0, 16, 0);
    const __m512 low = _mm512_permutex2var_ps(_mm512_load_ps(dots), lanes, _mm512_load_ps(dots + kVectorLanes));
    const __m512 high =
        _mm512_permutex2var_ps(_mm512_load_ps(dots + 2 * kVectorLanes), lanes, _mm512_load_ps(dots + 3 * kVectorLanes));
    return _mm512_mask_mov_ps(low, 0xCCCC, high);
  }
}

/// Logits of -inf for tokens [num_tokens, end).
template <int kHeads>
PKV_TILE_INLINE void mask_tail(const HeadBlock& block, std::int32_t num_tokens, std::int32_t end) {
  constexpr int kTokens = kBlockTokens<kHeads>;
  for (std::int32_t t = num_tokens - num_tokens % kTokens; t < end; t += kTokens) {
    float* p = block.p + t * kHeads;
    const __mmask16 valid = valid_lanes<kHeads>(num_tokens - t);
    _mm512_store_ps(p, _mm512_mask_mov_ps(_mm512_set1_ps(kMinusInf), valid, _mm512_load_ps(p)));
  }
}

/// QK and softmax of one head block over a tile; weights of whole blocks of 16 tokens are defined afterwards.
template <int kHeads>
__attribute__((noinline)) void weigh_keys_by_tmm(const HeadBlock& block, const Tile& tile, const EvenBlocks& even,
                                                 const LogitScale& scale, PrefetchCursor& caller_cursor) {
  alignas(64) float dots[kMostTmmBlocks * kTmmFloats];
  PrefetchCursor cursor = caller_cursor;
  const std::int32_t num_blocks = (tile.num_tokens + kTmmRows - 1) / kTmmRows;
  std::int32_t first = 0;
  for (; first + 4 <= num_blocks; first += 4) {
    dot_blocks<4>(block, tile, even, first, cursor, dots);
  }
  if (first + 2 <= num_blocks) {
    dot_blocks<2>(block, tile, even, first, cursor, dots);
    first += 2;
  }
  if (first < num_blocks) {
    dot_blocks<1>(block, tile, even, first, cursor, dots);
  }
  caller_cursor = cursor;
  const std::int32_t end = num_blocks * kTmmRows;
  const __m512 factor = _mm512_set1_ps(scale.factor);
  __m512 maximum = _mm512_set1_ps(kMinusInf);
  for (std::int32_t t = 0; t < end; t += kBlockTokens<kHeads>) {
    const __m512 logits = _mm512_mul_ps(gather_dots<kHeads>(dots + t * kVectorLanes), factor);
    _mm512_store_ps(block.p + t * kHeads, logits);
    maximum = _mm512_max_ps(maximum, logits);  // repeats of the last token do not change it
  }
  if (__builtin_expect(scale.has_cap, 0)) {
    maximum = cap_logits<kHeads>(block, tile.num_tokens, scale.cap);
  }
  if (tile.num_tokens < end) {
    mask_tail<kHeads>(block, tile.num_tokens, end);
  }
  softmax_of_tile<kHeads, std::max(kHeads, 8)>(block, maximum, end);
}

// 11. PV.

/// The row of A for one part of a head's weights: part 0 is the high one; parity 0 sums even dims.
template <int kHeads>
constexpr int weight_row(int part, int parity, int h) {
  return kHeads == 4 ? parity * 8 + part * 4 + h : (part * 2 + parity) * kHeads + h;
}

/// Weights of 16 tokens as A of PV.
template <int kHeads>
PKV_TILE_INLINE void store_weights(const float* p, std::byte* to) {
  __m512 w[kHeads];
#pragma GCC unroll 16
  for (int i = 0; i < kHeads; ++i) {
    w[i] = _mm512_load_ps(p + i * kVectorLanes);
  }
  transpose_segments<kHeads>(w);
#pragma GCC unroll 16
  for (int h = 0; h < kHeads; ++h) {
    const __m512i high = round_to_bf16(w[h]);
    const __m512i low = round_to_bf16(_mm512_sub_ps(w[h], _mm512_castsi512_ps(high)));
    _mm512_store_si512(to + weight_row<kHeads>(0, 0, h) * kTmmRowBytes, _mm512_srli_epi32(high, 16));
    _mm512_store_si512(to + weight_row<kHeads>(0, 1, h) * kTmmRowBytes, high);
    _mm512_store_si512(to + weight_row<kHeads>(1, 0, h) * kTmmRowBytes, _mm512_srli_epi32(low, 16));
    _mm512_store_si512(to + weight_row<kHeads>(1, 1, h) * kTmmRowBytes, low);
  }
}

/// Registers of C: kPairs times 32 dims, for 16 heads twice.
template <int kHeads, int kPairs>
inline constexpr int kAccTmms = kHeads == 16 ? 2 * kPairs : kPairs;

template <int kTmm, int kEnd>
PKV_TILE_INLINE void tmm_load_acc(const float* acc) {
  tmm_load<kTmm>(acc + kTmm * kTmmFloats, kTmmRowBytes);
  if constexpr (kTmm + 1 < kEnd) {
    tmm_load_acc<kTmm + 1, kEnd>(acc);
  }
}

/// Blocks of up to 8 heads: the weights are in the registers 4 and 5, V of kPair is in 6 + kPair % 2. V is loaded one
/// pair ahead (5 to 8%).
template <int kHeads, int kPair, int kPairs>
PKV_TILE_INLINE void tmm_add_pairs(const TmmRows& rows, PrefetchCursor& cursor) {
  constexpr int kValues = 6 + kPair % 2;
  if constexpr (kPair + 1 < kPairs) {
    tmm_load<7 - kPair % 2>(rows.from + (kPair + 1) * kLine, rows.stride);
  }
  tmm_dot<kPair, 4, kValues>();
  if constexpr (kHeads == 8) {
    tmm_dot<kPair, 5, kValues>();
  }
  prefetch_ahead(cursor);
  if constexpr (kPair + 1 < kPairs) {
    tmm_add_pairs<kHeads, kPair + 1, kPairs>(rows, cursor);
  }
}

/// Blocks of 16 heads: V is in the registers 6 and 7.
template <int kPart, int kParity, int kPairs>
PKV_TILE_INLINE void tmm_add_part(const std::byte* weights) {
  constexpr int kWeights = 4 + kParity;
  tmm_load<kWeights>(weights + weight_row<16>(kPart, kParity, 0) * kTmmRowBytes, kTmmRowBytes);
  tmm_dot<kParity, kWeights, 6>();
  if constexpr (kPairs == 2) {
    tmm_dot<2 + kParity, kWeights, 7>();
  }
}

/// acc of kPairs times 32 dims from pair `first` on += weights * V, over the tile.
template <int kHeads, int kPairs>
PKV_TILE_INLINE void tmm_add_column(const HeadBlock& block, const Tile& tile, const EvenBlocks& even,
                                    std::int32_t first, const std::byte* weights, PrefetchCursor& cursor) {
  alignas(64) std::byte copy[2][kTmmBytes * kPairs];
  float* acc = block.acc + first * 2 * std::max(kHeads, 8) * kVectorLanes;
  const std::int64_t offset = block.head_offset + first * kLine;
  tmm_load_acc<0, kAccTmms<kHeads, kPairs>>(acc);
  const std::int32_t num_blocks = (tile.num_tokens + kTmmRows - 1) / kTmmRows;
  for (std::int32_t i = 0; i < num_blocks; ++i, weights += kWeightTmms<kHeads> * kTmmBytes) {
    const std::int32_t begin = i * kTmmRows;
    TmmRows rows;
    if (__builtin_expect((even.v >> i & 1U) != 0, 1)) {
      rows = {tile.v[begin] + offset, even.v_stride};
    } else {
      rows = copy_rows<Fill::kZeros>(tile.v + begin, tile.num_tokens - begin, offset, kPairs, copy[i % 2]);
    }
    if constexpr (kHeads == 16) {
      tmm_load<6>(rows.from, rows.stride);
      prefetch_ahead(cursor);
      if constexpr (kPairs == 2) {
        tmm_load<7>(rows.from + kLine, rows.stride);
      }
      tmm_add_part<0, 0, kPairs>(weights);
      tmm_add_part<0, 1, kPairs>(weights);
      if constexpr (kPairs == 2) {
        prefetch_ahead(cursor);
      }
      tmm_add_part<1, 0, kPairs>(weights);
      tmm_add_part<1, 1, kPairs>(weights);
    } else {
      tmm_load<4>(weights, kTmmRowBytes);
      if constexpr (kHeads == 8) {
        tmm_load<5>(weights + kTmmBytes, kTmmRowBytes);
      }
      tmm_load<6>(rows.from, rows.stride);
      tmm_add_pairs<kHeads, 0, kPairs>(rows, cursor);
    }
  }
  tmm_store_sums<0, kAccTmms<kHeads, kPairs>>(acc);
}

/// All of head_dim, in columns of kPairs times 32 dims, then of half as many.
template <int kHeads, int kPairs>
PKV_TILE_INLINE void tmm_add_columns(const HeadBlock& block, const Tile& tile, const EvenBlocks& even,
                                     std::int32_t first, const std::byte* weights, PrefetchCursor& cursor) {
  for (; first + kPairs <= block.num_pairs; first += kPairs) {
    tmm_add_column<kHeads, kPairs>(block, tile, even, first, weights, cursor);
  }
  if constexpr (kPairs > 1) {
    tmm_add_columns<kHeads, kPairs / 2>(block, tile, even, first, weights, cursor);
  }
}

template <int kHeads>
__attribute__((noinline)) void add_values_by_tmm(const HeadBlock& block, const Tile& tile, const EvenBlocks& even,
                                                 PrefetchCursor& caller_cursor) {
  constexpr int kBlockBytes = kWeightTmms<kHeads> * kTmmBytes;
  alignas(64) std::byte weights[kMostTmmBlocks * kBlockBytes];
  PrefetchCursor cursor = caller_cursor;
  for (std::int32_t t = 0; t < tile.num_tokens; t += kTmmRows) {
    store_weights<kHeads>(block.p + t * kHeads, weights + t / kTmmRows * kBlockBytes);
  }
  tmm_add_columns<kHeads, kHeads == 16 ? 2 : 4>(block, tile, even, 0, weights, cursor);
  caller_cursor = cursor;
}

}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
PKV_TILE_END

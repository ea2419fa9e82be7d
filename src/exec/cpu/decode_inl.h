// The decode kernel: one task, a range of tokens and KV heads of one row, with exact online softmax.
// Not here: what a task is (plan.h), merging splits (merge_inl.h), workers.
//
// 1. Maths, for each query head with logits x_j = scale q.k_j (soft cap applied), tile by tile:
//      m' = max(m, max x_j);  l' = exp(m - m') l + sum exp(x_j - m');  acc' = exp(m - m') acc + sum exp(x_j - m') v_j
//    from m = -inf, l = 0, acc = 0. A split leaves (m, l, acc); see merge_inl.h for what joins them.
//    All in FP32; exp is natural, its error is stated at exp_nonpositive.
// 2. Traffic: a token and KV head is 2 * head_dim * dtype_bytes bytes, read once for all G query heads, and
//    2 * G * head_dim FMAs. At 16-bit and head_dim 128 that is 512 bytes and G * 16 512-bit FMAs: with one
//    such FMA a cycle at 3.7 GHz, G = 4 could take 29 bytes a ns a core, so memory is the bound up to G = 4.
// 3. Layouts: K, V by PageStrides; q and acc in scratch as [head][padded_dim], padding of q is zero;
//    p as [head block][token block][head][token]; all scratch is 64-byte aligned, caller's tensors are not.
// 4. Mapping: query heads of a group form blocks of H = 4, 2 or 1. In QK, registers hold H x T dot products
//    with T = lanes / H, so that their sums are one vector, lane = head * T + token; the softmax stays in that
//    order. In PV, registers hold H x D vectors of accumulators along head_dim.
// 5. Invariants: only tokens of the task are loaded. A tile that is not full repeats its last token's row in
//    QK, gives the repeats the logit -inf, and leaves them out of PV: 0 * NaN must not come in. The block
//    table is read up to the task's last page. No result depends on which worker runs the task.
#if defined(PKV_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PKV_DECODE_INL_H_
#undef PKV_DECODE_INL_H_
#else
#define PKV_DECODE_INL_H_
#endif

#include <algorithm>
#include <utility>

#include "exec/cpu/kernels.h"
#include "exec/cpu/output_inl.h"
#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

// 6. Configuration.

/// Vectors of accumulators in PV: half of the registers and no more, the rest holds V and weights.
inline constexpr int kAccumulators = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 16 : 8;
/// Query heads a block at most: 4 halve the K conversions of 2; 8 would need two Q loads an FMA pair.
inline constexpr int kMaxHeadsPerBlock = 4;
/// Prefetches go in pairs of adjacent lines: single lines over several streams lose 15% (cpu_facts.md).
inline constexpr std::int64_t kLineBytes = 64;
inline constexpr std::int64_t kLinePairBytes = 128;

static_assert(kLanes >= kMaxHeadsPerBlock && kLanes <= kMaxLanes, "a block of heads fills a vector");
static_assert(kTileTokens % kLanes == 0, "token blocks divide a tile");

template <int kHeads>
inline constexpr int kTokensPerBlock = kLanes / kHeads;

// 7. Phases.

/// The rows of a tile's tokens, of KV head 0. Rows past num_tokens repeat the last one.
struct Tile {
  const std::byte* k[kTileTokens];
  const std::byte* v[kTileTokens];
  std::int32_t num_tokens = 0;
};

/// Line pairs of the next tile that one phase over one head should request, spread over its steps.
/// Prefetching in bursts halves the speed of spread prefetching (cpu_facts.md).
struct PrefetchCursor {
  const std::byte* const* next;
  const std::byte* const* end;
  std::int64_t head_offset;  // bytes
  std::int32_t pairs_per_step;

  HWY_INLINE void step() {
    for (std::int32_t i = 0; i < pairs_per_step && next != end; ++i, ++next) {
      const std::byte* line = *next + head_offset;
      __builtin_prefetch(line, 0, 2);  // into L2
      __builtin_prefetch(line + kLineBytes, 0, 2);
    }
  }
};

/// A task's view of one head block: kHeads query heads of one KV head.
struct HeadBlock {
  std::int32_t head_dim;
  std::int32_t row_stride;   // padded_dim
  std::int64_t head_offset;  // bytes from KV head 0 to this one, of K or V
  const float* q;            // [kHeads][row_stride]
  float* acc;                // [kHeads][row_stride]
  float* p;                  // [kTileTokens / T][kLanes]
  float* m;                  // [kLanes], a head's value on all its lanes
  float* l;                  // [kLanes], summed over a head's lanes at the end only
};

/// Calls body(std::integral_constant<int, H>, first head) for the blocks that a group is divided into.
template <class Body>
HWY_INLINE void for_each_head_block(std::int32_t group_size, const Body& body) {
  std::int32_t head = 0;
  for (; head + 4 <= group_size; head += 4) {
    body(std::integral_constant<int, 4>(), head);
  }
  if (head + 2 <= group_size) {
    body(std::integral_constant<int, 2>(), head);
    head += 2;
  }
  if (head < group_size) {
    body(std::integral_constant<int, 1>(), head);
  }
}

/// Dot products of kHeads queries with T tokens from `rows`; lane = head * T + token.
template <int kHeads, DType kType>
HWY_INLINE VF dot_products(const HeadBlock& block, const std::byte* const* rows, PrefetchCursor& prefetch) {
  constexpr int kTokens = kTokensPerBlock<kHeads>;
  constexpr std::int64_t kElementBytes = dtype_bytes(kType);
  const F32 d;
  const std::byte* k[kTokens];
  HWY_UNROLL(16)
  for (int t = 0; t < kTokens; ++t) {
    k[t] = rows[t] + block.head_offset;
  }
  VF sums[kLanes];
  HWY_UNROLL(16)
  for (int i = 0; i < kLanes; ++i) {
    sums[i] = hn::Zero(d);
  }
  const auto add_block = [&](std::int32_t dim, const auto& load) HWY_ATTR {
    VF q[kHeads];
    HWY_UNROLL(4)
    for (int h = 0; h < kHeads; ++h) {
      q[h] = hn::Load(d, block.q + h * block.row_stride + dim);
    }
    HWY_UNROLL(16)
    for (int t = 0; t < kTokens; ++t) {
      const VF key = load(k[t] + dim * kElementBytes);
      HWY_UNROLL(4)
      for (int h = 0; h < kHeads; ++h) {
        sums[h * kTokens + t] = hn::MulAdd(q[h], key, sums[h * kTokens + t]);
      }
    }
  };
  std::int32_t dim = 0;
  for (; dim + kLanes <= block.head_dim; dim += kLanes) {
    add_block(dim, [&](const std::byte* from) HWY_ATTR { return load_f32<kType>(d, from); });
    prefetch.step();
  }
  if (has_tail(block.head_dim)) {
    add_block(dim, [&](const std::byte* from) HWY_ATTR { return load_f32_tail<kType>(d, from); });
  }
  return transpose_sums(d, sums);
}

/// Multiplies each head's accumulator by its factor; lanes as the softmax has them.
template <int kHeads>
HWY_INLINE void rescale(const HeadBlock& block, VF factors) {
  const F32 d;
  HWY_ALIGN float by_lane[kLanes];
  hn::Store(factors, d, by_lane);
  for (int h = 0; h < kHeads; ++h) {
    const VF factor = hn::Set(d, by_lane[h * kTokensPerBlock<kHeads>]);
    float* acc = block.acc + h * block.row_stride;
    for (std::int32_t i = 0; i < block.row_stride; i += kLanes) {
      hn::Store(hn::Mul(hn::Load(d, acc + i), factor), d, acc + i);
    }
  }
}

/// Logits of a tile to p; returns their maximum by head.
template <int kHeads, DType kType>
HWY_INLINE VF logits_of_tile(const AttentionShape& shape, const HeadBlock& block, const Tile& tile,
                             PrefetchCursor& prefetch) {
  constexpr int kTokens = kTokensPerBlock<kHeads>;
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const VF minus_infinity = hn::Set(d, kMinusInfinity);
  const auto token_of_lane = hn::And(hn::Iota(di, 0), hn::Set(di, kTokens - 1));
  VF maximum = minus_infinity;
  for (std::int32_t t = 0; t < tile.num_tokens; t += kTokens) {
    VF logits = dot_products<kHeads, kType>(block, tile.k + t, prefetch);
    if (shape.logit_soft_cap) {
      const float cap = *shape.logit_soft_cap;
      logits = hn::Mul(hn::Set(d, cap), tanh_f32(d, hn::Div(logits, hn::Set(d, cap))));
    }
    if (tile.num_tokens - t < kTokens) {
      const auto valid = hn::RebindMask(d, hn::Lt(token_of_lane, hn::Set(di, tile.num_tokens - t)));
      logits = hn::IfThenElse(valid, logits, minus_infinity);
    }
    maximum = hn::Max(maximum, logits);
    hn::Store(logits, d, block.p + t * kHeads);
  }
  return max_of_segments<kTokens>(d, maximum);
}

/// Turns the logits in p into weights exp(x - m), and brings m, l and acc up to date.
template <int kHeads>
HWY_INLINE void softmax_of_tile(const HeadBlock& block, VF tile_maximum, std::int32_t num_tokens) {
  const F32 d;
  const VF m = hn::Load(d, block.m);
  const VF raised = hn::Max(m, tile_maximum);
  // Logits of -inf alone leave m at -inf, and exp(-inf - -inf) would be NaN; from 0 they weigh nothing.
  const VF origin = hn::IfThenElse(hn::Eq(raised, hn::Set(d, kMinusInfinity)), hn::Zero(d), raised);
  VF l = hn::Load(d, block.l);
  // Rare after the first tiles: the n-th tile holds a new maximum once in n times on random data.
  if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Gt(tile_maximum, m)))) {
    const VF factors = exp_nonpositive(d, hn::Sub(m, origin));
    rescale<kHeads>(block, factors);
    l = hn::Mul(l, factors);
    hn::Store(raised, d, block.m);
  }
  for (std::int32_t t = 0; t < num_tokens; t += kTokensPerBlock<kHeads>) {
    float* p = block.p + t * kHeads;
    const VF weights = exp_nonpositive(d, hn::Sub(hn::Load(d, p), origin));
    l = hn::Add(l, weights);
    hn::Store(weights, d, p);
  }
  hn::Store(l, d, block.l);
}

/// acc[h][dim, + kVectors * lanes) += sum over tokens of weight * v. kTail: one vector of 8 elements.
enum class Columns : std::uint8_t { kFull, kTail };
template <int kHeads, DType kType, int kVectors, Columns kColumns>
HWY_INLINE void add_values(const HeadBlock& block, const Tile& tile, std::int32_t dim, PrefetchCursor& prefetch) {
  constexpr int kTokens = kTokensPerBlock<kHeads>;
  constexpr std::int64_t kElementBytes = dtype_bytes(kType);
  const F32 d;
  VF sums[kHeads * kVectors];
  HWY_UNROLL(4)
  for (int h = 0; h < kHeads; ++h) {
    HWY_UNROLL(16)
    for (int i = 0; i < kVectors; ++i) {
      sums[h * kVectors + i] = hn::Load(d, block.acc + h * block.row_stride + dim + i * kLanes);
    }
  }
  const std::int64_t offset = block.head_offset + dim * kElementBytes;
  for (std::int32_t t = 0; t < tile.num_tokens; ++t) {
    const std::byte* v = tile.v[t] + offset;
    const float* weights = block.p + (t - t % kTokens) * kHeads + t % kTokens;
    VF weight[kHeads];
    HWY_UNROLL(4)
    for (int h = 0; h < kHeads; ++h) {
      weight[h] = hn::Set(d, weights[h * kTokens]);
    }
    HWY_UNROLL(16)
    for (int i = 0; i < kVectors; ++i) {
      const std::byte* from = v + i * kLanes * kElementBytes;
      const VF value = kColumns == Columns::kTail ? load_f32_tail<kType>(d, from) : load_f32<kType>(d, from);
      HWY_UNROLL(4)
      for (int h = 0; h < kHeads; ++h) {
        sums[h * kVectors + i] = hn::MulAdd(weight[h], value, sums[h * kVectors + i]);
      }
    }
    prefetch.step();
  }
  HWY_UNROLL(4)
  for (int h = 0; h < kHeads; ++h) {
    HWY_UNROLL(16)
    for (int i = 0; i < kVectors; ++i) {
      hn::Store(sums[h * kVectors + i], d, block.acc + h * block.row_stride + dim + i * kLanes);
    }
  }
}

/// All of head_dim, in columns of kVectors vectors, then in columns of half as many.
template <int kHeads, DType kType, int kVectors>
HWY_INLINE void add_values_from(const HeadBlock& block, const Tile& tile, std::int32_t dim, PrefetchCursor& prefetch) {
  for (; dim + kVectors * kLanes <= block.head_dim; dim += kVectors * kLanes) {
    add_values<kHeads, kType, kVectors, Columns::kFull>(block, tile, dim, prefetch);
  }
  if constexpr (kVectors > 1) {
    add_values_from<kHeads, kType, kVectors / 2>(block, tile, dim, prefetch);
  } else if (has_tail(block.head_dim)) {
    add_values<kHeads, kType, 1, Columns::kTail>(block, tile, dim, prefetch);
  }
}

/// Walks one task. A class, so that the phases share what a task fixes.
template <DType kType>
class TaskRun {
 public:
  TaskRun(const StepArgs& args, const Task& task, const Scratch& scratch)
      : args_(args),
        task_(task),
        scratch_(scratch),
        pages_(args.block_table.row(task.row).data()),
        group_size_(args.shape.group_size()),
        row_stride_(padded_dim(args.shape.head_dim)) {}

  void run() {
    start();
    Tile tiles[2];
    Tile* tile = &tiles[0];
    Tile* next = &tiles[1];
    std::int32_t begin = task_.token_begin;
    locate(begin, *tile);
    // Heads are walked as they lie in memory: in HND the whole page's K, then its V; in NHD a token's
    // heads are neighbours, and K and V of one head are walked before the next.
    const KvLayout& layout = args_.kv.layout;
    const std::int32_t heads_per_pass =
        layout.k_strides.kv_head < layout.k_strides.slot ? 1 : task_.kv_head_end - task_.kv_head_begin;
    while (tile->num_tokens > 0) {
      begin += tile->num_tokens;
      locate(begin, *next);
      const std::int32_t num_pairs = list_lines(*next);
      for (std::int32_t head = task_.kv_head_begin; head < task_.kv_head_end; head += heads_per_pass) {
        for (std::int32_t h = head; h < head + heads_per_pass; ++h) {
          weigh_keys(h, *tile, num_pairs);
        }
        for (std::int32_t h = head; h < head + heads_per_pass; ++h) {
          add_values_of_head(h, *tile, num_pairs);
        }
      }
      std::swap(tile, next);
    }
    finish();
  }

 private:
  static constexpr std::int64_t kElementBytes = dtype_bytes(kType);

  /// Index of a query head of `kv_head`'s group inside this task.
  [[nodiscard]] std::int32_t local_head(std::int32_t kv_head, std::int32_t group_idx) const {
    return (kv_head - task_.kv_head_begin) * group_size_ + group_idx;
  }

  [[nodiscard]] HeadBlock head_block(std::int32_t local, std::int64_t head_offset) const {
    return {.head_dim = args_.shape.head_dim,
            .row_stride = row_stride_,
            .head_offset = head_offset,
            .q = scratch_.q + static_cast<std::int64_t>(local) * row_stride_,
            .acc = scratch_.acc + static_cast<std::int64_t>(local) * row_stride_,
            .p = scratch_.p + static_cast<std::int64_t>(local) * kTileTokens,
            .m = scratch_.m + static_cast<std::int64_t>(local) * kMaxLanes,
            .l = scratch_.l + static_cast<std::int64_t>(local) * kMaxLanes};
  }

  /// Scaled queries as FP32, and neutral states.
  void start() const {
    const std::int32_t num_heads = local_head(task_.kv_head_end, 0);
    for (std::int32_t i = 0; i < num_heads; ++i) {
      load_query(task_.kv_head_begin * group_size_ + i, scratch_.q + static_cast<std::int64_t>(i) * row_stride_);
    }
    std::fill_n(scratch_.acc, static_cast<std::int64_t>(num_heads) * row_stride_, 0.0F);
    std::fill_n(scratch_.m, static_cast<std::int64_t>(num_heads) * kMaxLanes, kMinusInfinity);
    std::fill_n(scratch_.l, static_cast<std::int64_t>(num_heads) * kMaxLanes, 0.0F);
  }

  void load_query(std::int32_t q_head, float* to) const {
    const QueryView& q = args_.q;
    const std::byte* from = static_cast<const std::byte*>(q.data) +
                            (task_.row * q.row_stride + q_head * q.head_stride) * dtype_bytes(q.dtype);
    switch (q.dtype) {
      case DType::kF32: load_query_as<DType::kF32>(from, to); break;
      case DType::kF16: load_query_as<DType::kF16>(from, to); break;
      case DType::kBF16: load_query_as<DType::kBF16>(from, to); break;
    }
  }

  template <DType kQueryType>
  void load_query_as(const std::byte* from, float* to) const {
    const F32 d;
    const VF scale = hn::Set(d, args_.scale);
    std::int32_t i = 0;
    for (; i + kLanes <= args_.shape.head_dim; i += kLanes) {
      hn::Store(hn::Mul(load_f32<kQueryType>(d, from + i * dtype_bytes(kQueryType)), scale), d, to + i);
    }
    if (has_tail(args_.shape.head_dim)) {
      hn::Store(hn::Mul(load_f32_tail<kQueryType>(d, from + i * dtype_bytes(kQueryType)), scale), d, to + i);
    }
  }

  /// The tile that begins at `begin`: up to the next multiple of kTileTokens, so that tiles stay aligned
  /// with pages whatever the window; no tokens at the task's end.
  void locate(std::int32_t begin, Tile& tile) const {
    const std::int64_t aligned_end = std::int64_t{begin} - begin % kTileTokens + kTileTokens;
    tile.num_tokens = static_cast<std::int32_t>(std::min<std::int64_t>(aligned_end, task_.token_end) - begin);
    if (tile.num_tokens <= 0) {
      tile.num_tokens = 0;
      return;
    }
    const KvLayout& layout = args_.kv.layout;
    const auto* k = static_cast<const std::byte*>(args_.kv.k);
    const auto* v = static_cast<const std::byte*>(args_.kv.v);
    std::int32_t page_idx = begin / layout.page_size;
    std::int64_t slot = begin % layout.page_size;
    for (std::int32_t t = 0; t < tile.num_tokens; ++t, ++slot) {
      if (slot == layout.page_size) {
        ++page_idx;
        slot = 0;
      }
      const std::int64_t page = pages_[page_idx];
      tile.k[t] = k + (page * layout.k_strides.page + slot * layout.k_strides.slot) * kElementBytes;
      tile.v[t] = v + (page * layout.v_strides.page + slot * layout.v_strides.slot) * kElementBytes;
    }
    for (std::int32_t t = tile.num_tokens; t < kTileTokens; ++t) {
      tile.k[t] = tile.k[tile.num_tokens - 1];
      tile.v[t] = tile.v[tile.num_tokens - 1];
    }
  }

  /// Writes the tile's line pairs of KV head 0 to scratch; returns how many there are of K, and of V.
  std::int32_t list_lines(const Tile& tile) const {
    const std::int64_t row_bytes = args_.shape.head_dim * kElementBytes;
    std::int32_t num_pairs = 0;
    for (std::int32_t t = 0; t < tile.num_tokens; ++t) {
      for (std::int64_t offset = 0; offset < row_bytes; offset += kLinePairBytes) {
        scratch_.k_lines[num_pairs] = tile.k[t] + offset;
        scratch_.v_lines[num_pairs] = tile.v[t] + offset;
        ++num_pairs;
      }
    }
    return num_pairs;
  }

  /// QK and softmax of one KV head over a tile.
  void weigh_keys(std::int32_t kv_head, const Tile& tile, std::int32_t num_pairs) const {
    const std::int64_t head_offset = kv_head * args_.kv.layout.k_strides.kv_head * kElementBytes;
    const std::int32_t num_steps = steps_of_keys(tile);
    PrefetchCursor prefetch = {.next = scratch_.k_lines,
                               .end = scratch_.k_lines + num_pairs,
                               .head_offset = head_offset,
                               .pairs_per_step = (num_pairs + num_steps - 1) / num_steps};
    for_each_head_block(group_size_, [&](auto heads, std::int32_t group_idx) HWY_ATTR {
      constexpr int kHeads = decltype(heads)::value;
      const HeadBlock block = head_block(local_head(kv_head, group_idx), head_offset);
      const VF maximum = logits_of_tile<kHeads, kType>(args_.shape, block, tile, prefetch);
      softmax_of_tile<kHeads>(block, maximum, tile.num_tokens);
    });
  }

  void add_values_of_head(std::int32_t kv_head, const Tile& tile, std::int32_t num_pairs) const {
    const std::int64_t head_offset = kv_head * args_.kv.layout.v_strides.kv_head * kElementBytes;
    const std::int32_t num_steps = steps_of_values(tile);
    PrefetchCursor prefetch = {.next = scratch_.v_lines,
                               .end = scratch_.v_lines + num_pairs,
                               .head_offset = head_offset,
                               .pairs_per_step = (num_pairs + num_steps - 1) / num_steps};
    for_each_head_block(group_size_, [&](auto heads, std::int32_t group_idx) HWY_ATTR {
      constexpr int kHeads = decltype(heads)::value;
      // One head cannot fill the registers at head_dim 128: 8 vectors are all there are.
      constexpr int kVectors = kAccumulators / kHeads > 8 ? 8 : kAccumulators / kHeads;
      const HeadBlock block = head_block(local_head(kv_head, group_idx), head_offset);
      add_values_from<kHeads, kType, kVectors>(block, tile, 0, prefetch);
    });
  }

  /// At least how often the phases step their cursor; fewer only delays the last lines' requests.
  [[nodiscard]] std::int32_t steps_of_keys(const Tile& tile) const {
    std::int32_t steps = 0;
    const std::int32_t blocks_of_dims = std::max(args_.shape.head_dim / kLanes, 1);
    for_each_head_block(group_size_, [&](auto heads, std::int32_t) {
      constexpr int kTokens = kTokensPerBlock<decltype(heads)::value>;
      steps += (tile.num_tokens + kTokens - 1) / kTokens * blocks_of_dims;
    });
    return steps;
  }
  [[nodiscard]] std::int32_t steps_of_values(const Tile& tile) const {
    std::int32_t steps = 0;
    for_each_head_block(group_size_, [&](auto heads, std::int32_t) {
      constexpr int kVectors = std::min(8, kAccumulators / decltype(heads)::value);
      steps += std::max(args_.shape.head_dim / (kLanes * kVectors), 1) * tile.num_tokens;
    });
    return steps;
  }

  /// Hands every head's state over: to the output, or to its partial slot.
  void finish() const {
    for (std::int32_t kv_head = task_.kv_head_begin; kv_head < task_.kv_head_end; ++kv_head) {
      for_each_head_block(group_size_, [&](auto heads, std::int32_t group_idx) HWY_ATTR {
        constexpr int kHeads = decltype(heads)::value;
        constexpr int kTokens = kTokensPerBlock<kHeads>;
        const F32 d;
        const HeadBlock block = head_block(local_head(kv_head, group_idx), 0);
        hn::Store(sum_of_segments<kTokens>(d, hn::Load(d, block.l)), d, block.l);
        for (int h = 0; h < kHeads; ++h) {
          hand_over(kv_head, group_idx + h, block.m[h * kTokens], block.l[h * kTokens],
                    block.acc + h * block.row_stride);
        }
      });
    }
  }

  void hand_over(std::int32_t kv_head, std::int32_t group_idx, float m, float l, const float* acc) const {
    if (task_.partial_slot == kNoSlot) {
      write_head(args_, task_.row, kv_head * group_size_ + group_idx, m, l, acc);
      return;
    }
    const std::int64_t slot =
        task_.partial_slot + static_cast<std::int64_t>(kv_head - task_.kv_head_begin) * task_.slot_stride;
    float* ml = args_.partials.ml_at(slot, group_idx);
    ml[0] = m;
    ml[1] = l;
    std::copy_n(acc, args_.shape.head_dim, args_.partials.acc_at(slot, group_idx));
  }

  const StepArgs& args_;
  const Task& task_;
  const Scratch& scratch_;
  const std::int32_t* pages_;
  const std::int32_t group_size_;
  const std::int32_t row_stride_;
};

constexpr Isa compiled_isa() {
  return HWY_TARGET == HWY_AVX3 ? Isa::kAvx512 : HWY_TARGET == HWY_AVX2 ? Isa::kAvx2 : Isa::kPortable;
}

inline RanKernel decode(const StepArgs& args, const Task& task, const Scratch& scratch) {
  switch (args.kv.dtype) {
    case DType::kF32: TaskRun<DType::kF32>(args, task, scratch).run(); break;
    case DType::kF16: TaskRun<DType::kF16>(args, task, scratch).run(); break;
    case DType::kBF16: TaskRun<DType::kBF16>(args, task, scratch).run(); break;
  }
  return {.kernel = DecodeKernel::kGeneral, .isa = compiled_isa()};
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#endif  // PKV_DECODE_INL_H_

// The decode kernel on tensor cores: a block is a task; K and V are read once for all query heads of a KV head.
// Not here: launches (cuda_backend.cc), merging splits (merge.cuh), types and shapes it lacks (simple.cuh).
//
// Maths. For the query heads h of a group and the tokens j of a task: x_hj = scale * q_h . k_j (capped if
// asked), m_h = max_j x_hj, l_h = sum_j exp(x_hj - m_h), acc_h = sum_j exp(x_hj - m_h) v_j. Two states
// (m, l, acc) merge by m = max, both scaled by exp(m_i - m) and added; so do tiles, warps and splits.
//
// Traffic. A token of a KV head costs 4 * head_dim bytes and 4 * group * head_dim FLOPs: at 8 heads a
// group 8 FLOPs a byte, where an H100 has 300. The kernel is a copy with arithmetic hidden under it; what
// decides is bytes in flight an SM (64 to 192 KB reach the limit of an H100, 32 KB lose 8%), and that an SM
// holds blocks enough to read while some begin and others end.
//
// Layouts. A tile is 16 tokens of one KV head, K [16][head_dim] then V [16][head_dim], rows of
// 2 * kHeadDim bytes, 16-byte chunk c of row r stored at chunk c ^ (r & 7): ldmatrix meets no bank twice.
// Every token row has its own address in the pages, so page sizes, strides and NHD cost nothing.
//
// Mapping. A warp (or kHeadSplit warps, which then divide the query heads among them) owns a ring of
// kStages tiles and takes every kGroups-th tile of a task. S = K Q^T is [16 tokens][8 heads] a
// matrix: K is the A operand, so that the few query heads fill the narrow side. In a fragment of S a lane
// holds the tokens lane/4 and lane/4 + 8 of the heads 2 (lane%4) and + 1. acc^T = V^T P is [16 dims]
// [8 heads] with the same two heads a lane: rescaling needs no exchange. P goes from S's layout to the B
// operand's by movmatrix; V^T comes from ldmatrix.trans.
// P is split into a high and a low 16-bit part, two products each: the error of a result is then the
// rounding of FP32, not of P (bf16 alone would err by 2^-9). It costs 8 of 24 products a tile, hidden.
//
// Invariants. Rows beyond the task's end are zero in shared memory (cp.async reads 0 bytes of them) and
// masked to -inf in S, so that a NaN there is never multiplied. Copies into a stage begin only after all
// warps that share it have read it. Exactly one group of copies is committed a step, so that waiting for
// all but kStages - 1 groups means the tile at hand has arrived. No copy into a ring is asked for that no later step
// waits for, as states lie there in the end. The page id of a tile arrives with the tile one ring ahead: no load waits
// for one.
#pragma once

#include <algorithm>

#include "exec/cuda/merge.cuh"
#include "exec/cuda/output.cuh"
#include "exec/cuda/params.h"
#include "exec/cuda/ptx.cuh"

namespace pkv::cuda {

inline constexpr int kMatrixTokens = 16;  // that one product covers

/// What is left of a task of several heads behind its first.
__device__ __forceinline__ DeviceTask next_head(DeviceTask task) {
  ++task.kv_head_begin;
  task.partial_slot += task.partial_slot < 0 ? 0 : task.slot_stride;
  task.first_slot += task.slot_stride;
  return task;
}

/// kMatrices: 8-head matrices a warp computes; kHeadSplit: warps that share a tile. Together they cover
/// 8 * kMatrices * kHeadSplit query heads.
/// kTileMatrices: products of 16 tokens in a tile.
template <typename ElementT, int kHeadDimT, int kMatricesT, int kHeadSplitT, int kWarpsT, int kStagesT, int kBlocksT,
          int kTileMatricesT>
struct DecodeConfig {
  using T = ElementT;
  static constexpr int kHeadDim = kHeadDimT;
  static constexpr int kMatrices = kMatricesT;
  static constexpr int kHeadSplit = kHeadSplitT;
  static constexpr int kWarps = kWarpsT;
  static constexpr int kStages = kStagesT;
  static constexpr int kBlocksPerSm = kBlocksT;
  static constexpr int kTileMatrices = kTileMatricesT;
  static constexpr int kTileTokens = kMatrixTokens * kTileMatrices;

  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kGroups = kWarps / kHeadSplit;  // rings of a block
  static constexpr int kHeads = 8 * kMatrices * kHeadSplit;
  static constexpr int kRowBytes = 2 * kHeadDim;
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kTileBytes = kTileTokens * kRowBytes;  // of K; V as much
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kSteps = kHeadDim / 16;  // matrices along the head dimension
  // P in two parts: what small groups have time for, and what bf16 needs (2^-9 of P would show).
  // On 10.0 the d 256 kernels have no spills only with it.
  static constexpr bool kExactWeights = kHeads <= 8 || Element<T>::kBits < 10 || (kArch == 1000 && kHeadDim > 128);
  // Fragments of Q take kSteps * kMatrices * 2 registers; beside a large accumulator, or where many blocks share the
  // registers of an SM, they stay in memory.
  static constexpr int kMostQueryColumns = kThreads * kBlocksPerSm <= 256 ? 256 : 128;
  static constexpr bool kQueryInRegisters =
      kHeadDim * kMatrices * kTileMatrices <= kMostQueryColumns && kThreads * kBlocksPerSm <= 384;
  static constexpr int kFreeRegisters = std::min(255, 65536 / (kThreads * kBlocksPerSm)) - kMatrices * kSteps * 4;
  /// Tiles whose addresses are in registers before the kernel ahead has finished: all that are asked for at once, or
  /// none where a thread has too few registers beside its accumulators (up to 106 some spill).
  static constexpr int kTilesAhead = kFreeRegisters > 106 ? kStages : 0;
  static constexpr int kQueryPitch = kRowBytes + 16;  // of a head; the shift avoids bank conflicts
  // The pitch of merged states shifts neighbouring heads by 8 banks.
  static constexpr int kMergePitch = kHeadDim + 4;
  static constexpr int kMergeFloats = kHeads * (kMergePitch + 2);  // of a group
  /// Of 4 dimensions of a head, at the end of a task.
  static constexpr int kQuadsOfThread = kHeads * kHeadDim / 4 / kThreads;
  static constexpr int kQuadsAtOnce = std::clamp(kQuadsOfThread, 1, 4);
  /// Whether rings may agree on the scale of a whole row before they store their states, which are then only added:
  /// where a thread would else work out the weights of eight quads.
  static constexpr bool kCanAgree = kQuadsOfThread >= 8;
  static constexpr int kRingBytes = kGroups * kStages * kStageBytes;
  static constexpr int kQueryBytes = kHeads * kQueryPitch;
  static constexpr int kMergeBytes = kGroups * kMergeFloats * 4;

  // Shared memory, in bytes from its start. States merge in the place of tiles and queries, which have been read.
  static constexpr int kRingAt = 0;
  static constexpr int kMergeAt = 0;
  static constexpr int kQueryAt = kRingAt + kRingBytes;
  static constexpr int kIdsAt = std::max(kQueryAt + kQueryBytes, kMergeAt + kMergeBytes);
  static constexpr int kMlAt = kIdsAt + kWarps * kStages * kTileTokens * 4;
  static constexpr int kMlBytes = kCanAgree ? (kGroups + 1) * kHeads * 8 : 0;
  static constexpr int kUsedBytes = (kMlAt + kMlBytes + 15) / 16 * 16;
  /// What keeps one block more than planned from an SM of 228 KB, which a few registers less may admit; only where it
  /// costs little, as GPUs with less shared memory have the same kernels.
  static constexpr int kOneTooMany = 228 * 1024 / (kBlocksPerSm + 1) - 1024 + 16;
  static constexpr int kSharedBytes =
      kUsedBytes < kOneTooMany && kOneTooMany <= kUsedBytes / 8 * 9 ? kOneTooMany : kUsedBytes;

  static_assert(kHeadDim % 64 == 0 && kHeadDim <= 256);
  static_assert(kWarps % kHeadSplit == 0 && (kHeadSplit == 1 || kGroups > 1));
  static_assert((kStages & (kStages - 1)) == 0, "a tile finds its stage by a mask");
  static_assert(32 % kRowChunks == 0 && kTileTokens % ((32 / kRowChunks) * kHeadSplit) == 0);
};

/// A block's work on the first KV head of a task, seen by one thread.
template <class C>
class Decoder {
  using T = typename C::T;
  using E = Element<T>;
  static constexpr int kStageMask = C::kStages - 1;

 public:
  __device__ Decoder(const LayerParams& params, const DeviceTask& task, unsigned char* shared)
      : p_(params),
        task_(task),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        group_(warp_ / C::kHeadSplit),
        part_(warp_ % C::kHeadSplit),
        ring_(shared_address(shared) + C::kRingAt + group_ * C::kStages * C::kStageBytes),
        policy_(evict_first_policy()),
        tokens_(task.token_end - task.token_begin),
        count_(ring_tiles(tokens_)) {}

  // What a block does while the kernel ahead may still run, is_early: page ids, and with them the addresses of all
  // first copies, depend on nothing that it writes. A block that need not wait asks for its queries first, as under
  // full memory they take longest, and for each tile as soon as its addresses are known.

  __device__ void copy_first_ids() const {
#pragma unroll
    for (int tile = 0; tile < C::kStages; ++tile) copy_ids(tile);
    commit_copies();
  }

  __device__ void find_first_tiles() {
    wait_copies<0>();
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < C::kTilesAhead; ++tile) {
      const TokenOffsets offsets = token_offsets(tile);
      find_rows(tile, p_.k, task_.kv_head_begin * p_.k_strides.kv_head, offsets.k, first_keys_[tile]);
      find_rows(tile, p_.v, task_.kv_head_begin * p_.v_strides.kv_head, offsets.v, first_values_[tile]);
    }
    check_addresses();
  }

  __device__ void copy_found_tiles() const {
#pragma unroll
    for (int tile = 0; tile < C::kTilesAhead; ++tile) {
      if (tile < count_) {  // else nobody would wait for the zeros, and states would lie where they arrive
        copy_found(first_keys_[tile], p_.k, stage_address(tile));
        copy_found(first_values_[tile], p_.v, stage_address(tile) + C::kTileBytes);
        copy_ids(tile + C::kStages);
      }
      commit_copies();
    }
  }

  __device__ void copy_first_tiles() {
    wait_copies<1>();  // for page ids, but not for queries
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < C::kStages; ++tile) {
      copy_keys(tile);
      copy_values(tile);
    }
  }

  __device__ void copy_queries() const {
    if (p_.q_in_vectors) {
      copy_query_parts<16>();
    } else {
      copy_query_parts<4>();
    }
    commit_copies();
  }

  /// Behind the queries and first tiles.
  __device__ void run() {
    wait_copies<C::kStages>();  // the queries
    __syncthreads();
    begin_state();
    walk_tiles();
    sum_lanes();
    if (agrees_first()) {
      finish_row();
    } else {
      finish_task();
    }
  }

 private:
  // ---- where things lie -------------------------------------------------------------------------

  __device__ std::uint32_t stage_address(int tile) const { return ring_ + (tile & kStageMask) * C::kStageBytes; }
  /// Of the token of a tile that this lane works out.
  __device__ std::uint32_t id_slot(int tile) const {
    return shared_address(shared_) + C::kIdsAt +
           ((warp_ * C::kStages + (tile & kStageMask)) * C::kTileTokens + lane_ % C::kTileTokens) * 4;
  }
  /// What chunks of the rows that this lane reads are stored under. On 10.0 the compiler must not see through it:
  /// it would keep every address of a tile in a register of its own, and spill.
  __device__ int swizzle_of_lane() const {
    int swizzle = lane_ & 7;
    if constexpr (kArch == 1000) {
      asm volatile("" : "+r"(swizzle));
    }
    return swizzle;
  }
  __device__ int first_head() const { return part_ * C::kMatrices * 8; }

  __device__ int ring_tiles(int tokens) const {
    const int tiles = (tokens + C::kTileTokens - 1) / C::kTileTokens;
    return tiles > group_ ? (tiles - group_ - 1) / C::kGroups + 1 : 0;
  }
  /// Tokens of the task ahead of a tile of this ring.
  __device__ int tile_begin(int tile) const { return (group_ + tile * C::kGroups) * C::kTileTokens; }

  // ---- the copying side -------------------------------------------------------------------------

  /// Queries of the group, [head][dim] with zeros where there is none; every thread its share.
  template <int kBytes>
  __device__ void copy_query_parts() const {
    constexpr int kElements = kBytes / 2;
    constexpr int kParts = C::kHeadDim / kElements;
    constexpr int kUnrolled = kBytes == 16 ? 8 : 1;
    const T* from = static_cast<const T*>(p_.q) + task_.row * p_.q_row_stride +
                    static_cast<std::int64_t>(task_.kv_head_begin) * p_.group_size * p_.q_head_stride;
    const std::uint32_t to = shared_address(shared_) + C::kQueryAt;
#pragma unroll kUnrolled
    for (int first = 0; first < C::kHeads * kParts; first += C::kThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const int head = i / kParts;
      const int dim = i % kParts * kElements;
      const bool exists = head < p_.group_size && dim < p_.head_dim;
      if (head < C::kHeads) {
        copy_async<kBytes>(to + head * C::kQueryPitch + dim * 2, exists ? from + head * p_.q_head_stride + dim : p_.q,
                           exists ? kBytes : 0);
      }
    }
  }

  /// The page ids of a tile, a lane a token.
  __device__ void copy_ids(int tile) const {
    if (lane_ >= C::kTileTokens) {  // one writer a word; the other half reads it, too
      return;
    }
    const int token = task_.token_begin + tile_begin(tile) + lane_;
    const bool exists = token < task_.token_end;
    const std::int32_t* from = p_.page_ids + (static_cast<std::int64_t>(task_.page_id_offset) + page_of(p_, token));
    copy_async<4>(id_slot(tile), exists ? from : p_.page_ids, exists ? 4 : 0);
  }

  // A warp copies a tile's rows of K or V a few at a time, 16 bytes a lane.
  static constexpr int kRowsAtOnce = 32 / C::kRowChunks;
  static constexpr int kCopies = C::kTileTokens / kRowsAtOnce / C::kHeadSplit;  // of a lane
  /// Where this lane's 16 bytes of each copy lie; null: beyond the task's end or the head dimension.
  using Rows = const unsigned char* [kCopies];

  __device__ int row_of_copy(int i) const { return (part_ * kCopies + i) * kRowsAtOnce + lane_ / C::kRowChunks; }

  /// `offset`: of the token that this lane works out.
  __device__ void find_rows(int tile, const void* base, std::int64_t head_offset, std::int64_t offset,
                            Rows& rows) const {
    const int chunk = lane_ % C::kRowChunks;
    const bool chunk_exists = chunk * 8 < p_.head_dim;
    const auto* from = static_cast<const unsigned char*>(base) + head_offset + chunk * 16;
    const int tokens_left = tokens_ - tile_begin(tile);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = row_of_copy(i);
      const std::int64_t row_offset = __shfl_sync(0xFFFFFFFFU, offset, row);
      rows[i] = row < tokens_left && chunk_exists ? from + row_offset : nullptr;
    }
  }

  __device__ void copy_found(const Rows& rows, const void* base, std::uint32_t to) const {
    const int chunk = lane_ % C::kRowChunks;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = row_of_copy(i);
      const bool exists = rows[i] != nullptr;
      copy_async_16(to + row * C::kRowBytes + ((chunk ^ (row & 7)) << 4), exists ? rows[i] : base, exists ? 16 : 0,
                    policy_);
    }
  }

  /// All lie on 16 bytes and are addresses: always so. What it is for: a branch that needs every one of them, ahead of
  /// the wait for the predecessor. The compiler would else work them out behind it, on the way of the first bytes.
  __device__ void check_addresses() const {
    std::uint64_t bits = 0;
    const auto add = [&](const unsigned char* address) { bits |= reinterpret_cast<std::uint64_t>(address); };
#pragma unroll
    for (int tile = 0; tile < C::kTilesAhead; ++tile) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        add(first_keys_[tile][i]);
        add(first_values_[tile][i]);
      }
    }
    if ((bits & 0xF000'0000'0000'000FU) != 0) {
      __trap();
    }
  }

  /// Starts the copies of a tile's rows of K or V.
  __device__ void copy_rows(int tile, const void* base, std::int64_t head_offset, std::int64_t offset,
                            std::uint32_t to) const {
    Rows rows;
    find_rows(tile, base, head_offset, offset, rows);
    copy_found(rows, base, to);
  }

  struct TokenOffsets {
    std::int64_t k;
    std::int64_t v;
  };

  /// Of the token of a tile that this lane works out, from its page id in shared memory.
  __device__ TokenOffsets token_offsets(int tile) const {
    const int token = task_.token_begin + tile_begin(tile) + lane_ % C::kTileTokens;
    const std::int64_t page_id = shared_word(id_slot(tile));
    const std::int64_t slot = token - page_of(p_, token) * p_.page_size;
    return {.k = page_id * p_.k_strides.page + slot * p_.k_strides.slot,
            .v = page_id * p_.v_strides.page + slot * p_.v_strides.slot};
  }

  __device__ static std::int32_t shared_word(std::uint32_t address) {
    std::int32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
  }

  /// A tile is asked for in two halves, each as soon as its place is free; there may be no such tile.
  __device__ void copy_keys(int tile) {
    if (tile < count_) {
      const TokenOffsets offsets = token_offsets(tile);
      v_offset_ = offsets.v;
      copy_rows(tile, p_.k, task_.kv_head_begin * p_.k_strides.kv_head, offsets.k, stage_address(tile));
    }
  }
  /// With the page ids that the tile one ring later needs. Always a group.
  __device__ void copy_values(int tile) const {
    if (tile < count_) {
      copy_rows(tile, p_.v, task_.kv_head_begin * p_.v_strides.kv_head, v_offset_, stage_address(tile) + C::kTileBytes);
      copy_ids(tile + C::kStages);
    }
    commit_copies();
  }

  // ---- the walk ---------------------------------------------------------------------------------

  __device__ void sync_sharers() const {
    if constexpr (C::kHeadSplit == 1) {
      __syncwarp();
    } else {
      barrier_of_group<C::kGroups, 32 * C::kHeadSplit>(group_);
    }
  }

  __device__ void begin_state() {
    load_queries();
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
      m_[n][0] = m_[n][1] = -INFINITY;
      l_[n][0] = l_[n][1] = 0.0F;
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc_[n][d][i] = 0.0F;
      }
    }
  }

  __device__ void walk_tiles() {
    for (int tile = 0; tile < count_; ++tile) {
      wait_copies<C::kStages - 1>();
      sync_sharers();
      float x[C::kTileMatrices][C::kMatrices][4];
      score(tile, x);
      sync_sharers();  // K is read
      copy_keys(tile + C::kStages);
      shape_logits(tokens_ - tile_begin(tile), x);
      raise_maximum(tile, x);
      std::uint32_t high[C::kTileMatrices][C::kMatrices][2];
      std::uint32_t low[C::kTileMatrices][C::kMatrices][2];
      weigh(x, high, low);
      accumulate(tile, high, low);
      sync_sharers();  // V is read
      copy_values(tile + C::kStages);
    }
  }

  // ---- one tile ---------------------------------------------------------------------------------

  /// Fragments of Q^T: a lane holds dimensions 16 d + 2 (lane%4) + {0, 1, 8, 9} of head lane/4.
  __device__ void load_queries() {
    query_at_ = shared_address(shared_) + C::kQueryAt + (first_head() + lane_ % 8) * C::kQueryPitch + lane_ / 8 * 16;
    if constexpr (C::kQueryInRegisters) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int d = 0; d < C::kSteps; d += 2) {
          std::uint32_t two[4];
          load_matrices(two, query_at_ + n * 8 * C::kQueryPitch + d * 32);
          query_[n][d][0] = two[0];
          query_[n][d][1] = two[1];
          query_[n][d + 1][0] = two[2];
          query_[n][d + 1][1] = two[3];
        }
      }
    }
  }

  /// Of the steps d and d + 1.
  __device__ void query_fragments(int d, int n, std::uint32_t (&b)[2][2]) const {
    if constexpr (C::kQueryInRegisters) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        b[i][0] = query_[n][d + i][0];
        b[i][1] = query_[n][d + i][1];
      }
    } else {
      std::uint32_t two[4];
      load_matrices(two, query_at_ + n * 8 * C::kQueryPitch + d * 32);
      b[0][0] = two[0];
      b[0][1] = two[1];
      b[1][0] = two[2];
      b[1][1] = two[3];
    }
  }

  /// Dot products, in two sums that do not wait for each other; in one on 10.0 where a tile has two matrices, which
  /// are two chains already (two sums spill there).
  __device__ void score(int tile, float (&x)[C::kTileMatrices][C::kMatrices][4]) const {
    constexpr bool kTwoSums = C::kTileMatrices == 1 || kArch != 1000;
    float odd[C::kTileMatrices][C::kMatrices][4];
#pragma unroll
    for (int t = 0; t < C::kTileMatrices; ++t) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[t][n][i] = odd[t][n][i] = 0.0F;
      }
    }
    const std::uint32_t row = stage_address(tile) + (lane_ % 16) * C::kRowBytes;
    const int swizzle = swizzle_of_lane();
#pragma unroll
    for (int d = 0; d < C::kSteps; d += 2) {
      std::uint32_t a[C::kTileMatrices][2][4];
#pragma unroll
      for (int t = 0; t < C::kTileMatrices; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          load_matrices(a[t][i],
                        row + t * kMatrixTokens * C::kRowBytes + ((((d + i) * 2 + lane_ / 16) ^ swizzle) << 4));
        }
      }
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
        std::uint32_t b[2][2];
        query_fragments(d, n, b);
#pragma unroll
        for (int t = 0; t < C::kTileMatrices; ++t) {
          E::mma(x[t][n], a[t][0], b[0]);
          E::mma(kTwoSums ? odd[t][n] : x[t][n], a[t][1], b[1]);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < C::kTileMatrices; ++t) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[t][n][i] += kTwoSums ? odd[t][n][i] : 0.0F;
      }
    }
  }

  /// Dot products to logits: scale, cap, and -inf for rows beyond the end.
  __device__ void shape_logits(int tokens_left, float (&x)[C::kTileMatrices][C::kMatrices][4]) const {
    const float inverse = p_.soft_cap > 0.0F ? 1.0F / p_.soft_cap : 0.0F;
#pragma unroll
    for (int t = 0; t < C::kTileMatrices; ++t) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[t][n][i] *= p_.scale;
        if (p_.soft_cap > 0.0F) {
#pragma unroll
          for (int i = 0; i < 4; ++i) x[t][n][i] = p_.soft_cap * tanhf(x[t][n][i] * inverse);
        }
        if (tokens_left < C::kTileTokens) {
          const int token = t * kMatrixTokens + lane_ / 4;
#pragma unroll
          for (int i = 0; i < 4; ++i) x[t][n][i] = token + (i / 2) * 8 < tokens_left ? x[t][n][i] : -INFINITY;
        }
      }
    }
  }

  /// The running maximum over all tokens so far; accumulators follow it when it rose for any head.
  __device__ void raise_maximum(int tile, const float (&x)[C::kTileMatrices][C::kMatrices][4]) {
    bool rose = false;
    float top[C::kMatrices][2];
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float most = fmaxf(x[0][n][h], x[0][n][h + 2]);
#pragma unroll
        for (int t = 1; t < C::kTileMatrices; ++t) most = fmaxf(most, fmaxf(x[t][n][h], x[t][n][h + 2]));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 4));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 8));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 16));
        top[n][h] = fmaxf(m_[n][h], most);
        rose |= top[n][h] > m_[n][h];
      }
    }
    if (!__any_sync(0xFFFFFFFFU, rose)) {
      return;
    }
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
      if (tile > 0) {  // before the first tile all is 0
        const float factor[2] = {weight(m_[n][0], top[n][0]), weight(m_[n][1], top[n][1])};
        scale_state(n, factor);
      }
      m_[n][0] = top[n][0];
      m_[n][1] = top[n][1];
    }
  }

  __device__ void scale_state(int n, const float (&factor)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      l_[n][h] *= factor[h];
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
        acc_[n][d][h] *= factor[h];
        acc_[n][d][h + 2] *= factor[h];
      }
    }
  }

  /// exp(x - m) as the B operand, in two parts whose sum it is, and its sum into l (this lane's tokens).
  __device__ void weigh(const float (&x)[C::kTileMatrices][C::kMatrices][4],
                        std::uint32_t (&high)[C::kTileMatrices][C::kMatrices][2],
                        std::uint32_t (&low)[C::kTileMatrices][C::kMatrices][2]) {
#pragma unroll
    for (int t = 0; t < C::kTileMatrices; ++t) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float a = weight(x[t][n][half * 2], m_[n][0]);
          const float b = weight(x[t][n][half * 2 + 1], m_[n][1]);
          l_[n][0] += a;
          l_[n][1] += b;
          const auto rounded = E::round(a, b);
          high[t][n][half] = transpose_matrix(bits_of(rounded));
          if constexpr (C::kExactWeights) {
            const float2 kept = E::widen(rounded);
            low[t][n][half] = transpose_matrix(bits_of(E::round(a - kept.x, b - kept.y)));
          }
        }
      }
    }
  }

  __device__ void accumulate(int tile, const std::uint32_t (&high)[C::kTileMatrices][C::kMatrices][2],
                             const std::uint32_t (&low)[C::kTileMatrices][C::kMatrices][2]) {
    const std::uint32_t row = stage_address(tile) + C::kTileBytes + (lane_ % 8 + lane_ / 16 * 8) * C::kRowBytes;
#pragma unroll
    for (int t = 0; t < C::kTileMatrices; ++t) {
      const int swizzle = swizzle_of_lane();
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
        std::uint32_t a[4];
        load_matrices_transposed(a,
                                 row + t * kMatrixTokens * C::kRowBytes + (((d * 2 + lane_ / 8 % 2) ^ swizzle) << 4));
#pragma unroll
        for (int n = 0; n < C::kMatrices; ++n) {
          E::mma(acc_[n][d], a, high[t][n]);
          if constexpr (C::kExactWeights) E::mma(acc_[n][d], a, low[t][n]);
        }
      }
    }
  }

  // ---- the end of a task ------------------------------------------------------------------------

  /// A slot holds the states of one group as [head][dim], and (m, l) pairs behind.
  __device__ float* merge_slot(int slot) const {
    return reinterpret_cast<float*>(shared_ + C::kMergeAt) + slot * C::kMergeFloats;
  }
  __device__ float2* slot_ml(int slot, int head) const {
    return reinterpret_cast<float2*>(merge_slot(slot) + C::kHeads * C::kMergePitch) + head;
  }

  __device__ void sum_lanes() {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        l_[n][h] += __shfl_xor_sync(0xFFFFFFFFU, l_[n][h], 4);
        l_[n][h] += __shfl_xor_sync(0xFFFFFFFFU, l_[n][h], 8);
        l_[n][h] += __shfl_xor_sync(0xFFFFFFFFU, l_[n][h], 16);
      }
    }
  }

  /// The head of the group that is column h of this lane's fragment n.
  __device__ int head_of(int n, int h) const { return first_head() + n * 8 + lane_ % 4 * 2 + h; }

  __device__ void store_accumulators(int n, int h) const {
    float* acc = merge_slot(group_) + head_of(n, h) * C::kMergePitch;
#pragma unroll
    for (int d = 0; d < C::kSteps; ++d) {
      acc[d * 16 + lane_ / 4] = acc_[n][d][h];
      acc[d * 16 + lane_ / 4 + 8] = acc_[n][d][h + 2];
    }
  }

  __device__ void store_states() const {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (lane_ < 4) {
          *slot_ml(group_, head_of(n, h)) = make_float2(m_[n][h], l_[n][h]);
        }
        store_accumulators(n, h);
      }
    }
  }

  /// Of 4 dimensions of a head: all slots' states, in the order of the slots.
  __device__ MergeState join_slots(int head, int d) const {
    float2 ml[C::kGroups];
    float4 acc[C::kGroups];
#pragma unroll
    for (int slot = 0; slot < C::kGroups; ++slot) {
      ml[slot] = *slot_ml(slot, head);
      acc[slot] = *reinterpret_cast<const float4*>(merge_slot(slot) + head * C::kMergePitch + d);
    }
    return join(ml, acc);
  }

  static constexpr int kQuads = C::kHeadDim / 4;  // of a head

  __device__ void write_output() const {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < p_.group_size * kQuads; i += C::kThreads) {
      const int q_head = task_.kv_head_begin * p_.group_size + i / kQuads;
      const int d = i % kQuads * 4;
      if (d < p_.head_dim) {
        const MergeState state = join_slots(i / kQuads, d);
        finish_head(p_, task_.row, q_head, d, state.m, state.l, state.acc);
      }
    }
  }

  /// A thread works out several quads of dimensions side by side before it stores the first: one after the other each
  /// would wait for shared memory and exponentials, 0.3 us a round.
  __device__ void write_partial() const {
    const int count = p_.group_size * kQuads;
    for (int first = static_cast<int>(threadIdx.x); first < count; first += C::kThreads * C::kQuadsAtOnce) {
      MergeState states[C::kQuadsAtOnce];
#pragma unroll
      for (int u = 0; u < C::kQuadsAtOnce; ++u) {
        const int i = min(first + u * C::kThreads, C::kHeads * kQuads - 1);
        states[u] = join_slots(i / kQuads, i % kQuads * 4);
      }
#pragma unroll
      for (int u = 0; u < C::kQuadsAtOnce; ++u) {
        const int i = first + u * C::kThreads;
        const int d = i % kQuads * 4;
        if (i < count && d < p_.head_dim) {
          store_partial(p_, task_.partial_slot, i / kQuads, d, states[u].m, states[u].l, states[u].acc);
        }
      }
    }
  }

  /// The rings' states become the task's.
  __device__ void finish_task() const {
    __syncthreads();  // all have read what the states overwrite
    store_states();
    __syncthreads();
    if (task_.partial_slot < 0) {
      write_output();
    } else {
      write_partial();
    }
    if (p_.finished != nullptr && task_.slot_stride > 1) {
      merge_if_last<(C::kHeadDim > 128 || C::kHeadSplit > 2)>(p_, task_);
    }
  }

  // ---- the end of a whole row where rings agree first ---------------------------------------------

  /// Small groups leave a thread few quads, and most of the heads that it would scale do not exist.
  __device__ bool agrees_first() const {
    return C::kCanAgree && task_.partial_slot < 0 && p_.group_size * kQuads >= 4 * C::kThreads;
  }

  /// (m, l) of a ring, or behind the last of the row.
  __device__ float2* agreed_ml(int ring, int head) const {
    return reinterpret_cast<float2*>(shared_ + C::kMlAt) + ring * C::kHeads + head;
  }

  __device__ void finish_row() {
    if (C::kGroups > 1 && lane_ < 4) {
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) *agreed_ml(group_, head_of(n, h)) = make_float2(m_[n][h], l_[n][h]);
      }
    }
    __syncthreads();  // and all have read what the states overwrite
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
      const float factor[2] = {factor_of_output(n, 0), factor_of_output(n, 1)};
      scale_state(n, factor);
      store_accumulators(n, 0);
      store_accumulators(n, 1);
    }
    __syncthreads();
    add_output();
  }

  /// From this ring's accumulators to its part of the output. A sink joins here, as a token that adds nothing.
  __device__ float factor_of_output(int n, int h) const {
    const int head = head_of(n, h);
    const bool has_sink = p_.sinks != nullptr && head < p_.group_size;
    const float sink = has_sink ? p_.sinks[task_.kv_head_begin * p_.group_size + head] : -INFINITY;
    float2 ml[C::kGroups];
    float m = sink;
#pragma unroll
    for (int ring = 0; ring < C::kGroups; ++ring) {
      ml[ring] = C::kGroups > 1 ? *agreed_ml(ring, head) : make_float2(m_[n][h], l_[n][h]);
      m = fmaxf(m, ml[ring].x);
    }
    float l = weight(sink, m);
#pragma unroll
    for (int ring = 0; ring < C::kGroups; ++ring) l += weight(ml[ring].x, m) * ml[ring].y;
    if (group_ == 0 && lane_ < 4) {
      *agreed_ml(C::kGroups, head) = make_float2(m, l);
    }
    return weight(m_[n][h], m) * (l > 0.0F ? __fdividef(1.0F, l) : 0.0F);
  }

  /// In the order of the slots, several quads a thread side by side.
  __device__ void add_output() const {
    const int count = p_.group_size * kQuads;
    const int first_q_head = task_.kv_head_begin * p_.group_size;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x); first < count; first += C::kThreads * C::kQuadsAtOnce) {
      float4 sums[C::kQuadsAtOnce];
#pragma unroll
      for (int u = 0; u < C::kQuadsAtOnce; ++u) {
        const int i = min(first + u * C::kThreads, C::kHeads * kQuads - 1);
        sums[u] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll
        for (int slot = 0; slot < C::kGroups; ++slot) {
          const float* acc = merge_slot(slot) + i / kQuads * C::kMergePitch + i % kQuads * 4;
          const float4 more = *reinterpret_cast<const float4*>(acc);
          sums[u] = make_float4(sums[u].x + more.x, sums[u].y + more.y, sums[u].z + more.z, sums[u].w + more.w);
        }
      }
#pragma unroll
      for (int u = 0; u < C::kQuadsAtOnce; ++u) {
        const int i = first + u * C::kThreads;
        const int d = i % kQuads * 4;
        if (i < count && d < p_.head_dim) {
          store_output(p_, task_.row, first_q_head + i / kQuads, d, sums[u]);
        }
      }
    }
    for (int head = static_cast<int>(threadIdx.x); p_.lse != nullptr && head < p_.group_size; head += C::kThreads) {
      const float2 ml = *agreed_ml(C::kGroups, head);
      store_lse(p_, task_.row, first_q_head + head, ml.x, ml.y);
    }
  }

  const LayerParams& p_;
  const DeviceTask& task_;
  unsigned char* const shared_;
  const int lane_;
  const int warp_;
  const int group_;  // which ring
  const int part_;   // which of the warps that share it
  const std::uint32_t ring_;
  const std::uint64_t policy_;
  const int tokens_;  // of the task
  const int count_;   // tiles of this ring
  // From find_first_tiles to copy_found_tiles.
  Rows first_keys_[std::max(C::kTilesAhead, 1)];
  Rows first_values_[std::max(C::kTilesAhead, 1)];
  std::int64_t v_offset_ = 0;
  std::uint32_t query_at_ = 0;
  std::uint32_t query_[C::kMatrices][C::kQueryInRegisters ? C::kSteps : 1][2];
  float m_[C::kMatrices][2];
  float l_[C::kMatrices][2];  // over this lane's tokens only, until sum_lanes
  float acc_[C::kMatrices][C::kSteps][4];
};

}  // namespace pkv::cuda

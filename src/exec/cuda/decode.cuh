// The decode kernel on tensor cores: one block a task, K and V read once for all query heads of a KV head.
// Not here: launches (cuda_backend.cc), merging splits (merge.cuh), types and shapes it lacks (simple.cuh).
//
// Maths. For the query heads h of a group and the tokens j of a task: x_hj = scale * q_h . k_j (capped if
// asked), m_h = max_j x_hj, l_h = sum_j exp(x_hj - m_h), acc_h = sum_j exp(x_hj - m_h) v_j. Two states
// (m, l, acc) merge by m = max, both scaled by exp(m_i - m) and added; so do tiles, warps and splits.
//
// Traffic. A token of a KV head costs 4 * head_dim bytes and 4 * group * head_dim FLOPs: at 8 heads a
// group 8 FLOPs a byte, where an H100 has 300. The kernel is a copy with arithmetic hidden under it; what
// decides is bytes in flight an SM (64 KB reach the limit on an H100, 32 KB lose 8%) and the gaps at both
// ends of a task, which the other blocks of the SM fill.
//
// Layouts. A tile is 16 tokens of one KV head, K [16][head_dim] then V [16][head_dim], rows of
// 2 * kHeadDim bytes, 16-byte chunk c of row r stored at chunk c ^ (r & 7): ldmatrix meets no bank twice.
// Every token row has its own address in the pages, so page sizes, strides and NHD cost nothing.
//
// Mapping. A warp (or kHeadSplit warps, which then halve the query heads between them) owns a ring of
// kStages tiles and takes every kGroups-th tile of the task. S = K Q^T is [16 tokens][8 heads] a
// matrix: K is the A operand, so that the few query heads fill the narrow side. In a fragment of S a lane
// holds the tokens lane/4 and lane/4 + 8 of the heads 2 (lane%4) and + 1. acc^T = V^T P is [16 dims]
// [8 heads] with the same two heads a lane: rescaling needs no exchange. P goes from S's layout to the B
// operand's by movmatrix; V^T comes from ldmatrix.trans.
// P is split into a high and a low 16-bit part, two products each: the error of a result is then the
// rounding of FP32, not of P (bf16 alone would err by 2^-9). It costs 8 of 24 products a tile, hidden.
//
// Invariants. Rows beyond the task's end are zero in shared memory (cp.async reads 0 bytes of them) and
// masked to -inf in S, so that a NaN there is never multiplied. Copies of a stage begin only after all
// warps that share it have read it. Page ids arrive with the tile one ring ahead: no load waits for one.
#pragma once

#include "exec/cuda/output.cuh"
#include "exec/cuda/params.h"
#include "exec/cuda/ptx.cuh"

namespace pkv::cuda {

inline constexpr int kTileTokens = 16;

/// kMatrices: 8-head matrices a warp computes; kHeadSplit: warps that share a tile. Together they cover
/// 8 * kMatrices * kHeadSplit query heads.
template <typename ElementT, int kHeadDimT, int kMatricesT, int kHeadSplitT, int kWarpsT, int kStagesT, int kBlocksT>
struct DecodeConfig {
  using T = ElementT;
  static constexpr int kHeadDim = kHeadDimT;
  static constexpr int kMatrices = kMatricesT;
  static constexpr int kHeadSplit = kHeadSplitT;
  static constexpr int kWarps = kWarpsT;
  static constexpr int kStages = kStagesT;
  static constexpr int kBlocksPerSm = kBlocksT;

  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kGroups = kWarps / kHeadSplit;  // rings of a block
  static constexpr int kHeads = 8 * kMatrices * kHeadSplit;
  static constexpr int kRowBytes = 2 * kHeadDim;
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kTileBytes = kTileTokens * kRowBytes;  // of K; V as much
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kRingBytes = kGroups * kStages * kStageBytes;
  static constexpr int kIdBytes = kWarps * kStages * 32 * 4;
  static constexpr int kSteps = kHeadDim / 16;  // matrices along the head dimension
  // Fragments of Q take kSteps * kMatrices * 2 registers; beside a large accumulator they stay in memory.
  static constexpr bool kQueryInShared = kHeadDim * kMatrices > 256;
  static constexpr int kQueryBytes = kQueryInShared ? kHeadSplit * kSteps * kMatrices * 32 * 8 : 0;
  static constexpr int kSharedBytes = kRingBytes + kIdBytes + kQueryBytes;

  // Merging the warps reuses the ring. The pitch shifts neighbouring heads by 8 banks.
  static constexpr int kMergePitch = kHeadDim + 4;
  static constexpr int kMergeBytes = kGroups * kHeads * (kMergePitch + 2) * 4;

  static_assert(kHeadDim % 64 == 0 && kHeadDim <= 256);
  static_assert(kWarps % kHeadSplit == 0);
  static_assert(32 % kRowChunks == 0 && kTileTokens % ((32 / kRowChunks) * kHeadSplit) == 0);
  static_assert(kMergeBytes <= kRingBytes, "the states of all warps must fit the ring");
  static_assert(kSharedBytes <= 99 * 1024, "one block must fit every GPU from compute capability 8.6 on");
};

/// One task and KV head, seen by one thread. Phases in the order they run.
template <class C>
class Decoder {
  using T = typename C::T;
  using E = Element<T>;

 public:
  __device__ Decoder(const LayerParams& params, const DeviceTask& task, int kv_head, unsigned char* shared)
      : p_(params),
        task_(task),
        kv_head_(kv_head),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        group_(warp_ / C::kHeadSplit),
        part_(warp_ % C::kHeadSplit),
        shared_(shared),
        ring_(shared_address(shared) + group_ * C::kStages * C::kStageBytes),
        ids_(shared_address(shared) + C::kRingBytes + (warp_ * C::kStages * 32 + lane_) * 4),
        num_tiles_((task.token_end - task.token_begin + kTileTokens - 1) / kTileTokens),
        policy_(evict_first_policy()) {
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

  /// Loads of page ids: the only ones that do not depend on the kernel ahead.
  __device__ void begin() {
#pragma unroll
    for (int stage = 0; stage < C::kStages; ++stage) {
      const int token = token_of(tile_at(stage));
      first_ids_[stage] = token < task_.token_end ? load_early(id_address(token)) : 0;
    }
  }

  __device__ void run() {
    if (num_tiles_ > 0) {
      load_queries();
      fill_ring();
      walk_tiles();
    }
    wait_copies<0>();
    __syncthreads();  // the ring is read out: its memory takes the warps' states
    publish_states();
    __syncthreads();
    finish();
  }

 private:
  // ---- where things lie -------------------------------------------------------------------------

  __device__ int tile_at(int step) const { return group_ + step * C::kGroups; }
  /// The token whose address this lane works out for a tile.
  __device__ int token_of(int tile) const {
    return task_.token_begin + tile * kTileTokens + lane_ % kTileTokens;
  }
  __device__ const std::int32_t* id_address(int token) const {
    return p_.page_ids + (static_cast<std::int64_t>(task_.page_id_offset) + page_of(p_, token));
  }
  __device__ std::uint32_t stage_address(int stage) const { return ring_ + stage * C::kStageBytes; }
  __device__ std::uint32_t id_slot(int stage) const { return ids_ + stage * 32 * 4; }
  __device__ int first_head() const { return part_ * C::kMatrices * 8; }

  // ---- loads ------------------------------------------------------------------------------------

  /// Fragments of Q^T: a lane holds dimensions 16 d + 2 (lane%4) + {0, 1, 8, 9} of head lane/4.
  __device__ void load_queries() {
    const T* row = static_cast<const T*>(p_.q) + task_.row * p_.q_row_stride +
                   static_cast<std::int64_t>(kv_head_) * p_.group_size * p_.q_head_stride;
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
      const int head = first_head() + n * 8 + lane_ / 4;
      const T* q = row + head * p_.q_head_stride + lane_ % 4 * 2;
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int dim = d * 16 + i * 8;  // head_dim is a multiple of 8: all of these 8 or none
          const bool exists = head < p_.group_size && dim < p_.head_dim;
          const std::uint32_t pair = exists ? load_early(reinterpret_cast<const std::uint32_t*>(q + dim)) : 0U;
          if constexpr (C::kQueryInShared) {
            query_shared(d, n)[i] = pair;  // written alike by the groups, each warp part its own heads
          } else {
            query_[n][d][i] = pair;
          }
        }
      }
    }
  }

  __device__ std::uint32_t* query_shared(int d, int n) const {
    auto* all = reinterpret_cast<std::uint32_t*>(shared_ + C::kRingBytes + C::kIdBytes);
    return all + ((part_ * C::kSteps + d) * C::kMatrices + n) * 64 + lane_ * 2;
  }

  __device__ void query_fragment(int d, int n, std::uint32_t (&b)[2]) const {
    if constexpr (C::kQueryInShared) {
      const uint2 pair = *reinterpret_cast<const uint2*>(query_shared(d, n));
      b[0] = pair.x;
      b[1] = pair.y;
    } else {
      b[0] = query_[n][d][0];
      b[1] = query_[n][d][1];
    }
  }

  /// Starts the copies of a tile's K and V into a stage, and of the page id that the stage's next tile needs.
  __device__ void copy_tile(int step, int stage, std::int32_t page_id) {
    const int tile = tile_at(step);
    const int token = token_of(tile);
    const std::int64_t slot = token - page_of(p_, token) * p_.page_size;
    const std::int64_t k_offset = page_id * p_.k_strides.page + slot * p_.k_strides.slot;
    const std::int64_t v_offset = page_id * p_.v_strides.page + slot * p_.v_strides.slot;
    constexpr int kRowsAtOnce = 32 / C::kRowChunks;
    constexpr int kIterations = kTileTokens / kRowsAtOnce / C::kHeadSplit;
    const int chunk = lane_ % C::kRowChunks;
    const bool chunk_exists = chunk * 8 < p_.head_dim;
    const auto* k = static_cast<const unsigned char*>(p_.k) + kv_head_ * p_.k_strides.kv_head + chunk * 16;
    const auto* v = static_cast<const unsigned char*>(p_.v) + kv_head_ * p_.v_strides.kv_head + chunk * 16;
    const int tokens_left = task_.token_end - task_.token_begin - tile * kTileTokens;
#pragma unroll
    for (int i = 0; i < kIterations; ++i) {
      const int row = (part_ * kIterations + i) * kRowsAtOnce + lane_ / C::kRowChunks;
      const std::int64_t k_row = __shfl_sync(0xFFFFFFFFU, k_offset, row);
      const std::int64_t v_row = __shfl_sync(0xFFFFFFFFU, v_offset, row);
      const bool exists = row < tokens_left && chunk_exists;
      const std::uint32_t to = stage_address(stage) + row * C::kRowBytes + ((chunk ^ (row & 7)) << 4);
      copy_async_16(to, exists ? k + k_row : p_.k, exists ? 16 : 0, policy_);
      copy_async_16(to + C::kTileBytes, exists ? v + v_row : p_.v, exists ? 16 : 0, policy_);
    }
    const int next_token = token_of(tile_at(step + C::kStages));
    const bool has_next = next_token < task_.token_end;
    copy_async_4(id_slot(stage), has_next ? id_address(next_token) : p_.page_ids, has_next ? 4 : 0);
  }

  __device__ std::int32_t arrived_id(int stage) const {
    std::int32_t id;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(id) : "r"(id_slot(stage)) : "memory");
    return id;
  }

  // ---- the walk ---------------------------------------------------------------------------------

  __device__ void sync_sharers() const {
    if constexpr (C::kHeadSplit == 1) {
      __syncwarp();
    } else if constexpr (C::kHeadSplit == C::kWarps) {
      __syncthreads();
    } else {
      barrier_among(1 + group_, 32 * C::kHeadSplit);
    }
  }

  __device__ void fill_ring() {
#pragma unroll
    for (int stage = 0; stage < C::kStages; ++stage) {
      if (tile_at(stage) < num_tiles_) {
        copy_tile(stage, stage, first_ids_[stage]);
      }
      commit_copies();
    }
    if constexpr (C::kQueryInShared) {
      __syncwarp();
    }
  }

  __device__ void walk_tiles() {
    int stage = 0;
    for (int step = 0; tile_at(step) < num_tiles_; ++step) {
      wait_copies<C::kStages - 1>();
      sync_sharers();
      const std::int32_t next_id = arrived_id(stage);
      compute_tile(tile_at(step), stage);
      sync_sharers();
      if (tile_at(step + C::kStages) < num_tiles_) {
        copy_tile(step + C::kStages, stage, next_id);
      }
      commit_copies();
      stage = stage + 1 == C::kStages ? 0 : stage + 1;
    }
  }

  // ---- one tile ---------------------------------------------------------------------------------

  __device__ void compute_tile(int tile, int stage) {
    float x[C::kMatrices][4];
    score(stage, x);
    shape_logits(tile, x);
    raise_maximum(x);
    std::uint32_t high[C::kMatrices][2];
    std::uint32_t low[C::kMatrices][2];
    weigh(x, high, low);
    accumulate(stage, high, low);
  }

  __device__ void score(int stage, float (&x)[C::kMatrices][4]) const {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[n][i] = 0.0F;
    }
    const std::uint32_t row = stage_address(stage) + (lane_ % 16) * C::kRowBytes;
#pragma unroll
    for (int d = 0; d < C::kSteps; ++d) {
      std::uint32_t a[4];
      load_matrices(a, row + (((d * 2 + lane_ / 16) ^ (lane_ & 7)) << 4));
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
        std::uint32_t b[2];
        query_fragment(d, n, b);
        E::mma(x[n], a, b);
      }
    }
  }

  /// Dot products to logits: scale, cap, and -inf for rows beyond the end.
  __device__ void shape_logits(int tile, float (&x)[C::kMatrices][4]) const {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[n][i] *= p_.scale;
    }
    if (p_.soft_cap > 0.0F) {
      const float inverse = 1.0F / p_.soft_cap;
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[n][i] = p_.soft_cap * tanhf(x[n][i] * inverse);
      }
    }
    const int tokens_left = task_.token_end - task_.token_begin - tile * kTileTokens;
    if (tokens_left < kTileTokens) {
      const int token = lane_ / 4;
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[n][i] = token + (i / 2) * 8 < tokens_left ? x[n][i] : -INFINITY;
      }
    }
  }

  /// The running maximum over all tokens so far; accumulators follow it when it rose for any head.
  __device__ void raise_maximum(const float (&x)[C::kMatrices][4]) {
    bool rose = false;
    float top[C::kMatrices][2];
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float most = fmaxf(x[n][h], x[n][h + 2]);
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
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float factor = weight(m_[n][h], top[n][h]);
        m_[n][h] = top[n][h];
        l_[n][h] *= factor;
#pragma unroll
        for (int d = 0; d < C::kSteps; ++d) {
          acc_[n][d][h] *= factor;
          acc_[n][d][h + 2] *= factor;
        }
      }
    }
  }

  /// exp(x - m) as the B operand, in two parts whose sum it is, and its sum into l (this lane's tokens).
  __device__ void weigh(const float (&x)[C::kMatrices][4], std::uint32_t (&high)[C::kMatrices][2],
                        std::uint32_t (&low)[C::kMatrices][2]) {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float a = weight(x[n][half * 2], m_[n][0]);
        const float b = weight(x[n][half * 2 + 1], m_[n][1]);
        l_[n][0] += a;
        l_[n][1] += b;
        const auto rounded = E::round(a, b);
        const float2 kept = E::widen(rounded);
        high[n][half] = transpose_matrix(bits_of(rounded));
        low[n][half] = transpose_matrix(bits_of(E::round(a - kept.x, b - kept.y)));
      }
    }
  }

  __device__ void accumulate(int stage, const std::uint32_t (&high)[C::kMatrices][2],
                             const std::uint32_t (&low)[C::kMatrices][2]) {
    const std::uint32_t row =
        stage_address(stage) + C::kTileBytes + (lane_ % 8 + lane_ / 16 * 8) * C::kRowBytes;
#pragma unroll
    for (int d = 0; d < C::kSteps; ++d) {
      std::uint32_t a[4];
      load_matrices_transposed(a, row + (((d * 2 + lane_ / 8 % 2) ^ (lane_ & 7)) << 4));
#pragma unroll
      for (int n = 0; n < C::kMatrices; ++n) {
        E::mma(acc_[n][d], a, high[n]);
        E::mma(acc_[n][d], a, low[n]);
      }
    }
  }

  // ---- the end ----------------------------------------------------------------------------------

  __device__ float* shared_acc(int group, int head) const {
    return reinterpret_cast<float*>(shared_) + (group * C::kHeads + head) * C::kMergePitch;
  }
  __device__ float2* shared_ml(int group, int head) const {
    return reinterpret_cast<float2*>(reinterpret_cast<float*>(shared_) + C::kGroups * C::kHeads * C::kMergePitch) +
           group * C::kHeads + head;
  }

  /// Every warp's state of its heads to shared memory, [group][head][dim].
  __device__ void publish_states() {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = l_[n][h];
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 4);
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 8);
        sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 16);
        const int head = first_head() + n * 8 + lane_ % 4 * 2 + h;
        float* acc = shared_acc(group_, head);
        if (lane_ / 4 == 0) {
          *shared_ml(group_, head) = make_float2(m_[n][h], sum);
        }
#pragma unroll
        for (int d = 0; d < C::kSteps; ++d) {
          acc[d * 16 + lane_ / 4] = acc_[n][d][h];
          acc[d * 16 + lane_ / 4 + 8] = acc_[n][d][h + 2];
        }
      }
    }
  }

  /// The groups' states become the task's, in the order of the groups.
  __device__ void finish() {
    const int quads = p_.head_dim / 4;
    const int slot = task_.partial_slot < 0 ? -1
                                            : task_.partial_slot + (kv_head_ - task_.kv_head_begin) * task_.slot_stride;
    for (int i = static_cast<int>(threadIdx.x); i < p_.group_size * quads; i += C::kThreads) {
      const int head = i / quads;
      const int d = (i - head * quads) * 4;
      float m = -INFINITY;
#pragma unroll
      for (int g = 0; g < C::kGroups; ++g) m = fmaxf(m, shared_ml(g, head)->x);
      float l = 0.0F;
      float4 acc = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll
      for (int g = 0; g < C::kGroups; ++g) {
        const float2 state = *shared_ml(g, head);
        const float w = weight(state.x, m);
        const float4 part = *reinterpret_cast<const float4*>(shared_acc(g, head) + d);
        l += w * state.y;
        acc = make_float4(acc.x + w * part.x, acc.y + w * part.y, acc.z + w * part.z, acc.w + w * part.w);
      }
      if (slot < 0) {
        finish_head(p_, task_.row, kv_head_ * p_.group_size + head, d, m, l, acc);
      } else {
        store_partial(p_, slot, head, d, m, l, acc);
      }
    }
  }

  const LayerParams& p_;
  const DeviceTask& task_;
  const int kv_head_;
  const int lane_;
  const int warp_;
  const int group_;  // which ring
  const int part_;   // which of the warps that share it
  unsigned char* const shared_;
  const std::uint32_t ring_;
  const std::uint32_t ids_;
  const int num_tiles_;
  const std::uint64_t policy_;
  std::int32_t first_ids_[C::kStages];
  std::uint32_t query_[C::kMatrices][C::kQueryInShared ? 1 : C::kSteps][2];
  float m_[C::kMatrices][2];
  float l_[C::kMatrices][2];                // over this lane's tokens only
  float acc_[C::kMatrices][C::kSteps][4];
};

}  // namespace pkv::cuda

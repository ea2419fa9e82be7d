// The decode kernel on tensor cores: a block takes tasks from the list until none is left; K and V are read
// once for all query heads of a KV head.
// Not here: launches (cuda_backend.cc), merging splits (merge.cuh), types and shapes it lacks (simple.cuh).
//
// Maths. For the query heads h of a group and the tokens j of a task: x_hj = scale * q_h . k_j (capped if
// asked), m_h = max_j x_hj, l_h = sum_j exp(x_hj - m_h), acc_h = sum_j exp(x_hj - m_h) v_j. Two states
// (m, l, acc) merge by m = max, both scaled by exp(m_i - m) and added; so do tiles, warps and splits.
//
// Traffic. A token of a KV head costs 4 * head_dim bytes and 4 * group * head_dim FLOPs: at 8 heads a
// group 8 FLOPs a byte, where an H100 has 300. The kernel is a copy with arithmetic hidden under it; what
// decides is bytes in flight an SM (64 to 128 KB reach the limit of an H100, 32 KB lose 8%; 192 KB in
// three blocks an SM only lengthened the queue, and every start of a task with it: 171 to 181 us on B8
// bimodal), and that nothing stops the copies between two tasks.
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
// From task to task. Lane 0 of the block draws tasks ahead, only as far as the rings need: a long task is
// followed by one known task, short ones by two, so that the ends of a launch stay level. A warp that sees a
// new task starts copies of its queries and first page ids; when these are there and its own tiles have all
// been asked for, it goes on with the next task's tiles: the ring does not run dry at a border. A ring is a
// sequence of tiles; where a task was not known in time the sequence has gaps, which the reader skips.
//
// Invariants. Rows beyond the task's end are zero in shared memory (cp.async reads 0 bytes of them) and
// masked to -inf in S, so that a NaN there is never multiplied. Copies into a stage begin only after all
// warps that share it have read it. Exactly one group of copies is committed a step, so that waiting for
// all but kStages - 1 groups means the tile at hand has arrived. The page id of a tile arrives with the
// tile one ring ahead: no load waits for one. All sharers of a ring decide alike what is copied next.
#pragma once

#include <algorithm>
#include <type_traits>

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

/// The list of tasks in the order in which a block takes them: blockIdx, then whatever is drawn. Run by lane 0
/// of warp 0; all threads read slot() of the task at hand, and of later ones that they found is_known().
/// Drawing takes two trips to the L2, spread over three calls of advance(), so that nothing waits for it in a
/// long task. kAhead: tasks known beyond the one at hand, at most.
template <int kAhead>
class TaskQueue {
 public:
  static constexpr int kSlots = 2 * kAhead;  // a slot is written again only after a barrier of the block
  static constexpr int kSlotBytes = sizeof(DeviceTask) + 8;  // with a flag for each

  /// `memory`: kSlots * kSlotBytes of shared memory.
  __device__ TaskQueue(const LayerParams& params, unsigned char* memory)
      : p_(params),
        slots_(reinterpret_cast<DeviceTask*>(memory)),
        flags_(shared_address(memory) + kSlots * sizeof(DeviceTask)) {}

  [[nodiscard]] __device__ const DeviceTask& slot(int number) const { return slots_[number & (kSlots - 1)]; }
  /// Of a number that is less than kSlots above the last that is known.
  [[nodiscard]] __device__ bool is_known(int number) const { return flag_is_raised(flag(number), number / kSlots & 1); }

  /// By one thread, ahead of a barrier of the block.
  __device__ void begin(const DeviceTask& first) {
    for (int i = 0; i < kSlots; ++i) init_flag(flag(i));
    slots_[0] = last_ = first;
    raise_flag(flag(0));
  }

  /// `tokens_left` of the task `current` are still to be read; more tasks are wanted when all that is known
  /// comes to less than `wanted`.
  __device__ void advance(int current, int tokens_left, int wanted) {
    switch (state_) {
      case State::kIdle:
        if (last_.row >= 0 && number_ < current + kAhead) {
          const bool is_ahead = number_ > current;  // then one task is known whose tokens count
          const int tokens = tokens_left + (is_ahead ? last_.token_end - last_.token_begin : 0);
          if (tokens < wanted) {
            look_after_last();
          }
        }
        break;
      case State::kDrawn:
        found_ = drawn_ < p_.num_tasks ? p_.tasks[drawn_] : DeviceTask{};
        state_ = State::kFound;
        break;
      case State::kFound: publish(); break;
    }
  }

  /// Before a barrier: the task after `current` is known afterwards.
  __device__ void complete(int current) {
    while (number_ <= current) advance(current, 0, 1);
  }

  /// The last block to leave puts the counters back to 0 for the next launch.
  static __device__ void leave(const LayerParams& p) {
    if (!draws(p)) {
      return;
    }
    if (atomicAdd(p.queue + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      p.queue[0] = 0;
      p.queue[1] = 0;
    }
  }

 private:
  enum class State { kIdle, kDrawn, kFound };

  [[nodiscard]] __device__ std::uint32_t flag(int number) const { return flags_ + (number & (kSlots - 1)) * 8; }

  static __device__ bool draws(const LayerParams& p) { return p.num_tasks > static_cast<int>(gridDim.x); }

  __device__ void look_after_last() {
    if (last_.kv_head_begin + 1 < last_.kv_head_end) {  // a task of several heads: the next one of them
      found_ = next_head(last_);
      state_ = State::kFound;
    } else if (draws(p_)) {
      drawn_ = atomicAdd(p_.queue, 1) + static_cast<int>(gridDim.x);
      state_ = State::kDrawn;
    } else {
      found_ = DeviceTask{};
      publish();
    }
  }

  __device__ void publish() {
    ++number_;
    slots_[number_ & (kSlots - 1)] = last_ = found_;
    raise_flag(flag(number_));
    state_ = State::kIdle;
  }

  const LayerParams& p_;
  DeviceTask* const slots_;
  const std::uint32_t flags_;
  State state_ = State::kIdle;
  int number_ = 0;  // of the last task that is known
  int drawn_ = 0;
  DeviceTask last_;
  DeviceTask found_;
};

/// Where a block takes one task and leaves.
struct NoQueue {
  static constexpr int kSlots = 1;
  static constexpr int kSlotBytes = 0;
  __device__ NoQueue(const LayerParams& /*params*/, unsigned char* /*memory*/) {}
};

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
  // Large groups have little room for more sets of queries, and single warps many neighbours.
  static constexpr int kAhead = kHeads <= 8 && kGroups > 1 ? 2 : 1;
  // Blocks draw tasks where one fills an SM; where several do, each takes one and leaves: while one ends and the next
  // begins, the others read.
  static constexpr bool kDraws = kBlocksPerSm == 1;
  using Queue = std::conditional_t<kDraws, TaskQueue<kAhead>, NoQueue>;
  // P in two parts: what small groups have time for, and what bf16 needs (2^-9 of P would show).
  // On 10.0 the d 256 kernels have no spills only with it.
  static constexpr bool kExactWeights = kHeads <= 8 || Element<T>::kBits < 10 || (kArch == 1000 && kHeadDim > 128);
  // Fragments of Q take kSteps * kMatrices * 2 registers; beside a large accumulator, or where many blocks share the
  // registers of an SM, they stay in memory.
  static constexpr int kMostQueryColumns = kThreads * kBlocksPerSm <= 256 ? 256 : 128;
  static constexpr bool kQueryInRegisters =
      kHeadDim * kMatrices * kTileMatrices <= kMostQueryColumns && kThreads * kBlocksPerSm <= 384;
  static constexpr int kQueryPitch = kRowBytes + 16;  // of a head; the shift avoids bank conflicts
  // The pitch of merged states shifts neighbouring heads by 8 banks.
  static constexpr int kMergePitch = kHeadDim + 4;
  static constexpr int kMergeFloats = kHeads * (kMergePitch + 2);  // of a slot
  static constexpr int kRingBytes = kGroups * kStages * kStageBytes;
  static constexpr int kQueryBytes = Queue::kSlots * kHeads * kQueryPitch;
  // A slot for every group, if there is room; else half of the groups hand their states to the other half. A block of
  // one task has read its tiles and queries when it merges: the states lie in their place.
  static constexpr int kMergeRoom = kDraws ? 36 * 1024 : kRingBytes + kQueryBytes;
  static constexpr bool kSlotForEach = kGroups * kMergeFloats * 4 <= kMergeRoom;
  static constexpr int kMergeSlots = kSlotForEach || kGroups == 1 ? kGroups : kGroups / 2;
  static constexpr int kMergeBytes = kMergeSlots * kMergeFloats * 4;

  // Shared memory, in bytes from its start.
  static constexpr int kRingAt = 0;
  static constexpr int kQueryAt = kRingAt + kRingBytes;
  static constexpr int kMergeAt = kDraws ? kQueryAt + kQueryBytes : 0;
  static constexpr int kIdsAt = kDraws ? kMergeAt + kMergeBytes : std::max(kQueryAt + kQueryBytes, kMergeBytes);
  static constexpr int kFirstIdsAt = kIdsAt + kWarps * kStages * kTileTokens * 4;
  static constexpr int kTasksAt = kFirstIdsAt + Queue::kSlots * kWarps * kStages * kTileTokens * 4;
  static constexpr int kAgreedAt = kTasksAt + Queue::kSlots * Queue::kSlotBytes;  // one word a group
  static constexpr int kSharedBytes = (kAgreedAt + (kDraws ? kGroups * 4 : 0) + 15) / 16 * 16;

  static_assert(kHeadDim % 64 == 0 && kHeadDim <= 256);
  static_assert(kWarps % kHeadSplit == 0 && (kGroups == 1 || kGroups % 2 == 0));
  static_assert((kStages & (kStages - 1)) == 0, "a sequence number finds its stage by a mask");
  static_assert(32 % kRowChunks == 0 && kTileTokens % ((32 / kRowChunks) * kHeadSplit) == 0);
};

/// A block's work, seen by one thread.
template <class C>
class Decoder {
  using T = typename C::T;
  using E = Element<T>;
  static constexpr int kStageMask = C::kStages - 1;

 public:
  __device__ Decoder(const LayerParams& params, unsigned char* shared)
      : p_(params),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        group_(warp_ / C::kHeadSplit),
        part_(warp_ % C::kHeadSplit),
        ring_(shared_address(shared) + C::kRingAt + group_ * C::kStages * C::kStageBytes),
        policy_(evict_first_policy()),
        queue_(params, shared + C::kTasksAt) {}

  /// Ahead of the kernel before: the first task and its page ids depend on nothing that it writes.
  __device__ void prepare(const DeviceTask& first) {
    adopt(first);
    copy_first_ids(first, 0);
    commit_copies();
    if constexpr (C::kDraws) {
      if (threadIdx.x == 0) {
        queue_.begin(first);
      }
    }
  }

  /// The one task that prepare() was given.
  __device__ void run_one(const DeviceTask& task) {
    begin_copies(task);
    begin_task(0);
    walk_tiles(0);
    sum_lanes();
    __syncthreads();  // all have read what the states overwrite
    if constexpr (C::kMergeSlots == C::kGroups) {
      store_states(group_);
      __syncthreads();
    } else {
      halve_groups(0);
    }
    write_result(task);
  }

  /// All tasks, beginning with the one that prepare() was given.
  __device__ void run_all(const DeviceTask& first) {
    begin_copies(first);
    for (int number = 0;; ++number) {
      begin_task(number);
      walk_tiles(number);
      end_task(number);
      if (queue_.slot(number + 1).row < 0) {
        break;
      }
      find_tiles(number + 1);
    }
  }

 private:
  // ---- where things lie -------------------------------------------------------------------------

  __device__ std::uint32_t stage_address(int sequence) const {
    return ring_ + (sequence & kStageMask) * C::kStageBytes;
  }
  __device__ std::uint32_t id_slot(int tile) const {
    return shared_address(shared_) + C::kIdsAt +
           ((warp_ * C::kStages + (tile & kStageMask)) * C::kTileTokens + lane_ % C::kTileTokens) * 4;
  }
  __device__ std::uint32_t first_id_slot(int number, int tile) const {
    const int task = number & (C::Queue::kSlots - 1);
    return shared_address(shared_) + C::kFirstIdsAt +
           (((task * C::kWarps + warp_) * C::kStages + tile) * C::kTileTokens + lane_ % C::kTileTokens) * 4;
  }
  __device__ std::uint32_t query_address(int number) const {
    return shared_address(shared_) + C::kQueryAt + (number & (C::Queue::kSlots - 1)) * C::kHeads * C::kQueryPitch;
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

  __device__ void begin_copies(const DeviceTask& first) {
    copy_queries(first, 0);
    commit_copies();
    wait_copies<1>();  // the page ids
    __syncwarp();
    tokens_ = first.token_end - first.token_begin;
    fill_ring();
    wait_copies<C::kStages>();  // the queries
    __syncthreads();
  }

  // ---- the copying side: ahead_ is the task that it is at ----------------------------------------

  struct Ahead {
    int page_id_offset = 0;
    int token_begin = 0;
    int token_end = 0;
    int kv_head = 0;
    int next = 0;   // tiles of this ring copied so far
    int count = 0;  // tiles of this ring
  };

  __device__ int ring_tiles(int tokens) const {
    const int tiles = (tokens + C::kTileTokens - 1) / C::kTileTokens;
    return tiles > group_ ? (tiles - group_ - 1) / C::kGroups + 1 : 0;
  }
  __device__ static int ring_token(int group, int tile) { return (group + tile * C::kGroups) * C::kTileTokens; }

  __device__ void adopt(const DeviceTask& task) {
    ahead_.page_id_offset = task.page_id_offset;
    ahead_.token_begin = task.token_begin;
    ahead_.token_end = task.token_end;
    ahead_.kv_head = task.kv_head_begin;
    ahead_.next = 0;
    ahead_.count = ring_tiles(task.token_end - task.token_begin);
  }

  __device__ const std::int32_t* id_address(int page_id_offset, int token) const {
    return p_.page_ids + (static_cast<std::int64_t>(page_id_offset) + page_of(p_, token));
  }

  /// Page ids of a task's first kStages tiles, a lane a token.
  __device__ void copy_first_ids(const DeviceTask& task, int number) const {
    if (lane_ >= C::kTileTokens) {  // one writer a word; the other half reads it after a barrier of the warp
      return;
    }
#pragma unroll
    for (int tile = 0; tile < C::kStages; ++tile) {
      const int token = task.token_begin + ring_token(group_, tile) + lane_ % C::kTileTokens;
      const bool exists = token < task.token_end;
      copy_async<4>(first_id_slot(number, tile), exists ? id_address(task.page_id_offset, token) : p_.page_ids,
                   exists ? 4 : 0);
    }
  }

  /// Queries of a task's group, [head][dim] with zeros where there is none; every thread its share.
  __device__ void copy_queries(const DeviceTask& task, int number) const {
    const T* from = static_cast<const T*>(p_.q) + task.row * p_.q_row_stride +
                    static_cast<std::int64_t>(task.kv_head_begin) * p_.group_size * p_.q_head_stride;
    if (p_.q_in_vectors) {
      copy_query_parts<16>(from, query_address(number));
    } else {
      copy_query_parts<4>(from, query_address(number));
    }
  }

  template <int kBytes>
  __device__ void copy_query_parts(const T* from, std::uint32_t to) const {
    constexpr int kElements = kBytes / 2;
    constexpr int kParts = C::kHeadDim / kElements;
#pragma unroll(C::kDraws ? 1 : 4)  // between two tasks nothing waits for it, and registers are few
    for (int i = static_cast<int>(threadIdx.x); i < C::kHeads * kParts; i += C::kThreads) {
      const int head = i / kParts;
      const int dim = i % kParts * kElements;
      const bool exists = head < p_.group_size && dim < p_.head_dim;
      copy_async<kBytes>(to + head * C::kQueryPitch + dim * 2, exists ? from + head * p_.q_head_stride + dim : p_.q,
                         exists ? kBytes : 0);
    }
  }

  /// Byte offsets of K and V of the token that this lane works out, for the tile about to be copied.
  __device__ void locate_tile() {
    const int token = ahead_.token_begin + ring_token(group_, ahead_.next) + lane_ % C::kTileTokens;
    const std::int64_t page_id =
        shared_word(ahead_.next < C::kStages ? first_id_slot(ahead_number_, ahead_.next) : id_slot(ahead_.next));
    const std::int64_t slot = token - page_of(p_, token) * p_.page_size;
    k_offset_ = page_id * p_.k_strides.page + slot * p_.k_strides.slot;
    v_offset_ = page_id * p_.v_strides.page + slot * p_.v_strides.slot;
  }

  /// Starts the copies of 16 rows of K or V.
  __device__ void copy_rows(const void* base, std::int64_t head_offset, std::int64_t offset, std::uint32_t to) const {
    constexpr int kRowsAtOnce = 32 / C::kRowChunks;
    constexpr int kIterations = C::kTileTokens / kRowsAtOnce / C::kHeadSplit;
    const int chunk = lane_ % C::kRowChunks;
    const bool chunk_exists = chunk * 8 < p_.head_dim;
    const auto* from = static_cast<const unsigned char*>(base) + head_offset + chunk * 16;
    const int tokens_left = ahead_.token_end - ahead_.token_begin - ring_token(group_, ahead_.next);
#pragma unroll
    for (int i = 0; i < kIterations; ++i) {
      const int row = (part_ * kIterations + i) * kRowsAtOnce + lane_ / C::kRowChunks;
      const std::int64_t row_offset = __shfl_sync(0xFFFFFFFFU, offset, row);
      const bool exists = row < tokens_left && chunk_exists;
      copy_async_16(to + row * C::kRowBytes + ((chunk ^ (row & 7)) << 4), exists ? from + row_offset : base,
                    exists ? 16 : 0, policy_);
    }
  }

  /// The page ids that the tile one ring later needs.
  __device__ void copy_ids() const {
    if (lane_ >= C::kTileTokens) {
      return;
    }
    const int token = ahead_.token_begin + ring_token(group_, ahead_.next + C::kStages) + lane_ % C::kTileTokens;
    const bool exists = token < ahead_.token_end;
    copy_async<4>(id_slot(ahead_.next), exists ? id_address(ahead_.page_id_offset, token) : p_.page_ids, exists ? 4 : 0);
  }

  __device__ static std::int32_t shared_word(std::uint32_t address) {
    std::int32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
  }

  /// One step of the copying side in two halves, K as soon as its place is free: a tile if there is one, and
  /// always a group.
  __device__ void produce_keys() {
    if (ahead_.next < ahead_.count) {
      locate_tile();
      copy_rows(p_.k, ahead_.kv_head * p_.k_strides.kv_head, k_offset_, stage_address(produced_));
    }
  }
  __device__ void produce_values() {
    if (ahead_.next < ahead_.count) {
      copy_rows(p_.v, ahead_.kv_head * p_.v_strides.kv_head, v_offset_, stage_address(produced_) + C::kTileBytes);
      copy_ids();
      ++ahead_.next;
    }
    commit_copies();
    ++produced_;
  }

  __device__ void fill_ring() {
    while (produced_ - consumed_ < C::kStages) {
      produce_keys();
      produce_values();
    }
  }

  /// Of the tasks that are known: asks for the queries and page ids of one more, and goes on with the next
  /// one's tiles when this one's have all been asked for and the next one's page ids have arrived.
  __device__ void look_ahead(int current, bool next_is_known) {
    fetches_ <<= 1;  // bit i: a fetch was begun i steps ago; after kStages steps it has arrived
    ready_ += (fetches_ >> C::kStages) & 1;
    if (next_is_known) {
      fetch(fetched_ + 1);
      fetches_ |= 1;
    }
    if (ahead_.next >= ahead_.count && ahead_number_ < ready_) {
      const DeviceTask& next = queue_.slot(ahead_number_ + 1);
      if (next.row >= 0) {
        ++ahead_number_;
        adopt(next);
        const bool is_next = ahead_number_ == current + 1;
        begin_next_ = is_next ? produced_ : begin_next_;
        begin_after_ = is_next ? begin_after_ : produced_;
      }
    }
  }

  __device__ void fetch(int number) {
    const DeviceTask& task = queue_.slot(number);
    if (task.row >= 0) {
      copy_queries(task, number);
      copy_first_ids(task, number);
    }
    fetched_ = number;
  }

  /// Where the task's first tile is in the ring: there already, or asked for now.
  __device__ void find_tiles(int number) {
    const DeviceTask& task = queue_.slot(number);
    tokens_ = task.token_end - task.token_begin;
    if (ahead_number_ >= number) {
      consumed_ = begin_next_;
      begin_next_ = begin_after_;
    } else {
      ahead_number_ = number;
      adopt(task);
      consumed_ = produced_;
    }
    fill_ring();
  }

  // ---- the walk ---------------------------------------------------------------------------------

  __device__ void sync_sharers() const {
    if constexpr (C::kHeadSplit == 1) {
      __syncwarp();
    } else if constexpr (C::kHeadSplit == C::kWarps) {
      __syncthreads();
    } else {
      barrier_of_group<C::kGroups, 32 * C::kHeadSplit>(group_);
    }
  }

  __device__ void begin_task(int number) {
    load_queries(number);
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

  /// Whether one more task is known than has been fetched, the same for all that share a ring: one of them
  /// writes it ahead of the barrier at which they meet, which also says that all have read K.
  __device__ bool agree_on_next() const {
    const bool is_known = queue_.is_known(fetched_ + 1);
    if constexpr (C::kHeadSplit == 1) {
      return __all_sync(0xFFFFFFFFU, is_known);
    } else {
      volatile int* agreed = reinterpret_cast<volatile int*>(shared_ + C::kAgreedAt) + group_;
      if (part_ == 0 && lane_ == 0) *agreed = is_known;
      sync_sharers();
      return *agreed != 0 && queue_.is_known(fetched_ + 1);  // all have seen the flag itself
    }
  }

  __device__ void walk_tiles(int number) {
    constexpr int kWantedTokens = 4 * C::kStages * C::kGroups * C::kTileTokens;
    const int count = ring_tiles(tokens_);
    for (int tile = 0; tile < count; ++tile) {
      wait_copies<C::kStages - 1>();
      sync_sharers();
      float x[C::kTileMatrices][C::kMatrices][4];
      score(consumed_, x);
      if constexpr (C::kDraws) {
        if (threadIdx.x == 0) {
          queue_.advance(number, tokens_ - ring_token(0, tile), kWantedTokens);
        }
        look_ahead(number, agree_on_next());
      } else {
        sync_sharers();  // K is read
      }
      produce_keys();
      shape_logits(tokens_ - ring_token(group_, tile), x);
      raise_maximum(tile, x);
      std::uint32_t high[C::kTileMatrices][C::kMatrices][2];
      std::uint32_t low[C::kTileMatrices][C::kMatrices][2];
      weigh(x, high, low);
      accumulate(consumed_, high, low);
      sync_sharers();  // V is read
      ++consumed_;
      produce_values();
    }
  }

  // ---- one tile ---------------------------------------------------------------------------------

  /// Fragments of Q^T: a lane holds dimensions 16 d + 2 (lane%4) + {0, 1, 8, 9} of head lane/4.
  __device__ void load_queries(int number) {
    query_at_ = query_address(number) + (first_head() + lane_ % 8) * C::kQueryPitch + lane_ / 8 * 16;
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
  __device__ void score(int sequence, float (&x)[C::kTileMatrices][C::kMatrices][4]) const {
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
    const std::uint32_t row = stage_address(sequence) + (lane_ % 16) * C::kRowBytes;
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

  __device__ void accumulate(int sequence, const std::uint32_t (&high)[C::kTileMatrices][C::kMatrices][2],
                             const std::uint32_t (&low)[C::kTileMatrices][C::kMatrices][2]) {
    const std::uint32_t row = stage_address(sequence) + C::kTileBytes + (lane_ % 8 + lane_ / 16 * 8) * C::kRowBytes;
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

  /// A slot holds the states of one group: in the layout of fragments while two groups join, then as
  /// [head][dim] and (m, l) pairs behind.
  __device__ float* merge_slot(int slot) const {
    return reinterpret_cast<float*>(shared_ + C::kMergeAt) + slot * C::kMergeFloats;
  }
  __device__ float2* slot_ml(int slot, int head) const {
    return reinterpret_cast<float2*>(merge_slot(slot) + C::kHeads * C::kMergePitch) + head;
  }

  __device__ void end_task(int number) {
    sum_lanes();
    if (threadIdx.x == 0) {
      queue_.complete(number);
    }
    if constexpr (C::kMergeSlots == C::kGroups) {
      store_states(group_);
      __syncthreads();
      catch_up(number);
    } else {
      halve_groups(number);
    }
    write_result(queue_.slot(number));
    if (queue_.slot(number + 1).row >= 0) {
      __syncthreads();  // the slots may be written again
    }
  }

  /// The states of the upper half of the groups join those of the lower half.
  __device__ void halve_groups(int number) {
    constexpr int kUpper = C::kGroups / 2;
    if (group_ >= kUpper) {
      store_fragments(group_ - kUpper);
    }
    __syncthreads();
    if constexpr (C::kDraws) {
      catch_up(number);
    }
    if (group_ < kUpper) {
      add_fragments(group_);
    }
    __syncthreads();  // the fragments lie where the rows go
    if (group_ < kUpper) {
      store_states(group_);
    }
    __syncthreads();
  }

  /// The next task's queries and page ids, if look_ahead() had no time for them.
  __device__ void catch_up(int number) {
    if (ready_ > number) {
      return;
    }
    if (fetched_ <= number) {
      fetch(number + 1);
    }
    commit_copies();
    wait_copies<0>();
    ready_ = fetched_;
    fetches_ = 0;
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

  __device__ float4* fragment_slot(int slot, int n) const {
    return reinterpret_cast<float4*>(merge_slot(slot)) + (part_ * C::kMatrices + n) * C::kSteps * 32 + lane_;
  }

  __device__ void store_fragments(int slot) {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
        fragment_slot(slot, n)[d * 32] = make_float4(acc_[n][d][0], acc_[n][d][1], acc_[n][d][2], acc_[n][d][3]);
      }
      if (lane_ < 4) {
        *slot_ml(slot, first_head() + n * 8 + lane_ * 2) = make_float2(m_[n][0], l_[n][0]);
        *slot_ml(slot, first_head() + n * 8 + lane_ * 2 + 1) = make_float2(m_[n][1], l_[n][1]);
      }
    }
  }

  __device__ void add_fragments(int slot) {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
      float theirs[2];
      float mine[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 other = *slot_ml(slot, first_head() + n * 8 + lane_ % 4 * 2 + h);
        const float top = fmaxf(m_[n][h], other.x);
        mine[h] = weight(m_[n][h], top);
        theirs[h] = weight(other.x, top);
        m_[n][h] = top;
        l_[n][h] = mine[h] * l_[n][h] + theirs[h] * other.y;
      }
#pragma unroll
      for (int d = 0; d < C::kSteps; ++d) {
        const float4 other = fragment_slot(slot, n)[d * 32];
        acc_[n][d][0] = mine[0] * acc_[n][d][0] + theirs[0] * other.x;
        acc_[n][d][1] = mine[1] * acc_[n][d][1] + theirs[1] * other.y;
        acc_[n][d][2] = mine[0] * acc_[n][d][2] + theirs[0] * other.z;
        acc_[n][d][3] = mine[1] * acc_[n][d][3] + theirs[1] * other.w;
      }
    }
  }

  __device__ void store_states(int slot) {
#pragma unroll
    for (int n = 0; n < C::kMatrices; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int head = first_head() + n * 8 + lane_ % 4 * 2 + h;
        float* acc = merge_slot(slot) + head * C::kMergePitch;
        if (lane_ < 4) {
          *slot_ml(slot, head) = make_float2(m_[n][h], l_[n][h]);
        }
#pragma unroll
        for (int d = 0; d < C::kSteps; ++d) {
          acc[d * 16 + lane_ / 4] = acc_[n][d][h];
          acc[d * 16 + lane_ / 4 + 8] = acc_[n][d][h + 2];
        }
      }
    }
  }

  /// The slots' states become the task's, in the order of the slots.
  __device__ void write_result(const DeviceTask task) {
    const int quads = p_.head_dim / 4;
    for (int i = static_cast<int>(threadIdx.x); i < p_.group_size * quads; i += C::kThreads) {
      const int head = i / quads;
      const int d = (i - head * quads) * 4;
      float2 ml[C::kMergeSlots];
      float4 acc[C::kMergeSlots];
#pragma unroll
      for (int slot = 0; slot < C::kMergeSlots; ++slot) {
        ml[slot] = *slot_ml(slot, head);
        acc[slot] = *reinterpret_cast<const float4*>(merge_slot(slot) + head * C::kMergePitch + d);
      }
      const MergeState state = join(ml, acc);
      if (task.partial_slot < 0) {
        finish_head(p_, task.row, task.kv_head_begin * p_.group_size + head, d, state.m, state.l, state.acc);
      } else {
        store_partial(p_, task.partial_slot, head, d, state.m, state.l, state.acc);
      }
    }
    if (p_.finished != nullptr && task.slot_stride > 1) {
      merge_if_last<(C::kHeadDim > 128)>(p_, task);
    }
  }

  const LayerParams& p_;
  unsigned char* const shared_;
  const int lane_;
  const int warp_;
  const int group_;  // which ring
  const int part_;   // which of the warps that share it
  const std::uint32_t ring_;
  const std::uint64_t policy_;
  typename C::Queue queue_;  // lane 0 of warp 0
  Ahead ahead_;
  int produced_ = 0;      // sequence number of the next tile to copy
  int consumed_ = 0;      // ... and to compute
  int begin_next_ = 0;    // where the tiles of the next task begin, if they have been asked for
  int begin_after_ = 0;   // ... and of the one after it (two numbers: an indexed array would leave the registers)
  int ahead_number_ = 0;  // the task that tiles are asked for
  int fetched_ = 0;       // the last task whose queries and page ids have been asked for
  int ready_ = 0;         // ... and have arrived
  unsigned fetches_ = 0;
  std::int64_t k_offset_ = 0;
  std::int64_t v_offset_ = 0;
  int tokens_ = 0;
  std::uint32_t query_at_ = 0;
  std::uint32_t query_[C::kMatrices][C::kQueryInRegisters ? C::kSteps : 1][2];
  float m_[C::kMatrices][2];
  float l_[C::kMatrices][2];  // over this lane's tokens only, until sum_lanes
  float acc_[C::kMatrices][C::kSteps][4];
};

}  // namespace pkv::cuda

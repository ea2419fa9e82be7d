// What a kernel is told: plain structs that host and device code share.
// Not here: how they are filled (cuda_backend.cc), what kernels do with them.
#pragma once

#include <cstdint>

namespace pkv::cuda {

/// A Task as kernels read it: two 16-byte loads.
struct alignas(16) DeviceTask {
  std::int32_t row = -1;  // -1: nothing to do (the unused tail of a graph's list)
  /// The page of token t is page_ids[page_id_offset + t / page_size]; negative where the first pages of a
  /// row lie before its window and were not copied.
  std::int32_t page_id_offset = 0;
  std::int32_t token_begin = 0;
  std::int32_t token_end = 0;
  std::int32_t partial_slot = -1;  // of kv_head_begin; -1: the task writes its output
  std::int32_t slot_stride = 0;    // splits of the row
  std::int32_t first_slot = 0;     // of split 0 and kv_head_begin: where a fused merge begins
  std::int16_t kv_head_begin = 0;
  std::int16_t kv_head_end = 0;
};
static_assert(sizeof(DeviceTask) == 32);

struct alignas(16) DeviceMerge {
  std::int32_t row = -1;  // -1: nothing to do
  std::int32_t slot_begin = 0;
  std::int32_t num_splits = 0;
  std::int32_t all_split = 0;  // 1: the step's tasks write nothing but partial states
};
static_assert(sizeof(DeviceMerge) == 16);

/// Bytes from one page, KV head, slot to the next.
struct ByteStrides {
  std::int64_t page = 0;
  std::int64_t kv_head = 0;
  std::int64_t slot = 0;
};

/// Dimensions of a head that share a copy of (m, l): what a unit of the merge kernel takes, or half of it.
inline constexpr std::int32_t kMergeDims = 32;

/// Copies of (m, l) a head: each is read by threads of one unit.
constexpr std::int32_t merge_parts(std::int32_t head_dim) { return (head_dim + kMergeDims - 1) / kMergeDims; }

/// A word of a partial state that has not been written, or has been read: a NaN that no state contains, as all
/// that arithmetic gives are 0x7FFFFFFF. Every byte is the same, for cudaMemset.
inline constexpr std::uint32_t kAbsent = 0xFFFFFFFFU;

enum class ElementType : std::int32_t { kF32, kF16, kBF16 };

/// One layer of one step. Passed by value as a __grid_constant__.
struct LayerParams {
  const DeviceTask* tasks = nullptr;    // of this launch
  const DeviceMerge* merges = nullptr;  // of this launch
  const std::int32_t* page_ids = nullptr;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  float* lse = nullptr;              // null: not wanted
  const float* sinks = nullptr;      // null: none
  float* partial_ml = nullptr;       // [slot][group_size][merge_parts][2], all the same; absent between launches
  float* partial_acc = nullptr;      // [slot][group_size][head_dim]; absent between launches
  std::int32_t num_merges = 0;       // of this launch
  std::int32_t early_blocks = 0;     // of a decode launch: they may begin while the kernel ahead still runs
  std::int32_t* finished = nullptr;  // [row][kv head]: splits done so far; null: merges are separate
  std::int64_t q_row_stride = 0;     // elements, as are the next three
  std::int64_t q_head_stride = 0;
  std::int64_t out_row_stride = 0;
  std::int64_t out_head_stride = 0;
  ByteStrides k_strides;
  ByteStrides v_strides;
  std::int32_t page_size = 16;
  std::uint32_t page_magic = 0;  // floor(2^32 / page_size) + 1, see page_of
  std::int32_t num_q_heads = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t group_size = 0;
  std::int32_t head_dim = 0;
  std::int32_t merge_parts = 0;  // of head_dim
  float scale = 1.0F;
  float soft_cap = 0.0F;  // 0: none
  ElementType q_type = ElementType::kF16;
  bool q_in_vectors = false;  // every 8 elements of a head lie on 16 bytes
  ElementType out_type = ElementType::kF32;
  bool out_in_vectors = false;  // every 4 elements of a head lie on a multiple of their bytes
};

}  // namespace pkv::cuda

// What the compiled kernels of one instruction set offer, and the arguments they take. Plain data.
// Not here: SIMD code (kernels.cc and the *_inl.h files), workers, validation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "persistentkv/backend.h"
#include "persistentkv/cpu.h"
#include "persistentkv/partial_state.h"
#include "persistentkv/plan.h"

namespace pkv {

/// Tokens of a kernel's tile: two pages of 16. 16 lose 3 to 10%, 64 are equal (cpu_facts.md).
inline constexpr std::int32_t kTileTokens = 32;
/// Tokens of the tile kernels' tiles in pages of 64 tokens and more (HND): all of a head's rows in one piece.
inline constexpr std::int32_t kLargeTileTokens = 64;
/// The most tokens of a tile: where a token has few bytes.
inline constexpr std::int32_t kMostTileTokens = 128;
/// Lanes of the widest vector: every row of scratch is padded to a multiple of it.
inline constexpr std::int32_t kMaxLanes = 16;

/// How the tile kernels ask for what they read next. Which way is fastest is a matter of the CPU's own prefetchers
/// (docs/decisions/0006-cpu-memory-wall.md). Results do not depend on the streams; the level changes the length of
/// tiles, and with it rounding.
struct TilePrefetch {
  /// Pieces of a tile that are asked for side by side: 1, 2, 4 or 8. Pieces of less than 4 KiB go 8 side by side
  /// whatever it says, and those of 256 bytes one after the other.
  std::int32_t streams = 8;
  /// Into the L1 (prefetcht0), or into the L2 (prefetcht1). Only the kernels of AVX-512 can do the former; others
  /// leave it.
  bool into_l1 = false;

  friend bool operator==(const TilePrefetch&, const TilePrefetch&) = default;
};

/// The fastest that was found for CPUs of this kind: of the family (CPUID, extended part included) of a vendor.
TilePrefetch tile_prefetch_of(std::string_view vendor, std::uint32_t family);
/// Of this CPU.
TilePrefetch tile_prefetch_of_cpu();

/// One step as the kernels see it: validated, the same for all tasks.
struct StepArgs {
  AttentionShape shape;
  float scale = 1.0F;
  BlockTable block_table;
  QueryView q;
  PagedKv kv;
  OutputView out;
  float* lse = nullptr;          // [num_rows][num_q_heads]; null: not wanted
  const float* sinks = nullptr;  // [num_q_heads]; null: none
  PartialStates partials;
  TilePrefetch prefetch;
  /// Writes the output of one query head from its state: l and acc [head_dim] relative to m.
  void (*write_head)(const StepArgs& args, std::int32_t row, std::int32_t q_head, float m, float l,
                     const float* acc) = nullptr;
};

/// Asks, at most once a task, what its worker does next, so that the kernel can prefetch it; null: nothing, or
/// nobody knows.
struct Lookahead {
  const Task* (*next)(void* context);
  void* context;
};

/// What one worker needs besides its registers, sized for a plan. Every array is 64-byte aligned.
struct Scratch {
  float* q = nullptr;                      // [heads][padded_dim], scaled
  float* acc = nullptr;                    // [heads][padded_dim]
  float* p = nullptr;                      // [heads][kMostTileTokens]: logits, then weights
  float* m = nullptr;                      // [heads][kMaxLanes]
  float* l = nullptr;                      // [heads][kMaxLanes]
  float* factors = nullptr;                // [max_splits]
  const std::byte** k_lines = nullptr;     // line pairs of the general kernel's next tile
  const std::byte** v_lines = nullptr;     // the same of V
  const std::byte** line_pairs = nullptr;  // [4][pairs_per_list]: of K and V of a tile and of the next
  std::int64_t pairs_per_list = 0;

  /// heads: query heads of a task; splits: of a merge range.
  static Scratch make(std::byte* memory, const AttentionShape& shape, std::int32_t heads, std::int32_t splits);
  static std::int64_t bytes(const AttentionShape& shape, std::int32_t heads, std::int32_t splits);
};

/// Pairs of lines of `tokens` rows of `heads` KV heads, however they lie.
constexpr std::int64_t line_pairs(std::int64_t tokens, std::int64_t heads, std::int64_t row_bytes) {
  return tokens * heads * ((row_bytes + 127) / 128);
}

/// Floats of a head's row in scratch.
constexpr std::int32_t padded_dim(std::int32_t head_dim) { return (head_dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }

/// Smaller groups have no block of query heads that is not full.
inline constexpr std::int32_t kLeastPaddedGroup = 3;
/// Rows of scratch of a KV head in the tile kernels, at most: blocks need not be full.
constexpr std::int32_t padded_group(std::int32_t group_size) { return (group_size + 7) / 8 * 8; }

/// Which decode kernel runs a step.
enum class DecodeKernel : std::uint8_t {
  kGeneral,         // decode_inl.h: any shape, any instruction set
  kAvx2Tile,        // tile_inl.h with the vectors of tile_avx2_inl.h
  kAvx512Tile,      // tile_inl.h with those of tile_avx512_inl.h
  kAvx512Bf16Tile,  // the same with vdpbf16ps
  kAmxTile,         // the same with tdpbf16ps (tile_amx_inl.h)
};

/// "general", "avx2-tile", "avx512-tile", "avx512bf16-tile", "amx-tile".
std::string_view decode_kernel_name(DecodeKernel kernel);

/// What ran, as the kernel itself says it: which one, and the instruction set that it was compiled for.
struct alignas(4) RanKernel {  // as an atomic it is one word
  DecodeKernel kernel = DecodeKernel::kGeneral;
  Isa isa = Isa::kPortable;
  bool into_l1 = false;  // TilePrefetch, as it was done

  friend bool operator==(const RanKernel&, const RanKernel&) = default;
};

/// The kernels of one instruction set.
struct KernelTable {
  Isa isa = Isa::kPortable;
  /// Bytes of a vector register as compiled: 64 for AVX-512, 32 for AVX2, 16 for the portable path.
  std::int32_t vector_bytes = 0;
  /// A task: writes its output, or its partial states.
  RanKernel (*decode)(const StepArgs& args, const Task& task, const Scratch& scratch,
                      const Lookahead& lookahead) = nullptr;
  /// One KV head of a merge range: writes its output.
  void (*merge)(const StepArgs& args, const MergeRange& range, std::int32_t kv_head, const Scratch& scratch) = nullptr;
  /// As StepArgs::write_head.
  void (*write_head)(const StepArgs& args, std::int32_t row, std::int32_t q_head, float m, float l,
                     const float* acc) = nullptr;
};

/// The kernel that KernelTable::decode of `isa` runs a step by.
DecodeKernel decode_kernel(Isa isa, const AttentionShape& shape, DType kv_dtype, DType q_dtype);

/// The kernels compiled for an instruction set, if the build has them and this CPU runs them.
const KernelTable* find_kernels(Isa isa);

}  // namespace pkv

// Compiles the kernels once an instruction set and hands out their tables.
// Not here: the kernels (the *_inl.h files), who chooses (cpu_backend.cc).

#include "exec/cpu/highway_targets.h"
// After highway_targets.h:
#include "exec/cpu/kernels.h"
#include "exec/cpu/tile_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "exec/cpu/kernels.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include "exec/cpu/decode_inl.h"
#include "exec/cpu/merge_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

inline void write_head_of_state(const StepArgs& args, std::int32_t row, std::int32_t q_head, float m, float l,
                                const float* acc) {
  write_head(args, row, q_head, m, l, acc);
}

/// Steps that a kernel of one instruction set takes go to it, the others to the general one.
inline RanKernel decode_best(const StepArgs& args, const Task& task, const Scratch& scratch,
                             const Lookahead& lookahead) {
#if HWY_TARGET == HWY_AVX3
  if (avx512_tile_takes(args.shape)) {
    return avx512_tile_decode(args, task, scratch, lookahead);
  }
#elif HWY_TARGET == HWY_AVX2
  if (avx2_tile_takes(args.shape)) {
    return avx2_tile_decode(args, task, scratch, lookahead);
  }
#endif
  static_cast<void>(lookahead);
  return decode(args, task, scratch);
}

const KernelTable* kernel_table() {
  static constexpr KernelTable kTable = {.isa = compiled_isa(),
                                         .vector_bytes = kLanes * 4,
                                         .decode = &decode_best,
                                         .merge = &merge,
                                         .write_head = &write_head_of_state};
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>

#include "base/math.h"

namespace pkv {
namespace {

constexpr std::int64_t kScratchAlignment = 64;

/// Hands out aligned arrays one after the other; with no memory it only counts.
class ScratchCarver {
 public:
  explicit ScratchCarver(std::byte* memory) : memory_(memory) {}
  template <typename T>
  T* take(std::int64_t count) {
    std::byte* array = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), kScratchAlignment);
    return reinterpret_cast<T*>(array);
  }
  [[nodiscard]] std::int64_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::int64_t used_ = 0;
};

Scratch carve(ScratchCarver& carver, const AttentionShape& shape, std::int64_t heads, std::int64_t splits) {
  constexpr std::int64_t kPairLists = 4;
  // Where what lies together is cut into pieces, each may have a pair more, and a tile has at most 16 such (PairList).
  constexpr std::int64_t kRoundingPairs = 64;
  const std::int64_t dims = padded_dim(shape.head_dim);
  const std::int64_t num_kv_heads = ceil_div<std::int64_t>(heads, shape.group_size());
  const std::int64_t general_pairs = line_pairs(kTileTokens, 1, shape.head_dim * 4);
  if (shape.group_size() >= kLeastPaddedGroup) {
    heads = num_kv_heads * padded_group(shape.group_size());
  }
  Scratch scratch;
  scratch.q = carver.take<float>(heads * dims);
  scratch.acc = carver.take<float>(heads * dims);
  scratch.p = carver.take<float>(heads * kMostTileTokens);
  scratch.m = carver.take<float>(heads * kMaxLanes);
  scratch.l = carver.take<float>(heads * kMaxLanes);
  scratch.factors = carver.take<float>(round_up<std::int64_t>(splits, kMaxLanes));
  scratch.k_lines = carver.take<const std::byte*>(general_pairs);
  scratch.v_lines = carver.take<const std::byte*>(general_pairs);
  scratch.pairs_per_list = line_pairs(kMostTileTokens, num_kv_heads, shape.head_dim * 4) + kRoundingPairs;
  scratch.line_pairs = carver.take<const std::byte*>(kPairLists * scratch.pairs_per_list);
  return scratch;
}

[[maybe_unused]] bool cpu_runs(std::int64_t target) { return (hwy::SupportedTargets() & target) != 0; }

}  // namespace

Scratch Scratch::make(std::byte* memory, const AttentionShape& shape, std::int32_t heads, std::int32_t splits) {
  ScratchCarver carver(memory);
  return carve(carver, shape, heads, splits);
}

std::int64_t Scratch::bytes(const AttentionShape& shape, std::int32_t heads, std::int32_t splits) {
  ScratchCarver carver(nullptr);
  carve(carver, shape, heads, splits);
  return carver.used();
}

std::string_view decode_kernel_name(DecodeKernel kernel) {
  switch (kernel) {
    case DecodeKernel::kGeneral: return "general";
    case DecodeKernel::kAvx2Tile: return "avx2-tile";
    case DecodeKernel::kAvx512Tile: return "avx512-tile";
    case DecodeKernel::kAvx512Bf16Tile: return "avx512bf16-tile";
    case DecodeKernel::kAmxTile: return "amx-tile";
  }
  return "unknown";
}

#if defined(__x86_64__)

DecodeKernel decode_kernel(Isa isa, const AttentionShape& shape, DType kv_dtype, DType q_dtype) {
  if (isa == Isa::kAmx && amx_tile_takes(shape, kv_dtype, q_dtype)) {
    return DecodeKernel::kAmxTile;
  }
  if (isa == Isa::kAvx2 && avx2_tile_takes(shape)) {
    return DecodeKernel::kAvx2Tile;
  }
  const bool has_bf16 = isa == Isa::kAvx512Bf16 || isa == Isa::kAmx;
  if (has_bf16 && avx512_bf16_tile_takes(shape, kv_dtype, q_dtype)) {
    return DecodeKernel::kAvx512Bf16Tile;
  }
  const bool has_tile = isa == Isa::kAvx512 || has_bf16;
  return has_tile && avx512_tile_takes(shape) ? DecodeKernel::kAvx512Tile : DecodeKernel::kGeneral;
}

namespace {

RanKernel decode_avx512_bf16(const StepArgs& args, const Task& task, const Scratch& scratch,
                             const Lookahead& lookahead) {
  return avx512_bf16_tile_takes(args.shape, args.kv.dtype, args.q.dtype)
             ? avx512_bf16_tile_decode(args, task, scratch, lookahead)
             : N_AVX3::decode_best(args, task, scratch, lookahead);
}

RanKernel decode_amx(const StepArgs& args, const Task& task, const Scratch& scratch, const Lookahead& lookahead) {
  return amx_tile_takes(args.shape, args.kv.dtype, args.q.dtype) ? amx_tile_decode(args, task, scratch, lookahead)
                                                                 : decode_avx512_bf16(args, task, scratch, lookahead);
}

/// The table of AVX-512 with another decode.
KernelTable avx512_table_with(Isa isa, decltype(KernelTable::decode) decode) {
  KernelTable table = *N_AVX3::kernel_table();
  table.isa = isa;
  table.decode = decode;
  return table;
}

const KernelTable* avx512_bf16_table() {
  static const KernelTable kTable = avx512_table_with(Isa::kAvx512Bf16, &decode_avx512_bf16);
  return &kTable;
}

const KernelTable* amx_table() {
  static const KernelTable kTable = avx512_table_with(Isa::kAmx, &decode_amx);
  return &kTable;
}

}  // namespace

#else

DecodeKernel decode_kernel(Isa, const AttentionShape&, DType, DType) { return DecodeKernel::kGeneral; }

#endif  // x86-64

const KernelTable* find_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAmx:  // what it does not take runs as avx512bf16
#if HWY_TARGETS & HWY_AVX3
      return find_kernels(Isa::kAvx512Bf16) != nullptr && amx_runs() ? amx_table() : nullptr;
#else
      return nullptr;
#endif
    case Isa::kAvx512Bf16:
#if HWY_TARGETS & HWY_AVX3
      return cpu_runs(HWY_AVX3) && __builtin_cpu_supports("avx512bf16") != 0 ? avx512_bf16_table() : nullptr;
#else
      return nullptr;
#endif
    case Isa::kAvx512:
#if HWY_TARGETS & HWY_AVX3
      return cpu_runs(HWY_AVX3) ? N_AVX3::kernel_table() : nullptr;
#else
      return nullptr;
#endif
    case Isa::kAvx2:
#if HWY_TARGETS & HWY_AVX2
      return cpu_runs(HWY_AVX2) ? N_AVX2::kernel_table() : nullptr;
#else
      return nullptr;
#endif
    case Isa::kPortable:
#if HWY_TARGETS & HWY_EMU128
      return N_EMU128::kernel_table();
#else
      return HWY_STATIC_DISPATCH(kernel_table)();
#endif
  }
  return nullptr;
}

}  // namespace pkv
#endif  // HWY_ONCE

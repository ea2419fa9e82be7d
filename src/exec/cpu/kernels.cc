// Compiles the kernels once an instruction set and hands out their tables.
// Not here: the kernels (the *_inl.h files), who chooses (cpu_backend.cc).

// Only the instruction sets that Isa names: SSE4 would add little to the portable path, and what AVX3_DL adds
// (VNNI, VBMI) the kernels do not use. Scalable vectors cannot be members of arrays, as accumulators are.
#include <hwy/detect_compiler_arch.h>
#if HWY_ARCH_X86
// Four emulated lanes, which gcc turns into SSE2, as the baseline. Highway avoids them on gcc before 12.3
// because of a bug in 16-bit high multiplications (gcc 106322), which no kernel here uses.
#define HWY_BROKEN_EMU128 0
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
// The portable path stays in builds for newer baselines (-march=native).
#define HWY_COMPILE_ALL_ATTAINABLE
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif

#include "exec/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "exec/cpu/kernels.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include "exec/cpu/decode_inl.h"
#include "exec/cpu/merge_inl.h"
#include "exec/cpu/stream_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

constexpr Isa compiled_isa() {
  return HWY_TARGET == HWY_AVX3 ? Isa::kAvx512 : HWY_TARGET == HWY_AVX2 ? Isa::kAvx2 : Isa::kPortable;
}

const KernelTable* kernel_table() {
  static constexpr KernelTable kTable = {.isa = compiled_isa(),
                                         .vector_bytes = kLanes * 4,
                                         .decode = &decode,
                                         .merge = &merge,
                                         .read_streams = &read_streams,
                                         .read_bytes = &read_bytes};
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
constexpr std::int64_t kLinePairBytesOfScratch = 128;

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
  const std::int64_t dims = padded_dim(shape.head_dim);
  const std::int64_t line_pairs = kTileTokens * ceil_div<std::int64_t>(shape.head_dim * 4, kLinePairBytesOfScratch);
  Scratch scratch;
  scratch.q = carver.take<float>(heads * dims);
  scratch.acc = carver.take<float>(heads * dims);
  scratch.p = carver.take<float>(heads * kTileTokens);
  scratch.m = carver.take<float>(heads * kMaxLanes);
  scratch.l = carver.take<float>(heads * kMaxLanes);
  scratch.factors = carver.take<float>(round_up<std::int64_t>(splits, kMaxLanes));
  scratch.k_lines = carver.take<const std::byte*>(line_pairs);
  scratch.v_lines = carver.take<const std::byte*>(line_pairs);
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

const KernelTable* find_kernels(Isa isa) {
  switch (isa) {
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

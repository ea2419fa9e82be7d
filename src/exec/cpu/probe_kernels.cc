// Compiles the probes' loops once an instruction set: memory into registers, summed, nothing else; and exp.
// Not here: attention kernels (kernels.cc), which memory is read (probe.cc).

#include "exec/cpu/highway_targets.h"
// After highway_targets.h:
#include "exec/cpu/probe_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "exec/cpu/probe_kernels.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>

#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {
namespace {

using ProbeU32 = hn::ScalableTag<std::uint32_t>;
using ProbeVec = hn::Vec<ProbeU32>;

template <ReadPrefetch kPrefetch>
HWY_INLINE void prefetch_step(const std::byte* from) {
  if constexpr (kPrefetch != ReadPrefetch::kNone) {
    HWY_UNROLL(4)
    for (std::int64_t i = 0; i < kReadStepBytes; i += 64) {
      __builtin_prefetch(from + i, 0, kPrefetch == ReadPrefetch::kL1 ? 3 : 2);
    }
  }
}

HWY_INLINE ProbeVec add_step(ProbeU32 d, ProbeVec sum, const std::byte* from) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(from);
  HWY_UNROLL(16)
  for (std::int64_t i = 0; i < kReadStepBytes / 4; i += kLanes) {
    sum = hn::Add(sum, hn::LoadU(d, words + i));
  }
  return sum;
}

/// Lane by lane: Highway's own sum is a signed one on AVX-512, where overflow is an error.
HWY_INLINE std::uint32_t sum_of_lanes(ProbeU32 d, const ProbeVec* sums, int count) {
  HWY_ALIGN std::uint32_t lanes[kLanes];
  std::uint32_t total = 0;
  for (int i = 0; i < count; ++i) {
    hn::Store(sums[i], d, lanes);
    for (const std::uint32_t lane : lanes) {
      total += lane;
    }
  }
  return total;
}

template <int kStreams, ReadPrefetch kPrefetch>
std::uint32_t read_blocks(const ReadBlocks& blocks) {
  const ProbeU32 d;
  ProbeVec sums[kStreams];
  for (ProbeVec& sum : sums) {
    sum = hn::Zero(d);
  }
  const auto last = static_cast<std::int64_t>(blocks.walk.size()) - 1;
  for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
    const ReadBlock current = blocks.walk[static_cast<std::size_t>(b)];
    const ReadBlock next = blocks.walk[static_cast<std::size_t>(std::min(b + blocks.ahead, last))];
    for (std::int64_t offset = 0; offset < blocks.unit_bytes; offset += kReadStepBytes) {
      HWY_UNROLL(4)
      for (int s = 0; s < kStreams; ++s) {
        prefetch_step<kPrefetch>(next.streams[s] + offset);
        sums[s] = add_step(d, sums[s], current.streams[s] + offset);
      }
    }
  }
  return sum_of_lanes(d, sums, kStreams);
}

std::uint32_t read_rows(const ReadRows& rows) {
  const ProbeU32 d;
  ProbeVec sum = hn::Zero(d);
  std::uint32_t rest = 0;
  const auto last = static_cast<std::int64_t>(rows.walk.size()) - 1;
  const std::int64_t words = rows.row_bytes / 4;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::byte* ahead = rows.walk[static_cast<std::size_t>(std::min(r + rows.ahead, last))];
    for (std::int64_t i = 0; i < rows.row_bytes; i += 64) {
      __builtin_prefetch(ahead + i, 0, 2);
    }
    const auto* row = reinterpret_cast<const std::uint32_t*>(rows.walk[static_cast<std::size_t>(r)]);
    std::int64_t word = 0;
    for (; word + kLanes <= words; word += kLanes) {
      sum = hn::Add(sum, hn::LoadU(d, row + word));
    }
    for (; word < words; ++word) {
      rest += row[word];
    }
  }
  return sum_of_lanes(d, &sum, 1) + rest;
}

void exp_of_all(const float* x, float* y, std::int64_t count) {
  const F32 d;
  constexpr std::int64_t kStep = 64;  // four vectors of the widest kind in flight
  for (std::int64_t i = 0; i < count; i += kStep) {
    HWY_UNROLL(16)
    for (std::int64_t j = 0; j < kStep; j += kLanes) {
      hn::StoreU(exp_nonpositive(d, hn::LoadU(d, x + i + j)), d, y + i + j);
    }
  }
}

template <int kStreams>
constexpr void set_readers(ProbeKernels& kernels) {
  auto& row = kernels.read_blocks[kStreams / 2];
  row[0] = &read_blocks<kStreams, ReadPrefetch::kNone>;
  row[1] = &read_blocks<kStreams, ReadPrefetch::kL1>;
  row[2] = &read_blocks<kStreams, ReadPrefetch::kL2>;
}

}  // namespace

const ProbeKernels* probe_table() {
  static const ProbeKernels kTable = [] {
    ProbeKernels kernels = {.isa = HWY_TARGET == HWY_AVX3   ? Isa::kAvx512
                                   : HWY_TARGET == HWY_AVX2 ? Isa::kAvx2
                                                            : Isa::kPortable,
                            .read_rows = &read_rows,
                            .exp = &exp_of_all};
    set_readers<1>(kernels);
    set_readers<2>(kernels);
    set_readers<4>(kernels);
    return kernels;
  }();
  return &kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pkv {

std::string_view read_prefetch_name(ReadPrefetch prefetch) {
  switch (prefetch) {
    case ReadPrefetch::kNone: return "none";
    case ReadPrefetch::kL1: return "l1";
    case ReadPrefetch::kL2: return "l2";
  }
  return "unknown";
}

const ProbeKernels& probe_kernels([[maybe_unused]] Isa isa) {
#if HWY_TARGETS & HWY_AVX3
  if (isa != Isa::kAvx2 && isa != Isa::kPortable) {
    return *N_AVX3::probe_table();
  }
#endif
#if HWY_TARGETS & HWY_AVX2
  if (isa == Isa::kAvx2) {
    return *N_AVX2::probe_table();
  }
#endif
#if HWY_TARGETS & HWY_EMU128
  return *N_EMU128::probe_table();
#else
  return *HWY_STATIC_DISPATCH(probe_table)();
#endif
}

}  // namespace pkv
#endif  // HWY_ONCE

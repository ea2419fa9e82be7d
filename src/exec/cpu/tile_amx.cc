// The tile kernel for AMX-BF16: bf16 keys and values are multiplied by tdpbf16ps. And whether it runs here.
// Not here: the kernel (tile_inl.h, tile_amx_inl.h).
#include "exec/cpu/tile_kernels.h"

#if defined(__x86_64__)

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define PKV_TILE_NAMESPACE tile_amx
#define PKV_TILE_VECTORS "exec/cpu/tile_avx512_inl.h"
#define PKV_TILE_BF16 0
#define PKV_TILE_AMX 1
#define PKV_TILE_INTO_L1 0
#define PKV_TILE_ISA "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16"
#include "exec/cpu/tile_inl.h"

namespace pkv {
namespace {

bool cpu_has_amx_bf16() {
  constexpr unsigned kFeatures = 7;
  constexpr unsigned kBf16 = 1U << 22;
  constexpr unsigned kTile = 1U << 24;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid_count(kFeatures, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & (kBf16 | kTile)) == (kBf16 | kTile);
}

/// The 8 KiB of registers are saved only for processes that ask; a permission holds for all threads, for good.
bool system_permits_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, since Linux 5.16
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

static_assert(kAmxLeastGroup >= kLeastPaddedGroup, "its groups are padded");

bool amx_tile_takes(const AttentionShape& shape, DType kv_dtype, DType q_dtype) {
  return kv_dtype == DType::kBF16 && q_dtype == DType::kBF16 && shape.head_dim % 32 == 0 &&
         shape.group_size() >= kAmxLeastGroup;
}

bool amx_runs() {
  static const bool kRuns = cpu_has_amx_bf16() && system_permits_amx();
  return kRuns;
}

RanKernel amx_tile_decode(const StepArgs& args, const Task& task, const Scratch& scratch, const Lookahead& lookahead) {
  tile_amx::TaskRun<tile_amx::Kind::kBF16Amx>(args, task, scratch).run(lookahead);
  return {.kernel = DecodeKernel::kAmxTile, .isa = Isa::kAmx};
}

}  // namespace pkv

#endif  // x86-64

// The CPU backend: a pool of pinned workers and SIMD kernels chosen at run time.
// Not here: kernels, intrinsics, topology (src/exec/cpu).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"

namespace pkv {

/// Instruction sets that a kernel was compiled for.
enum class Isa : std::uint8_t {
  kPortable,    // what every CPU of the build's architecture has: SSE2 on x86-64, NEON on Arm
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // and AVX512-BF16: vdpbf16ps where K, V and queries are bf16
  kAmx,         // and AMX-BF16: tdpbf16ps where K, V and queries are bf16
};

/// "portable", "avx2", "avx512", "avx512bf16", "amx".
std::string_view isa_name(Isa isa);
/// Errors: kInvalidArgument that lists the names.
Result<Isa> parse_isa(std::string_view name);
/// Those compiled in that this CPU runs, the best last.
std::vector<Isa> supported_isas();

/// How workers wait for the next step.
enum class WaitMode : std::uint8_t {
  kSpin,   // awake between steps: lowest latency, a core each
  kSleep,  // spin briefly, then sleep until the next step
};

struct CpuOptions {
  /// Workers, the calling thread included; one a physical core when not set. 1 to 1024.
  std::optional<std::int32_t> threads = std::nullopt;
  /// Pin workers to cores.
  bool pin = true;
  WaitMode wait = WaitMode::kSleep;
  /// The best that the CPU has when not set. An ISA that the CPU lacks is an error.
  std::optional<Isa> isa = std::nullopt;
};

/// Errors: kInvalidArgument (threads), kUnsupported (isa, with the list), kResourceExhausted (threads
/// that the system refuses).
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options = {});

}  // namespace pkv

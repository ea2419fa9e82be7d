// The CPU backend: a pool of pinned workers and SIMD kernels chosen at run time.
// Not here: kernels, intrinsics, topology (src/exec/cpu).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/layout.h"
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

/// On a machine of several NUMA nodes: puts equal ranges of the cache's pages on the nodes of the backend's workers
/// and sets kv.pages_per_node, so that workers prefer the tasks whose pages are near. What was written before is
/// moved, so call it before filling. Let a request's pages lie on one node (PagePool does, when told
/// kv.pages_per_node). On one node, and where workers are not pinned, nothing is touched and pages_per_node is 0.
/// The memory must be writable, and nobody may write to it meanwhile.
/// Errors: kInvalidArgument (not a CPU backend), kUnsupported (the machine's topology cannot be read).
Status place_pages(const Backend& backend, PagedKv& kv);

}  // namespace pkv

// The CPU's probes as one set of figures: reads, fork-join, exp, kernels in cache. What `pkv doctor` shows and a cost
// model reads. Not here: a single probe (exec/cpu/probe.h), decode speed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "exec/cpu/cpu_backend.h"
#include "exec/cpu/probe.h"
#include "persistentkv/result.h"

namespace pkv {

/// Of one figure over the passes.
struct ProbeSpread {
  double median = 0.0;
  double p25 = 0.0;
  double p75 = 0.0;
  double least = 0.0;
  double most = 0.0;
  std::int32_t passes = 0;
};

enum class ReadOrder : std::uint8_t {
  kSequential,
  kRandom,  // chunks of chunk_bytes
  kPages,   // K and V of whole pages: HND, f16, 8 KV heads, d 128, page size 16
};

/// "sequential", "random", "pages".
std::string_view read_order_name(ReadOrder order);

struct ReadRate {
  ReadOrder order = ReadOrder::kSequential;
  std::optional<std::int64_t> chunk_bytes;  // of kRandom only
  std::int32_t workers = 1;
  MemoryPages memory = MemoryPages::kHuge;
  ReadMethod method;
  ProbeSpread gb_per_s;  // 1e9 bytes
};

struct ForkJoinTime {
  std::int32_t workers = 1;
  /// How long the pool had nothing to do before.
  std::int64_t idle_ns = 0;
  ProbeSpread us;
};

struct ExpRate {
  std::int32_t workers = 1;
  ProbeSpread exp_per_ns;
};

/// The decode kernel's rate with K and V in the L2, all workers together: HND, 8 KV heads, queries in the type of
/// K and V.
struct InCacheRate {
  DType dtype = DType::kF16;
  std::string kv_order;
  std::int32_t group_size = 1;
  std::int32_t head_dim = 128;
  std::int32_t page_size = 16;
  std::int32_t workers = 1;
  ProbeSpread gb_per_s;
};

/// How much is measured.
enum class ProbeSet : std::uint8_t {
  kQuick,  // a second or two: one worker and all, the default method
  kFull,   // every number of workers up to 8, then doubled; the method is searched
};

struct CpuProbes {
  std::string cpu;
  Isa isa = Isa::kPortable;
  std::int32_t num_workers = 1;
  std::int32_t num_cores = 0;
  std::int64_t l1d_bytes = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t l3_bytes = 0;
  std::int32_t num_l3 = 0;
  HugePageMode huge_pages = HugePageMode::kUnknown;
  std::int64_t buffer_bytes = 0;
  /// Bytes of the buffer of MemoryPages::kHuge that really lie on huge pages.
  std::int64_t huge_bytes = 0;
  std::int32_t passes = 0;
  /// The fastest of `methods` if it is 3% faster than the default; else, and when none were tried, the default.
  ReadMethod method;
  /// Random chunks of 32 KiB by all workers, one entry a method; kFull only.
  std::vector<ReadRate> methods;
  std::vector<ReadRate> reads;
  std::vector<ForkJoinTime> fork_join;
  std::vector<ExpRate> exp;
  std::vector<InCacheRate> in_cache;
};

struct CpuProbeOptions {
  ProbeSet set = ProbeSet::kQuick;
  /// Each figure is measured so often, 1 to 1000, all figures in turn: the state of memory changes within seconds.
  std::int32_t passes = 5;
  /// Of each of the two buffers; what four last-level caches hold, at least 256 MiB, when not set.
  std::optional<std::int64_t> buffer_bytes = std::nullopt;
  /// Bytes that may be allocated: without buffer_bytes, each buffer takes an eighth of them at most.
  std::optional<std::int64_t> memory_limit_bytes = std::nullopt;
  /// Asked before every read; true ends the measurement with kCancelled.
  std::function<bool()> cancelled = [] { return false; };
};

/// Measures on the backend's workers.
/// Errors: kInvalidArgument (options), kResourceExhausted, kCancelled.
Result<CpuProbes> measure_cpu_probes(CpuBackend& backend, const CpuProbeOptions& options);

/// One object, as docs/file_formats.md describes it; ends without a newline.
std::string cpu_probes_json(const CpuProbes& probes);

/// Bytes of [data, data + bytes) that lie on transparent huge pages, by the kernel's own count of the mapping;
/// 0 where it has none.
std::int64_t huge_page_bytes(const void* data, std::int64_t bytes);

}  // namespace pkv

// Topology: the cores, caches and memory that this process may use.
// Not here: ISA detection (isa.cc), pinning (worker_pool.h), measured bandwidth (probe.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "persistentkv/result.h"

namespace pkv {

/// The system's transparent huge page mode.
enum class HugePageMode : std::uint8_t { kUnknown, kNever, kMadvise, kAlways };

/// "unknown", "never", "madvise", "always".
std::string_view huge_page_mode_name(HugePageMode mode);

struct Topology {
  std::string cpu_model;
  /// First hardware thread (operating system's index) of every physical core that this process may use
  /// (its affinity mask and cpuset), in the machine's order.
  std::vector<std::int32_t> core_cpus;
  /// The NUMA node (operating system's index) of each of them: the first, where a core is in several.
  std::vector<std::int32_t> core_nodes;
  std::int32_t num_hardware_threads = 0;  // usable ones
  std::int32_t num_numa_nodes = 0;        // of the machine, those without cores too
  /// Of one cache; 0: there is none or it is not reported.
  std::int64_t l1d_bytes = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t l3_bytes = 0;
  std::int32_t num_l3 = 0;
  std::int64_t total_memory_bytes = 0;
  /// What may be allocated now without swapping, cgroup limit included; 0: unknown.
  std::int64_t available_memory_bytes = 0;
  HugePageMode huge_pages = HugePageMode::kUnknown;

  [[nodiscard]] std::int32_t num_cores() const { return static_cast<std::int32_t>(core_cpus.size()); }
  /// Bytes of all last-level caches together.
  [[nodiscard]] std::int64_t last_level_cache_bytes() const {
    return num_l3 > 0 ? l3_bytes * num_l3 : l2_bytes * num_cores();
  }
};

/// Asks the system; tens of milliseconds. Errors: kUnsupported if hwloc cannot read this machine.
Result<Topology> read_topology();

/// The same for a machine that exists only as hwloc's description of it ("numa:2 core:4 pu:1"); memory and
/// huge pages are this machine's. For tests. Errors: kInvalidArgument (the description).
Result<Topology> read_synthetic_topology(const std::string& description);

/// Only the memory that may be allocated now, cgroup limit included; 0: unknown. Microseconds.
std::int64_t available_memory_bytes();

}  // namespace pkv

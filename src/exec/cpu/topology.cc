// Topology: hwloc's view of the machine, narrowed to what this process may use.
// Not here: decisions made from it.
#include "exec/cpu/topology.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

#include "exec/cpu/hwloc_handles.h"

namespace pkv {
namespace {

/// Hardware threads that the cpuset and the affinity mask of this process leave.
BitmapHandle usable_cpus(hwloc_topology_t topology) {
  BitmapHandle usable(hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology)));
  const BitmapHandle bound(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology, bound.get(), HWLOC_CPUBIND_PROCESS) == 0 &&
      hwloc_bitmap_intersects(usable.get(), bound.get()) != 0) {
    hwloc_bitmap_and(usable.get(), usable.get(), bound.get());
  }
  return usable;
}

void add_core(Topology& result, int cpu, hwloc_const_bitmap_t nodes) {
  result.core_cpus.push_back(cpu);
  result.core_nodes.push_back(std::max(hwloc_bitmap_first(nodes), 0));
}

void add_cores(Topology& result, hwloc_topology_t topology, hwloc_const_bitmap_t usable) {
  for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != nullptr;) {
    const BitmapHandle of_core(hwloc_bitmap_dup(core->cpuset));
    hwloc_bitmap_and(of_core.get(), of_core.get(), usable);
    if (const int cpu = hwloc_bitmap_first(of_core.get()); cpu >= 0) {
      add_core(result, cpu, core->nodeset);
    }
  }
  if (result.core_cpus.empty()) {  // some virtual machines report no cores
    for (int cpu = hwloc_bitmap_first(usable); cpu >= 0; cpu = hwloc_bitmap_next(usable, cpu)) {
      add_core(result, cpu, hwloc_get_pu_obj_by_os_index(topology, static_cast<unsigned>(cpu))->nodeset);
    }
  }
}

std::int64_t cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type) {
  const hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
  return cache == nullptr ? 0 : static_cast<std::int64_t>(cache->attr->cache.size);
}

std::string cpu_model_name(hwloc_topology_t topology) {
  const hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  const char* name = package == nullptr ? nullptr : hwloc_obj_get_info_by_name(package, "CPUModel");
  return name == nullptr ? "unknown" : name;
}

HugePageMode read_huge_page_mode() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  for (std::string word; file >> word;) {
    if (word == "[never]") {
      return HugePageMode::kNever;
    }
    if (word == "[madvise]") {
      return HugePageMode::kMadvise;
    }
    if (word == "[always]") {
      return HugePageMode::kAlways;
    }
  }
  return HugePageMode::kUnknown;
}

std::optional<std::int64_t> mem_available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    std::int64_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) {
      return kib * 1024;
    }
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

std::optional<std::int64_t> read_number(const char* path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;  // "max" is no number: no limit
}

/// File pages that the system gives back on demand; `used` of a group counts them.
std::int64_t inactive_file_bytes(const char* stat_path) {
  std::ifstream file(stat_path);
  std::string name;
  for (std::int64_t value = 0; file >> name >> value;) {
    if (name == "inactive_file" || name == "total_inactive_file") {
      return value;
    }
  }
  return 0;
}

struct CgroupFiles {
  const char* limit;
  const char* used;
  const char* stat;
};

std::optional<std::int64_t> cgroup_left_bytes(const CgroupFiles& files) {
  const std::optional<std::int64_t> limit = read_number(files.limit);
  const std::optional<std::int64_t> used = read_number(files.used);
  if (!limit || !used) {
    return std::nullopt;
  }
  return std::max<std::int64_t>(*limit - std::max<std::int64_t>(*used - inactive_file_bytes(files.stat), 0), 0);
}

Topology narrow(hwloc_topology_t topology) {
  const BitmapHandle usable = usable_cpus(topology);
  Topology result;
  result.cpu_model = cpu_model_name(topology);
  add_cores(result, topology, usable.get());
  result.num_hardware_threads = hwloc_bitmap_weight(usable.get());
  result.num_numa_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
  result.l1d_bytes = cache_bytes(topology, HWLOC_OBJ_L1CACHE);
  result.l2_bytes = cache_bytes(topology, HWLOC_OBJ_L2CACHE);
  result.l3_bytes = cache_bytes(topology, HWLOC_OBJ_L3CACHE);
  result.num_l3 = std::max(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L3CACHE), 0);
  // Not hwloc's sum over NUMA nodes, which virtual machines may report too low.
  result.total_memory_bytes = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  result.available_memory_bytes = available_memory_bytes();
  result.huge_pages = read_huge_page_mode();
  return result;
}

}  // namespace

std::string_view huge_page_mode_name(HugePageMode mode) {
  switch (mode) {
    case HugePageMode::kUnknown: return "unknown";
    case HugePageMode::kNever: return "never";
    case HugePageMode::kMadvise: return "madvise";
    case HugePageMode::kAlways: return "always";
  }
  return "unknown";
}

std::int64_t available_memory_bytes() {
  std::optional<std::int64_t> available = mem_available_bytes();
  for (const std::optional<std::int64_t>& left :
       {cgroup_left_bytes({.limit = "/sys/fs/cgroup/memory.max",
       .used = "/sys/fs/cgroup/memory.current",
       .stat = "/sys/fs/cgroup/memory.stat"}),
        cgroup_left_bytes({.limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        .used = "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        .stat = "/sys/fs/cgroup/memory/memory.stat"})}) {
    if (left) {
      available = std::min(available.value_or(*left), *left);
    }
  }
  return available.value_or(0);
}

Result<Topology> read_topology() {
  const TopologyHandle handle = load_topology();
  if (handle == nullptr) {
    return Error{ErrorCode::kUnsupported, "hwloc cannot read this machine's topology", "topology"};
  }
  return narrow(handle.get());
}

Result<Topology> read_synthetic_topology(const std::string& description) {
  const TopologyHandle handle = load_topology(
      [&](hwloc_topology_t topology) { return hwloc_topology_set_synthetic(topology, description.c_str()); });
  if (handle == nullptr) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("hwloc cannot make a machine of '{}'", description),
                 "topology"};
  }
  return narrow(handle.get());
}

}  // namespace pkv

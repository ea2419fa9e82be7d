// /proc/meminfo, control groups and hwloc.
#include "replay/memory.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace pkv {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kUnknownCacheBytes = std::int64_t{32} << 20;
constexpr double kGib = 1073741824.0;

std::int64_t meminfo_available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib && std::getline(file, unit)) {
    if (key == "MemAvailable:") {
      return kib * 1024;
    }
  }
  return kUnlimited;
}

/// The number in a file; kUnlimited for "max", no file or anything else.
std::int64_t number_in_file(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

std::int64_t left_in_group(const std::string& limit_path, const std::string& usage_path) {
  const std::int64_t limit = number_in_file(limit_path);
  const std::int64_t usage = number_in_file(usage_path);
  return limit == kUnlimited || usage == kUnlimited ? kUnlimited : std::max<std::int64_t>(0, limit - usage);
}

/// What each control group from the process's own up to the root leaves (version 2), the least of them.
std::int64_t group_available_bytes() {
  std::ifstream file("/proc/self/cgroup");
  std::int64_t left =
      left_in_group("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::")) {
      continue;
    }
    std::string path = line.substr(3);
    while (true) {
      const std::string folder = "/sys/fs/cgroup" + path;
      left = std::min(left, left_in_group(folder + "/memory.max", folder + "/memory.current"));
      if (path.empty() || path == "/") {
        break;
      }
      path.resize(path.find_last_of('/'));
    }
  }
  return left;
}

std::int64_t sum_of_last_level_caches(hwloc_topology_t topology) {
  std::int64_t bytes = 0;
  hwloc_obj_t cpu = nullptr;
  hwloc_obj_t counted = nullptr;
  while ((cpu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, cpu)) != nullptr) {
    hwloc_obj_t largest = nullptr;
    for (hwloc_obj_t above = cpu->parent; above != nullptr; above = above->parent) {
      largest = hwloc_obj_type_is_dcache(above->type) != 0 ? above : largest;
    }
    if (largest != nullptr && largest != counted) {
      bytes += static_cast<std::int64_t>(largest->attr->cache.size);
      counted = largest;
    }
  }
  return bytes;
}

}  // namespace

std::int64_t available_memory_bytes() { return std::min(meminfo_available_bytes(), group_available_bytes()); }

std::int64_t memory_budget_bytes(std::optional<std::int64_t> limit_bytes) {
  return std::min(available_memory_bytes(), limit_bytes.value_or(kUnlimited));
}

Status check_memory(std::int64_t needed_bytes, std::int64_t budget_bytes, std::string_view what) {
  if (needed_bytes <= budget_bytes) {
    return {};
  }
  return Error{
      ErrorCode::kResourceExhausted,
      fmt::format("{} needs {} bytes ({:.2f} GiB), {} bytes ({:.2f} GiB) are available", what, needed_bytes,
                  static_cast<double>(needed_bytes) / kGib, budget_bytes, static_cast<double>(budget_bytes) / kGib),
      "memory"};
}

std::int64_t last_level_cache_bytes() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) {
    return kUnknownCacheBytes;
  }
  const std::int64_t bytes = hwloc_topology_load(topology) == 0 ? sum_of_last_level_caches(topology) : 0;
  hwloc_topology_destroy(topology);
  return bytes > 0 ? bytes : kUnknownCacheBytes;
}

std::int64_t saturating_mul(std::int64_t a, std::int64_t b) {
  return a != 0 && b > kUnlimited / a ? kUnlimited : a * b;
}

std::int64_t saturating_add(std::int64_t a, std::int64_t b) { return b > kUnlimited - a ? kUnlimited : a + b; }

}  // namespace pkv

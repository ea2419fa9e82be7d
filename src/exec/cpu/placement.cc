// Placement: binding through hwloc, or first touch by a thread of the node.
#include "exec/cpu/placement.h"

#include <fmt/format.h>
#include <unistd.h>

#include <system_error>
#include <thread>

#include "exec/cpu/hwloc_handles.h"

namespace pkv {
namespace {

struct MemoryRange {
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
};

/// Pages [page_begin, page_end) of K, or of V.
MemoryRange range_of(const void* base, const PageStrides& strides, DType dtype, std::int64_t page_begin,
                     std::int64_t page_end) {
  const std::int64_t page_bytes = strides.page * dtype_bytes(dtype);
  return {.begin = static_cast<std::byte*>(const_cast<void*>(base)) + page_begin * page_bytes,
          .bytes = static_cast<std::size_t>((page_end - page_begin) * page_bytes)};
}

/// Not strict: with a full node the rest goes to another instead of failing at a page fault.
bool bind(hwloc_topology_t topology, const MemoryRange& range, hwloc_obj_t node) {
  return hwloc_set_area_membind(topology, range.begin, range.bytes, node->nodeset, HWLOC_MEMBIND_BIND,
                                HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE) == 0;
}

/// Every memory page is written by a thread of the node, with what it holds.
void touch(hwloc_topology_t topology, const MemoryRange& range, hwloc_obj_t node) {
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto body = [&] {
    hwloc_set_cpubind(topology, node->cpuset, HWLOC_CPUBIND_THREAD);  // refused: it costs speed only
    for (std::size_t i = 0; i < range.bytes; i += page_bytes) {
      auto* byte = reinterpret_cast<volatile std::byte*>(range.begin + i);
      *byte = *byte;
    }
  };
  try {
    std::thread(body).join();
  } catch (const std::system_error&) {  // no thread: whoever touches first decides
  }
}

void place(hwloc_topology_t topology, const MemoryRange& range, hwloc_obj_t node) {
  if (!bind(topology, range, node)) {
    touch(topology, range, node);
  }
}

}  // namespace

Status place_on_nodes(PagedKv& kv, std::span<const std::int32_t> nodes) {
  const auto num_nodes = static_cast<std::int64_t>(nodes.size());
  kv.pages_per_node = num_nodes < 2 ? 0 : kv.num_pages / num_nodes;
  if (kv.pages_per_node == 0) {
    return {};
  }
  const TopologyHandle topology = load_topology();
  for (std::int64_t i = 0; i < num_nodes; ++i) {
    const std::int32_t index = nodes[static_cast<std::size_t>(i)];
    const hwloc_obj_t node = topology == nullptr
                                 ? nullptr
                                 : hwloc_get_numanode_obj_by_os_index(topology.get(), static_cast<unsigned>(index));
    if (node == nullptr) {
      kv.pages_per_node = 0;
      return Error{ErrorCode::kUnsupported, fmt::format("hwloc finds no NUMA node {} on this machine", index),
                   "placement"};
    }
    const std::int64_t begin = i * kv.pages_per_node;
    const std::int64_t end = i + 1 == num_nodes ? kv.num_pages : begin + kv.pages_per_node;
    place(topology.get(), range_of(kv.k, kv.layout.k_strides, kv.dtype, begin, end), node);
    if (kv.layout.v_offset == 0) {
      place(topology.get(), range_of(kv.v, kv.layout.v_strides, kv.dtype, begin, end), node);
    }
  }
  return {};
}

std::int32_t node_of_task(const Task& task, const BlockTable& table, const PagedKv& kv, std::int32_t num_nodes) {
  if (task.empty()) {
    return 0;
  }
  const auto page = static_cast<std::size_t>(task.token_begin / kv.layout.page_size);
  return kv.node_of(table.row(task.row)[page], num_nodes);
}

std::int32_t node_of_memory(const void* address) {
  const TopologyHandle topology = load_topology();
  const BitmapHandle nodes(hwloc_bitmap_alloc());
  if (topology == nullptr ||
      hwloc_get_area_memlocation(topology.get(), address, 1, nodes.get(), HWLOC_MEMBIND_BYNODESET) != 0) {
    return -1;
  }
  return hwloc_bitmap_first(nodes.get());
}

}  // namespace pkv

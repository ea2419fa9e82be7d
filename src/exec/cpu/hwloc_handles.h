// Owners of hwloc's objects. Included by .cc files only: hwloc stays out of other headers.
// Not here: what is asked of hwloc (topology.cc, placement.cc).
#pragma once

#include <hwloc.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace pkv {

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using TopologyHandle = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, TopologyDeleter>;

struct BitmapDeleter {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using BitmapHandle = std::unique_ptr<std::remove_pointer_t<hwloc_bitmap_t>, BitmapDeleter>;

/// Null if hwloc or `describe` refuses; `describe` (hwloc's 0 for yes) may choose another machine than this one.
template <typename Describe>
TopologyHandle load_topology(const Describe& describe) {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) {
    return nullptr;
  }
  TopologyHandle handle(topology);
  return describe(topology) == 0 && hwloc_topology_load(topology) == 0 ? std::move(handle) : nullptr;
}

/// This machine.
inline TopologyHandle load_topology() {
  return load_topology([](hwloc_topology_t) { return 0; });
}

}  // namespace pkv

// Placement: pages of a cache on the NUMA nodes of the workers that will read them.
// Not here: which core is on which node (topology.h), which worker takes which task (task_queues.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "persistentkv/block_table.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"

namespace pkv {

/// Cuts the pages into as many equal ranges of ids as there are nodes (operating system's indices; the last
/// range takes the rest) and puts the memory of range i on node i: bound, what was touched before is moved;
/// where the system refuses to bind (some containers do), memory that nobody has touched is touched by a thread
/// of that node. A node that is full leaves the rest to others. Sets kv.pages_per_node, 0 for fewer than two
/// nodes or fewer pages than nodes, and touches nothing then.
/// The memory is writable, and nobody writes to it meanwhile. Errors: kUnsupported (hwloc cannot read this
/// machine, or it has no such node).
Status place_on_nodes(PagedKv& kv, std::span<const std::int32_t> nodes);

/// Which of num_nodes a task counts to: that of its first page; the first for an empty task.
/// Requires kv.pages_per_node > 0.
std::int32_t node_of_task(const Task& task, const BlockTable& table, const PagedKv& kv, std::int32_t num_nodes);

/// The node that holds the memory page at `address`; -1 if it is untouched or the system does not tell.
std::int32_t node_of_memory(const void* address);

}  // namespace pkv

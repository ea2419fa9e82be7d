// The read probe of a backend, if it has one: the denominator of its speed.
// Not here: how pages are read (exec/cpu/probe.h, the CUDA backend).
#pragma once

#include <functional>

#include "persistentkv/backend.h"

namespace pkv {

/// Reads every page of a batch once, from where the backend's K and V lie.
using ReadProbe = std::function<Result<PageRead>(const BatchState& batch, const PagedKv& kv)>;

/// That of the CPU or the CUDA backend, which outlives it; empty for any other.
ReadProbe find_read_probe(Backend& backend);

/// K and V of so many bytes stay in the cache of every worker: what a step reads again and again where its kernels
/// are measured without memory. 0 where the backend has no such measurement.
std::int64_t bytes_in_cache(Backend& backend);

}  // namespace pkv

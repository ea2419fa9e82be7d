// Backends are known by their class: a probe is no part of what every backend can do.
// Not here: statistics (src/report).
#include "replay/read_probe.h"

#include "exec/cpu/cpu_backend.h"
#include "persistentkv/cuda.h"

namespace pkv {

ReadProbe find_read_probe(Backend& backend) {
  if (auto* cpu = dynamic_cast<CpuBackend*>(&backend)) {
    return [cpu](const BatchState& batch, const PagedKv& kv) -> Result<PageRead> {
      const Result<ProbeResult> result = cpu->paged_read_probe(batch, kv);
      if (!result.ok()) {
        return result.error();
      }
      return PageRead{.bytes = result->bytes, .elapsed_ns = result->ns};
    };
  }
  if (auto* cuda = dynamic_cast<CudaBackend*>(&backend)) {
    return [cuda](const BatchState& batch, const PagedKv& kv) { return cuda->read_pages(batch, kv); };
  }
  return {};
}

std::int64_t bytes_in_cache(Backend& backend) {
  // A quarter of the L2: queries, accumulators and what is prefetched have their place beside it.
  constexpr std::int64_t kShareOfL2 = 4;
  auto* cpu = dynamic_cast<CpuBackend*>(&backend);
  return cpu == nullptr ? 0 : cpu->topology().l2_bytes / kShareOfL2;
}

}  // namespace pkv

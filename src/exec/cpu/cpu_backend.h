// CpuBackend: a pool of workers that runs plans with SIMD kernels, and the read probe on the same pool.
// Not here: the kernels (kernels.cc), planning, statistics.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "exec/cpu/kernels.h"
#include "exec/cpu/probe.h"
#include "exec/cpu/task_queues.h"
#include "exec/cpu/topology.h"
#include "exec/cpu/worker_pool.h"
#include "persistentkv/backend.h"
#include "persistentkv/cpu.h"

namespace pkv {

/// What make_cpu_backend returns; a caller that holds a Backend& finds the probes by dynamic_cast.
/// RunTimes: decode_ns and merge_ns are the work of those launches averaged over the workers, so that
/// dispatch_ns = total - decode - merge holds fork, join and the idle tails.
class CpuBackend final : public Backend {
 public:
  /// Errors: those of make_cpu_backend.
  static Result<std::unique_ptr<CpuBackend>> create(const CpuOptions& options);
  /// On a machine that is said to be so; for tests.
  static Result<std::unique_ptr<CpuBackend>> create(const CpuOptions& options, Topology topology);

  [[nodiscard]] std::string_view name() const override { return "cpu"; }
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] Capabilities capabilities() const override;
  [[nodiscard]] std::int32_t num_workers() const override { return pool_->num_workers(); }
  Status reserve(const Plan& plan) override;
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override;

  /// The instruction set of the kernels that run() calls, as those kernels were compiled.
  [[nodiscard]] Isa isa() const { return kernels_->isa; }
  [[nodiscard]] const KernelTable& kernels() const { return *kernels_; }
  /// The decode kernel of the last run(), as it names itself; nothing before the first and after an empty one.
  [[nodiscard]] std::optional<RanKernel> ran_kernel() const { return ran_; }
  /// How the tile kernels prefetch: as is best on this CPU, unless told. For measurements; set between runs only.
  [[nodiscard]] TilePrefetch tile_prefetch() const { return prefetch_; }
  /// Errors: kInvalidArgument unless streams is 1, 2, 4 or 8.
  Status set_tile_prefetch(TilePrefetch prefetch);
  [[nodiscard]] WorkerPool& pool() { return *pool_; }
  [[nodiscard]] const Topology& topology() const { return topology_; }
  /// NUMA nodes of the workers (operating system's indices) in the order of the first worker of each; one entry
  /// that means nothing where workers are not pinned.
  [[nodiscard]] std::span<const std::int32_t> nodes() const { return nodes_; }

  /// As the functions of probe.h, on this backend's workers: the denominator of its speed.
  Result<ProbeResult> paged_read_probe(const BatchState& batch, const PagedKv& kv);
  Result<ProbeResult> read_probe(const AlignedBuffer& buffer, const ReadPattern& pattern);

 private:
  struct Nodes {
    std::vector<std::int32_t> all;
    std::vector<std::int32_t> of_worker;
  };
  static Nodes worker_nodes(const Topology& topology, const WorkerPool& pool);
  CpuBackend(Topology topology, std::unique_ptr<WorkerPool> pool, Nodes nodes, const KernelTable* kernels);

  Topology topology_;
  std::unique_ptr<WorkerPool> pool_;
  std::vector<std::int32_t> nodes_;
  std::vector<std::int32_t> worker_nodes_;  // index into nodes_, by worker
  TaskQueues queues_;
  const KernelTable* kernels_;
  TilePrefetch prefetch_ = tile_prefetch_of_cpu();
  AlignedBuffer partials_;  // ml of all slots, then acc of all slots
  AlignedBuffer finished_;  // [rows * head runs] atomic counters of tasks, 0 between runs
  AlignedBuffer scratch_;   // [num_workers][scratch_stride_]
  std::int64_t scratch_stride_ = 0;
  std::optional<RanKernel> ran_;
};

}  // namespace pkv

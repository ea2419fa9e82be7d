// CpuBackend: shares a plan's launches out among the workers and keeps the clock.
// Not here: the kernels, the pool, the probes' walks.
#include "exec/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/math.h"
#include "exec/cpu/placement.h"

namespace pkv {
namespace {

constexpr std::int64_t kArrayAlignment = 64;

Error invalid_isa(Isa isa) {
  std::string names;
  for (const Isa supported : supported_isas()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", isa_name(supported));
  }
  return {ErrorCode::kUnsupported, fmt::format("'{}' does not run here; supported: {}", isa_name(isa), names), "isa"};
}

/// Bytes of a plan's partial states: all (m, l) pairs, then all accumulators.
struct PartialBytes {
  std::int64_t ml = 0;
  std::int64_t acc = 0;

  explicit PartialBytes(const Plan& plan) {
    const std::int64_t heads = std::int64_t{plan.counters().num_partial_slots} * plan.shape().group_size();
    ml = round_up(heads * 2 * static_cast<std::int64_t>(sizeof(float)), kArrayAlignment);
    acc = heads * plan.shape().head_dim * static_cast<std::int64_t>(sizeof(float));
  }
  [[nodiscard]] std::int64_t total() const { return ml + acc; }
};

std::int32_t task_heads(const Plan& plan) { return plan.kv_heads_per_task() * plan.shape().group_size(); }

/// Bytes of the counters of finished tasks, one a row and run of KV heads.
std::int64_t counter_bytes(const Plan& plan) {
  if (plan.merge_mode() != MergeMode::kFused) {
    return 0;
  }
  const std::int64_t head_runs = ceil_div(plan.shape().num_kv_heads, plan.kv_heads_per_task());
  return static_cast<std::int64_t>(plan.seq_lens().size() * sizeof(std::atomic<std::int32_t>)) * head_runs;
}

std::int64_t scratch_bytes(const Plan& plan) {
  const std::int64_t bytes = Scratch::bytes(plan.shape(), task_heads(plan), plan.max_splits());
  return round_up(bytes, static_cast<std::int64_t>(kFalseSharingBytes));
}

Status grow(AlignedBuffer& buffer, std::int64_t bytes, std::string_view what) {
  if (static_cast<std::int64_t>(buffer.size()) >= bytes) {
    return {};
  }
  buffer = AlignedBuffer();  // the old one goes first: peak memory is the larger of the two
  Result<AlignedBuffer> larger = AlignedBuffer::allocate(static_cast<std::size_t>(bytes));
  if (!larger.ok()) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("{} bytes of {} cannot be allocated", bytes, what),
                 "workspace"};
  }
  buffer = *std::move(larger);
  return {};
}

StepArgs step_args(const RunArgs& args, const Plan& plan, const AlignedBuffer& partials, TilePrefetch prefetch,
                   decltype(StepArgs::write_head) write_head) {
  const AttentionShape& shape = plan.shape();
  auto* states = partials.as<std::byte>();
  return {.shape = shape,
          .scale = shape.scale(),
          .block_table = args.batch.block_table(),
          .q = args.q,
          .kv = args.kv,
          .out = args.out,
          .lse = args.lse.empty() ? nullptr : args.lse.data(),
          .sinks = args.sinks.empty() ? nullptr : args.sinks.data(),
          .partials = {.ml = reinterpret_cast<float*>(states),
                       .acc = states == nullptr ? nullptr : reinterpret_cast<float*>(states + PartialBytes(plan).ml),
                       .group_size = shape.group_size(),
                       .head_dim = shape.head_dim},
          .prefetch = prefetch,
          .write_head = write_head};
}

Status refuse_external(const Plan& plan) {
  if (is_external(plan.route())) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("route {} is not run by the cpu backend; it needs the cuda backend, built with "
                             "FlashInfer's headers",
                             route_name(plan.route())),
                 "route"};
  }
  return {};
}

/// One run: the launches one after the other, their items drawn from queues.
class PlanRun {
 public:
  /// What a run works with. finished: [rows * head runs] zeros where merges are fused; zeros again afterwards.
  struct Means {
    const KernelTable& kernels;
    WorkerPool& pool;
    TaskQueues& queues;
    std::atomic<std::int32_t>* finished;
  };

  PlanRun(const Plan& plan, const StepArgs& args, const Means& means)
      : plan_(plan),
        args_(args),
        kernels_(means.kernels),
        pool_(means.pool),
        queues_(means.queues),
        finished_(means.finished) {
    if (num_passes() > 0) {
      begin_pass(0);
    }
  }

  /// Everything that one worker of a node (index) does. All passes happen inside one fork-join of the pool, with a
  /// barrier between two of them, so that no worker falls asleep between passes.
  void work(const Scratch& scratch, std::int32_t node) {
    std::int64_t decode_ns = 0;
    std::int64_t merge_ns = 0;
    for (std::size_t i = 0; i < num_passes(); ++i) {
      const Launch launch = pass(i);
      const std::int64_t begin_ns = now_ns();
      if (launch.kind == LaunchKind::kDecode) {
        const std::int64_t fused_ns = decode_items(scratch, node);
        decode_ns += now_ns() - begin_ns - fused_ns;
        merge_ns += fused_ns;
      } else {
        merge_items(scratch, node);
        merge_ns += now_ns() - begin_ns;
      }
      if (i + 1 < num_passes()) {
        pool_.barrier([&] { begin_pass(i + 1); });
      }
    }
    decode_ns_.fetch_add(decode_ns, std::memory_order_relaxed);
    merge_ns_.fetch_add(merge_ns, std::memory_order_relaxed);
  }

  /// Call after the join. All tasks of a plan run by the same kernel; nothing if there were none.
  [[nodiscard]] std::optional<RanKernel> ran() const {
    return plan_.tasks().empty() ? std::nullopt : std::optional(ran_.load(std::memory_order_relaxed));
  }

  /// Call after the join.
  [[nodiscard]] RunTimes times(std::int64_t total_ns) const {
    const std::int64_t workers = pool_.num_workers();
    RunTimes times = {.total_ns = total_ns,
                      .decode_ns = decode_ns_.load(std::memory_order_relaxed) / workers,
                      .merge_ns = merge_ns_.load(std::memory_order_relaxed) / workers};
    times.dispatch_ns = std::max<std::int64_t>(total_ns - times.decode_ns - times.merge_ns, 0);
    return times;
  }

 private:
  [[nodiscard]] std::size_t num_passes() const { return plan_.launches().size(); }
  [[nodiscard]] Launch pass(std::size_t i) const { return plan_.launches()[i]; }
  void begin_pass(std::size_t i) {
    const Launch launch = pass(i);
    const std::int64_t items = items_per_index(launch);
    if (launch.kind == LaunchKind::kDecode && args_.kv.pages_per_node > 0) {
      queues_.begin(launch.begin, launch.end, [&](std::int64_t item) {
        return node_of_task(task(item), args_.block_table, args_.kv, queues_.num_nodes());
      });
    } else {
      queues_.begin(launch.begin * items, launch.end * items);
    }
  }

  [[nodiscard]] const Task& task(std::int64_t item) const { return plan_.tasks()[static_cast<std::size_t>(item)]; }

  /// A merge range is one item a KV head, so that a single long row keeps all workers busy.
  [[nodiscard]] std::int64_t items_per_index(const Launch& launch) const {
    return launch.kind == LaunchKind::kDecode ? 1 : plan_.shape().num_kv_heads;
  }

  /// A worker's place in a launch. Its next task is drawn late, when the kernel has one tile left and wants to
  /// prefetch what follows.
  struct Drawer {
    PlanRun& run;
    std::int32_t node;
    const Task* next = nullptr;
    bool drawn = false;

    const Task* draw() {
      const std::int64_t item = run.queues_.draw(node);
      return item == TaskQueues::kNone ? nullptr : &run.task(item);
    }
    static const Task* look(void* context) {
      auto& drawer = *static_cast<Drawer*>(context);
      drawer.next = drawer.draw();
      drawer.drawn = true;
      return drawer.next;
    }
  };

  /// Returns the time that merging took.
  std::int64_t decode_items(const Scratch& scratch, std::int32_t node) {
    std::int64_t merge_ns = 0;
    Drawer drawer{.run = *this, .node = node};
    for (const Task* task = drawer.draw(); task != nullptr;) {
      drawer.drawn = false;
      ran_.store(kernels_.decode(args_, *task, scratch, {.next = &Drawer::look, .context = &drawer}),
                 std::memory_order_relaxed);
      if (finishes_last(*task)) {
        const std::int64_t begin_ns = now_ns();
        merge_after(*task, scratch);
        merge_ns += now_ns() - begin_ns;
      }
      task = drawer.drawn ? drawer.next : drawer.draw();
    }
    return merge_ns;
  }

  /// Whether the task was the last of its row and run of KV heads, where merges are fused. Then the states of
  /// the other tasks are visible, whoever ran them.
  bool finishes_last(const Task& task) {
    if (task.partial_slot == kNoSlot || plan_.merge_mode() != MergeMode::kFused) {
      return false;
    }
    const std::int64_t heads = plan_.kv_heads_per_task();
    const std::int64_t head_runs = ceil_div<std::int64_t>(plan_.shape().num_kv_heads, heads);
    std::atomic<std::int32_t>& finished = finished_[task.row * head_runs + task.kv_head_begin / heads];
    if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 < task.slot_stride) {
      return false;
    }
    finished.store(0, std::memory_order_relaxed);  // for the next run
    return true;
  }

  void merge_after(const Task& task, const Scratch& scratch) {
    const MergeRange range = {.row = task.row,
                              .slot_begin = plan_.split_offsets()[static_cast<std::size_t>(task.row)],
                              .num_splits = task.slot_stride};
    for (std::int32_t head = task.kv_head_begin; head < task.kv_head_end; ++head) {
      kernels_.merge(args_, range, head, scratch);
    }
  }

  void merge_items(const Scratch& scratch, std::int32_t node) {
    const std::int64_t num_kv_heads = plan_.shape().num_kv_heads;
    const std::span<const MergeRange> ranges = plan_.merges();
    for (std::int64_t item = queues_.draw(node); item != TaskQueues::kNone; item = queues_.draw(node)) {
      kernels_.merge(args_, ranges[static_cast<std::size_t>(item / num_kv_heads)],
                     static_cast<std::int32_t>(item % num_kv_heads), scratch);
    }
  }

  const Plan& plan_;
  const StepArgs& args_;
  const KernelTable& kernels_;
  WorkerPool& pool_;
  TaskQueues& queues_;
  std::atomic<std::int32_t>* finished_;
  alignas(kFalseSharingBytes) std::atomic<std::int64_t> decode_ns_{0};
  std::atomic<std::int64_t> merge_ns_{0};
  std::atomic<RanKernel> ran_{};
};

}  // namespace

CpuBackend::CpuBackend(Topology topology, std::unique_ptr<WorkerPool> pool, Nodes nodes, const KernelTable* kernels)
    : topology_(std::move(topology)),
      pool_(std::move(pool)),
      nodes_(std::move(nodes.all)),
      worker_nodes_(std::move(nodes.of_worker)),
      queues_(static_cast<std::int32_t>(nodes_.size())),
      kernels_(kernels) {}

CpuBackend::Nodes CpuBackend::worker_nodes(const Topology& topology, const WorkerPool& pool) {
  Nodes nodes;
  for (std::int32_t worker = 0; worker < pool.num_workers(); ++worker) {
    const std::int32_t node = pool.pinned() ? topology.core_nodes[static_cast<std::size_t>(worker)] : 0;
    const auto found = std::ranges::find(nodes.all, node);
    nodes.of_worker.push_back(static_cast<std::int32_t>(found - nodes.all.begin()));
    if (found == nodes.all.end()) {
      nodes.all.push_back(node);
    }
  }
  return nodes;
}

Result<std::unique_ptr<CpuBackend>> CpuBackend::create(const CpuOptions& options) {
  Result<Topology> topology = read_topology();
  if (!topology.ok()) {
    return topology.error();
  }
  return create(options, *std::move(topology));
}

Result<std::unique_ptr<CpuBackend>> CpuBackend::create(const CpuOptions& options, Topology topology) {
  const Isa isa = options.isa.value_or(supported_isas().back());
  const KernelTable* kernels = find_kernels(isa);
  if (kernels == nullptr) {
    return invalid_isa(isa);
  }
  Result<std::unique_ptr<WorkerPool>> pool =
      WorkerPool::create({.num_workers = options.threads.value_or(std::clamp(topology.num_cores(), 1, kMaxWorkers)),
                          .cpus = options.pin ? topology.core_cpus : std::vector<std::int32_t>(),
                          .wait = options.wait});
  if (!pool.ok()) {
    return pool.error();
  }
  Nodes nodes = worker_nodes(topology, **pool);
  return std::unique_ptr<CpuBackend>(new CpuBackend(std::move(topology), *std::move(pool), std::move(nodes), kernels));
}

Status CpuBackend::set_tile_prefetch(TilePrefetch prefetch) {
  if (const std::int32_t streams = prefetch.streams; streams != 1 && streams != 2 && streams != 4 && streams != 8) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not 1, 2, 4 or 8", streams), "streams"};
  }
  prefetch_ = prefetch;
  return {};
}

std::string CpuBackend::describe() const {
  const std::string nodes = nodes_.size() > 1 ? fmt::format(" and {} NUMA nodes", nodes_.size()) : "";
  return fmt::format("cpu: {}, {} workers on {} cores{}{}, {} kernels ({}-bit vectors)", topology_.cpu_model,
                     num_workers(), topology_.num_cores(), nodes, pool_->pinned() ? ", pinned" : "", isa_name(isa()),
                     kernels_->vector_bytes * 8);
}

Capabilities CpuBackend::capabilities() const {
  return {.max_head_dim = kMaxHeadDim,
          .max_group_size = kMaxGroupSize,
          .soft_cap = true,
          .sliding_window = true,
          .sinks = true,
          .f32 = true,
          .f16 = true,
          .bf16 = true};
}

Status CpuBackend::reserve(const Plan& plan) {
  PKV_RETURN_IF_ERROR(refuse_external(plan));
  PKV_RETURN_IF_ERROR(validate_shape_support(plan.shape(), capabilities(), name()));
  PKV_RETURN_IF_ERROR(grow(partials_, PartialBytes(plan).total(), "partial states"));
  PKV_RETURN_IF_ERROR(grow(finished_, counter_bytes(plan), "counters of finished tasks"));
  PKV_RETURN_IF_ERROR(queues_.reserve(plan.counters().num_tasks));
  const std::int64_t stride = std::max(scratch_stride_, scratch_bytes(plan));
  scratch_stride_ = 0;  // no scratch at all when growing fails
  PKV_RETURN_IF_ERROR(grow(scratch_, stride * num_workers(), "worker scratch"));
  scratch_stride_ = stride;
  return {};
}

Result<RunTimes> CpuBackend::run(const Plan& plan, const RunArgs& args) {
  PKV_RETURN_IF_ERROR(refuse_external(plan));
  PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
  if (static_cast<std::int64_t>(partials_.size()) < PartialBytes(plan).total() ||
      static_cast<std::int64_t>(finished_.size()) < counter_bytes(plan) || scratch_stride_ < scratch_bytes(plan) ||
      !queues_.covers(plan.counters().num_tasks)) {
    return Error{ErrorCode::kResourceExhausted, "reserve() was not called for a plan as large as this", "workspace"};
  }
  const std::int64_t begin_ns = now_ns();
  const StepArgs step = step_args(args, plan, partials_, prefetch_, kernels_->write_head);
  PlanRun run(
      plan, step,
      {.kernels = *kernels_, .pool = *pool_, .queues = queues_, .finished = finished_.as<std::atomic<std::int32_t>>()});
  pool_->run([&](std::int32_t worker) {
    std::byte* memory = scratch_.as<std::byte>() + worker * scratch_stride_;
    run.work(Scratch::make(memory, plan.shape(), task_heads(plan), plan.max_splits()),
             worker_nodes_[static_cast<std::size_t>(worker)]);
  });
  ran_ = run.ran();
  return run.times(now_ns() - begin_ns);
}

Result<ProbeResult> CpuBackend::paged_read_probe(const BatchState& batch, const PagedKv& kv) {
  return pkv::paged_read_probe(*pool_, *kernels_, batch, kv);
}

Result<ProbeResult> CpuBackend::read_probe(const AlignedBuffer& buffer, const ReadPattern& pattern) {
  return pkv::read_probe(*pool_, *kernels_, buffer, pattern);
}

Status place_pages(const Backend& backend, PagedKv& kv) {
  const auto* cpu = dynamic_cast<const CpuBackend*>(&backend);
  if (cpu == nullptr) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("backend {} has no workers on NUMA nodes; the cpu backend does", backend.name()),
                 "backend"};
  }
  return place_on_nodes(kv, cpu->nodes());
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  try {
    Result<std::unique_ptr<CpuBackend>> backend = CpuBackend::create(options);
    if (!backend.ok()) {
      return backend.error();
    }
    return std::unique_ptr<Backend>(*std::move(backend));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, "no memory to start the workers", "cpu backend"};
  }
}

}  // namespace pkv

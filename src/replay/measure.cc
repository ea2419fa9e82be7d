// Needs are added up and compared with the machine before anything is allocated.
// Not here: what happens in a step (session.cc).
#include "replay/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/check.h"
#include "base/clock.h"
#include "exec/cpu/cpu_backend.h"
#include "persistentkv/cuda.h"
#include "replay/crew.h"
#include "replay/kv_pool.h"
#include "replay/memory.h"
#include "replay/mlp_cublas.h"
#include "replay/mlp_proxy.h"
#include "replay/oracle.h"
#include "replay/session.h"
#include "replay/simulate.h"

namespace pkv {
namespace {

// Below it a pass may find much of the last pass in the cache.
constexpr std::int64_t kMinCachesInPool = 4;
// A pool that is enlarged leaves this part of a device free: partial states and page ids of the backend.
constexpr std::int64_t kWorkspaceShare = 16;

/// Bytes of everything large that a run allocates.
struct Needs {
  std::int64_t page_bytes = 0;
  std::int64_t pool_pages = 0;
  /// Weights and activations, where the backend computes.
  std::int64_t mlp_bytes = 0;
  /// Last-level cache of the machine or the device: decides pool_pages.
  std::int64_t cache_bytes = 0;
};

/// What one memory (of the host, of a device) must hold.
struct Demand {
  /// Beside the pool.
  std::int64_t other_bytes = 0;
  std::int64_t budget_bytes = 0;
  /// The pool and what else counts, for the error.
  std::string what;
};

Status check_dtype(DType dtype, const Capabilities& can, const Backend& backend, std::string_view what) {
  const bool supported =
      (dtype == DType::kF32 && can.f32) || (dtype == DType::kF16 && can.f16) || (dtype == DType::kBF16 && can.bf16);
  if (supported) {
    return {};
  }
  return Error{ErrorCode::kUnsupported,
               fmt::format("{} is not supported by the {} backend", dtype_name(dtype), backend.name()),
               std::string(what)};
}

Status check_route(const RouteChoice& choice, Backend& backend) {
  const std::string where = fmt::format("route {}", route_name(choice.route));
  if (!backend.supports(choice.route)) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("is not run by the {} backend of this build; it needs the cuda backend, built with "
                             "FlashInfer's headers: scripts/get-flashinfer",
                             backend.name()),
                 where};
  }
  const bool one_head = choice.kv_heads_per_task.value_or(choice.route == Route::kPages ? 0 : 1) == 1;
  if (choice.merge == MergeMode::kFused && !one_head && backend.device_memory() != nullptr) {
    const std::string heads =
        choice.kv_heads_per_task ? fmt::format("{} KV heads", *choice.kv_heads_per_task) : std::string("all KV heads");
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("merge is fused, which takes 1 KV head a task on the {} backend, not {}", backend.name(), heads),
        where};
  }
  return {};
}

Status check_support(const RunOptions& options, Backend& backend) {
  const Capabilities can = backend.capabilities();
  PKV_RETURN_IF_ERROR(validate_shape_support(options.shape, can, backend.name()));
  PKV_RETURN_IF_ERROR(check_dtype(options.kv_dtype, can, backend, "kv dtype"));
  for (const RouteChoice& choice : options.routes) {
    PKV_RETURN_IF_ERROR(check_route(choice, backend));
  }
  return check_dtype(options.query_dtype.value_or(options.kv_dtype), can, backend, "query dtype");
}

std::int64_t block_bytes(const RunOptions& options) {
  const DType query_dtype = options.query_dtype.value_or(options.kv_dtype);
  return RandomBlock::block_bytes(options.kv_dtype) +
         (query_dtype == options.kv_dtype ? 0 : RandomBlock::block_bytes(query_dtype));
}

Demand host_demand(const RunOptions& options, const StepSource& source, const DeviceMemory* device) {
  const StepBounds bounds = source.bounds();
  const bool with_mlp = options.mlp && device == nullptr;
  std::int64_t mlp_bytes = options.mlp ? cublas_mlp_host_bytes() : 0;
  if (with_mlp) {
    mlp_bytes = MlpLayer::needed_bytes(options.shape, *options.mlp, bounds.max_rows);
  }
  Demand demand;
  demand.other_bytes = saturating_add(bounds.table_bytes, session_bytes(options, bounds, Crew::wanted_size()));
  demand.other_bytes = saturating_add(demand.other_bytes, saturating_add(mlp_bytes, block_bytes(options)));
  demand.budget_bytes = memory_budget_bytes(options.memory_limit_bytes);
  demand.what = fmt::format("a pool of {} pages with queries, outputs{} of {} rows{}", source.num_physical_pages(),
                            options.verify == VerifyMode::kOff ? "" : " and float64 oracle", bounds.max_rows,
                            with_mlp ? " and the MLP proxy" : "");
  return demand;
}

Demand device_demand(const RunOptions& options, const StepSource& source, const DeviceMemory& device) {
  const std::int64_t max_rows = source.bounds().max_rows;
  const std::int64_t mlp_bytes = options.mlp ? cublas_mlp_bytes(options.shape, *options.mlp, max_rows) : 0;
  const std::int64_t available = device.available_bytes();
  Demand demand;
  demand.other_bytes =
      saturating_add(saturating_add(StepTensors::device_bytes(options, max_rows), mlp_bytes), KvPool::kPaddingBytes);
  demand.budget_bytes = std::min(available, options.memory_limit_bytes.value_or(available));
  demand.what = fmt::format("a pool of {} pages with queries and outputs of {} rows{} on the device",
                            source.num_physical_pages(), max_rows, options.mlp ? " and the MLP proxy" : "");
  return demand;
}

/// Bytes that are left for a pool, or the error that says that the trace's own pages do not fit.
Result<std::int64_t> pool_budget(const Demand& demand, std::int64_t trace_bytes) {
  PKV_RETURN_IF_ERROR(check_memory(saturating_add(trace_bytes, demand.other_bytes), demand.budget_bytes, demand.what));
  return demand.budget_bytes - demand.other_bytes;
}

/// Pages and bytes that fit the budgets, or the error that says what does not. `device` is null for a backend
/// whose tensors lie in host memory.
Result<Needs> plan_memory(const RunOptions& options, const KvLayout& layout, const StepSource& source,
                          const DeviceMemory* device) {
  Needs needs;
  needs.page_bytes = KvPool::page_bytes(layout, options.kv_dtype);
  const std::int64_t trace_bytes = saturating_mul(source.num_physical_pages(), needs.page_bytes);
  const std::int64_t max_rows = source.bounds().max_rows;
  const auto on_host = pool_budget(host_demand(options, source, device), trace_bytes);
  if (!on_host.ok()) {
    return on_host.error();
  }
  std::int64_t budget = *on_host;
  if (device == nullptr) {
    needs.cache_bytes = machine_cache_bytes();
    needs.mlp_bytes = options.mlp ? MlpLayer::needed_bytes(options.shape, *options.mlp, max_rows) : 0;
  } else {
    const auto on_device = pool_budget(device_demand(options, source, *device), trace_bytes);
    if (!on_device.ok()) {
      return on_device.error();
    }
    budget = std::min(budget, *on_device - *on_device / kWorkspaceShare);
    needs.cache_bytes = device->cache_bytes();
    needs.mlp_bytes = options.mlp ? cublas_mlp_bytes(options.shape, *options.mlp, max_rows) : 0;
  }
  needs.pool_pages = choose_pool_pages(source.num_physical_pages(), needs.page_bytes, needs.cache_bytes, budget);
  return needs;
}

PageRotation choose_rotation(const StepSource& source, const PagedKv& pool) {
  const std::int64_t num_nodes = pool.pages_per_node == 0 ? 1 : pool.num_pages / pool.pages_per_node;
  const std::int64_t pages = pool.num_pages / num_nodes;  // of a node
  const std::int64_t stride = source.num_physical_pages();
  if (source.reads_every_page() && stride < pages) {
    return {pages, stride, num_nodes};
  }
  return PageRotation::spread(pages, num_nodes);
}

/// Everything that a session works with. Made in the order that affinity asks for: the crew before the CPU
/// backend pins this thread, and what is planned from the CPUs this thread may use before that, too.
class Workshop {
 public:
  explicit Workshop(const RunOptions& options) : options_(&options) {}

  /// Takes or makes the backend unless it is the CPU's. Errors: those of CudaBackend::create.
  Status choose_backend(Backend* callers_backend) {
    backend_ = callers_backend;
    if (backend_ != nullptr || options_->backend == BackendKind::kCpu) {
      return {};
    }
    auto made = CudaBackend::create(options_->cuda);
    if (!made.ok()) {
      return made.error();
    }
    own_backend_ = *std::move(made);
    backend_ = own_backend_.get();
    return {};
  }

  /// Null if tensors lie in host memory.
  [[nodiscard]] DeviceMemory* device() { return backend_ == nullptr ? nullptr : backend_->device_memory(); }

  /// Errors: kUnsupported, kResourceExhausted, those of make_cpu_backend.
  /// kCancelled; describe() may be called after that one.
  Status open(const KvLayout& layout, const Needs& needs, const StepSource& source, const RunObserver& observer) {
    needs_ = needs;
    auto crew = Crew::make();
    if (!crew.ok()) {
      return crew.error();
    }
    crew_ = std::move(*crew);
    PKV_RETURN_IF_ERROR(make_cpu());
    PKV_RETURN_IF_ERROR(check_support(*options_, *backend_));
    PKV_RETURN_IF_ERROR(open_mlp(source.bounds().max_rows));
    const DType query_dtype = options_->query_dtype.value_or(options_->kv_dtype);
    kv_block_.emplace(options_->kv_dtype, options_->data_seed);
    if (query_dtype != options_->kv_dtype) {
      query_block_.emplace(query_dtype, options_->data_seed);
    }
    return open_pool(layout, observer);
  }

  /// Before open().
  void turn_to(const RunOptions& options) { options_ = &options; }
  /// Another run in the same memory: its options, and the pool in its layout. The options outlive the next turn.
  void turn_to(const RunOptions& options, const KvLayout& layout, const Needs& needs) {
    options_ = &options;
    needs_ = needs;
    pool_->show_as(layout, needs.pool_pages);
    needs_.pool_pages = pool_->view().num_pages;
  }

  /// Errors: kUnsupported.
  Status check() { return check_support(*options_, *backend_); }

  void describe(RunRecords& records) const {
    const std::int64_t pool_bytes = needs_.pool_pages * needs_.page_bytes;
    records.pool_pages = needs_.pool_pages;
    records.memory_bytes = pool_bytes + needs_.mlp_bytes;
    records.backend = backend_->describe();
    records.num_workers = backend_->num_workers();
    records.worker_kind = backend_->device_memory() == nullptr ? WorkerKind::kThread : WorkerKind::kSm;
    const double factor = Tolerance::logit_factor(options_->shape);
    if (options_->verify != VerifyMode::kOff && factor > 1.0) {
      records.notes.push_back(fmt::format(
          "softmax scale {:g} makes logits {:.3g} times the usual size, and their FP32 rounding with them: fp32 error "
          "limits are as much wider",
          *options_->shape.softmax_scale, factor));
    }
    if (pool_bytes < saturating_mul(kMinCachesInPool, needs_.cache_bytes)) {
      records.notes.push_back(
          fmt::format("memory allowed a pool of {} MiB only, less than {} times the last-level cache ({} MiB): part "
                      "of the K,V read may have come from the cache",
                      pool_bytes >> 20, kMinCachesInPool, needs_.cache_bytes >> 20));
    }
  }

  Result<std::vector<RoutePlanner>> planners(std::int32_t page_size) const {
    RoutePlanner::Setting setting{.num_workers = backend_->num_workers(),
                                  .gpu = backend_->gpu_machine(),
                                  .split_choice = backend_->device_memory() == nullptr
                                                      ? RoutePlanner::SplitChoice::kCpuRule
                                                      : RoutePlanner::SplitChoice::kGpuRule,
                                  .page_size = page_size,
                                  .external = {},
                                  .layout = pool_->run_view().layout};
    for (const Route route : kExternalRoutes) {
      if (backend_->supports(route)) {
        setting.external.push_back(route);
      }
    }
    RunOptions options = *options_;
    if (options.profile) {
      options.profile->num_workers = backend_->num_workers();
    }
    return make_planners(options, setting);
  }

  SessionParts parts(const StepSource& source, RunObserver& observer) {
    return {.options = *options_,
            .backend = *backend_,
            .pool = *pool_,
            .rotation = choose_rotation(source, pool_->view()),
            .query_block = query_block_ ? *query_block_ : *kv_block_,
            .mlp = mlp_.get(),
            .crew = *crew_,
            .observer = observer};
  }

 private:
  Status make_cpu() {
    if (backend_ != nullptr) {
      return {};
    }
    auto made = make_cpu_backend(options_->cpu);
    if (!made.ok()) {
      return made.error();
    }
    own_backend_ = std::move(*made);
    backend_ = own_backend_.get();
    return {};
  }

  Status open_pool(const KvLayout& layout, const RunObserver& observer) {
    const std::function<bool()> cancelled = [&] { return observer.cancelled(); };
    const auto* cpu = dynamic_cast<const CpuBackend*>(backend_);
    auto pool = KvPool::make(layout, options_->kv_dtype, needs_.pool_pages,
                             {.block = *kv_block_,
                              .crew = *crew_,
                              .cancelled = cancelled,
                              .nodes = cpu == nullptr ? std::span<const std::int32_t>() : cpu->nodes()});
    if (!pool.ok()) {
      return pool.error();
    }
    pool_.emplace(std::move(*pool));
    return device() == nullptr ? Status{} : pool_->mirror(*device(), cancelled);
  }

  Result<std::unique_ptr<MlpLayer>> make_mlp(const MlpLayer::Setting& setting) {
    if (device() == nullptr) {
      return MlpLayer::make(options_->shape, *options_->mlp, setting, *crew_);
    }
    if (auto* cuda = dynamic_cast<CudaBackend*>(backend_)) {
      return make_cublas_mlp(options_->shape, *options_->mlp, setting, *cuda);
    }
    return Error{ErrorCode::kUnsupported,
                 fmt::format("there is no proxy for the {} backend, only for cpu and cuda", backend_->name()), "mlp"};
  }

  Status open_mlp(std::int64_t max_rows) {
    if (!options_->mlp) {
      return {};
    }
    auto made = make_mlp({.max_rows = max_rows, .seed = options_->data_seed});
    if (!made.ok()) {
      return made.error();
    }
    mlp_ = std::move(*made);
    return {};
  }

  const RunOptions* options_;
  Needs needs_;
  std::unique_ptr<Crew> crew_;
  std::unique_ptr<Backend> own_backend_;
  Backend* backend_ = nullptr;
  std::optional<RandomBlock> kv_block_;
  std::optional<RandomBlock> query_block_;  // only when its type is another
  std::optional<KvPool> pool_;
  std::unique_ptr<MlpLayer> mlp_;
};

Result<RunRecords> execute_on(const RunOptions& options, StepSource& source, Backend* callers_backend,
                              RunObserver& observer, RunRecords records) {
  const auto layout = KvLayout::make(options.order, options.packing, records.page_size, options.shape);
  if (!layout.ok()) {
    return layout.error();
  }
  Workshop workshop(options);
  PKV_RETURN_IF_ERROR(workshop.choose_backend(callers_backend));
  const auto needs = plan_memory(options, *layout, source, workshop.device());
  if (!needs.ok()) {
    return needs.error();
  }
  observer.on_progress({.phase = RunPhase::kPreparing, .done = 0, .total = source.max_steps(), .num_rows = 0});
  const Status opened = workshop.open(*layout, *needs, source, observer);
  records.interrupted = !opened.ok() && opened.error().code == ErrorCode::kCancelled;
  if (!opened.ok() && !records.interrupted) {
    return opened.error();
  }
  workshop.describe(records);
  if (records.interrupted) {
    return records;
  }
  auto planners = workshop.planners(records.page_size);
  if (!planners.ok()) {
    return planners.error();
  }
  Session session(workshop.parts(source, observer), *std::move(planners), records);
  const Status status = session.run(source);
  if (!status.ok()) {
    records.error = status.error();
  }
  return records;
}

/// Progress of all turns as one; each session knows only its own.
class TurnsObserver : public RunObserver {
 public:
  TurnsObserver(RunObserver& outer, std::optional<std::int64_t> total) : outer_(outer), total_(total) {}

  void on_progress(const Progress& progress) override {
    done_ += progress.phase == RunPhase::kMeasuring && progress.done > 0 ? 1 : 0;
    outer_.on_progress({.phase = progress.phase, .done = done_, .total = total_, .num_rows = progress.num_rows});
  }
  [[nodiscard]] bool cancelled() const override { return outer_.cancelled(); }

 private:
  RunObserver& outer_;
  std::optional<std::int64_t> total_;
  std::int64_t done_ = 0;
};

/// A turn as it waits for the next round.
struct PreparedTurn {
  KvLayout layout;
  Needs needs;
  std::unique_ptr<Session> session;
};

using Sources = std::vector<std::unique_ptr<StepSource>>;

Result<Sources> make_sources(std::span<Turn> turns) {
  Sources sources;
  for (Turn& turn : turns) {
    auto source = turn.make_source();
    if (!source.ok()) {
      return source.error();
    }
    sources.push_back(*std::move(source));
  }
  return sources;
}

/// Steps of all rounds, if every source knows its own.
std::optional<std::int64_t> count_steps(const Sources& sources, std::int32_t rounds) {
  std::int64_t steps = 0;
  for (const auto& source : sources) {
    if (!source->max_steps()) {
      return std::nullopt;
    }
    steps += *source->max_steps();
  }
  return steps * rounds;
}

Status check_turns(std::span<const Turn> turns) {
  const RunOptions& first = turns.front().options;
  for (const Turn& turn : turns) {
    PKV_RETURN_IF_ERROR(validate(turn.options));
    if (turn.options.kv_dtype != first.kv_dtype || turn.options.query_dtype != first.query_dtype ||
        turn.options.backend != first.backend || turn.options.mlp) {
      return Error{ErrorCode::kInvalidArgument, "types and backend of all turns must be the same, without a proxy",
                   "turns"};
    }
  }
  return {};
}

void mark_interrupted(std::span<Turn> turns) {
  for (Turn& turn : turns) {
    turn.records.interrupted = true;
  }
}

/// The memory of every turn alone; the pool is made for the one that needs most.
Result<std::vector<PreparedTurn>> plan_turns(std::span<const Turn> turns, const Sources& sources,
                                             const DeviceMemory* device) {
  std::vector<PreparedTurn> prepared;
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const RunOptions& options = turns[i].options;
    const auto layout = KvLayout::make(options.order, options.packing, turns[i].records.page_size, options.shape);
    if (!layout.ok()) {
      return layout.error();
    }
    const auto needs = plan_memory(options, *layout, *sources[i], device);
    if (!needs.ok()) {
      return needs.error();
    }
    prepared.push_back({.layout = *layout, .needs = *needs, .session = nullptr});
  }
  return prepared;
}

std::size_t largest(std::span<const PreparedTurn> prepared, DType dtype) {
  const auto bytes = [&](const PreparedTurn& turn) {
    return KvPool::allocated_bytes(turn.layout, dtype, turn.needs.pool_pages);
  };
  return static_cast<std::size_t>(std::ranges::max_element(prepared, {}, bytes) - prepared.begin());
}

Status simulate_turns(std::span<Turn> turns, const Sources& sources, RunObserver& observer) {
  for (std::size_t i = 0; i < turns.size(); ++i) {
    auto records = simulate_steps(turns[i].options, *sources[i], observer, std::move(turns[i].records));
    if (!records.ok()) {
      return records.error();
    }
    turns[i].records = *std::move(records);
    if (turns[i].records.interrupted) {
      mark_interrupted(turns);
    }
    if (turns[i].records.interrupted || turns[i].records.error) {
      return {};
    }
    turns[i].round_ends.push_back(static_cast<std::int64_t>(turns[i].records.routes.front().steps.size()));
  }
  return {};
}

/// The session of a turn, whose layout the pool has at the moment.
Status open_turn(Workshop& workshop, Turn& turn, PreparedTurn& prepared, const StepSource& source, double begin,
                 RunObserver& observer) {
  PKV_RETURN_IF_ERROR(workshop.check());
  auto planners = workshop.planners(turn.records.page_size);
  if (!planners.ok()) {
    return planners.error();
  }
  SessionParts parts = workshop.parts(source, observer);
  parts.rotation.start_at(begin);
  prepared.session = std::make_unique<Session>(parts, *std::move(planners), turn.records);
  workshop.describe(turn.records);
  return {};
}

/// False: no more rounds.
bool take_turn(Workshop& workshop, Turn& turn, PreparedTurn& prepared, StepSource& source) {
  workshop.turn_to(turn.options, prepared.layout, prepared.needs);
  const Status status = prepared.session->run(source);
  if (!status.ok()) {
    turn.records.error = status.error();
  }
  if (turn.records.error || turn.records.interrupted) {
    return false;
  }
  turn.round_ends.push_back(static_cast<std::int64_t>(turn.records.routes.front().steps.size()));
  return true;
}

/// One step planned by every route, in an order drawn for it as in execution.
Status plan_step(const RunOptions& options, const StepRows& rows, std::span<const std::size_t> order,
                 std::vector<RoutePlanner>& planners, RunRecords& records) {
  std::vector<StepRecord> done(planners.size());
  for (const std::size_t route_idx : order) {
    const std::int64_t begin_ns = now_ns();
    const auto batch = make_batch(rows, rows.kv_indices, options.shape, records.page_size, records.physical_pages);
    if (!batch.ok()) {
      return batch.error();
    }
    const auto record = planners[route_idx].plan(*batch, options.kv_dtype, rows.step_idx, begin_ns);
    if (!record.ok()) {
      return record.error();
    }
    done[route_idx] = *record;
  }
  for (std::size_t i = 0; i < planners.size(); ++i) {
    records.routes[i].steps.push_back(done[i]);
  }
  return {};
}

Status plan_all(const RunOptions& options, StepSource& source, std::vector<RoutePlanner>& planners,
                RunObserver& observer, RunRecords& records) {
  StepRows rows;
  std::vector<std::size_t> order(planners.size());
  for (std::int64_t measured = 0;; ++measured) {
    if (observer.cancelled()) {
      records.interrupted = true;
      return {};
    }
    const Result<bool> more = source.next(rows);
    if (!more.ok()) {
      return more.error();
    }
    if (!*more) {
      return {};
    }
    draw_order(options.data_seed, measured, order);
    PKV_RETURN_IF_ERROR(plan_step(options, rows, order, planners, records));
    observer.on_progress({.phase = RunPhase::kMeasuring,
                          .done = measured + 1,
                          .total = source.max_steps(),
                          .num_rows = static_cast<std::int32_t>(rows.seq_lens.size())});
  }
}

}  // namespace

RunRecords begin_records(const RunOptions& options, std::int32_t page_size, const StepSource& source,
                         RunRecords records) {
  records.shape = options.shape;
  records.page_size = page_size;
  records.order = options.order;
  records.packing = options.packing;
  records.kv_dtype = options.kv_dtype;
  records.query_dtype = options.query_dtype.value_or(options.kv_dtype);
  records.physical_pages = source.num_physical_pages();
  records.num_layers = options.num_layers;
  for (const RouteChoice& choice : options.routes) {
    if (choice.policy) {
      records.policy = PolicyRecords{.route_idx = records.routes.size(),
                                     .profile = options.profile->name,
                                     .learns = options.learning == Learning::kOn,
                                     .oracle_repeats = options.oracle_repeats,
                                     .steps = {}};
    }
    records.routes.push_back(
        {.name = std::string(choice.policy ? policy_kind_name(*choice.policy) : route_name(choice.route)),
         .splits = choice.splits,
         .merge = choice.merge,
         .steps = {},
         .errors = {}});
  }
  const auto baseline = std::find_if(options.routes.begin(), options.routes.end(), [&](const RouteChoice& choice) {
    return !choice.policy && choice.route == options.baseline;
  });
  records.baseline_idx =
      baseline == options.routes.end() ? 0 : static_cast<std::size_t>(baseline - options.routes.begin());
  return records;
}

Result<RunRecords> plan_steps(const RunOptions& options, StepSource& source, std::int32_t num_workers,
                              RunObserver& observer, RunRecords records) {
  if (num_workers < 1) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} SMs or workers, must be at least 1", num_workers), "sms"};
  }
  records.mode = RunMode::kPlanOnly;
  records.num_workers = num_workers;
  records.worker_kind = WorkerKind::kUnknown;
  auto planners = make_planners(options, {.num_workers = num_workers, .page_size = records.page_size});
  if (!planners.ok()) {
    return planners.error();
  }
  const Status status = plan_all(options, source, *planners, observer, records);
  if (!status.ok()) {
    records.error = status.error();
  }
  return records;
}

Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, RunObserver& observer,
                                 RunRecords records) {
  if (options.backend == BackendKind::kSim) {
    return simulate_steps(options, source, observer, std::move(records));
  }
  return execute_on(options, source, nullptr, observer, std::move(records));
}

Status take_turns(std::vector<Turn>& turns, std::int32_t rounds, RunObserver& observer) {
  PKV_ASSERT(!turns.empty() && rounds >= 1);
  PKV_RETURN_IF_ERROR(check_turns(turns));
  auto sources = make_sources(turns);
  if (!sources.ok()) {
    return sources.error();
  }
  const RunOptions& first = turns.front().options;
  const bool simulated = first.backend == BackendKind::kSim;
  TurnsObserver all(observer, count_steps(*sources, simulated ? 1 : rounds));
  if (simulated) {
    return simulate_turns(turns, *sources, all);
  }
  Workshop workshop(first);
  PKV_RETURN_IF_ERROR(workshop.choose_backend(nullptr));
  auto prepared = plan_turns(turns, *sources, workshop.device());
  if (!prepared.ok()) {
    return prepared.error();
  }
  all.on_progress({.phase = RunPhase::kPreparing, .done = 0, .total = {}, .num_rows = 0});
  const std::size_t most = largest(*prepared, first.kv_dtype);
  workshop.turn_to(turns[most].options);
  const Status opened = workshop.open((*prepared)[most].layout, (*prepared)[most].needs, *(*sources)[most], all);
  if (!opened.ok()) {
    if (opened.error().code != ErrorCode::kCancelled) {
      return opened;
    }
    mark_interrupted(turns);
    return {};
  }
  constexpr double kGoldenSection = 0.6180339887498949;  // so that no turn reads what the one before it left in caches
  for (std::size_t i = 0; i < turns.size(); ++i) {
    workshop.turn_to(turns[i].options, (*prepared)[i].layout, (*prepared)[i].needs);
    const double begin = static_cast<double>(i) * kGoldenSection;
    PKV_RETURN_IF_ERROR(open_turn(workshop, turns[i], (*prepared)[i], *(*sources)[i], begin - std::floor(begin), all));
  }
  std::vector<std::size_t> order(turns.size());
  for (std::int32_t round = 0; round < rounds; ++round) {
    if (round > 0) {
      sources = make_sources(turns);
      if (!sources.ok()) {
        return sources.error();
      }
    }
    draw_order(first.data_seed, round, order);
    for (const std::size_t i : order) {
      if (take_turn(workshop, turns[i], (*prepared)[i], *(*sources)[i])) {
        continue;
      }
      if (turns[i].records.interrupted) {
        mark_interrupted(turns);
      }
      return {};
    }
  }
  return {};
}

Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, Backend& backend, RunObserver& observer,
                                 RunRecords records) {
  return execute_on(options, source, &backend, observer, std::move(records));
}

}  // namespace pkv

// Needs are added up and compared with the machine before anything is allocated.
#include "replay/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/clock.h"
#include "replay/crew.h"
#include "replay/kv_pool.h"
#include "replay/memory.h"
#include "replay/mlp_proxy.h"
#include "replay/oracle.h"
#include "replay/session.h"

namespace pkv {
namespace {

// Below it a pass may find much of the last pass in the cache.
constexpr std::int64_t kMinCachesInPool = 4;

/// Bytes of everything large that a run allocates.
struct Needs {
  std::int64_t page_bytes = 0;
  std::int64_t pool_pages = 0;
  std::int64_t mlp_bytes = 0;
  /// Queries, outputs, the oracle, page ids: grows with rows.
  std::int64_t step_bytes = 0;
  /// Blocks of random values.
  std::int64_t block_bytes = 0;
  /// Of the machine: decides pool_pages.
  std::int64_t cache_bytes = 0;

  [[nodiscard]] std::int64_t other_bytes() const {
    return saturating_add(saturating_add(mlp_bytes, step_bytes), block_bytes);
  }
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

Status check_support(const RunOptions& options, const Backend& backend) {
  const Capabilities can = backend.capabilities();
  PKV_RETURN_IF_ERROR(validate_shape_support(options.shape, can, backend.name()));
  PKV_RETURN_IF_ERROR(check_dtype(options.kv_dtype, can, backend, "kv dtype"));
  return check_dtype(options.query_dtype.value_or(options.kv_dtype), can, backend, "query dtype");
}

/// Pages and bytes that fit the budget, or the error that says what does not.
Result<Needs> plan_memory(const RunOptions& options, const KvLayout& layout, const StepSource& source) {
  Needs needs;
  needs.page_bytes = KvPool::page_bytes(layout, options.kv_dtype);
  const StepBounds bounds = source.bounds();
  needs.mlp_bytes = options.mlp ? MlpLayer::needed_bytes(options.shape, *options.mlp, bounds.max_rows) : 0;
  needs.step_bytes = saturating_add(bounds.table_bytes, session_bytes(options, bounds, Crew::wanted_size()));
  const DType query_dtype = options.query_dtype.value_or(options.kv_dtype);
  needs.block_bytes = RandomBlock::block_bytes(options.kv_dtype) +
                      (query_dtype == options.kv_dtype ? 0 : RandomBlock::block_bytes(query_dtype));
  const std::int64_t budget = memory_budget_bytes(options.memory_limit_bytes);
  const std::int64_t trace_bytes = saturating_mul(source.num_physical_pages(), needs.page_bytes);
  PKV_RETURN_IF_ERROR(
      check_memory(saturating_add(trace_bytes, needs.other_bytes()), budget,
                   fmt::format("a pool of {} pages with queries, outputs{} of {} rows{}", source.num_physical_pages(),
                               options.verify == VerifyMode::kOff ? "" : " and float64 oracle", bounds.max_rows,
                               options.mlp ? " and the MLP proxy" : "")));
  needs.cache_bytes = machine_cache_bytes();
  needs.pool_pages =
      choose_pool_pages(source.num_physical_pages(), needs.page_bytes, needs.cache_bytes, budget - needs.other_bytes());
  return needs;
}

PageRotation choose_rotation(const StepSource& source, std::int64_t pool_pages) {
  const std::int64_t stride = source.num_physical_pages();
  if (source.reads_every_page() && stride < pool_pages) {
    return {pool_pages, stride};
  }
  return PageRotation::spread(pool_pages);
}

/// Everything that a session works with. Made in the order that affinity asks for: the crew before the
/// backend pins this thread.
class Workshop {
 public:
  Workshop(const RunOptions& options, Needs needs) : options_(options), needs_(needs) {}

  /// Errors: kUnsupported, kResourceExhausted, those of make_cpu_backend.
  /// kCancelled; describe() may be called after that one.
  Status open(const KvLayout& layout, Backend* callers_backend, const StepSource& source, const RunObserver& observer) {
    auto crew = Crew::make();
    if (!crew.ok()) {
      return crew.error();
    }
    crew_ = std::move(*crew);
    PKV_RETURN_IF_ERROR(choose_backend(callers_backend));
    PKV_RETURN_IF_ERROR(check_support(options_, *backend_));
    const DType query_dtype = options_.query_dtype.value_or(options_.kv_dtype);
    kv_block_.emplace(options_.kv_dtype, options_.data_seed);
    if (query_dtype != options_.kv_dtype) {
      query_block_.emplace(query_dtype, options_.data_seed);
    }
    const std::function<bool()> cancelled = [&] { return observer.cancelled(); };
    auto pool = KvPool::make(layout, options_.kv_dtype, needs_.pool_pages,
                             {.block = *kv_block_, .crew = *crew_, .cancelled = cancelled});
    if (!pool.ok()) {
      return pool.error();
    }
    pool_.emplace(std::move(*pool));
    return open_mlp(source.bounds().max_rows);
  }

  void describe(RunRecords& records) const {
    const std::int64_t pool_bytes = needs_.pool_pages * needs_.page_bytes;
    records.pool_pages = needs_.pool_pages;
    records.memory_bytes = pool_bytes + needs_.mlp_bytes;
    records.backend = backend_->describe();
    records.num_workers = backend_->num_workers();
    const double factor = Tolerance::logit_factor(options_.shape);
    if (options_.verify != VerifyMode::kOff && factor > 1.0) {
      records.notes.push_back(fmt::format(
          "softmax scale {:g} makes logits {:.3g} times the usual size, and their FP32 rounding with them: fp32 error "
          "limits are as much wider",
          *options_.shape.softmax_scale, factor));
    }
    if (pool_bytes < saturating_mul(kMinCachesInPool, needs_.cache_bytes)) {
      records.notes.push_back(
          fmt::format("memory allowed a pool of {} MiB only, less than {} times the last-level cache ({} MiB): part "
                      "of the K,V read may have come from the cache",
                      pool_bytes >> 20, kMinCachesInPool, needs_.cache_bytes >> 20));
    }
  }

  SessionParts parts(const StepSource& source, RunObserver& observer) {
    return {.options = options_,
            .backend = *backend_,
            .pool = *pool_,
            .rotation = choose_rotation(source, needs_.pool_pages),
            .query_block = query_block_ ? *query_block_ : *kv_block_,
            .mlp = mlp_.get(),
            .crew = *crew_,
            .observer = observer};
  }

 private:
  Status choose_backend(Backend* callers_backend) {
    backend_ = callers_backend;
    if (backend_ != nullptr) {
      return {};
    }
    auto made = make_cpu_backend(options_.cpu);
    if (!made.ok()) {
      return made.error();
    }
    own_backend_ = std::move(*made);
    backend_ = own_backend_.get();
    return {};
  }

  Status open_mlp(std::int64_t max_rows) {
    if (!options_.mlp) {
      return {};
    }
    auto made =
        MlpLayer::make(options_.shape, *options_.mlp, {.max_rows = max_rows, .seed = options_.data_seed}, *crew_);
    if (!made.ok()) {
      return made.error();
    }
    mlp_ = std::move(*made);
    return {};
  }

  const RunOptions& options_;
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
  const auto needs = plan_memory(options, *layout, source);
  if (!needs.ok()) {
    return needs.error();
  }
  observer.on_progress({.phase = RunPhase::kPreparing, .done = 0, .total = source.max_steps(), .num_rows = 0});
  Workshop workshop(options, *needs);
  const Status opened = workshop.open(*layout, callers_backend, source, observer);
  records.interrupted = !opened.ok() && opened.error().code == ErrorCode::kCancelled;
  if (!opened.ok() && !records.interrupted) {
    return opened.error();
  }
  workshop.describe(records);
  if (records.interrupted) {
    return records;
  }
  Session session(workshop.parts(source, observer), records);
  const Status status = session.run(source);
  if (!status.ok()) {
    records.error = status.error();
  }
  return records;
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
  for (const RouteChoice& choice : options.routes) {
    records.routes.push_back(
        {.name = std::string(route_name(choice.route)), .splits = choice.splits, .steps = {}, .errors = {}});
  }
  const auto baseline = std::find_if(options.routes.begin(), options.routes.end(),
                                     [&](const RouteChoice& choice) { return choice.route == options.baseline; });
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
  std::vector<RoutePlanner> planners;
  for (const RouteChoice& choice : options.routes) {
    planners.emplace_back(choice, num_workers);
  }
  const Status status = plan_all(options, source, planners, observer, records);
  if (!status.ok()) {
    records.error = status.error();
  }
  return records;
}

Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, RunObserver& observer,
                                 RunRecords records) {
  return execute_on(options, source, nullptr, observer, std::move(records));
}

Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, Backend& backend, RunObserver& observer,
                                 RunRecords records) {
  return execute_on(options, source, &backend, observer, std::move(records));
}

}  // namespace pkv

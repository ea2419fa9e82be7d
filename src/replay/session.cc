// The loop over steps, and what each participant does in one.
// Not here: tensors of a step (step_tensors.h).
#include "replay/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>

#include "base/clock.h"
#include "base/random.h"
#include "persistentkv/decision.h"
#include "replay/memory.h"
#include "replay/oracle.h"
#include "replay/policy_steps.h"
#include "report/statistics.h"

namespace pkv {
namespace {

// Of the pages that fit the cache, by a step in it: with fewer, reading them from memory once is a part of its time
// that shows (40% with 4), so a run ahead of the measured one does that.
constexpr std::int64_t kPassesThatHideTheFirst = 256;

/// What cannot be counted before it is planned (tasks, a trace's queue) may still not fit.
template <typename Steps>
Status without_exceptions(Steps steps) {
  try {
    return steps();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, "out of memory", "replay"};
  }
}

/// The median of a trial's time over that of the layer after it; of repeats of one step, all of which tried the same
/// plan or none.
std::optional<double> median_trial(const std::vector<StepRecord>& repeats) {
  std::vector<double> ratios;
  for (const StepRecord& record : repeats) {
    if (record.trial) {
      ratios.push_back(static_cast<double>(record.trial->trial.total_ns) /
                       static_cast<double>(std::max<std::int64_t>(1, record.trial->after.total_ns)));
    }
  }
  return median(ratios);
}

}  // namespace

Result<BatchState> make_batch(const StepRows& rows, std::span<const std::int32_t> page_ids, const AttentionShape& shape,
                              std::int32_t page_size, std::int64_t num_pages) {
  const auto table = BlockTable::csr(rows.kv_indptr, page_ids);
  if (!table.ok()) {
    return table.error();
  }
  return BatchState::make({.shape = shape,
                           .page_size = page_size,
                           .seq_lens = rows.seq_lens,
                           .block_table = *table,
                           .num_pages = num_pages});
}

std::int64_t session_bytes(const RunOptions& options, const StepBounds& bounds, std::int64_t num_threads) {
  const AttentionShape& shape = options.shape;
  const std::int64_t elements = saturating_mul(bounds.max_rows, std::int64_t{shape.num_q_heads} * shape.head_dim);
  const std::int64_t query_bytes = dtype_bytes(options.query_dtype.value_or(options.kv_dtype));
  std::int64_t bytes = saturating_mul(elements, query_bytes + static_cast<std::int64_t>(sizeof(float)));
  bytes = saturating_add(bytes, saturating_mul(bounds.max_pages, 2 * static_cast<std::int64_t>(sizeof(std::int32_t))));
  if (options.verify == VerifyMode::kOff) {
    return bytes;
  }
  const std::int64_t attended = std::min<std::int64_t>(
      bounds.max_seq_len, shape.sliding_window_tokens.value_or(std::numeric_limits<std::int32_t>::max()));
  return saturating_add(bytes, oracle_bytes(shape, bounds.max_rows, attended, num_threads));
}

void draw_order(std::uint64_t seed, std::int64_t measured_idx, std::span<std::size_t> order) {
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Two draws apart, as steps and seeds that follow each other must have nothing in common.
  SplitMix64 random(SplitMix64(seed)() ^ SplitMix64(static_cast<std::uint64_t>(measured_idx) + 0x0DE4)());
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[random.below(i)]);
  }
}

Session::Session(const SessionParts& parts, std::vector<RoutePlanner> planners, RunRecords& records)
    : parts_(parts),
      records_(records),
      planners_(std::move(planners)),
      probe_(find_read_probe(parts.backend)),
      policy_idx_(find_policy(parts.options)),
      tensors_(parts.options, parts.query_block, parts.backend.device_memory()) {
  if (probe_ && bytes_in_cache(parts.backend) > 0) {
    in_cache_planner_.emplace(RouteChoice{.route = Route::kPages, .splits = std::nullopt},
                              RoutePlanner::Setting{.num_workers = parts.backend.num_workers(),
                                                    .split_choice = RoutePlanner::SplitChoice::kCpuRule,
                                                    .page_size = parts.pool.run_view().layout.page_size,
                                                    .external = {},
                                                    .layout = parts.pool.run_view().layout});
  }
  step_records_.resize(planners_.size());
  order_.resize(planners_.size() + (parts.options.oracle_repeats > 0 ? 1 : 0) + (probe_ ? 1 : 0) +
                (in_cache_planner_ ? 1 : 0));
  std::iota(order_.begin(), order_.end(), std::size_t{0});
}

Status Session::run(StepSource& source) {
  total_steps_ = source.max_steps();
  Status status = without_exceptions([&] { return run_steps(source); });
  if (!status.ok() && status.error().code == ErrorCode::kCancelled) {
    records_.interrupted = true;
    return {};
  }
  return status;
}

Status Session::run_steps(StepSource& source) {
  const Error cancelled{ErrorCode::kCancelled, "stopped by the caller", "replay"};
  StepRows rows;
  while (!parts_.observer.cancelled()) {
    const Result<bool> more = source.next(rows);
    if (!more.ok()) {
      return more.error();
    }
    if (!*more) {
      return {};
    }
    PKV_RETURN_IF_ERROR(prepare(rows));
    if (measured_ == 0) {
      PKV_RETURN_IF_ERROR(warm_up(rows));
    }
    PKV_RETURN_IF_ERROR(measure(rows));
    if (verifies(measured_ - 1)) {
      report(RunPhase::kVerifying, rows);
      PKV_RETURN_IF_ERROR(verify(rows));
    }
    report(RunPhase::kMeasuring, rows);
  }
  return cancelled;
}

Status Session::prepare(const StepRows& rows) {
  return tensors_.prepare(static_cast<std::int64_t>(rows.seq_lens.size()),
                          static_cast<std::uint64_t>(rows.step_idx) + 1);
}

Result<BatchState> Session::shifted_batch(const StepRows& rows) {
  const PagedKv& kv = parts_.pool.run_view();
  parts_.rotation.next(rows.kv_indices, shifted_ids_);
  return make_batch(rows, shifted_ids_, parts_.options.shape, kv.layout.page_size, kv.num_pages);
}

Status Session::warm_up(const StepRows& rows) {
  for (std::int32_t i = 0; i < parts_.options.warmup_steps; ++i) {
    report(RunPhase::kWarmup, rows);
    if (parts_.observer.cancelled()) {
      return Error{ErrorCode::kCancelled, "stopped by the caller", "warm-up"};
    }
    PKV_RETURN_IF_ERROR(execute_all(rows));
  }
  return {};
}

Status Session::measure(const StepRows& rows) {
  if (parts_.options.oracle_repeats > 0) {
    PKV_RETURN_IF_ERROR(execute_repeats(rows));
  } else {
    draw_order(parts_.options.data_seed, measured_, order_);
    PKV_RETURN_IF_ERROR(execute_all(rows));
  }
  keep_step();
  return {};
}

Status Session::decide_once(const StepRows& rows) {
  const auto batch = shifted_batch(rows);
  if (!batch.ok()) {
    return batch.error();
  }
  undecided_ = planners_[*policy_idx_];
  auto record = planners_[*policy_idx_].plan(*batch, parts_.pool.run_view().dtype, rows.step_idx, now_ns());
  if (!record.ok()) {
    return record.error();
  }
  return {};
}

Status Session::execute_repeats(const StepRows& rows) {
  const auto by_wall = [](const StepRecord& a, const StepRecord& b) { return a.wall_ns < b.wall_ns; };
  const auto repeats = static_cast<std::size_t>(parts_.options.oracle_repeats);
  std::vector<std::vector<StepRecord>> samples(planners_.size() + 1);  // the last: the policy's twin
  PKV_RETURN_IF_ERROR(decide_once(rows));
  for (std::size_t i = 0; i < repeats; ++i) {
    draw_order(parts_.options.data_seed, measured_ * static_cast<std::int64_t>(repeats) + static_cast<std::int64_t>(i),
               order_);
    PKV_RETURN_IF_ERROR(execute_all(rows));
    for (std::size_t route = 0; route < planners_.size(); ++route) {
      samples[route].push_back(step_records_[route]);
    }
    samples.back().push_back(twin_);
  }
  walls_.assign(samples.size(), {});
  for (std::size_t i = 0; i < samples.size(); ++i) {
    for (const StepRecord& sample : samples[i]) {
      walls_[i].push_back(static_cast<double>(std::max<std::int64_t>(1, sample.wall_ns)));
    }
  }
  const std::optional<double> trial = median_trial(samples[*policy_idx_]);
  for (std::vector<StepRecord>& sample : samples) {
    std::nth_element(sample.begin(), sample.begin() + static_cast<std::ptrdiff_t>(repeats / 2), sample.end(), by_wall);
  }
  for (std::size_t route = 0; route < planners_.size(); ++route) {
    step_records_[route] = samples[route][repeats / 2];
  }
  if (trial) {
    TrialTimes& times = *step_records_[*policy_idx_].trial;
    times.trial.total_ns = std::llround(*trial * static_cast<double>(times.after.total_ns));
  }
  return {};
}

Status Session::execute_all(const StepRows& rows) {
  for (const std::size_t participant : order_) {
    PKV_RETURN_IF_ERROR(execute_participant(rows, participant));
  }
  return execute_mlp(rows);
}

// Routes by index, then the policy's twin (with the oracle), the read probe, the step in the cache.
Status Session::execute_participant(const StepRows& rows, std::size_t participant) {
  const bool with_oracle = undecided_.has_value();
  if (with_oracle && (participant == *policy_idx_ || participant == planners_.size())) {
    const auto record = execute_policy(rows);
    if (!record.ok()) {
      return record.error();
    }
    (participant == planners_.size() ? twin_ : step_records_[participant]) = *record;
    return {};
  }
  if (participant < planners_.size()) {
    return execute_route(rows, participant);
  }
  const std::size_t probe = planners_.size() + (parts_.options.oracle_repeats > 0 ? 1 : 0);
  if (participant < probe) {
    return {};  // a warm-up has no twin
  }
  return participant == probe && probe_ ? execute_probe(rows) : execute_in_cache(rows);
}

// Decided anew each time, from where the policy stood ahead of the step, as other routes plan anew: the one decision
// that is kept was made with cold caches.
Result<StepRecord> Session::execute_policy(const StepRows& rows) {
  RoutePlanner planner = *undecided_;
  return execute_with(planner, rows);
}

Result<StepRecord> Session::execute_with(RoutePlanner& planner, const StepRows& rows) {
  const PagedKv& kv = parts_.pool.run_view();
  parts_.rotation.next(rows.kv_indices, shifted_ids_);
  const std::int64_t begin_ns = now_ns();
  const auto batch = make_batch(rows, shifted_ids_, parts_.options.shape, kv.layout.page_size, kv.num_pages);
  if (!batch.ok()) {
    return batch.error();
  }
  auto record = planner.plan(*batch, kv.dtype, rows.step_idx, begin_ns);
  if (!record.ok()) {
    return record;
  }
  PKV_RETURN_IF_ERROR(parts_.backend.reserve(planner.current()));
  const Result<RunTimes> times = parts_.backend.run(planner.current(), run_args(*batch));
  if (!times.ok()) {
    return times.error();
  }
  record->run = *times;
  record->wall_ns = layer_wall_ns(now_ns() - begin_ns, times->total_ns, parts_.options.num_layers);
  if (planner.trial() != nullptr) {
    PKV_RETURN_IF_ERROR(execute_trial(planner, rows, *record));
  }
  return record;
}

// A layer that runs the trial, and one that runs the plan as it does, right after another; each on pages of its own.
// What the trial takes longer than that, and what it costs the host, is spread over the layers.
Status Session::execute_trial(const RoutePlanner& planner, const StepRows& rows, StepRecord& record) {
  auto batch = shifted_batch(rows);
  if (!batch.ok()) {
    return batch.error();
  }
  const std::int64_t begin_ns = now_ns();
  PKV_RETURN_IF_ERROR(parts_.backend.reserve(*planner.trial()));
  const Result<RunTimes> trial = parts_.backend.run(*planner.trial(), run_args(*batch));
  if (!trial.ok()) {
    return trial.error();
  }
  const std::int64_t wall_ns = now_ns() - begin_ns;
  batch = shifted_batch(rows);
  if (!batch.ok()) {
    return batch.error();
  }
  const Result<RunTimes> after = parts_.backend.run(planner.current(), run_args(*batch));
  if (!after.ok()) {
    return after.error();
  }
  const std::int64_t layers = parts_.options.num_layers;
  record.trial = TrialTimes{.before = record.run, .trial = *trial, .after = *after};
  record.wall_ns += std::max<std::int64_t>(0, wall_ns - after->total_ns) / layers;
  record.run.total_ns += std::max<std::int64_t>(0, trial->total_ns - after->total_ns) / layers;
  return {};
}

Status Session::execute_route(const StepRows& rows, std::size_t route_idx) {
  const auto record = execute_with(planners_[route_idx], rows);
  if (!record.ok()) {
    return record.error();
  }
  step_records_[route_idx] = *record;
  return {};
}

Status Session::execute_probe(const StepRows& rows) {
  const auto batch = shifted_batch(rows);
  if (!batch.ok()) {
    return batch.error();
  }
  const auto probe = probe_(*batch, parts_.pool.run_view());
  if (!probe.ok()) {
    return probe.error();
  }
  step_probe_ = {.bytes = probe->bytes, .elapsed_ns = probe->elapsed_ns};
  return {};
}

// The step as it is, but all rows share a few pages.
Status Session::execute_in_cache(const StepRows& rows) {
  const PagedKv& kv = parts_.pool.run_view();
  const std::int64_t page_bytes = KvPool::page_bytes(kv.layout, kv.dtype);
  const auto num_pages =
      static_cast<std::size_t>(std::max<std::int64_t>(bytes_in_cache(parts_.backend) / page_bytes, 1));
  parts_.rotation.next(rows.kv_indices, shifted_ids_);
  for (std::size_t i = num_pages; i < shifted_ids_.size(); ++i) {
    shifted_ids_[i] = shifted_ids_[i - num_pages];
  }
  const auto batch = make_batch(rows, shifted_ids_, parts_.options.shape, kv.layout.page_size, kv.num_pages);
  if (!batch.ok()) {
    return batch.error();
  }
  const auto record = in_cache_planner_->plan(*batch, kv.dtype, rows.step_idx, now_ns());
  if (!record.ok()) {
    return record.error();
  }
  const Plan& plan = in_cache_planner_->current();
  PKV_RETURN_IF_ERROR(parts_.backend.reserve(plan));
  if (record->useful_kv_bytes < kPassesThatHideTheFirst * bytes_in_cache(parts_.backend)) {
    const Result<RunTimes> first = parts_.backend.run(plan, run_args(*batch));
    if (!first.ok()) {
      return first.error();
    }
  }
  const Result<RunTimes> times = parts_.backend.run(plan, run_args(*batch));
  if (!times.ok()) {
    return times.error();
  }
  step_in_cache_ = {.bytes = record->useful_kv_bytes, .elapsed_ns = times->total_ns};
  return {};
}

Status Session::execute_mlp(const StepRows& rows) {
  if (parts_.mlp == nullptr) {
    return {};
  }
  const auto elapsed_ns = parts_.mlp->run(static_cast<std::int32_t>(rows.seq_lens.size()));
  if (!elapsed_ns.ok()) {
    return elapsed_ns.error();
  }
  step_mlp_ns_ = *elapsed_ns;
  return {};
}

void Session::keep_step() {
  if (policy_idx_) {
    const StepRecord& policy = step_records_[*policy_idx_];
    records_.policy->steps.push_back(undecided_ ? with_regret(policy, walls_, *policy_idx_) : without_regret(policy));
    planners_[*policy_idx_].observe(policy);
    undecided_.reset();
  }
  for (std::size_t i = 0; i < planners_.size(); ++i) {
    records_.routes[i].steps.push_back(step_records_[i]);
  }
  if (probe_) {
    records_.probe.push_back(step_probe_);
  }
  if (in_cache_planner_) {
    records_.in_cache.push_back(step_in_cache_);
  }
  if (parts_.mlp != nullptr) {
    records_.mlp_ns.push_back(step_mlp_ns_);
  }
  ++measured_;
}

bool Session::verifies(std::int64_t measured_idx) const {
  switch (parts_.options.verify) {
    case VerifyMode::kOff: return false;
    case VerifyMode::kSample: return measured_idx % parts_.options.sample_stride == 0;
    case VerifyMode::kEvery: return true;
  }
  return true;
}

Status Session::verify(const StepRows& rows) {
  const auto batch = shifted_batch(rows);
  if (!batch.ok()) {
    return batch.error();
  }
  RunArgs args = tensors_.oracle_args(*batch);
  args.kv = parts_.pool.view();
  const auto expected = oracle_outputs(args, parts_.crew, [&] { return parts_.observer.cancelled(); });
  if (!expected.ok()) {
    return expected.error();
  }
  for (std::size_t i = 0; i < planners_.size(); ++i) {
    PKV_RETURN_IF_ERROR(verify_route(*batch, *expected, i, rows.step_idx));
  }
  return {};
}

Result<Comparison> Session::compare_plan(const BatchState& batch, std::span<const double> expected, const Plan& plan) {
  const RunArgs args = run_args(batch);
  PKV_RETURN_IF_ERROR(tensors_.poison_outputs());
  PKV_RETURN_IF_ERROR(parts_.backend.reserve(plan));
  const Result<RunTimes> times = parts_.backend.run(plan, args);
  if (!times.ok()) {
    return times.error();
  }
  const auto outputs = tensors_.fetch_outputs();
  if (!outputs.ok()) {
    return outputs.error();
  }
  const AttentionShape& shape = parts_.options.shape;
  return compare_outputs(*outputs, expected, shape, Tolerance::of(args.kv.dtype, args.q.dtype, shape));
}

Status Session::verify_route(const BatchState& batch, std::span<const double> expected, std::size_t route_idx,
                             std::int64_t step_idx) {
  const RoutePlanner& planner = planners_[route_idx];
  Result<Comparison> found = compare_plan(batch, expected, planner.current());
  if (!found.ok()) {
    return found.error();
  }
  if (planner.trial() != nullptr) {
    Result<Comparison> of_trial = compare_plan(batch, expected, *planner.trial());
    if (!of_trial.ok()) {
      return of_trial.error();
    }
    if (of_trial->worst) {
      of_trial->worst->route = fmt::format("{}, which tried {} with {} splits", records_.routes[route_idx].name,
                                           route_name(planner.trial()->route()), planner.trial()->max_splits());
    }
    found->max_abs = std::max(found->max_abs, of_trial->max_abs);
    found->sum_abs += of_trial->sum_abs;
    found->num_values += of_trial->num_values;
    found->worst = found->worst ? found->worst : of_trial->worst;
  }
  return keep_comparison(*std::move(found), route_idx, step_idx);
}

Status Session::keep_comparison(Comparison found, std::size_t route_idx, std::int64_t step_idx) {
  RouteRecords& route = records_.routes[route_idx];
  ErrorStats stats = route.errors.value_or(ErrorStats{});
  stats.num_steps += 1;
  stats.num_values += found.num_values;
  stats.max_abs = std::max(stats.max_abs, found.max_abs);
  stats.sum_abs += found.sum_abs;
  route.errors = stats;
  if (!found.worst) {
    return {};
  }
  found.worst->step_idx = step_idx;
  if (found.worst->route.empty()) {
    found.worst->route = route.name;
  }
  return fail_verification(*std::move(found.worst));
}

Status Session::fail_verification(Mismatch mismatch) {
  records_.mismatch = mismatch;
  return Error{ErrorCode::kMismatch,
               fmt::format("got {:.9g}, expected {:.9g}, error limit {:.1e}", mismatch.actual, mismatch.expected,
                           mismatch.limit),
               fmt::format("step {}, route {}, row {}, query head {}, element {}", mismatch.step_idx, mismatch.route,
                           mismatch.row, mismatch.q_head, mismatch.element)};
}

RunArgs Session::run_args(const BatchState& batch) {
  RunArgs args = tensors_.run_args(batch);
  args.kv = parts_.pool.run_view();
  return args;
}

void Session::report(RunPhase phase, const StepRows& rows) const {
  parts_.observer.on_progress({.phase = phase,
                               .done = measured_,
                               .total = total_steps_,
                               .num_rows = static_cast<std::int32_t>(rows.seq_lens.size())});
}

}  // namespace pkv

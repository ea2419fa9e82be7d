// Session: the routes of one run side by side over the same steps, measured and verified.
// Not here: where steps come from (step_source.h), what is allocated (measure.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "persistentkv/backend.h"
#include "replay/crew.h"
#include "replay/kv_pool.h"
#include "replay/mlp_proxy.h"
#include "replay/observer.h"
#include "replay/options.h"
#include "replay/policy_steps.h"
#include "replay/random_data.h"
#include "replay/read_probe.h"
#include "replay/route_planner.h"
#include "replay/step_source.h"
#include "replay/step_tensors.h"
#include "report/records.h"

namespace pkv {

/// A batch over a step's rows with the given page ids. Errors: as BatchState::make.
Result<BatchState> make_batch(const StepRows& rows, std::span<const std::int32_t> page_ids, const AttentionShape& shape,
                              std::int32_t page_size, std::int64_t num_pages);

/// Bytes of host memory that a session allocates for the largest step: queries, outputs, page ids of a step
/// before and after the shift, and what verification needs. Plans and the backend's workspace are not in it.
std::int64_t session_bytes(const RunOptions& options, const StepBounds& bounds, std::int64_t num_threads);

/// The order in which participants take their turns in one step, as a permutation of [0, order.size()):
/// another one every step, the same for the same seed. Nobody has a fixed predecessor, whose traces in
/// caches and clocks would otherwise always be the same one's.
void draw_order(std::uint64_t seed, std::int64_t measured_idx, std::span<std::size_t> order);

/// What a session works with; all of it outlives the session.
struct SessionParts {
  const RunOptions& options;
  Backend& backend;
  const KvPool& pool;
  PageRotation rotation;
  const RandomBlock& query_block;
  /// Null without the proxy.
  MlpLayer* mlp;
  Crew& crew;
  RunObserver& observer;
};

class Session {
 public:
  /// `planners`: one a route of the options.
  Session(const SessionParts& parts, std::vector<RoutePlanner> planners, RunRecords& records);

  /// Runs the source to its end. On an error or cancellation the records hold the complete steps.
  Status run(StepSource& source);

 private:
  Status run_steps(StepSource& source);
  Status prepare(const StepRows& rows);
  Status warm_up(const StepRows& rows);
  Status measure(const StepRows& rows);
  /// Every participant once, in the order of order_.
  Status execute_all(const StepRows& rows);
  /// Every participant oracle_repeats times, each time in another order; the medians are kept.
  Status execute_repeats(const StepRows& rows);
  /// Plans the policy's step once; its repeats run that plan and are charged that time.
  Status decide_once(const StepRows& rows);
  Status execute_route(const StepRows& rows, std::size_t route_idx);
  /// With the oracle: the policy, as it stood ahead of the step.
  Result<StepRecord> execute_policy(const StepRows& rows);
  /// Plans and runs under the next shift of page ids.
  Result<StepRecord> execute_with(RoutePlanner& planner, const StepRows& rows);
  Status execute_trial(const RoutePlanner& planner, const StepRows& rows, StepRecord& record);
  Status execute_participant(const StepRows& rows, std::size_t participant);
  Status execute_probe(const StepRows& rows);
  Status execute_in_cache(const StepRows& rows);
  Status execute_mlp(const StepRows& rows);
  Status verify(const StepRows& rows);
  /// Runs the plan on poisoned outputs.
  Result<Comparison> compare_plan(const BatchState& batch, std::span<const double> expected, const Plan& plan);
  Status verify_route(const BatchState& batch, std::span<const double> expected, std::size_t route_idx,
                      std::int64_t step_idx);
  Status keep_comparison(Comparison found, std::size_t route_idx, std::int64_t step_idx);
  Status fail_verification(Mismatch mismatch);
  void keep_step();
  [[nodiscard]] bool verifies(std::int64_t measured_idx) const;
  /// The step's rows under the next shift of page ids.
  Result<BatchState> shifted_batch(const StepRows& rows);
  [[nodiscard]] RunArgs run_args(const BatchState& batch);
  void report(RunPhase phase, const StepRows& rows) const;

  SessionParts parts_;
  RunRecords& records_;
  std::vector<RoutePlanner> planners_;
  ReadProbe probe_;  // empty: the backend has none
  std::optional<std::size_t> policy_idx_;
  std::optional<std::int64_t> total_steps_;
  std::int64_t measured_ = 0;

  StepTensors tensors_;
  std::vector<std::int32_t> shifted_ids_;
  /// Plans of the steps whose K and V stay in the cache, as cpu_rule makes them; not set where there are none.
  std::optional<RoutePlanner> in_cache_planner_;
  /// Routes by index, the policy's twin with the oracle, the read probe, the step in the cache.
  std::vector<std::size_t> order_;
  // The step in progress; moved into the records only when every participant has finished it.
  std::vector<StepRecord> step_records_;
  std::optional<RoutePlanner> undecided_;  // with the oracle: the policy as it stood ahead of the step
  StepRecord twin_;                        // with the oracle: the policy once more
  RepeatedWalls walls_;                    // of the step, the twin last
  ReadSample step_probe_;
  ReadSample step_in_cache_;
  std::int64_t step_mlp_ns_ = 0;
};

}  // namespace pkv

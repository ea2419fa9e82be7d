// Engine: decide -> plan -> run -> record. The API that users link.
// Not here: traces, statistics, files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/cpu.h"
#include "persistentkv/decision.h"
#include "persistentkv/record.h"
#include "persistentkv/result.h"

namespace pkv {

struct EngineOptions {
  /// Of the backend that create() makes; not used with a backend of the caller's.
  CpuOptions cpu = {};
  /// Routes to choose from by price. Empty: cpu_rule or, on a device backend, gpu_rule, which divide the step
  /// without comparing routes. Routes of other projects only where the backend supports them.
  std::vector<Route> routes = {};
  /// What cpu_rule knows about this machine's memory.
  ReadCurve read_curve = {};
  /// Prices of this machine; num_workers is taken from the backend. Not set: the shipped profile "cpu" on a
  /// CPU, no prices on a device backend.
  std::optional<DeviceProfile> profile = std::nullopt;
  /// Attention layers that run each decision: what deciding and planning cost on the host counts once for all of them
  /// (PriceInputs::num_layers).
  std::int32_t num_layers = 1;
  /// Whether the prices follow what steps took, and whether plans of nearly one price are tried (Decision::trial).
  Learning learning = Learning::kOn;
};

/// Owns a backend. Not thread-safe.
/// Use: one decide() a step, then one run() a layer:
///   auto engine = pkv::Engine::create({});
///   auto decision = engine->decide(batch, pkv::DType::kF16);
///   for (layer...) engine->run(*decision, args);
/// On a GPU, where the tensors of run() lie in device memory (Backend::device_memory):
///   auto engine = pkv::Engine::create(pkv::CudaBackend::create().value(), {});
class Engine {
 public:
  /// On the CPU. Errors: as make_cpu_backend and validate(DeviceProfile); kInvalidArgument (num_layers); kUnsupported
  /// for a route that the backend does not run.
  static Result<Engine> create(const EngineOptions& options);
  /// On a backend of the caller's, which the engine keeps. Errors: kInvalidArgument (no backend), and as above.
  static Result<Engine> create(std::unique_ptr<Backend> backend, const EngineOptions& options);

  /// Follows the rule of the backend, or prices every route and keeps the cheapest plan (EngineOptions::routes);
  /// makes the workspace fit it. `layout` is that of K and V in run(): it says how many KV heads lie together.
  Result<Decision> decide(const BatchState& batch, DType kv_dtype, const KvLayout& layout);
  /// The same for dense HND pages.
  Result<Decision> decide(const BatchState& batch, DType kv_dtype);
  /// Plans one route without pricing others, with the route's splits or its own choice.
  /// PlanOptions::num_workers is taken from the backend. Errors: as make_plan and Backend::reserve; kUnsupported
  /// for a route that the backend does not run.
  Result<Decision> plan(const BatchState& batch, DType kv_dtype, const PlanOptions& options);
  /// Executes a decision for one layer and waits for it. The second run of the last decide()'s decision executes its
  /// trial, if it has one (Decision::trial), which is as exact; the record says what ran. Errors: as Backend::run.
  Result<StepRecord> run(const Decision& decision, const RunArgs& args);

  [[nodiscard]] Backend& backend() { return *backend_; }
  /// Not set: nothing is priced.
  [[nodiscard]] const std::optional<DeviceProfile>& profile() const { return profile_; }

 private:
  Engine(std::unique_ptr<Backend> backend, const EngineOptions& options, std::optional<DeviceProfile> profile);
  Result<Decision> follow_rule(const BatchState& batch, DType kv_dtype, const KvLayout& layout);
  /// The policy for steps like this one; the last one if it fits. Requires a profile.
  Result<Policy*> policy_for(const BatchState& batch, DType kv_dtype, KvOrder order);

  std::unique_ptr<Backend> backend_;
  std::vector<Route> routes_;  // empty: the backend's rule
  ReadCurve read_curve_;
  std::optional<DeviceProfile> profile_;
  std::int32_t num_layers_ = 1;
  Learning learning_ = Learning::kOn;
  std::optional<Policy> policy_;
  std::int64_t num_decisions_ = 0;
  /// Of the last decide()'s decision.
  struct Layers {
    std::int64_t serial = 0;
    std::int32_t num_run = 0;
    std::optional<RunTimes> trial = std::nullopt;  // until the layer after it has run
  };
  Layers layers_;
};

}  // namespace pkv

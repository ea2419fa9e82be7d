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
  CpuOptions cpu = {};
  /// Routes to choose from; all of them when empty.
  std::vector<Route> routes = {};
  /// Prices of this machine. num_workers is taken from the backend.
  DeviceProfile profile = {};
};

/// Owns a backend. Not thread-safe.
/// Use: one decide() a step, then one run() a layer:
///   auto engine = pkv::Engine::create({});
///   auto decision = engine->decide(batch, pkv::DType::kF16);
///   for (layer...) engine->run(*decision, args);
class Engine {
 public:
  /// Errors: as make_cpu_backend and validate(DeviceProfile).
  static Result<Engine> create(const EngineOptions& options);

  /// Prices every route and keeps the cheapest plan; makes the workspace fit it.
  Result<Decision> decide(const BatchState& batch, DType kv_dtype);
  /// Plans one route without pricing others, with the route's splits or its own choice.
  /// PlanOptions::num_workers is taken from the backend.
  Result<Decision> plan(const BatchState& batch, DType kv_dtype, const PlanOptions& options);
  /// Executes a decision for one layer. Errors: as Backend::run.
  Result<StepRecord> run(const Decision& decision, const RunArgs& args);

  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] const DeviceProfile& profile() const { return profile_; }

 private:
  Engine(std::unique_ptr<Backend> backend, std::vector<Route> routes, DeviceProfile profile);
  std::unique_ptr<Backend> backend_;
  std::vector<Route> routes_;
  DeviceProfile profile_;
};

}  // namespace pkv

// StagedBackend: runs a backend whose tensors lie in device memory on tensors in host memory.
// Not here: speed (every run copies the whole cache); the copies themselves (device_tensor.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "exec/device_tensor.h"
#include "persistentkv/backend.h"

namespace pkv {

/// For tests and verification: what runs on the device is the inner backend's, times included.
/// run() copies K and V (every page that the view has), q and sinks to the device, runs, and copies out and
/// lse back. What lies between output heads and rows keeps its content. Device memory grows and is reused,
/// so that, unlike other backends, run() may allocate. Not thread-safe.
class StagedBackend final : public Backend {
 public:
  /// The inner backend outlives it. Errors: kInvalidArgument if that one's tensors lie in host memory.
  static Result<std::unique_ptr<StagedBackend>> make(Backend& inner);

  [[nodiscard]] std::string_view name() const override { return inner_.name(); }
  [[nodiscard]] std::string describe() const override { return inner_.describe(); }
  [[nodiscard]] Capabilities capabilities() const override { return inner_.capabilities(); }
  [[nodiscard]] std::int32_t num_workers() const override { return inner_.num_workers(); }
  [[nodiscard]] bool supports(Route route) const override { return inner_.supports(route); }
  Status reserve(const Plan& plan) override { return inner_.reserve(plan); }
  /// Errors: as Backend::run, and those of DeviceMemory.
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override;

 private:
  StagedBackend(Backend& inner, DeviceMemory& memory);
  /// The arguments with every tensor on the device.
  Result<RunArgs> stage(const RunArgs& args);
  Status stage_kv(PagedKv& kv, const AttentionShape& shape);

  Backend& inner_;
  DeviceTensor k_;  // of packed caches: K and V
  DeviceTensor v_;
  DeviceTensor q_;
  DeviceTensor out_;
  DeviceTensor lse_;
  DeviceTensor sinks_;
};

}  // namespace pkv

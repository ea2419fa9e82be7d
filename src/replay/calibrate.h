// Calibration of a CPU: probes and a few decode steps in, a profile and how well it fits out.
// Not here: where profiles are kept (tools/pkv), prices (persistentkv/price.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "persistentkv/cpu.h"
#include "persistentkv/profile.h"
#include "persistentkv/result.h"
#include "replay/observer.h"

namespace pkv {

struct CalibrateOptions {
  CpuOptions cpu;
  /// What the profile says it was measured on.
  MachineIdentity identity;
  /// Executions of every step, 5 to 1000; the medians count.
  std::int32_t repeats = 9;
  /// Bytes that may be allocated; what is available when not set.
  std::optional<std::int64_t> memory_limit_bytes = std::nullopt;
};

/// One step that was fitted.
struct CalibratedStep {
  /// "8192,8192 f16 group 4, pages".
  std::string what;
  double measured_ns = 0.0;
  /// By the fitted profile, with the memory as fast as the read probe found it beside this step.
  double predicted_ns = 0.0;
  double probe_bytes_per_ns = 0.0;
};

struct Calibration {
  DeviceProfile profile;
  std::vector<CalibratedStep> steps;
  /// Of |predicted - measured| / measured.
  double median_error = 0.0;
  double worst_error = 0.0;
};

/// Reads, arithmetic and forks from the probes; shares of the bandwidth by KV heads a task, the overlap, starts and
/// launches fitted to steps of 1 to 4 rows by coordinate descent on squared logarithms. About 30 s. No step of any
/// trace is looked at.
/// Errors: those of the probes and of run_step; kInvalidArgument (repeats); kCancelled.
Result<Calibration> calibrate_cpu(const CalibrateOptions& options, RunObserver& observer);

}  // namespace pkv

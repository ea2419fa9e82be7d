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
  std::int32_t repeats = 25;
  /// Bytes that may be allocated; what is available when not set.
  std::optional<std::int64_t> memory_limit_bytes = std::nullopt;
};

/// One step that was fitted.
struct CalibratedStep {
  /// "8192,8192 f16 group 4, pages".
  std::string what;
  /// Median of the repeats.
  double measured_ns = 0.0;
  /// By the fitted profile: measured_ns times the median ratio of a repeat, memory and kernels as fast as the read
  /// probe and the step in the L2 found them in that repeat.
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

/// Above it a fit is poor: the bound that prices are held to.
inline constexpr double kPoorMedianError = 0.10;
/// Above it a fit is absurd: memory of shared machines has states up to 1.7 times apart, and a profile that misses
/// by half of that knows no more than the state it was measured in.
inline constexpr double kAbsurdMedianError = 0.30;

/// Reads and arithmetic from the probes; shares of the bandwidth by chunk (the probe of random chunks as the prior),
/// the overlap, starts and launches fitted to steps of 1 to 5 rows by coordinate descent, robust to single outliers.
/// Every repeat is compared with what was read and computed beside it, so the machine's state may change meanwhile.
/// About 40 s. No step of any trace is looked at. How good the fit is, is for the caller to judge.
/// Errors: those of the probes and of run_step; kInvalidArgument (repeats); kCancelled.
Result<Calibration> calibrate_cpu(const CalibrateOptions& options, RunObserver& observer);

}  // namespace pkv

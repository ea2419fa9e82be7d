// RunObserver: progress out, the wish to stop in.
// Not here: progress bars and signals (tools/pkv).
#pragma once

#include <cstdint>
#include <optional>

namespace pkv {

enum class RunPhase : std::uint8_t { kPreparing, kWarmup, kMeasuring, kVerifying };

struct Progress {
  RunPhase phase = RunPhase::kPreparing;
  /// Measured steps done (verify: cases).
  std::int64_t done = 0;
  /// Not set when the trace's number of steps is not known beforehand.
  std::optional<std::int64_t> total;
  /// Rows of the current step.
  std::int32_t num_rows = 0;
};

/// Called on the thread that runs the replay, never inside a timed part.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void on_progress(const Progress& progress) { static_cast<void>(progress); }
  /// Polled at least once a step, and during verification. True ends the run cleanly.
  [[nodiscard]] virtual bool cancelled() const { return false; }
};

}  // namespace pkv

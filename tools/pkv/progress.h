// Progress on standard error, and Ctrl-C as a wish to stop.
// Not here: what is measured (src/replay).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "replay/observer.h"

namespace pkv::cli {

/// While one lives, the first Ctrl-C asks the run to end cleanly; a second one, half a second later or more,
/// ends the process. What comes sooner is the first once more: `timeout` signals a process and its group, and
/// a terminal's Ctrl-C can arrive through a wrapper as well. Without a guard a first Ctrl-C ends the process,
/// but the echo of one that came before does not, so that a report is written to its end. Guards nest.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  [[nodiscard]] static bool interrupted();
};

/// A bar on a terminal, redrawn ten times a second at most; in a pipe a line every few seconds.
class ProgressObserver : public RunObserver {
 public:
  /// `label` begins every line: "bimodal 8" in the main job, else empty.
  explicit ProgressObserver(std::string label = {});
  ~ProgressObserver() override;

  void on_progress(const Progress& progress) override;
  [[nodiscard]] bool cancelled() const override { return InterruptGuard::interrupted(); }

 private:
  void show(const std::string& line);
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  std::int64_t last_shown_ns_;
  std::optional<RunPhase> phase_;  // shown last
};

}  // namespace pkv::cli

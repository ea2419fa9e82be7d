// StepSource: where the measured steps come from: a trace's admission, or one step repeated.
// Not here: execution (measure.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "persistentkv/result.h"
#include "replay/replay.h"
#include "replay/step.h"
#include "trace/admission.h"

namespace pkv {

/// What no step of a source exceeds: memory is counted by it before anything is allocated.
struct StepBounds {
  std::int64_t max_rows = 0;
  std::int64_t max_seq_len = 0;
  /// Page ids of one step.
  std::int64_t max_pages = 0;
  /// Bytes of page ids that the source itself holds, its pool's bookkeeping among them.
  std::int64_t table_bytes = 0;
};

class StepSource {
 public:
  virtual ~StepSource() = default;
  /// False when there are no more steps to measure.
  virtual Result<bool> next(StepRows& rows) = 0;
  /// Page ids are below it.
  [[nodiscard]] virtual std::int64_t num_physical_pages() const = 0;
  /// Upper bound of the number of steps, if there is one.
  [[nodiscard]] virtual std::optional<std::int64_t> max_steps() const = 0;
  [[nodiscard]] virtual StepBounds bounds() const = 0;
  /// Whether each step reads all pages that hold something, so that two steps share pages unless one is
  /// shifted by num_physical_pages().
  [[nodiscard]] virtual bool reads_every_page() const = 0;
};

/// Skips and stops as the options say. The trace must outlive the source.
/// Errors: options of admission; kInvalidArgument for negative counts.
Result<std::unique_ptr<StepSource>> make_trace_source(const Trace& trace, const ReplayOptions& options);

/// Errors: kInvalidArgument (no rows, lengths, repeats, hole fraction), kOutOfRange (too many pages).
Result<std::unique_ptr<StepSource>> make_repeated_source(const StepOptions& options);

}  // namespace pkv

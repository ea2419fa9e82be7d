// The two admission modes behind make_admission, over inputs that it has validated.
// Not here: validation of options and traces (admission.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/math.h"
#include "persistentkv/result.h"
#include "trace/admission.h"

namespace pkv::trace_internal {

/// A validated trace on the clock of decode steps.
struct StepTrace {
  /// For errors; of the caller's trace.
  std::string_view name;
  std::span<const Request> requests;
  /// First step in which a request may have a row, by request; never decreases.
  std::vector<std::int64_t> arrival_steps;
};

/// Pages of a prefix of seq_len tokens.
inline std::int64_t pages_for(std::int64_t seq_len, std::int32_t page_size) {
  return ceil_div<std::int64_t>(seq_len, page_size);
}

Result<std::unique_ptr<Admission>> make_paper_admission(StepTrace trace, const AdmissionOptions& options);
Result<std::unique_ptr<Admission>> make_fcfs_admission(StepTrace trace, const AdmissionOptions& options);

}  // namespace pkv::trace_internal

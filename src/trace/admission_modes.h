// The two admission modes behind make_admission, over inputs that it has validated.
// Not here: validation of options and traces (admission.cc).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
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

/// What is asked for when memory ends: the tables of an admission.
inline std::string tables_message(std::int64_t num_physical_pages, std::int64_t bytes_per_page) {
  return fmt::format("not enough memory for the tables of {} physical pages, {} bytes", num_physical_pages,
                     num_physical_pages * bytes_per_page);
}

/// Neither deals a page: the first step does, so that a caller can compare num_physical_pages with its
/// budget before any memory is filled.
Result<std::unique_ptr<Admission>> make_paper_admission(StepTrace trace, const AdmissionOptions& options);
Result<std::unique_ptr<Admission>> make_fcfs_admission(StepTrace trace, const AdmissionOptions& options);

}  // namespace pkv::trace_internal

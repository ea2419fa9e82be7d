// Validates a trace and options, puts arrivals on the clock of steps, and makes the mode asked for.
// Not here: the modes themselves (paper_admission.cc, fcfs_admission.cc).
#include "trace/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "persistentkv/batch.h"
#include "persistentkv/layout.h"
#include "trace/admission_modes.h"
#include "trace/names.h"

namespace pkv {
namespace {

using trace_internal::StepTrace;
using trace_internal::unknown_name;

/// By the value of AdmissionMode.
constexpr std::array<std::string_view, 2> kModeNames = {"paper", "fcfs"};
/// Steps are counted exactly up to here, also in double.
constexpr double kMaxStep = 9007199254740992.0;
/// Decimal arrivals that fall on a step land a rounding error beside it.
constexpr double kStepSlack = 1e-9;

Error invalid(std::string message, std::string where = {}) {
  return {.code = ErrorCode::kInvalidArgument, .message = std::move(message), .where = std::move(where)};
}

Status validate(const AdmissionOptions& options) {
  if (options.max_active < 1 || options.max_active > kMaxRows) {
    return invalid(fmt::format("max_active is {}, must be 1 to {}", options.max_active, kMaxRows));
  }
  if (options.page_size < 1 || options.page_size > kMaxPageSize) {
    return invalid(fmt::format("page_size is {}, must be 1 to {}", options.page_size, kMaxPageSize));
  }
  if (!(options.hole_fraction >= 0.0 && options.hole_fraction < 1.0)) {
    return invalid(fmt::format("hole_fraction is {}, must be in [0, 1)", options.hole_fraction));
  }
  if (!(options.step_seconds > 0.0 && std::isfinite(options.step_seconds))) {
    return invalid(fmt::format("step_seconds is {}, must be finite and above 0", options.step_seconds));
  }
  if (options.pool_pages &&
      (*options.pool_pages < 1 || *options.pool_pages > std::numeric_limits<std::int32_t>::max())) {
    return invalid(fmt::format("pool_pages is {}, must be 1 to {}", *options.pool_pages,
                               std::numeric_limits<std::int32_t>::max()));
  }
  if (options.pool_pages && options.mode == AdmissionMode::kPaper) {
    return invalid("pool_pages is for fcfs: in paper mode every request owns its pages from the beginning");
  }
  return {};
}

std::string place(const Trace& trace, std::size_t i) { return fmt::format("{}, request {}", trace.name, i); }

Status validate_request(const Trace& trace, std::size_t i) {
  const Request& request = trace.requests[i];
  if (request.prompt_len < 0) {
    return invalid(fmt::format("prompt_len is {}, must be at least 0", request.prompt_len), place(trace, i));
  }
  if (request.decode_len < 1) {
    return invalid(fmt::format("decode_len is {}, must be at least 1", request.decode_len), place(trace, i));
  }
  const std::int64_t end = static_cast<std::int64_t>(request.prompt_len) + request.decode_len;
  if (end > std::numeric_limits<std::int32_t>::max()) {
    return invalid(
        fmt::format("prompt_len + decode_len is {}, the limit is {}", end, std::numeric_limits<std::int32_t>::max()),
        place(trace, i));
  }
  if (!(request.arrival >= 0.0 && std::isfinite(request.arrival))) {
    return invalid(fmt::format("arrival is {}, must be finite and at least 0", request.arrival), place(trace, i));
  }
  if (i > 0 && request.arrival < trace.requests[i - 1].arrival) {
    return invalid(
        fmt::format("arrival is {}, before that of the request in front of it ({}); order requests by arrival",
                    request.arrival, trace.requests[i - 1].arrival),
        place(trace, i));
  }
  return {};
}

Status validate(const Trace& trace) {
  if (trace.requests.empty()) {
    return invalid("the trace has 0 requests, at least 1 is needed", trace.name);
  }
  if (trace.requests.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return invalid(fmt::format("the trace has {} requests, the limit is {}", trace.requests.size(),
                               std::numeric_limits<std::int32_t>::max()),
                   trace.name);
  }
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    PKV_RETURN_IF_ERROR(validate_request(trace, i));
  }
  return {};
}

/// Without arrivals paper mode takes the paper's own rule: all at once would age them to nothing.
Result<StepTrace> on_step_clock(const Trace& trace, const AdmissionOptions& options) {
  const double steps_per_unit = trace.arrival_unit == ArrivalUnit::kSeconds ? 1.0 / options.step_seconds : 1.0;
  const bool paper_arrivals = !trace.has_arrivals && options.mode == AdmissionMode::kPaper;
  StepTrace steps{.name = trace.name, .requests = trace.requests, .arrival_steps = {}};
  steps.arrival_steps.reserve(trace.requests.size());
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    const double step = paper_arrivals ? static_cast<double>(i / static_cast<std::size_t>(options.max_active))
                                       : std::ceil(trace.requests[i].arrival * steps_per_unit - kStepSlack);
    if (!(step <= kMaxStep)) {
      return invalid(fmt::format("arrival {} with step_seconds {} is step {:.3g}, the limit is {:.0f}",
                                 trace.requests[i].arrival, options.step_seconds, step, kMaxStep),
                     place(trace, i));
    }
    steps.arrival_steps.push_back(static_cast<std::int64_t>(std::max(step, 0.0)));
  }
  return steps;
}

}  // namespace

std::string_view admission_mode_name(AdmissionMode mode) { return kModeNames[static_cast<std::size_t>(mode)]; }

Result<AdmissionMode> parse_admission_mode(std::string_view name) {
  const auto found = std::find(kModeNames.begin(), kModeNames.end(), name);
  if (found == kModeNames.end()) {
    return unknown_name("admission mode", name, kModeNames);
  }
  return static_cast<AdmissionMode>(found - kModeNames.begin());
}

Result<std::unique_ptr<Admission>> make_admission(const Trace& trace, const AdmissionOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options));
  PKV_RETURN_IF_ERROR(validate(trace));
  Result<StepTrace> steps = on_step_clock(trace, options);
  PKV_RETURN_IF_ERROR(steps);
  if (options.mode == AdmissionMode::kPaper) {
    return trace_internal::make_paper_admission(std::move(steps).value(), options);
  }
  return trace_internal::make_fcfs_admission(std::move(steps).value(), options);
}

}  // namespace pkv

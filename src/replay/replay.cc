// Options checked, the trace turned into steps, the rest is measure.h.
#include "replay/replay.h"

#include <fmt/format.h>

#include "replay/measure.h"
#include "replay/step_source.h"

namespace pkv {
namespace {

struct Prepared {
  std::unique_ptr<StepSource> source;
  RunRecords records;
};

Result<Prepared> prepare(const Trace& trace, const ReplayOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options.run));
  const std::int32_t page_size = options.admission.page_size;
  if (page_size < 1 || page_size > kMaxPageSize) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("page size is {}, must be 1 to {}", page_size, kMaxPageSize),
                 "page_size"};
  }
  auto source = make_trace_source(trace, options);
  if (!source.ok()) {
    return source.error();
  }
  RunRecords head;
  head.trace = trace.name;
  head.seed = options.trace_seed;
  head.notes = trace.notes;
  RunRecords records = begin_records(options.run, page_size, **source, std::move(head));
  return Prepared{std::move(*source), std::move(records)};
}

}  // namespace

Result<RunRecords> replay(const Trace& trace, const ReplayOptions& options, RunObserver& observer) {
  auto prepared = prepare(trace, options);
  if (!prepared.ok()) {
    return prepared.error();
  }
  if (options.plan_only_workers) {
    return plan_steps(options.run, *prepared->source, *options.plan_only_workers, observer,
                      std::move(prepared->records));
  }
  return execute_steps(options.run, *prepared->source, observer, std::move(prepared->records));
}

Result<RunRecords> replay(const Trace& trace, const ReplayOptions& options, Backend& backend, RunObserver& observer) {
  if (options.plan_only_workers) {
    return Error{ErrorCode::kInvalidArgument, "planning only takes no backend", "plan_only_workers"};
  }
  auto prepared = prepare(trace, options);
  if (!prepared.ok()) {
    return prepared.error();
  }
  return execute_steps(options.run, *prepared->source, backend, observer, std::move(prepared->records));
}

}  // namespace pkv

// One step from lengths, through the same machinery as a trace.
#include "replay/step.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "replay/measure.h"
#include "replay/step_source.h"

namespace pkv {
namespace {

struct Prepared {
  RunOptions run;
  std::unique_ptr<StepSource> source;
  RunRecords records;
};

/// "lens:48000,6000,6000"; the first 16 of many.
std::string lengths_text(const std::vector<std::int32_t>& seq_lens) {
  constexpr std::size_t kShown = 16;
  const auto shown = std::span(seq_lens).first(std::min(kShown, seq_lens.size()));
  const std::string more = seq_lens.size() > kShown ? fmt::format(",... ({} rows)", seq_lens.size()) : std::string{};
  return fmt::format("lens:{}{}", fmt::join(shown, ","), more);
}

Result<Prepared> prepare(const StepOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options.run));
  auto source = make_repeated_source(options);
  if (!source.ok()) {
    return source.error();
  }
  RunOptions run = options.run;
  // All repetitions compute the same lengths: a sample is the first one.
  run.sample_stride = std::max(run.sample_stride, options.repeats);
  RunRecords head;
  head.trace = lengths_text(options.seq_lens);
  RunRecords records = begin_records(run, options.page_size, **source, std::move(head));
  return Prepared{std::move(run), std::move(*source), std::move(records)};
}

}  // namespace

Result<RunRecords> run_step(const StepOptions& options, RunObserver& observer) {
  auto prepared = prepare(options);
  if (!prepared.ok()) {
    return prepared.error();
  }
  if (options.plan_only_workers) {
    return plan_steps(prepared->run, *prepared->source, *options.plan_only_workers, observer,
                      std::move(prepared->records));
  }
  return execute_steps(prepared->run, *prepared->source, observer, std::move(prepared->records));
}

Result<RunRecords> run_step(const StepOptions& options, Backend& backend, RunObserver& observer) {
  if (options.plan_only_workers) {
    return Error{ErrorCode::kInvalidArgument, "planning only takes no backend", "plan_only_workers"};
  }
  auto prepared = prepare(options);
  if (!prepared.ok()) {
    return prepared.error();
  }
  return execute_steps(prepared->run, *prepared->source, backend, observer, std::move(prepared->records));
}

}  // namespace pkv

// What pkv explain found out, and its forms: tables, a timeline, JSON, a Chrome trace.
// Not here: deciding and measuring (command_explain.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "persistentkv/decision.h"
#include "report/report.h"

namespace pkv::cli {

/// Of one candidate, medians over repeats.
struct MeasuredCandidate {
  double device_ns = 0.0;
  /// Half the distance between the quartiles, as a part of the median.
  double spread = 0.0;
};

/// A candidate planned again, so that the terms of its price are known.
struct ExplainedCandidate {
  /// candidate.priced is false: the search left it out by its bound, its price was found for the explanation.
  Candidate candidate;
  Price price;
  PlanCounters counters;
  std::optional<MeasuredCandidate> measured;
};

/// What the prices have learnt, and from how many steps.
struct LearntScales {
  Correction correction;
  std::int64_t steps = 0;
};

/// One step.
struct StepExplanation {
  /// "lens:48000,6000" or "step 12 of paper:bimodal, 8 rows, 71,000 tokens".
  std::string title;
  Decision decision;
  std::vector<ExplainedCandidate> candidates;
  /// Why the policy did what it did in the trace, where that is not the decision made anew here.
  std::string reason_in_trace;
  std::optional<LearntScales> learnt;
  std::int32_t repeats = 0;
  /// Of the machine that measured, if any.
  std::string backend;
  /// The chosen plan measured once more, by the policy itself: the difference, as a part.
  std::optional<double> twin_noise;
};

/// One line of a trace's summary.
struct StepLine {
  std::int64_t step_idx = 0;
  std::int32_t num_rows = 0;
  std::int64_t tokens = 0;
  Candidate chosen;
  /// True: the last step's choice was kept, nothing was searched.
  bool kept = false;
  DecisionBasis basis = DecisionBasis::kCheapest;
  /// What one layer tried, and what that took.
  std::optional<Candidate> tried;
  std::optional<double> tried_ns;
  Price price;
  /// Of the workers' time from the first task to the last end.
  double occupancy = 1.0;
  std::optional<double> measured_ns;
  /// Before the step.
  Correction correction;
};

struct TraceExplanation {
  std::string trace;
  std::vector<StepLine> lines;
  std::optional<LearntScales> learnt;
  std::string backend;
  bool interrupted = false;
};

/// The part of the workers' time between the first start and the last end in which they hold a task.
double occupancy(const Plan& plan, const PriceModel& model);

std::string step_text(const StepExplanation& step, const PriceModel& model, TextStyle style);
std::string step_json(const StepExplanation& step, const PriceModel& model);
std::string trace_text(const TraceExplanation& trace, const PriceModel& model, TextStyle style);
std::string trace_json(const TraceExplanation& trace, const PriceModel& model);

/// Plans one after the other in Chrome's trace event format, which Perfetto opens: a thread a worker, with its name,
/// one for the host (deciding and planning) and one for merges. Times are the profile's.
class ChromeTrace {
 public:
  ChromeTrace();
  ~ChromeTrace();
  ChromeTrace(const ChromeTrace&) = delete;
  ChromeTrace& operator=(const ChromeTrace&) = delete;

  void add(const std::string& title, const Plan& plan, const Price& price, const PriceModel& model);
  [[nodiscard]] std::string json(const std::string& profile) const;

 private:
  struct Events;
  std::unique_ptr<Events> events_;
};

}  // namespace pkv::cli

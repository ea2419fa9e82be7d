// A decision's basis in words. Not here: deciding (policy.cc), the rules (cpu_rule.cc, gpu_rule.cc).
#include <fmt/format.h>

#include <algorithm>

#include "persistentkv/decision.h"

namespace pkv {
namespace {

std::string paper_gates(const Plan& plan) {
  const std::int32_t longest = plan.seq_lens().empty() ? 0 : *std::ranges::max_element(plan.seq_lens());
  return fmt::format("the paper's gates (group {}, {} rows, longest {}) send it to FlashInfer{}",
                     plan.shape().group_size(), plan.seq_lens().size(), longest,
                     plan.route() == Route::kRow ? "; there is none, so row" : "");
}

}  // namespace

std::string Decision::reason() const {
  std::string text = reason_of_plan();
  if (trial) {
    text +=
        fmt::format("; one layer tries {} with {} splits", route_name(trial->plan.route()), trial->plan.max_splits());
  }
  return text;
}

std::string Decision::reason_of_plan() const {
  const auto route = route_name(plan.route());
  const double us = price.total_ns() * 1e-3;
  switch (basis) {
    case DecisionBasis::kNamed: return "the caller named the route";
    case DecisionBasis::kCpuRule:
      return fmt::format(
          "the rule for CPUs: pages, {} of {} KV heads a task, at most {} splits a row, {} tasks for {:.0f} workers",
          plan.kv_heads_per_task(), plan.shape().num_kv_heads, plan.max_splits(), plan.counters().num_tasks,
          basis_figure);
    case DecisionBasis::kGpuRule:
      return fmt::format("the rule for GPUs: {}, at most {} splits a row, {} tasks for {:.0f} SMs", route,
                         plan.max_splits(), plan.counters().num_tasks, basis_figure);
    case DecisionBasis::kCheapest:
      return fmt::format("{} with {} splits is cheapest of {} candidates: {:.1f} us", route, plan.max_splits(),
                         candidates.size(), us);
    case DecisionBasis::kRuleKept:
      return fmt::format(
          "{} by the rule, {} splits: {:.1f} us; none of {} others is cheaper by more than the prices' error of "
          "{:.1f}%",
          route, plan.max_splits(), us, candidates.size() - 1, basis_figure * 100.0);
    case DecisionBasis::kRuleNotSearched:
      return "the rule's plan: no other can be cheaper by more than the prices' error and a search";
    case DecisionBasis::kCarriedOn: return "the last step's choice, its rows a little longer";
    case DecisionBasis::kMeasured:
      return fmt::format(
          "{} with {} splits is the fastest measured of those near the prices' choice, which should take {:.1f}% "
          "longer",
          route, plan.max_splits(), basis_figure * 100.0);
    case DecisionBasis::kPaperGates: return paper_gates(plan);
    case DecisionBasis::kPaperFormula:
      return fmt::format("the paper's formula: {} splits, {:.1f} us", plan.max_splits(), basis_figure * 1e-3);
  }
  return {};
}

}  // namespace pkv

// What a policy learns from measured steps: a normalised gradient step on the logarithm of the price.
// Not here: the search (policy.cc), which of nearly equal plans is faster (contest.cc).
#include <algorithm>
#include <cmath>

#include "persistentkv/decision.h"

namespace pkv {
namespace {

// Part of an error that one step takes back, up to kOdd: steps of one state differ from their neighbours by 3 to 7%, so
// a fast correction follows what lasts; a step that is off by more is mostly alone (something else ran), and whatever
// it is off by it moves prices by 6% at most. Memory that becomes 1.6 times slower is learnt in 8 steps.
constexpr double kRate = 0.4;
constexpr double kOdd = Policy::kMaxStep / kRate;

double bounded(double factor) { return std::clamp(factor, 1.0 / kMaxCorrection, kMaxCorrection); }

}  // namespace

void Policy::observe(const Price& predicted, const RunTimes& measured) {
  if (options_.learning == Learning::kOff || predicted.device_ns <= 0.0 || measured.total_ns <= 0) {
    return;
  }
  if (predicted.device_ns == running_.device_ns) {
    contest_.observe(static_cast<double>(measured.total_ns) + predicted.plan_ns);
  }
  const double error =
      kRate * std::clamp(std::log(static_cast<double>(measured.total_ns) / predicted.device_ns), -kOdd, kOdd);
  // The part of each term in the price: how far its factor moves the price. Memory and arithmetic share the
  // reading as the derivative of (m^p + a^p)^(1/p) does.
  const double p = model_.profile().overlap_exponent;
  const double memory_part =
      predicted.memory_ns > 0.0 ? 1.0 / (1.0 + std::pow(predicted.arithmetic_ns / predicted.memory_ns, p)) : 0.0;
  const double reading = std::max(0.0, predicted.decode_ns - predicted.task_ns) / predicted.device_ns;
  const double memory = reading * memory_part;
  const double arithmetic = reading - memory;
  const double fixed = 1.0 - reading;
  const double norm = memory * memory + arithmetic * arithmetic + fixed * fixed;
  if (!(norm > 0.0)) {
    return;
  }
  const Correction& old = model_.correction();
  model_.set_correction({.memory = bounded(old.memory * std::exp(error * memory / norm)),
                         .arithmetic = bounded(old.arithmetic * std::exp(error * arithmetic / norm)),
                         .fixed = bounded(old.fixed * std::exp(error * fixed / norm))});
}

void Policy::observe_trial(const RunTimes& trial, const RunTimes& after) {
  if (trial.total_ns > 0 && after.total_ns > 0) {
    contest_.observe_trial(static_cast<double>(trial.total_ns) + trial_plan_ns_,
                           static_cast<double>(after.total_ns) + running_.plan_ns);
  }
}

}  // namespace pkv

// Plans of nearly one price, by what they took. Not here: who takes part (policy.cc).
#include "persistentkv/contest.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "base/check.h"

namespace pkv {
namespace {

constexpr std::int64_t kStepsAhead = 2;    // of a trial, by the leader
constexpr std::int64_t kStepsBetween = 3;  // one trial and what follows it
constexpr double kFaster = 0.998;          // than the leader, to lead

bool cut_alike(const PlanOptions& a, const PlanOptions& b) {
  const std::int64_t of_a = a.splits.value_or(1);
  const std::int64_t of_b = b.splits.value_or(1);
  return a.route == b.route && a.kv_heads_per_task == b.kv_heads_per_task &&
         10 * std::abs(of_a - of_b) <= std::max(of_a, of_b);
}

}  // namespace

double Contest::Entry::best() const {
  if (num_steps == 0) {
    return std::numeric_limits<double>::infinity();
  }
  return num_steps == 1 ? ns_per_token[0] : std::min(ns_per_token[0], ns_per_token[1]);
}

void Contest::start(std::span<const PlanOptions> plans, const BatchState& batch) {
  PKV_ASSERT(!plans.empty() && plans.size() <= kMaxPlans);
  keep_sample();
  const std::int64_t tokens = batch.attended_tokens();
  const bool lasts = is_on() && batch.num_rows() == num_rows_ && kOtherPart * std::abs(tokens - tokens_) <= tokens;
  const std::array<Entry, kMaxPlans> known = plans_;
  const std::span<const Entry> before(known.data(), lasts ? num_plans_ : 0);
  const PlanOptions led = known[leader_].options;
  num_plans_ = plans.size();
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const auto same = std::ranges::find_if(before, [&](const Entry& it) { return cut_alike(it.options, plans[i]); });
    plans_[i] = same == before.end() ? Entry{} : *same;
    plans_[i].options = plans[i];
    plans_[i].price_ns = 0.0;
  }
  const auto leads = std::ranges::find_if(plans, [&](const PlanOptions& it) { return lasts && cut_alike(it, led); });
  leader_ = leads == plans.end() ? 0 : static_cast<std::size_t>(leads - plans.begin());
  running_ = leader_;
  num_rows_ = batch.num_rows();
  tokens_ = tokens;
  if (!lasts) {
    num_steps_ = 0;
    num_trials_ = 0;
  }
}

const PlanOptions& Contest::next(const BatchState& batch) {
  keep_sample();
  tokens_ = batch.attended_tokens();
  const std::size_t best = fastest();
  if (plans_[best].best() < kFaster * plans_[leader_].best() && plans_[leader_].num_steps > 0) {
    leader_ = best;
  }
  running_ = leader_;
  if (plans_[leader_].num_steps >= kStepsAhead && num_steps_ >= kStepsAhead + kStepsBetween * num_trials_) {
    const auto end = plans_.begin() + static_cast<std::ptrdiff_t>(num_plans_);
    const auto untried = std::find_if(plans_.begin(), end, [](const Entry& it) { return it.num_steps == 0; });
    if (untried != end) {
      running_ = static_cast<std::size_t>(untried - plans_.begin());
      ++num_trials_;
    }
  }
  return running();
}

void Contest::observe(double ns) {
  if (is_on() && tokens_ > 0) {
    const double ns_per_token = ns / static_cast<double>(tokens_);
    sample_ = sample_ > 0.0 ? std::min(sample_, ns_per_token) : ns_per_token;
  }
}

double Contest::lead() const {
  const Entry& chosen = plans_[0];
  const Entry& leader = plans_[leader_];
  return chosen.num_steps > 0 && leader.num_steps > 0 ? chosen.best() / leader.best() - 1.0 : 0.0;
}

void Contest::keep_sample() {
  if (sample_ <= 0.0 || !is_on()) {
    sample_ = 0.0;
    return;
  }
  Entry& entry = plans_[running_];
  entry.ns_per_token = {sample_, entry.ns_per_token[0]};
  ++entry.num_steps;
  ++num_steps_;
  sample_ = 0.0;
}

std::size_t Contest::fastest() const {
  const auto end = plans_.begin() + static_cast<std::ptrdiff_t>(num_plans_);
  const auto best =
      std::min_element(plans_.begin(), end, [](const Entry& a, const Entry& b) { return a.best() < b.best(); });
  return static_cast<std::size_t>(best - plans_.begin());
}

}  // namespace pkv

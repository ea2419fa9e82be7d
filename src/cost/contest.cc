// Plans of nearly one price, by what they took. Not here: who takes part (policy.cc).
#include "persistentkv/contest.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/check.h"

namespace pkv {
namespace {

constexpr double kFaster = 0.998;  // than the leader, to lead
constexpr double kOdd = 1.1;       // of what a trial should take
constexpr std::int32_t kMaxOdd = 2;
constexpr double kWorthASecondTrial = 1.01;
constexpr std::int32_t kTrials = 2;
constexpr std::int32_t kStepsToStale = 64;  // without a trial: a machine's state changes
constexpr std::int32_t kCountedLayers = 3;
constexpr std::int64_t kLikeBatch = 8;  // its part more or less is the same batch
constexpr std::int64_t kLikeSplits = 10;

bool near(std::int64_t a, std::int64_t b, std::int64_t part) { return part * std::abs(a - b) <= std::max(a, b); }

bool cut_alike(const PlanOptions& a, const PlanOptions& b) {
  return a.route == b.route && a.kv_heads_per_task == b.kv_heads_per_task &&
         near(a.splits.value_or(1), b.splits.value_or(1), kLikeSplits);
}

}  // namespace

double Contest::Entry::ratio() const { return num_samples == 1 ? ratios[0] : std::min(ratios[0], ratios[1]); }

void Contest::Entry::add(double ns_per_token) {
  ratios = {ns_per_token / price_per_token, ratios[0]};
  ++num_samples;
}

void Contest::start(std::span<const Contender> contenders, const BatchState& batch) {
  PKV_ASSERT(!contenders.empty() && contenders.size() <= kMaxPlans);
  keep_samples();
  const std::int64_t num_tokens = std::max<std::int64_t>(1, batch.attended_tokens());
  if (!is_on() || !near(batch.num_rows(), num_rows_, kLikeBatch) || !near(num_tokens, num_tokens_, kLikeBatch)) {
    stop();
  }
  num_rows_ = batch.num_rows();
  num_tokens_ = num_tokens;
  step_tokens_ = num_tokens;
  keep_known(contenders);
  leader_ = fastest(/*measured_only=*/false);
}

void Contest::stop() {
  num_plans_ = 0;
  num_known_ = 0;
  has_trial_ = false;
  sample_ = {};
  trial_sample_ = {};
  steps_since_trial_ = 0;
}

// What was known of the last contenders and of those before them moves to the new ones that are cut alike, the rest is
// kept for later.
void Contest::keep_known(std::span<const Contender> contenders) {
  std::array<Entry, kMaxPlans + kMaxKnown> before;
  const auto begin = before.begin();
  auto end = std::copy_n(plans_.begin(), num_plans_, begin);
  end = std::copy_n(known_.begin(), num_known_, end);
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const auto same =
        std::find_if(begin, end, [&](const Entry& it) { return cut_alike(it.options, contenders[i].options); });
    plans_[i] = {};
    if (same != end) {
      plans_[i] = *same;
      end = std::move(same + 1, end, same);
    }
    plans_[i].options = contenders[i].options;
    plans_[i].price_per_token = contenders[i].price / static_cast<double>(num_tokens_);
    plans_[i].planned_ns = 0.0;
  }
  num_plans_ = contenders.size();
  end = std::remove_if(begin, end, [](const Entry& it) { return it.num_samples == 0; });
  num_known_ = std::min(kMaxKnown, static_cast<std::size_t>(end - begin));
  std::copy_n(begin, num_known_, known_.begin());
}

const PlanOptions& Contest::next(const BatchState& batch, std::int32_t num_layers) {
  keep_samples();
  step_tokens_ = batch.attended_tokens();
  if (plans_[leader_].num_samples > 0) {
    const std::size_t best = fastest(/*measured_only=*/true);
    if (expected(plans_[best]) < kFaster * expected(plans_[leader_])) {
      leader_ = best;
    }
    choose_trial(num_layers);
  }
  return leader();
}

void Contest::choose_trial(std::int32_t num_layers) {
  if (num_layers < 2 || std::int64_t{steps_since_trial_} * num_layers < kLayersATrial) {
    return;
  }
  const double worth_it = kWorthASecondTrial * expected(plans_[leader_]);
  std::size_t choice = leader_;
  std::int32_t fewest = kTrials;
  for (std::size_t i = 0; i < num_plans_; ++i) {
    const Entry& entry = plans_[i];
    const bool counts = i != leader_ && (entry.num_samples == 0 || expected(entry) < worth_it);
    if (counts && entry.num_samples < fewest) {
      choice = i;
      fewest = entry.num_samples;
    }
  }
  if (choice == leader_ && steps_since_trial_ >= kStepsToStale && num_plans_ > 1) {
    choice = (trial_ + 1) % num_plans_;
    choice = choice == leader_ ? (choice + 1) % num_plans_ : choice;
  }
  has_trial_ = choice != leader_;
  trial_ = has_trial_ ? choice : trial_;
}

void Contest::observe(double ns) {
  if (is_on() && step_tokens_ > 0 && sample_.num_layers < kCountedLayers) {
    sample_ = {.ns_per_token = ns / static_cast<double>(step_tokens_), .num_layers = sample_.num_layers + 1};
  }
}

void Contest::observe_trial(double ns) {
  if (has_trial_ && step_tokens_ > 0) {
    trial_sample_ = {.ns_per_token = ns / static_cast<double>(step_tokens_), .num_layers = 1};
  }
}

double Contest::lead() const { return expected(plans_[0]) / expected(plans_[leader_]) - 1.0; }

void Contest::keep_samples() {
  const Sample sample = std::exchange(sample_, {});
  const Sample of_trial = std::exchange(trial_sample_, {});
  const bool had_trial = std::exchange(has_trial_, false);
  if (!is_on() || sample.num_layers == 0) {
    return;
  }
  steps_since_trial_ = had_trial ? 0 : steps_since_trial_;
  ++steps_since_trial_;
  plans_[leader_].add(sample.ns_per_token);
  if (!had_trial) {
    return;
  }
  Entry& entry = plans_[trial_];
  const bool is_odd = of_trial.num_layers == 0 || of_trial.ns_per_token > kOdd * expected(entry);
  if (is_odd && entry.num_odd < kMaxOdd) {
    ++entry.num_odd;
  } else {
    // One that nobody runs counts as what it should take, so that it is not tried for ever.
    entry.add(of_trial.num_layers == 0 ? expected(entry) : of_trial.ns_per_token);
  }
}

double Contest::expected(const Entry& entry) const {
  return entry.price_per_token * (entry.num_samples > 0 ? entry.ratio() : mean_ratio());
}

double Contest::mean_ratio() const {
  double sum = 0.0;
  int count = 0;
  for (std::size_t i = 0; i < num_plans_; ++i) {
    if (plans_[i].num_samples > 0) {
      sum += plans_[i].ratio();
      ++count;
    }
  }
  return count > 0 ? sum / count : 1.0;
}

std::size_t Contest::fastest(bool measured_only) const {
  std::size_t best = measured_only ? leader_ : 0;
  for (std::size_t i = 0; i < num_plans_; ++i) {
    if ((!measured_only || plans_[i].num_samples > 0) && expected(plans_[i]) < expected(plans_[best])) {
      best = i;
    }
  }
  return best;
}

}  // namespace pkv

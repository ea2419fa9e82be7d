// Plans of nearly one price, by what they took. Not here: who takes part (policy.cc).
#include "persistentkv/contest.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace pkv {
namespace {

constexpr std::int32_t kStepsBetween = 2;  // ahead of a trial, without one
constexpr double kFaster = 0.998;          // than the leader, to lead
constexpr double kOdd = 1.1;               // of what a trial should take
constexpr std::int32_t kMaxOdd = 2;
constexpr std::int64_t kLikeBatch = 8;  // its part more or less is the same batch
constexpr std::int64_t kLikeSplits = 10;

bool near(std::int64_t a, std::int64_t b, std::int64_t part) { return part * std::abs(a - b) <= std::max(a, b); }

bool cut_alike(const PlanOptions& a, const PlanOptions& b) {
  return a.route == b.route && a.kv_heads_per_task == b.kv_heads_per_task &&
         near(a.splits.value_or(1), b.splits.value_or(1), kLikeSplits);
}

}  // namespace

double Contest::Entry::ratio() const { return num_steps == 1 ? ratios[0] : std::min(ratios[0], ratios[1]); }

void Contest::start(std::span<const Contender> contenders, const BatchState& batch) {
  PKV_ASSERT(!contenders.empty() && contenders.size() <= kMaxPlans);
  keep_sample();
  const std::int64_t num_tokens = std::max<std::int64_t>(1, batch.attended_tokens());
  if (!is_on() || !near(batch.num_rows(), num_rows_, kLikeBatch) || !near(num_tokens, num_tokens_, kLikeBatch)) {
    stop();
  }
  num_rows_ = batch.num_rows();
  num_tokens_ = num_tokens;
  step_tokens_ = num_tokens;
  keep_known(contenders);
  leader_ = fastest(/*measured_only=*/false);
  running_ = leader_;
}

void Contest::stop() {
  num_plans_ = 0;
  num_known_ = 0;
  sample_ = 0.0;
  steps_since_trial_ = 0;
}

// What was known of the last contenders and of those before them moves to the new ones that are cut alike, the rest is
// kept for later.
void Contest::keep_known(std::span<const Contender> contenders) {
  std::array<Entry, kMaxPlans + kMaxKnown> before;
  const auto begin = before.begin();
  auto end = std::copy_n(plans_.begin(), num_plans_, begin);
  end = std::copy_n(known_.begin(), num_known_, end);
  const double tokens = static_cast<double>(num_tokens_);
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const auto same =
        std::find_if(begin, end, [&](const Entry& it) { return cut_alike(it.options, contenders[i].options); });
    plans_[i] = {};
    if (same != end) {
      plans_[i] = *same;
      end = std::move(same + 1, end, same);
    }
    plans_[i].options = contenders[i].options;
    plans_[i].price_per_token = contenders[i].price / tokens;
    plans_[i].planned_ns = 0.0;
  }
  num_plans_ = contenders.size();
  end = std::remove_if(begin, end, [](const Entry& it) { return it.num_steps == 0; });
  num_known_ = std::min(kMaxKnown, static_cast<std::size_t>(end - begin));
  std::copy_n(begin, num_known_, known_.begin());
}

const PlanOptions& Contest::next(const BatchState& batch) {
  keep_sample();
  step_tokens_ = batch.attended_tokens();
  running_ = leader_;
  if (plans_[leader_].num_steps == 0) {
    return running();
  }
  const std::size_t best = fastest(/*measured_only=*/true);
  if (expected(plans_[best]) < kFaster * expected(plans_[leader_])) {
    leader_ = best;
    running_ = best;
  }
  if (plans_[leader_].num_steps >= kStepsBetween && steps_since_trial_ >= kStepsBetween) {
    const auto end = plans_.begin() + static_cast<std::ptrdiff_t>(num_plans_);
    const auto untried = std::find_if(plans_.begin(), end, [](const Entry& it) { return it.num_steps == 0; });
    running_ = untried == end ? leader_ : static_cast<std::size_t>(untried - plans_.begin());
  }
  return running();
}

void Contest::observe(double ns) {
  if (is_on() && step_tokens_ > 0) {
    const double ns_per_token = ns / static_cast<double>(step_tokens_);
    sample_ = sample_ > 0.0 ? std::min(sample_, ns_per_token) : ns_per_token;
  }
}

double Contest::lead() const { return expected(plans_[0]) / expected(plans_[leader_]) - 1.0; }

void Contest::keep_sample() {
  const double sample = sample_;
  sample_ = 0.0;
  if (sample <= 0.0 || !is_on()) {
    return;
  }
  steps_since_trial_ = is_trial() ? 0 : steps_since_trial_ + 1;
  Entry& entry = plans_[running_];
  if (is_trial() && sample > kOdd * expected(entry) && entry.num_odd < kMaxOdd) {
    ++entry.num_odd;
    return;
  }
  entry.ratios = {sample / entry.price_per_token, entry.ratios[0]};
  ++entry.num_steps;
}

double Contest::expected(const Entry& entry) const {
  return entry.price_per_token * (entry.num_steps > 0 ? entry.ratio() : mean_ratio());
}

double Contest::mean_ratio() const {
  double sum = 0.0;
  int count = 0;
  for (std::size_t i = 0; i < num_plans_; ++i) {
    if (plans_[i].num_steps > 0) {
      sum += plans_[i].ratio();
      ++count;
    }
  }
  return count > 0 ? sum / count : 1.0;
}

std::size_t Contest::fastest(bool measured_only) const {
  std::size_t best = leader_ < num_plans_ && measured_only ? leader_ : 0;
  for (std::size_t i = 0; i < num_plans_; ++i) {
    if ((!measured_only || plans_[i].num_steps > 0) && expected(plans_[i]) < expected(plans_[best])) {
      best = i;
    }
  }
  return best;
}

}  // namespace pkv

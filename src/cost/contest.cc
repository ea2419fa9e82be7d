// Plans of nearly one price, by what they took. Not here: who takes part (policy.cc).
#include "persistentkv/contest.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/check.h"

namespace pkv {
namespace {

constexpr double kOdd = 1.1;  // of what a trial should take
constexpr std::int32_t kMaxOdd = 2;
constexpr double kWorthAnotherTrial = 1.01;
constexpr double kToTell = 0.005;
constexpr double kTrialHostNs = 20000.0;  // planning and copying a plan
constexpr double kTrialSlower = 0.02;     // of a layer
constexpr std::int32_t kMaxTrials = 6;
constexpr std::int32_t kStepsToStale = 64;  // without a trial: a machine's state changes
constexpr std::int32_t kCountedLayers = 3;
constexpr double kNoiseRate = 0.25;
constexpr std::int32_t kMinDifferences = 2;
constexpr double kDifferenceOfTwo = 1.128;  // mean absolute, of two samples with a standard deviation of 1
constexpr double kErrorOfMedian = 1.25;     // to that of the mean
constexpr std::int64_t kLikeBatch = 8;      // its part more or less is the same batch
constexpr std::int64_t kLikeSplits = 10;

bool near(std::int64_t a, std::int64_t b, std::int64_t part) { return part * std::abs(a - b) <= std::max(a, b); }

bool cut_alike(const PlanOptions& a, const PlanOptions& b) {
  return a.route == b.route && a.kv_heads_per_task == b.kv_heads_per_task &&
         near(a.splits.value_or(1), b.splits.value_or(1), kLikeSplits);
}

}  // namespace

double Contest::Entry::ratio() const {
  std::array<double, kSamples> sorted = ratios;
  const std::size_t count = std::min(kSamples, static_cast<std::size_t>(num_samples));
  std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count));
  return 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
}

void Contest::add(Entry& entry, double ns_per_token) const {
  std::copy_backward(entry.ratios.begin(), entry.ratios.end() - 1, entry.ratios.end());
  entry.ratios[0] = ns_per_token / entry.price_per_token;
  ++entry.num_samples;
  entry.num_rows = num_rows_;
  entry.num_tokens = step_tokens_;
}

void Contest::start(std::span<const Contender> contenders, const BatchState& batch) {
  PKV_ASSERT(!contenders.empty() && contenders.size() <= kMaxPlans);
  keep_samples();
  num_rows_ = batch.num_rows();
  num_tokens_ = std::max<std::int64_t>(1, batch.attended_tokens());
  step_tokens_ = num_tokens_;
  const bool led = is_on();
  const PlanOptions last = plans_[leader_].options;
  keep_known(contenders);
  leader_ = 0;
  for (std::size_t i = 0; led && i < num_plans_; ++i) {
    leader_ = plans_[i].num_samples > 0 && cut_alike(plans_[i].options, last) ? i : leader_;
  }
  for (std::size_t i = 0; i < num_plans_; ++i) {
    leader_ = beats(plans_[i], plans_[leader_]) ? i : leader_;
  }
}

void Contest::stop() {
  num_plans_ = 0;
  num_known_ = 0;
  leader_ = 0;
  has_trial_ = false;
  sample_ = {};
  trial_ns_per_token_ = 0.0;
  after_trial_ns_per_token_ = 0.0;
  steps_since_trial_ = 0;
}

// What was learnt in batches like this one moves to the contenders that are cut alike, the rest is kept for later.
void Contest::keep_known(std::span<const Contender> contenders) {
  std::array<Entry, kMaxPlans + kMaxKnown> before;
  const auto begin = before.begin();
  auto end = std::copy_n(plans_.begin(), num_plans_, begin);
  end = std::copy_n(known_.begin(), num_known_, end);
  end = std::remove_if(begin, end, [&](const Entry& it) {
    return it.num_samples == 0 || !near(it.num_rows, num_rows_, kLikeBatch) ||
           !near(it.num_tokens, num_tokens_, kLikeBatch);
  });
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
  num_known_ = std::min(kMaxKnown, static_cast<std::size_t>(end - begin));
  std::copy_n(begin, num_known_, known_.begin());
}

const PlanOptions& Contest::next(const BatchState& batch, std::int32_t num_layers) {
  keep_samples();
  step_tokens_ = batch.attended_tokens();
  if (plans_[leader_].num_samples > 0) {
    for (std::size_t i = 0; i < num_plans_; ++i) {
      if (plans_[i].num_samples > 0 && beats(plans_[i], plans_[leader_])) {
        leader_ = i;
      }
    }
    choose_trial(num_layers);
  }
  return leader();
}

void Contest::choose_trial(std::int32_t num_layers) {
  if (num_layers < 2 || num_differences_ < kMinDifferences || noise_ > kMaxNoise) {
    return;
  }
  const double layer_ns = expected(plans_[leader_]) * static_cast<double>(step_tokens_);
  const double cost_ns = (kTrialHostNs + kTrialSlower * layer_ns) / num_layers;
  if (steps_since_trial_ * kCost * layer_ns < cost_ns) {
    return;
  }
  const double to_tell = noise_ / kToTell;
  const double worth_it = kWorthAnotherTrial * expected(plans_[leader_]);
  std::size_t choice = leader_;
  std::int32_t fewest = std::clamp(static_cast<std::int32_t>(std::ceil(to_tell * to_tell)), 1, kMaxTrials);
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

void Contest::drop_trial() {
  if (has_trial_) {
    Entry& entry = plans_[trial_];
    add(entry, expected(entry));
    has_trial_ = false;
  }
}

void Contest::observe(double ns) {
  if (!is_on() || step_tokens_ <= 0) {
    return;
  }
  const double ns_per_token = ns / static_cast<double>(step_tokens_);
  if (trial_ns_per_token_ > 0.0 && after_trial_ns_per_token_ <= 0.0) {
    after_trial_ns_per_token_ = ns_per_token;
  }
  if (sample_.num_layers < kCountedLayers) {
    sample_ = {.ns_per_token = ns_per_token, .num_layers = sample_.num_layers + 1};
  }
}

void Contest::observe_trial(double ns) {
  if (has_trial_ && step_tokens_ > 0) {
    trial_ns_per_token_ = ns / static_cast<double>(step_tokens_);
  }
}

double Contest::lead() const { return expected(plans_[0]) / expected(plans_[leader_]) - 1.0; }

void Contest::keep_samples() {
  const Sample sample = std::exchange(sample_, {});
  const double of_trial = std::exchange(trial_ns_per_token_, 0.0);
  const double after = std::exchange(after_trial_ns_per_token_, 0.0);
  const bool had_trial = std::exchange(has_trial_, false);
  if (!is_on() || sample.num_layers == 0) {
    return;
  }
  ++steps_since_trial_;
  if (had_trial) {
    steps_since_trial_ = 1;
    keep_trial(of_trial, after > 0.0 ? after : sample.ns_per_token);
  } else {
    add_to_leader(sample.ns_per_token);
  }
}

// In terms of what the leader takes in other steps.
void Contest::keep_trial(double ns_per_token, double of_leader) {
  Entry& entry = plans_[trial_];
  const double should = expected(entry);
  const double took = expected(plans_[leader_]) * ns_per_token / of_leader;
  if ((ns_per_token <= 0.0 || took > kOdd * should) && entry.num_odd < kMaxOdd) {
    ++entry.num_odd;
  } else {
    // One that nobody runs counts as what it should take, so that it is not tried for ever.
    add(entry, ns_per_token > 0.0 ? took : should);
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

bool Contest::beats(const Entry& entry, const Entry& other) const {
  double variance = 0.0;  // to that of one sample
  for (const Entry* it : {&entry, &other}) {
    if (it->num_samples > 0) {
      const double of_sample = it == &plans_[leader_] ? 1.0 : 2.0;  // a trial's is a difference of two
      variance += of_sample / std::min(static_cast<double>(kSamples), static_cast<double>(it->num_samples));
    }
  }
  return expected(entry) * (1.0 + kErrorOfMedian * noise_ * std::sqrt(variance)) < expected(other);
}

void Contest::add_to_leader(double ns_per_token) {
  Entry& leader = plans_[leader_];
  const double before = leader.ratios[0];
  add(leader, ns_per_token);
  if (leader.num_samples > 1) {
    const double difference = std::abs(std::log(leader.ratios[0] / before)) / kDifferenceOfTwo;
    ++num_differences_;
    noise_ += std::max(kNoiseRate, 1.0 / num_differences_) * (difference - noise_);
  }
}

}  // namespace pkv

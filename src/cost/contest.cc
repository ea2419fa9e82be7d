// Plans of nearly one price, by what they took. Not here: who takes part (policy.cc).
#include "persistentkv/contest.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/check.h"

namespace pkv {
namespace {

// A trial that is off by so much was disturbed: prices that are near are off by 2.5% (0007).
constexpr double kOdd = 1.1;
constexpr std::int32_t kMaxOdd = 2;
constexpr std::int32_t kMaxNotRun = 2;
// Half of the differences that cost anything. What is dearer than the leader by twice that once will not beat it.
constexpr double kToTell = 0.005;
constexpr double kWorthAnotherTrial = 1.01;
constexpr std::int32_t kMaxTrials = 6;      // of noise kMaxNoise
constexpr std::int32_t kStepsToStale = 64;  // without a trial: clocks and neighbours change
// What a trial costs: the host plans and copies a second plan (10 to 20 us for 8 rows beside an H100), and a layer is
// slower by what prices are off.
constexpr double kTrialHostNs = 20000.0;
constexpr double kTrialSlower = 0.02;
constexpr std::int32_t kCountedLayers = 3;
constexpr double kNoiseRate = 0.25;  // of a step, once four are known
constexpr std::int32_t kMinDifferences = 2;
constexpr double kDifferenceOfTwo = 1.128;  // mean absolute, of two samples with a standard deviation of 1
constexpr double kErrorOfMedian = 1.25;     // to that of the mean
constexpr std::int64_t kLikeBatch = 16;     // rows and tokens within this part
constexpr std::int64_t kLikeSplits = 10;

bool within(std::int64_t a, std::int64_t b, std::int64_t part) { return part * std::abs(a - b) <= std::max(a, b); }

bool cut_alike(const PlanOptions& a, const PlanOptions& b) {
  return a.route == b.route && a.kv_heads_per_task == b.kv_heads_per_task &&
         within(a.splits.value_or(1), b.splits.value_or(1), kLikeSplits);
}

}  // namespace

Contest::Entry* Contest::find_alike(Entry* begin, Entry* end, const PlanOptions& options) {
  Entry* best = end;
  std::int32_t least = 0;
  for (Entry* it = begin; it != end; ++it) {
    const std::int32_t apart = std::abs(it->options.splits.value_or(1) - options.splits.value_or(1));
    if (cut_alike(it->options, options) && (best == end || apart < least)) {
      best = it;
      least = apart;
    }
  }
  return best;
}

void Contest::start(std::span<const Contender> contenders, const BatchState& batch) {
  PKV_ASSERT(!contenders.empty() && contenders.size() <= kMaxPlans);
  keep_sample();
  const std::int64_t num_tokens = std::max<std::int64_t>(1, batch.attended_tokens());
  if (!within(batch.num_rows(), num_rows_, kLikeBatch) || !within(num_tokens, num_tokens_, kLikeBatch)) {
    leader_ratio_ = 0.0;
  }
  num_rows_ = batch.num_rows();
  num_tokens_ = num_tokens;
  step_tokens_ = num_tokens;
  const bool led = is_on();
  const PlanOptions last = leader();
  keep_known(contenders);
  Entry* const end = plans_.data() + num_plans_;
  const Entry* const leads = led ? find_alike(plans_.data(), end, last) : end;
  // Without a sample it was never compared with another, so price decides.
  leader_ = leads == end || leads->num_samples == 0 ? 0 : static_cast<std::size_t>(leads - plans_.data());
  if (plans_[0].expected() < plans_[leader_].expected()) {
    leader_ = 0;
  }
  for (std::size_t i = 0; i < num_plans_; ++i) {
    leader_ = beats_leader(plans_[i]) ? i : leader_;
  }
  leader_ratio_ = led && cut_alike(leader(), last) ? leader_ratio_ : 0.0;
}

void Contest::stop() {
  num_plans_ = 0;
  num_known_ = 0;
  leader_ = 0;
  has_trial_ = false;
  in_step_ = false;
  sample_ = {};
  layer_ns_ = 0.0;
  leader_ratio_ = 0.0;
}

// What was learnt in batches like this one moves to the contenders that are cut alike, the rest is kept for later.
void Contest::keep_known(std::span<const Contender> contenders) {
  std::array<Entry, kMaxPlans + kMaxKnown> before;
  Entry* const begin = before.data();
  Entry* end = std::copy_n(plans_.data(), num_plans_, begin);
  end = std::copy_n(known_.data(), num_known_, end);
  end = std::remove_if(begin, end, [&](const Entry& it) {
    return (it.num_samples == 0 && it.num_not_run == 0) || !within(it.num_rows, num_rows_, kLikeBatch) ||
           !within(it.num_tokens, num_tokens_, kLikeBatch);
  });
  std::array<bool, kMaxPlans> is_known{};
  const auto take = [&](std::size_t i, Entry* same) {
    plans_[i] = *same;
    is_known[i] = true;
    end = std::move(same + 1, end, same);
  };
  plans_.fill({});
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const PlanOptions& options = contenders[i].options;
    Entry* const same = find_alike(begin, end, options);
    if (same != end && same->options.splits == options.splits) {
      take(i, same);
    }
  }
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    Entry* const alike = find_alike(begin, end, contenders[i].options);
    if (!is_known[i] && alike != end) {
      take(i, alike);
    }
    plans_[i].options = contenders[i].options;
    plans_[i].price = contenders[i].price;
  }
  num_plans_ = contenders.size();
  num_known_ = std::min(kMaxKnown, static_cast<std::size_t>(end - begin));
  std::copy_n(begin, num_known_, known_.begin());
}

const PlanOptions& Contest::choose_leader() {
  keep_sample();
  for (std::size_t i = 0; i < num_plans_; ++i) {
    if (beats_leader(plans_[i])) {
      leader_ = i;
      leader_ratio_ = 0.0;
    }
  }
  return leader();
}

void Contest::begin_step(const BatchState& batch, std::int32_t num_layers) {
  keep_sample();
  in_step_ = true;
  step_tokens_ = batch.attended_tokens();
  choose_trial(num_layers);
}

void Contest::choose_trial(std::int32_t num_layers) {
  if (num_layers < kMinLayers || layer_ns_ <= 0.0 || num_differences_ < kMinDifferences || noise_ > kMaxNoise) {
    return;
  }
  const double cost_ns = (kTrialHostNs + kTrialSlower * layer_ns_) / num_layers;
  if (steps_since_trial_ * kCost * layer_ns_ < cost_ns) {
    return;
  }
  const double to_tell = noise_ / kToTell;
  const double worth_it = kWorthAnotherTrial * plans_[leader_].expected();
  std::size_t choice = leader_;
  std::int32_t fewest = std::clamp(static_cast<std::int32_t>(std::ceil(to_tell * to_tell)), 1, kMaxTrials);
  for (std::size_t i = 0; i < num_plans_; ++i) {
    const Entry& entry = plans_[i];
    const bool counts =
        i != leader_ && entry.num_not_run <= kMaxNotRun && (entry.num_samples == 0 || entry.expected() < worth_it);
    if (counts && entry.num_samples < fewest) {
      choice = i;
      fewest = entry.num_samples;
    }
  }
  if (choice == leader_ && steps_since_trial_ >= kStepsToStale) {
    for (std::size_t i = 1; i <= num_plans_ && choice == leader_; ++i) {
      const std::size_t following = (trial_ + i) % num_plans_;
      choice = plans_[following].num_not_run <= kMaxNotRun ? following : choice;
    }
  }
  if (choice != leader_) {
    has_trial_ = true;
    trial_ = choice;
    steps_since_trial_ = 0;
  }
}

void Contest::drop_trial() {
  if (std::exchange(has_trial_, false)) {
    count_not_run(kMaxNotRun + 1);
  }
}

void Contest::count_not_run(std::int32_t times) {
  Entry& entry = plans_[trial_];
  entry.num_not_run += times;
  if (entry.num_samples == 0) {  // else where it was learnt says how long that holds
    entry.num_rows = num_rows_;
    entry.num_tokens = step_tokens_;
  }
}

void Contest::observe(double ns) {
  if (in_step_ && sample_.num_layers < kCountedLayers) {
    sample_ = {.ns = ns, .num_layers = sample_.num_layers + 1};
  }
}

void Contest::observe_trial(double ns, double leader_ns) {
  if (!std::exchange(has_trial_, false)) {
    return;
  }
  Entry& entry = plans_[trial_];
  Entry& leader = plans_[leader_];
  const double took = leader.expected() * ns / leader_ns;
  const double off = took / entry.expected();
  entry.num_not_run = 0;
  if ((off > kOdd || off * kOdd < 1.0) && entry.num_odd < kMaxOdd) {
    ++entry.num_odd;
    return;
  }
  entry.num_odd = 0;
  if (leader.num_samples == 0) {
    add_sample(leader, 1.0);  // the first one, in whose terms handicaps are
  }
  add_sample(entry, took / entry.price);
}

void Contest::add_sample(Entry& entry, double handicap) const {
  std::copy_backward(entry.samples.begin(), entry.samples.end() - 1, entry.samples.end());
  entry.samples[0] = handicap;
  ++entry.num_samples;
  std::array<double, kSamples> sorted = entry.samples;
  const std::size_t count = entry.kept();
  for (auto it = sorted.begin() + 1; it < sorted.begin() + static_cast<std::ptrdiff_t>(count); ++it) {
    std::rotate(std::upper_bound(sorted.begin(), it, *it), it, it + 1);
  }
  entry.handicap = 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
  entry.num_rows = num_rows_;
  entry.num_tokens = step_tokens_;
}

double Contest::lead() const { return std::max(0.0, plans_[0].expected() / plans_[leader_].expected() - 1.0); }

void Contest::keep_sample() {
  if (!std::exchange(in_step_, false)) {
    return;
  }
  const Sample sample = std::exchange(sample_, {});
  if (std::exchange(has_trial_, false)) {  // nobody ran it
    count_not_run(1);
  }
  layer_ns_ = sample.ns;
  if (sample.num_layers == 0 || step_tokens_ <= 0) {
    return;
  }
  ++steps_since_trial_;
  const double price_per_token = plans_[leader_].price / static_cast<double>(num_tokens_);
  const double ratio = sample.ns / static_cast<double>(step_tokens_) / price_per_token;
  const double before = std::exchange(leader_ratio_, ratio);
  if (before > 0.0) {
    ++num_differences_;
    const double difference = std::abs(std::log(ratio / before)) / kDifferenceOfTwo;
    noise_ += std::max(kNoiseRate, 1.0 / num_differences_) * (difference - noise_);
  }
}

bool Contest::beats_leader(const Entry& entry) const {
  if (entry.num_samples == 0) {
    return false;
  }
  const double error = kErrorOfMedian * noise_ *
                       std::sqrt(2.0 / static_cast<double>(entry.kept()));  // each sample is a difference of two
  return entry.expected() * (1.0 + error) < plans_[leader_].expected();
}

}  // namespace pkv

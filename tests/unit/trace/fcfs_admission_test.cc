// First come, first served: properties over random traces and pools, and small cases worked out by hand.
// Not here: the paper's rule.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "trace/admission.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

constexpr std::int32_t kPageSize = 4;

Trace random_trace(std::uint32_t seed, std::size_t num_requests, ArrivalUnit unit) {
  std::mt19937 random(seed);
  Trace trace{.name = "random", .arrival_unit = unit};
  double arrival = 0;
  for (std::size_t i = 0; i < num_requests; ++i) {
    arrival += static_cast<double>(random() % 7) * (unit == ArrivalUnit::kSeconds ? 0.013 : 1.0);
    trace.requests.push_back({.arrival = arrival,
                              .prompt_len = static_cast<std::int32_t>(random() % 60),
                              .decode_len = 1 + static_cast<std::int32_t>(random() % 30)});
  }
  return trace;
}

std::int64_t peak_pages(const Request& request) {
  return (request.prompt_len + request.decode_len - 1 + kPageSize - 1) / kPageSize;
}

std::int64_t largest_need(const Trace& trace) {
  std::int64_t largest = 1;
  for (const Request& request : trace.requests) {
    largest = std::max(largest, peak_pages(request));
  }
  return largest;
}

/// Follows every row through a whole run and checks what must hold in each step.
class Checker {
 public:
  Checker(const Trace& trace, const AdmissionOptions& options)
      : trace_(trace), options_(options), decoded_(trace.requests.size(), 0), first_step_(trace.requests.size(), -1) {}

  void run() {
    auto made = make_admission(trace_, options_);
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    Admission& admission = **made;
    StepRows rows;
    for (;;) {
      const auto more = admission.next(rows);
      ASSERT_TRUE(more.ok()) << more.error().to_string();
      if (!*more) {
        break;
      }
      ASSERT_NO_FATAL_FAILURE(check_step(rows, admission.num_physical_pages()));
    }
    stats_ = admission.stats();
    check_end();
    // The end is an end, however often it is asked for.
    EXPECT_FALSE(*admission.next(rows));
  }

  [[nodiscard]] const AdmissionStats& stats() const { return stats_; }
  [[nodiscard]] const std::vector<StepRows>& steps() const { return steps_; }

 private:
  void check_step(const StepRows& rows, std::int64_t num_physical_pages) {
    const std::size_t num_rows = rows.request_idx.size();
    ASSERT_GE(num_rows, 1U);
    ASSERT_LE(num_rows, static_cast<std::size_t>(options_.max_active));
    ASSERT_EQ(rows.seq_lens.size(), num_rows);
    ASSERT_EQ(rows.kv_indptr.size(), num_rows + 1);
    ASSERT_EQ(rows.kv_indptr.front(), 0);
    ASSERT_EQ(rows.kv_indptr.back(), static_cast<std::int32_t>(rows.kv_indices.size()));
    ASSERT_TRUE(steps_.empty() || rows.step_idx > steps_.back().step_idx);
    const std::set<std::int32_t> pages(rows.kv_indices.begin(), rows.kv_indices.end());
    ASSERT_EQ(pages.size(), rows.kv_indices.size()) << "a page has two owners";
    ASSERT_TRUE(pages.empty() || (*pages.begin() >= 0 && *pages.rbegin() < num_physical_pages));
    dealt_.insert(pages.begin(), pages.end());
    ASSERT_EQ(std::set<std::int32_t>(rows.request_idx.begin(), rows.request_idx.end()).size(), num_rows);
    for (std::size_t r = 0; r < num_rows; ++r) {
      ASSERT_NO_FATAL_FAILURE(check_row(rows, r));
    }
    steps_.push_back(rows);
  }

  void check_row(const StepRows& rows, std::size_t r) {
    const auto i = static_cast<std::size_t>(rows.request_idx[r]);
    const Request& request = trace_.requests[i];
    ASSERT_EQ(rows.seq_lens[r], request.prompt_len + decoded_[i]) << "no token is lost or decoded twice";
    ASSERT_EQ(rows.kv_indptr[r + 1] - rows.kv_indptr[r], (rows.seq_lens[r] + kPageSize - 1) / kPageSize);
    ASSERT_LT(decoded_[i], request.decode_len);
    ++decoded_[i];
    const double unit = trace_.arrival_unit == ArrivalUnit::kSeconds ? options_.step_seconds : 1.0;
    ASSERT_GE(static_cast<double>(rows.step_idx) * unit, request.arrival - 1e-9) << "decoded before it arrived";
    if (first_step_[i] < 0) {
      first_step_[i] = rows.step_idx;
    }
    // While a request waits for its pages back, nobody who came later may have a row that it lacks.
    for (std::size_t other = 0; other < i; ++other) {
      ASSERT_GE(first_step_[other], 0) << "request " << i << " overtook " << other;
    }
  }

  void check_end() {
    for (std::size_t i = 0; i < decoded_.size(); ++i) {
      EXPECT_EQ(decoded_[i], trace_.requests[i].decode_len) << "request " << i;
    }
    EXPECT_TRUE(std::is_sorted(first_step_.begin(), first_step_.end()));
    EXPECT_EQ(stats_.admitted, std::ssize(trace_.requests));
    EXPECT_EQ(stats_.finished, std::ssize(trace_.requests));
    EXPECT_EQ(stats_.pages_in_use, 0) << "pages leaked";
    EXPECT_EQ(stats_.steps, std::ssize(steps_));
    if (options_.pool_pages) {
      EXPECT_LE(stats_.peak_pages, *options_.pool_pages);
      EXPECT_LE(std::ssize(dealt_), *options_.pool_pages) << "a hole was dealt";
    }
  }

  const Trace& trace_;
  const AdmissionOptions& options_;
  std::vector<std::int32_t> decoded_;
  std::vector<std::int64_t> first_step_;
  std::set<std::int32_t> dealt_;
  std::vector<StepRows> steps_;
  AdmissionStats stats_;
};

TEST(FcfsAdmission, RandomTracesAndPools_KeepEveryProperty) {
  std::int64_t preempted = 0;
  for (std::uint32_t seed = 1; seed <= 120; ++seed) {
    const ArrivalUnit unit = seed % 2 == 0 ? ArrivalUnit::kSeconds : ArrivalUnit::kSteps;
    const Trace trace = random_trace(seed, 1 + seed % 90, unit);
    AdmissionOptions options{.mode = AdmissionMode::kFcfs,
                             .max_active = 1 + static_cast<std::int32_t>(seed % 9),
                             .page_size = kPageSize,
                             .hole_fraction = seed % 3 == 0 ? 0.4 : 0.0,
                             .page_seed = seed};
    // From a pool that only just holds the largest request to one that never runs out.
    options.pool_pages = largest_need(trace) + seed % 5 * 6;
    SCOPED_TRACE(seed);
    Checker checker(trace, options);
    ASSERT_NO_FATAL_FAILURE(checker.run());
    preempted += checker.stats().preempted;
    EXPECT_EQ(checker.stats().preempted == 0, checker.stats().recomputed_tokens == 0);
  }
  EXPECT_GT(preempted, 100) << "the pools were too large to test preemption";
}

TEST(FcfsAdmission, DefaultPool_NeverPreempts) {
  for (std::uint32_t seed = 1; seed <= 30; ++seed) {
    const Trace trace = random_trace(seed, 80, ArrivalUnit::kSteps);
    const AdmissionOptions options{.mode = AdmissionMode::kFcfs, .max_active = 6, .page_size = kPageSize};
    Checker checker(trace, options);
    ASSERT_NO_FATAL_FAILURE(checker.run());
    EXPECT_EQ(checker.stats().preempted, 0);
  }
}

TEST(FcfsAdmission, DefaultPool_IsWhatTheLargestRequestsNeed) {
  Trace trace{.name = "t"};
  for (const std::int32_t prompt : {8, 100, 12, 40}) {
    trace.requests.push_back({.arrival = 0, .prompt_len = prompt, .decode_len = 1});
  }
  const auto admission = make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 2, .page_size = 4});
  ASSERT_TRUE(admission.ok());
  EXPECT_EQ((*admission)->num_physical_pages(), 25 + 10);
}

TEST(FcfsAdmission, SameInputs_GiveTheSameSteps) {
  const Trace trace = random_trace(11, 60, ArrivalUnit::kSeconds);
  const AdmissionOptions options{
      .mode = AdmissionMode::kFcfs, .max_active = 5, .page_size = kPageSize, .pool_pages = largest_need(trace) + 3};
  Checker first(trace, options);
  Checker second(trace, options);
  ASSERT_NO_FATAL_FAILURE(first.run());
  ASSERT_NO_FATAL_FAILURE(second.run());
  ASSERT_EQ(first.steps().size(), second.steps().size());
  EXPECT_GT(first.stats().preempted, 0);
  for (std::size_t s = 0; s < first.steps().size(); ++s) {
    ASSERT_EQ(first.steps()[s].kv_indices, second.steps()[s].kv_indices);
    ASSERT_EQ(first.steps()[s].request_idx, second.steps()[s].request_idx);
  }
}

TEST(FcfsAdmission, ExhaustedPool_PreemptsTheNewestAndRecomputesIt) {
  // Pool of 4 pages of 4 tokens. Both requests start with 2 pages (8 tokens) and need a third for token 9.
  Trace trace{.name = "t"};
  trace.requests.assign(2, {.arrival = 0, .prompt_len = 8, .decode_len = 3});
  const auto admission =
      make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 2, .page_size = 4, .pool_pages = 4});
  ASSERT_TRUE(admission.ok());
  std::vector<std::vector<std::int32_t>> requests;
  std::vector<std::vector<std::int32_t>> lengths;
  StepRows rows;
  while (*(*admission)->next(rows)) {
    requests.push_back(rows.request_idx);
    lengths.push_back(rows.seq_lens);
  }
  using Rows = std::vector<std::vector<std::int32_t>>;
  EXPECT_EQ(requests, (Rows{{0, 1}, {0}, {0}, {1}, {1}}));
  EXPECT_EQ(lengths, (Rows{{8, 8}, {9}, {10}, {9}, {10}}));
  EXPECT_EQ((*admission)->stats().preempted, 1);
  EXPECT_EQ((*admission)->stats().recomputed_tokens, 9);
  EXPECT_EQ((*admission)->stats().peak_pages, 4);
}

TEST(FcfsAdmission, FullPlaces_MakeLaterRequestsWaitWithoutLosingTokens) {
  Trace trace{.name = "t"};
  trace.requests.assign(3, {.arrival = 0, .prompt_len = 5, .decode_len = 2});
  const auto admission = make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 2, .page_size = 4});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  std::vector<std::size_t> num_rows;
  while (*(*admission)->next(rows)) {
    num_rows.push_back(rows.request_idx.size());
  }
  EXPECT_EQ(num_rows, (std::vector<std::size_t>{2, 2, 1, 1}));
}

TEST(FcfsAdmission, LargeHead_IsNotOvertaken) {
  // The pool has 6 pages: request 1 needs all of them, so request 2 (1 page) waits behind it.
  Trace trace{.name = "t"};
  for (const std::int32_t prompt : {8, 24, 4}) {
    trace.requests.push_back({.arrival = 0, .prompt_len = prompt, .decode_len = 1});
  }
  const auto admission =
      make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 8, .page_size = 4, .pool_pages = 6});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  for (std::int32_t expected = 0; expected < 3; ++expected) {
    ASSERT_TRUE(*(*admission)->next(rows));
    EXPECT_EQ(rows.request_idx, std::vector<std::int32_t>{expected});
    EXPECT_EQ(rows.step_idx, expected);
  }
  EXPECT_FALSE(*(*admission)->next(rows));
}

TEST(FcfsAdmission, IdleClock_JumpsToTheNextArrival) {
  Trace trace{.name = "t", .arrival_unit = ArrivalUnit::kSeconds};
  trace.requests = {{.arrival = 0.5, .prompt_len = 4, .decode_len = 2},
                    {.arrival = 3600.0, .prompt_len = 4, .decode_len = 1}};
  const auto admission =
      make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 2, .page_size = 4, .step_seconds = 0.25});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  std::vector<std::int64_t> steps;
  while (*(*admission)->next(rows)) {
    steps.push_back(rows.step_idx);
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{2, 3, 14400}));
}

TEST(FcfsAdmission, RequestLargerThanThePool_IsNamedBeforeTheFirstStep) {
  Trace trace{.name = "t"};
  trace.requests.assign(5, {.arrival = 0, .prompt_len = 8, .decode_len = 1});
  trace.requests[3] = {.arrival = 0, .prompt_len = 90, .decode_len = 11};
  const auto admission =
      make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 2, .page_size = 4, .pool_pages = 24});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  const auto more = (*admission)->next(rows);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(more.error().where, "t, request 3");
  EXPECT_THAT(more.error().message, HasSubstr("need 25 pages of 4 tokens, the pool has 24"));
}

TEST(FcfsAdmission, PoolOfExactlyOneRequest_RunsThemOneByOne) {
  Trace trace{.name = "t"};
  trace.requests.assign(20, {.arrival = 0, .prompt_len = 90, .decode_len = 11});
  const AdmissionOptions options{
      .mode = AdmissionMode::kFcfs, .max_active = 8, .page_size = kPageSize, .pool_pages = 25};
  Checker checker(trace, options);
  ASSERT_NO_FATAL_FAILURE(checker.run());
  EXPECT_EQ(checker.stats().steps, 20 * 11);
}

TEST(FcfsAdmission, HundredThousandRequestsAtOnce_TakeLinearTime) {
  Trace trace{.name = "t"};
  trace.requests.assign(100000, {.arrival = 0, .prompt_len = 20, .decode_len = 4});
  const auto admission =
      make_admission(trace, {.mode = AdmissionMode::kFcfs, .max_active = 8, .page_size = 4, .pool_pages = 44});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  while (*(*admission)->next(rows)) {
  }
  EXPECT_EQ((*admission)->stats().finished, 100000);
  EXPECT_GT((*admission)->stats().preempted, 0);
}

}  // namespace
}  // namespace pkv

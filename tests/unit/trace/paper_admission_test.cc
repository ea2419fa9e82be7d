// The paper's admission against its published counters, against a plain restatement, and bad options.
// Not here: first come, first served.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <tuple>

#include "trace/admission.h"
#include "trace/generators.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

std::vector<StepRows> all_steps(Admission& admission, std::size_t limit = std::numeric_limits<std::size_t>::max()) {
  std::vector<StepRows> steps;
  StepRows rows;
  while (steps.size() < limit) {
    const auto more = admission.next(rows);
    EXPECT_TRUE(more.ok());
    if (!more.ok() || !*more) {
      break;
    }
    steps.push_back(rows);
  }
  return steps;
}

struct Published {
  PaperFamily family;
  std::int32_t num_requests, max_active;
  std::size_t steps;
  std::int64_t physical_pages;
  double useful_kv_mib;
};

/// Seed 20260623 of the paper's published logs (paper, "The traces").
TEST(PaperAdmission, HeldOutSeed_GivesThePublishedCounters) {
  for (const Published& published : {Published{PaperFamily::kBimodal, 24, 8, 48, 24285, 550.5},
                                     Published{PaperFamily::kUniform, 24, 8, 48, 31446, 671.0},
                                     Published{PaperFamily::kZipf, 24, 8, 48, 30878, 672.2},
                                     Published{PaperFamily::kBucketed, 16, 1, 64, 30793, 32.1}}) {
    SCOPED_TRACE(paper_family_name(published.family));
    const auto trace = make_paper_trace({.family = published.family,
                                         .seed = 20260623,
                                         .num_requests = published.num_requests,
                                         .max_active = published.max_active});
    ASSERT_TRUE(trace.ok());
    const auto admission = make_admission(*trace, {.max_active = published.max_active});
    ASSERT_TRUE(admission.ok());
    EXPECT_EQ((*admission)->num_physical_pages(), published.physical_pages);
    const std::vector<StepRows> steps = all_steps(**admission, published.steps);
    ASSERT_EQ(steps.size(), published.steps);
    std::int64_t tokens = 0;
    for (const StepRows& rows : steps) {
      for (const std::int32_t seq_len : rows.seq_lens) {
        tokens += seq_len;
      }
    }
    constexpr double kBytesPerToken = 8 * 128 * 2 * 2;  // KV heads, head_dim, K and V, fp16
    const double mib = static_cast<double>(tokens) * kBytesPerToken / 1048576.0 / static_cast<double>(steps.size());
    EXPECT_NEAR(mib, published.useful_kv_mib, 0.05);
  }
}

Trace random_trace(std::uint32_t seed, std::size_t num_requests) {
  std::mt19937 random(seed);
  Trace trace{.name = "random"};
  double arrival = 0;
  for (std::size_t i = 0; i < num_requests; ++i) {
    arrival += random() % 5 == 0 ? static_cast<double>(random() % 60) : 0.0;
    trace.requests.push_back({.arrival = arrival,
                              .prompt_len = static_cast<std::int32_t>(random() % 90),
                              .decode_len = 1 + static_cast<std::int32_t>(random() % 40)});
  }
  return trace;
}

/// The rule as the paper states it, all requests looked at in every step.
std::vector<std::tuple<std::int64_t, std::int32_t, std::int32_t>> restated(const Trace& trace, std::size_t max_active) {
  std::vector<std::tuple<std::int64_t, std::int32_t, std::int32_t>> rows;
  for (std::int64_t step = 0; step < 3000; ++step) {
    std::size_t active = 0;
    for (std::size_t i = 0; i < trace.requests.size() && active < max_active; ++i) {
      const std::int64_t generated = step - static_cast<std::int64_t>(trace.requests[i].arrival);
      if (0 <= generated && generated < trace.requests[i].decode_len) {
        rows.emplace_back(step, static_cast<std::int32_t>(i), trace.requests[i].prompt_len + generated);
        ++active;
      }
    }
  }
  return rows;
}

TEST(PaperAdmission, RandomTraces_EqualThePlainRule) {
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    const Trace trace = random_trace(seed, 1 + seed * 2);
    for (const std::int32_t max_active : {1, 3, 8}) {
      const auto admission = make_admission(trace, {.max_active = max_active});
      ASSERT_TRUE(admission.ok());
      std::vector<std::tuple<std::int64_t, std::int32_t, std::int32_t>> rows;
      for (const StepRows& step : all_steps(**admission)) {
        EXPECT_FALSE(step.request_idx.empty());
        for (std::size_t r = 0; r < step.request_idx.size(); ++r) {
          rows.emplace_back(step.step_idx, step.request_idx[r], step.seq_lens[r]);
        }
      }
      EXPECT_EQ(rows, restated(trace, static_cast<std::size_t>(max_active))) << "seed " << seed;
    }
  }
}

TEST(PaperAdmission, Pages_AreDealtOnceAndStayWithTheirRequest) {
  const Trace trace = random_trace(5, 200);
  std::int64_t total = 0;
  for (const Request& request : trace.requests) {
    total += (request.prompt_len + request.decode_len + 15) / 16;
  }
  for (const double hole_fraction : {0.0, 0.3, 0.5}) {
    const auto admission = make_admission(trace, {.max_active = 16, .hole_fraction = hole_fraction});
    ASSERT_TRUE(admission.ok());
    EXPECT_EQ((*admission)->num_physical_pages(),
              static_cast<std::int64_t>(std::ceil(static_cast<double>(total) / (1.0 - hole_fraction))));
    std::vector<std::pair<std::int32_t, std::int32_t>> owner(
        static_cast<std::size_t>((*admission)->num_physical_pages()), {-1, -1});
    for (const StepRows& step : all_steps(**admission)) {
      ASSERT_EQ(step.kv_indptr.size(), step.seq_lens.size() + 1);
      ASSERT_EQ(step.kv_indptr.back(), static_cast<std::int32_t>(step.kv_indices.size()));
      for (std::size_t r = 0; r < step.seq_lens.size(); ++r) {
        ASSERT_EQ(step.kv_indptr[r + 1] - step.kv_indptr[r], (step.seq_lens[r] + 15) / 16);
        for (std::int32_t p = step.kv_indptr[r]; p < step.kv_indptr[r + 1]; ++p) {
          const std::pair<std::int32_t, std::int32_t> expected = {step.request_idx[r], p - step.kv_indptr[r]};
          auto& seen = owner.at(static_cast<std::size_t>(step.kv_indices[static_cast<std::size_t>(p)]));
          ASSERT_TRUE(seen.first == -1 || seen == expected);
          seen = expected;
        }
      }
    }
    EXPECT_EQ((*admission)->stats().pages_in_use, total);
  }
}

TEST(PaperAdmission, PageSeed_ChangesPagesAndNothingElse) {
  const auto trace = make_paper_trace({.num_requests = 8});
  ASSERT_TRUE(trace.ok());
  const auto steps_of = [&](std::uint64_t seed) {
    auto admission = make_admission(*trace, {.page_seed = seed});
    return all_steps(**admission, 1).front();
  };
  EXPECT_EQ(steps_of(1).kv_indices, steps_of(1).kv_indices);
  EXPECT_NE(steps_of(1).kv_indices, steps_of(2).kv_indices);
  EXPECT_EQ(steps_of(1).seq_lens, steps_of(2).seq_lens);
}

TEST(PaperAdmission, Overload_AgesCandidatesAndCountsThem) {
  Trace trace{.name = "overload"};
  trace.requests.assign(4, {.arrival = 0, .prompt_len = 16, .decode_len = 5});
  trace.requests.push_back({.arrival = 0, .prompt_len = 16, .decode_len = 8});
  const auto admission = make_admission(trace, {.max_active = 2});
  ASSERT_TRUE(admission.ok());
  const std::vector<StepRows> steps = all_steps(**admission);
  ASSERT_EQ(steps.size(), 8U);
  // Requests 2 and 3 age away behind 0 and 1; request 4 appears with five tokens lost.
  EXPECT_EQ(steps[5].request_idx, std::vector<std::int32_t>{4});
  EXPECT_EQ(steps[5].seq_lens, std::vector<std::int32_t>{21});
  EXPECT_EQ((*admission)->stats().admitted, 3);
  EXPECT_EQ((*admission)->stats().finished, 3);
  EXPECT_EQ((*admission)->stats().steps, 8);
}

TEST(PaperAdmission, NoArrivals_TakeThePapersOwn) {
  auto trace = make_paper_trace({.num_requests = 24, .max_active = 4});
  ASSERT_TRUE(trace.ok());
  const auto with = make_admission(*trace, {.max_active = 4});
  Trace without = *trace;
  without.has_arrivals = false;
  for (Request& request : without.requests) {
    request.arrival = 0;
  }
  const auto admission = make_admission(without, {.max_active = 4});
  ASSERT_TRUE(with.ok() && admission.ok());
  const auto expected = all_steps(**with);
  const auto actual = all_steps(**admission);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t s = 0; s < actual.size(); ++s) {
    EXPECT_EQ(actual[s].seq_lens, expected[s].seq_lens);
    EXPECT_EQ(actual[s].kv_indices, expected[s].kv_indices);
  }
}

TEST(PaperAdmission, ArrivalsInSeconds_FallOnTheNextStep) {
  Trace trace{.name = "seconds", .arrival_unit = ArrivalUnit::kSeconds};
  for (const double arrival : {0.0, 0.02, 0.03, 0.06, 0.14, 0.15}) {  // 0.14 / 0.02 is 7.000000000000001 in double
    trace.requests.push_back({.arrival = arrival, .prompt_len = 16, .decode_len = 1});
  }
  const auto admission = make_admission(trace, {.step_seconds = 0.02});
  ASSERT_TRUE(admission.ok());
  std::vector<std::int64_t> steps;
  for (const StepRows& rows : all_steps(**admission)) {
    steps.push_back(rows.step_idx);
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 1, 2, 3, 7, 8}));
}

TEST(PaperAdmission, TooManyPages_IsAnErrorWithBothNumbers) {
  Trace trace{.name = "huge"};
  trace.requests.assign(20, {.arrival = 0, .prompt_len = 2147483000, .decode_len = 600});
  const auto admission = make_admission(trace, {});
  ASSERT_FALSE(admission.ok());
  EXPECT_EQ(admission.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(admission.error().message, HasSubstr("2684354500 pages"));
  EXPECT_THAT(admission.error().message, HasSubstr("2147483647"));
}

TEST(AdmissionOptions, Bad_AreErrorsThatNameThem) {
  const Trace trace{.name = "t", .requests = {{.arrival = 0, .prompt_len = 10, .decode_len = 2}}};
  const auto message = [&](const AdmissionOptions& options) {
    const auto admission = make_admission(trace, options);
    return admission.ok() ? std::string("no error") : admission.error().message;
  };
  EXPECT_THAT(message({.max_active = 0}), HasSubstr("max_active is 0, must be 1 to 1048576"));
  EXPECT_THAT(message({.max_active = 1 << 21}), HasSubstr("max_active is 2097152"));
  EXPECT_THAT(message({.page_size = 0}), HasSubstr("page_size is 0, must be 1 to 256"));
  EXPECT_THAT(message({.page_size = 512}), HasSubstr("page_size is 512"));
  EXPECT_THAT(message({.hole_fraction = 1.0}), HasSubstr("hole_fraction is 1, must be in [0, 1)"));
  EXPECT_THAT(message({.hole_fraction = -0.1}), HasSubstr("hole_fraction is -0.1"));
  EXPECT_THAT(message({.hole_fraction = std::nan("")}), HasSubstr("hole_fraction is nan"));
  EXPECT_THAT(message({.hole_fraction = 1.0 - 1e-12}), HasSubstr("physical pages, the limit is 2147483647"));
  EXPECT_THAT(message({.step_seconds = 0.0}), HasSubstr("step_seconds is 0"));
  EXPECT_THAT(message({.step_seconds = -1.0}), HasSubstr("step_seconds is -1"));
  EXPECT_THAT(message({.step_seconds = std::numeric_limits<double>::infinity()}), HasSubstr("step_seconds is inf"));
  EXPECT_THAT(message({.pool_pages = 8}), HasSubstr("pool_pages is for fcfs"));
  EXPECT_THAT(message({.mode = AdmissionMode::kFcfs, .pool_pages = 0}), HasSubstr("pool_pages is 0"));
  EXPECT_THAT(message({.mode = AdmissionMode::kFcfs, .pool_pages = std::int64_t{1} << 31}),
              HasSubstr("pool_pages is 2147483648, must be 1 to 2147483647"));
}

TEST(AdmissionTrace, Bad_AreErrorsThatNameTheRequest) {
  const auto error_of = [&](std::vector<Request> requests, double step_seconds = 0.02) {
    Trace trace{.name = "t", .arrival_unit = ArrivalUnit::kSeconds, .requests = std::move(requests)};
    const auto admission = make_admission(trace, {.step_seconds = step_seconds});
    return admission.ok() ? std::string("no error") : admission.error().to_string();
  };
  const Request good{.arrival = 1, .prompt_len = 10, .decode_len = 2};
  EXPECT_THAT(error_of({}), HasSubstr("t: the trace has 0 requests"));
  EXPECT_THAT(error_of({good, {.arrival = 1, .prompt_len = -1, .decode_len = 2}}),
              HasSubstr("t, request 1: prompt_len is -1"));
  EXPECT_THAT(error_of({good, {.arrival = 1, .prompt_len = 1, .decode_len = 0}}), HasSubstr("decode_len is 0"));
  EXPECT_THAT(error_of({{.arrival = 1, .prompt_len = 2147483647, .decode_len = 1}}),
              HasSubstr("prompt_len + decode_len is 2147483648, the limit is 2147483647"));
  EXPECT_THAT(error_of({{.arrival = std::nan(""), .prompt_len = 1, .decode_len = 1}}), HasSubstr("arrival is nan"));
  EXPECT_THAT(error_of({{.arrival = -1, .prompt_len = 1, .decode_len = 1}}), HasSubstr("arrival is -1"));
  EXPECT_THAT(error_of({good, {.arrival = 0.5, .prompt_len = 1, .decode_len = 1}}),
              HasSubstr("request 1: arrival is 0.5, before that of the request in front of it (1)"));
  EXPECT_THAT(error_of({{.arrival = 1e12, .prompt_len = 1, .decode_len = 1}}, 1e-9),
              HasSubstr("step 1e+21, the limit is 9007199254740992"));
}

TEST(AdmissionMode, Names_ParseBack) {
  for (const AdmissionMode mode : {AdmissionMode::kPaper, AdmissionMode::kFcfs}) {
    EXPECT_EQ(*parse_admission_mode(admission_mode_name(mode)), mode);
  }
  const auto wrong = parse_admission_mode("fifo");
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.error().message, HasSubstr("did you mean \"fcfs\""));
}

}  // namespace
}  // namespace pkv

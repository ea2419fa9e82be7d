// One step from lengths.
#include "replay/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "replay_fixture.h"
#include "test_backends.h"

namespace pkv {
namespace {

using testing::CountingObserver;
using ::testing::HasSubstr;
using testing::OracleBackend;

StepOptions small_step() {
  StepOptions options;
  options.run = testing::tiny_options().run;
  options.run.verify = VerifyMode::kSample;
  options.seq_lens = {33, 0, 16, 1};
  options.repeats = 5;
  return options;
}

TEST(RunStep, Repeats_AreStepsOfTheirOwn) {
  OracleBackend backend;
  CountingObserver observer;
  const auto records = run_step(small_step(), backend, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_EQ(records->trace, "lens:33,0,16,1");
  EXPECT_EQ(records->physical_pages, 3 + 0 + 1 + 1);
  for (const RouteRecords& route : records->routes) {
    EXPECT_EQ(route.steps.size(), 5U);
    EXPECT_EQ(route.errors->num_steps, 1);
  }
}

TEST(RunStep, ConsecutiveExecutions_ShareNoPage) {
  OracleBackend backend;
  CountingObserver observer;
  StepOptions options = small_step();
  options.run.verify = VerifyMode::kOff;
  const auto records = run_step(options, backend, observer);
  ASSERT_TRUE(records.ok());
  for (std::size_t i = 1; i < backend.first_pages.size(); ++i) {
    EXPECT_EQ((backend.first_pages[i] - backend.first_pages[i - 1] + records->pool_pages) % records->pool_pages, 5);
  }
}

TEST(RunStep, Holes_EnlargeTheUniverse) {
  OracleBackend backend;
  CountingObserver observer;
  StepOptions options = small_step();
  options.hole_fraction = 0.5;
  EXPECT_EQ(run_step(options, backend, observer)->physical_pages, 10);
}

TEST(RunStep, OnlyEmptyRows_RunsToTheEnd) {
  CountingObserver observer;
  StepOptions options = small_step();
  options.seq_lens = {0, 0};
  options.run.cpu = {.threads = 1, .pin = false, .wait = WaitMode::kSleep, .isa = {}};
  const auto records = run_step(options, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_FALSE(records->error.has_value()) << records->error->to_string();
}

TEST(RunStep, ManyRows_AreNamedShortly) {
  OracleBackend backend;
  CountingObserver observer;
  StepOptions options = small_step();
  options.seq_lens.assign(40, 3);
  EXPECT_THAT(run_step(options, backend, observer)->trace, HasSubstr("... (40 rows)"));
}

TEST(RunStep, PlanOnly_ExecutesNothing) {
  CountingObserver observer;
  StepOptions options = small_step();
  options.plan_only_workers = 4;
  const auto records = run_step(options, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_EQ(records->mode, RunMode::kPlanOnly);
  EXPECT_EQ(records->routes[0].steps.size(), 5U);
}

TEST(RunStep, ManyRows_CountQueriesOutputsAndOracle) {
  OracleBackend backend;
  CountingObserver observer;
  StepOptions options = small_step();
  options.page_size = 1;
  options.repeats = 1;
  options.seq_lens.assign(60000, 1);
  options.run.warmup_steps = 0;
  options.run.routes.resize(1);
  // Per row 64 elements: 2 bytes of query, 4 of output, 8 of oracle; 7.7 MB of K,V and 8 MB of random values.
  options.run.memory_limit_bytes = 50'000'000;
  const auto refused = run_step(options, backend, observer);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("60000 rows"));
  EXPECT_THAT(refused.error().message, HasSubstr("50000000 bytes"));
  EXPECT_TRUE(backend.routes.empty());
  options.run.verify = VerifyMode::kOff;
  EXPECT_TRUE(run_step(options, backend, observer).ok());
}

TEST(RunStep, BadOptions_AreNamed) {
  OracleBackend backend;
  CountingObserver observer;
  const auto error_of = [&](auto change) {
    StepOptions options = small_step();
    change(options);
    const auto records = run_step(options, backend, observer);
    return records.ok() ? std::string("no error") : records.error().to_string();
  };
  EXPECT_THAT(error_of([](auto& o) { o.seq_lens.clear(); }), HasSubstr("no lengths"));
  EXPECT_THAT(error_of([](auto& o) { o.seq_lens[1] = -3; }), HasSubstr("lens[1]: length is -3"));
  EXPECT_THAT(error_of([](auto& o) { o.page_size = 0; }), HasSubstr("page size is 0"));
  EXPECT_THAT(error_of([](auto& o) { o.page_size = 257; }), HasSubstr("257"));
  EXPECT_THAT(error_of([](auto& o) { o.repeats = 0; }), HasSubstr("0 repeats"));
  EXPECT_THAT(error_of([](auto& o) { o.hole_fraction = 1.0; }), HasSubstr("hole fraction"));
  EXPECT_THAT(error_of([](auto& o) { o.hole_fraction = std::numeric_limits<double>::quiet_NaN(); }),
              HasSubstr("hole fraction"));
  EXPECT_THAT(error_of([](auto& o) {
                o.page_size = 1;
                o.seq_lens.assign(2, std::numeric_limits<std::int32_t>::max());
              }),
              HasSubstr("pages"));
  EXPECT_THAT(error_of([](auto& o) { o.seq_lens = {std::numeric_limits<std::int32_t>::max()}; }), HasSubstr("bytes"));
}

}  // namespace
}  // namespace pkv

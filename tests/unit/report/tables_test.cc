// Terminal tables: what must be seen, and no colours unless asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "records_fixture.h"
#include "report/report.h"

namespace pkv {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(RunTable, PlainStyle_HasNoEscapes) {
  const std::string table = run_table(summarize(testing::make_records()), TextStyle::kPlain);
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
  EXPECT_THAT(table, HasSubstr("workqueue=20 *"));
  EXPECT_THAT(table, HasSubstr("read probe 8.4 GB/s"));
  EXPECT_EQ(table.back(), '\n');
}

TEST(RunTable, AnsiStyle_HasEscapes) {
  EXPECT_THAT(run_table(summarize(testing::make_records()), TextStyle::kAnsi), HasSubstr("\x1b["));
}

TEST(RunTable, UnmeasuredColumn_IsLeftOut) {
  EXPECT_THAT(run_table(summarize(testing::make_records()), TextStyle::kPlain), Not(HasSubstr("layer")));
  EXPECT_THAT(run_table(summarize(testing::make_plan_only_records()), TextStyle::kPlain), Not(HasSubstr("tokens/s")));
}

TEST(RunTable, Gpu_CountsTasksBySms) {
  RunRecords records = testing::make_records();
  EXPECT_THAT(run_table(summarize(records), TextStyle::kPlain), HasSubstr("tasks/worker"));
  records.worker_kind = WorkerKind::kSm;
  records.routes[1].merge = MergeMode::kFused;
  const std::string table = run_table(summarize(records), TextStyle::kPlain);
  EXPECT_THAT(table, HasSubstr("tasks/SM"));
  EXPECT_THAT(table, HasSubstr("workqueue=20 fused *"));
  EXPECT_THAT(run_table(summarize(testing::make_plan_only_records()), TextStyle::kPlain), HasSubstr("tasks/SM"));
}

TEST(RunTable, FailedRun_SaysSo) {
  RunRecords records = testing::make_records();
  records.error = Error{ErrorCode::kMismatch, "got 1", "step 3"};
  EXPECT_THAT(run_table(summarize(records), TextStyle::kPlain), HasSubstr("failed: step 3: got 1"));
}

TEST(SuiteTable, SeveralRuns_MarksTheBestOfEach) {
  std::vector<SuiteEntry> entries = {{"bimodal 8", summarize(testing::make_records())},
                                     {"zipf 8", summarize(testing::make_records())}};
  entries[1].summary.best_idx = 0;
  const std::string table = suite_table(entries, TextStyle::kPlain);
  EXPECT_THAT(table, HasSubstr("bimodal 8  row"));
  EXPECT_THAT(table, HasSubstr("workqueue=20 *"));
  EXPECT_THAT(table, HasSubstr("zipf 8     row *"));
}

TEST(SuiteAdvice, SeveralRuns_NamesWinnersAndNextCommand) {
  const std::vector<SuiteEntry> entries = {
      {"bimodal 4", summarize(testing::make_records()), "--trace paper:bimodal --max-active 4 --requests 24"}};
  const std::string advice = suite_advice(entries);
  EXPECT_THAT(advice, HasSubstr("workqueue 1 of 1"));
  EXPECT_THAT(advice, EndsWith("Try next: pkv replay --trace paper:bimodal --max-active 4 --requests 24"));
  EXPECT_THAT(advice, Not(HasSubstr("\n")));
}

TEST(SuiteAdvice, NoArguments_NamesNoCommand) {
  const std::vector<SuiteEntry> entries = {{"bimodal 8", summarize(testing::make_records())}};
  EXPECT_THAT(suite_advice(entries), Not(HasSubstr("pkv replay")));
}

TEST(SuiteAdvice, NothingMeasured_StillOneLine) { EXPECT_FALSE(suite_advice({}).empty()); }

TEST(VerifyTable, Failure_SaysHowToRepeatIt) {
  VerifyRecords records;
  records.seed = 5;
  records.failure = VerifyFailure{17, "lens=1", "got 2"};
  records.repeat_arguments = " --backend cuda";
  EXPECT_THAT(verify_table(records, TextStyle::kPlain), HasSubstr("--seed 5 --case 17 --backend cuda\n"));
  records.failure.reset();
  EXPECT_THAT(verify_table(records, TextStyle::kPlain), HasSubstr("all cases passed"));
}

TEST(VerifyTable, Interrupted_DoesNotSayAllPassed) {
  VerifyRecords records;
  records.cases_asked = 1000;
  records.cases_run = 12;
  records.interrupted = true;
  const std::string table = verify_table(records, TextStyle::kPlain);
  EXPECT_THAT(table, HasSubstr("no failure in 12 of 1000 cases (interrupted)"));
  EXPECT_THAT(table, Not(HasSubstr("passed")));
}

}  // namespace
}  // namespace pkv

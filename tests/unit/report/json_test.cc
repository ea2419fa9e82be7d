// The JSON contract of issue 3: field names, their order, and null for what was not measured.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "records_fixture.h"
#include "report/report.h"

namespace pkv {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;

std::vector<std::string> keys(const Json& object, std::size_t count) {
  std::vector<std::string> names;
  for (auto it = object.begin(); it != object.end() && names.size() < count; ++it) {
    names.push_back(it.key());
  }
  return names;
}

TEST(RunJson, TopLevel_HasTheContractsFieldsInOrder) {
  const Json json = Json::parse(run_json(summarize(testing::make_records())));
  EXPECT_THAT(keys(json, 5), ElementsAre("trace", "seed", "steps", "physical_pages", "routes"));
  EXPECT_EQ(json["trace"], "paper:bimodal");
  EXPECT_EQ(json["seed"], 7);
  EXPECT_EQ(json["steps"], 2);
  EXPECT_EQ(json["physical_pages"], 123);
  EXPECT_TRUE(json["probe_gb_per_s"].is_number());
}

TEST(RunJson, Route_HasTheContractsFieldsInOrder) {
  const Json json = Json::parse(run_json(summarize(testing::make_records())));
  EXPECT_THAT(
      keys(json["routes"][1], 20),
      ElementsAre("name", "steps", "rows", "useful_kv_mib_per_step", "launches_per_step", "nonempty_share",
                  "tasks_per_step", "tasks_per_worker_or_sm", "merge_state_mib_per_step", "merge_launches_per_step",
                  "plan_us_p50", "device_ms_p50", "wall_ms_p50", "tokens_per_s_device", "tokens_per_s_wall",
                  "ratio_device", "ratio_wall", "max_abs_error", "mean_abs_error", "gb_per_s"));
  EXPECT_EQ(json["routes"][1]["max_abs_error"], 2e-4);
  EXPECT_TRUE(json["routes"][0]["max_abs_error"].is_null());
}

TEST(RunJson, PlanOnly_IsNullWhereNothingWasMeasured) {
  const Json json = Json::parse(run_json(summarize(testing::make_plan_only_records())));
  for (const char* field : {"device_ms_p50", "wall_ms_p50", "tokens_per_s_device", "tokens_per_s_wall", "ratio_device",
                            "ratio_wall", "max_abs_error", "mean_abs_error", "gb_per_s", "probe_share"}) {
    EXPECT_TRUE(json["routes"][0].at(field).is_null()) << field;
  }
  EXPECT_TRUE(json["routes"][0]["plan_us_p50"].is_number());
  EXPECT_TRUE(json["probe_gb_per_s"].is_null());
}

TEST(RunJson, Gpu_HasSmsAndNoPartsOfDeviceTime) {
  RunRecords records = testing::make_records();
  records.worker_kind = WorkerKind::kSm;
  records.routes[1].merge = MergeMode::kFused;
  const Json json = Json::parse(run_json(summarize(records)));
  EXPECT_EQ(json["worker_kind"], "sm");
  for (const char* field : {"decode_ms_p50", "merge_ms_p50", "dispatch_ms_p50"}) {
    EXPECT_TRUE(json["routes"][0].at(field).is_null()) << field;
  }
  EXPECT_TRUE(json["routes"][0]["device_ms_p50"].is_number());
  EXPECT_EQ(json["routes"][0]["merge"], "separate");
  EXPECT_EQ(json["routes"][1]["merge"], "fused");
}

TEST(RunJson, NoSeed_IsNull) {
  RunRecords records = testing::make_records();
  records.seed.reset();
  EXPECT_TRUE(Json::parse(run_json(summarize(records)))["seed"].is_null());
}

TEST(RunJson, ErrorAndInvalidUtf8_StaysValidJson) {
  RunRecords records = testing::make_records();
  records.trace = "trace-\xFF.csv";
  records.error = Error{ErrorCode::kMismatch, "got 1", "step 3"};
  const Json json = Json::parse(run_json(summarize(records)));
  EXPECT_EQ(json["error"], "step 3: got 1");
}

TEST(SuiteJson, Entries_CarryTheirLabels) {
  const std::vector<SuiteEntry> entries = {{"bimodal 8", summarize(testing::make_records())}};
  const Json json = Json::parse(suite_json(entries));
  EXPECT_EQ(json["runs"][0]["label"], "bimodal 8");
  EXPECT_EQ(json["runs"][0]["routes"].size(), 2U);
}

TEST(VerifyJson, Failure_NamesCaseAndMessage) {
  VerifyRecords records;
  records.seed = 5;
  records.coverage = {{"route=row", 3}};
  EXPECT_TRUE(Json::parse(verify_json(records))["failure"].is_null());
  EXPECT_EQ(Json::parse(verify_json(records))["passed"], true);
  records.failure = VerifyFailure{17, "lens=1", "got 2"};
  const Json json = Json::parse(verify_json(records));
  EXPECT_EQ(json["failure"]["case"], 17);
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["coverage"]["route=row"], 3);
}

TEST(VerifyJson, Interrupted_HasNotPassed) {
  VerifyRecords records;
  records.cases_asked = 1000;
  records.cases_run = 12;
  records.interrupted = true;
  const Json json = Json::parse(verify_json(records));
  EXPECT_EQ(json["passed"], false);
  EXPECT_TRUE(json["failure"].is_null());
}

}  // namespace
}  // namespace pkv

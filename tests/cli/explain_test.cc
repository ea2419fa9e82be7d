// pkv explain: a step's candidates, a trace step by step, measured or not; timelines that Perfetto opens.
// Not here: whether prices are right (tests/unit/cost, docs/performance.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/process.h"

namespace pkv::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const std::vector<std::string> kStep{"explain", "--lens", "48000,6000,6000"};
const std::vector<std::string> kTrace{"explain", "--trace", "paper:bimodal", "--steps", "6"};
// Small enough to run.
const std::vector<std::string> kSmall{"--q-heads", "8",         "--kv-heads", "2",        "--head-dim",
                                      "64",        "--threads", "1",          "--no-pin", "--measure"};

/// Runs with a cache folder of the test's own, so that no profile of the machine is found.
ProcessResult run_apart(const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  return run_pkv(arguments, {.environment = {"XDG_CACHE_HOME=" + folder.path("cache")}});
}

json json_of(const std::vector<std::string>& arguments) {
  const ProcessResult result = run_apart(with(arguments, {"--json", "-"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out, nullptr, false);
}

std::string error_of(const std::vector<std::string>& arguments) {
  const ProcessResult result = run_apart(arguments);
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_EQ(count_lines(result.err), 1) << result.err;
  return result.err;
}

/// The threads of a Chrome trace have names, and their events follow each other.
void expect_timeline(const json& timeline) {
  std::map<int, std::string> names;
  std::map<int, double> ends;
  for (const json& event : timeline.at("traceEvents")) {
    const int thread = event.at("tid").get<int>();
    if (event.at("ph") == "M") {
      if (event.at("name") == "thread_name") names[thread] = event.at("args").at("name").get<std::string>();
      continue;
    }
    ASSERT_EQ(event.at("ph"), "X");
    EXPECT_TRUE(names.contains(thread)) << event;
    EXPECT_GT(event.at("dur").get<double>(), 0.0);
    constexpr double kRounding = 1e-6;
    EXPECT_GE(event.at("ts").get<double>(), ends[thread] - kRounding) << event;
    ends[thread] = event.at("ts").get<double>() + event.at("dur").get<double>();
  }
  EXPECT_THAT(names[0], HasSubstr("host"));
  EXPECT_GT(ends.size(), 2U);
}

TEST(ExplainCli, Candidates_CarryTheirTerms) {
  const json explained = json_of(kStep);
  EXPECT_EQ(explained.at("format"), "persistentkv-explanation");
  EXPECT_EQ(explained.at("version"), 1);
  EXPECT_EQ(explained.at("profile"), "cpu");
  EXPECT_TRUE(explained.at("correction").is_null());
  EXPECT_GT(explained.at("occupancy").get<double>(), 0.0);
  EXPECT_LE(explained.at("occupancy").get<double>(), 1.0 + 1e-9);
  const json& candidates = explained.at("candidates");
  ASSERT_GT(candidates.size(), 1U);
  std::set<std::string> routes;
  for (const json& candidate : candidates) {
    routes.insert(candidate.at("route"));
    EXPECT_GT(candidate.at("memory_ns").get<double>(), 0.0);
    EXPECT_TRUE(candidate.at("measured_device_ns").is_null());
    if (candidate.at("searched")) {
      // On a CPU those that are cheaper by no more than the profile's price_error lose to the rule's plan.
      EXPECT_GE(candidate.at("total_ns").get<double>(), 0.95 * candidates[0].at("total_ns").get<double>());
    }
  }
  EXPECT_EQ(routes, (std::set<std::string>{"row", "split", "workqueue", "pages"}));
}

// The terms by which a candidate is dearer add up to how much dearer it is.
TEST(ExplainCli, DearerBy_AddsUpToTheDifference) {
  for (const char* profile : {"cpu", "cpu96", "h100"}) {
    const json candidates = json_of(with(kStep, {"--profile", profile})).at("candidates");
    for (const json& candidate : candidates) {
      double sum = 0.0;
      for (const auto& [term, ns] : candidate.at("dearer_by").items()) sum += ns.get<double>();
      const double dearer = candidate.at("total_ns").get<double>() - candidates[0].at("total_ns").get<double>();
      EXPECT_NEAR(sum, dearer, 1.0) << profile << candidate;
    }
  }
}

TEST(ExplainCli, Table_NamesReasonsAndWorkers) {
  const ProcessResult table = run_apart(with(kStep, {"--profile", "h100"}));
  ASSERT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("why it lost"));
  EXPECT_THAT(table.out, HasSubstr("flashinfer-tensor"));
  EXPECT_THAT(table.out, HasSubstr("occupancy of the chosen plan"));
  EXPECT_THAT(table.out, HasSubstr("and 116 more"));
  EXPECT_EQ(run_apart(with(kStep, {"--backend", "sim:h100"})).out, table.out);
}

TEST(ExplainCli, Timeline_HasNamedThreadsAndEveryTask) {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& arguments :
       {with(kStep, {}), with(kStep, {"--profile", "rtx3060"}), with(kTrace, {})}) {
    const std::string path = folder.path("step.json");
    ASSERT_EQ(run_apart(with(arguments, {"--timeline", path})).exit_code, 0);
    expect_timeline(json::parse(read_file(path)));
  }
}

TEST(ExplainCli, Trace_HasALineAStep) {
  const json explained = json_of(with(kTrace, {"--skip", "2"}));
  const json& steps = explained.at("steps");
  ASSERT_EQ(steps.size(), 6U);
  EXPECT_EQ(steps[0].at("step"), 2);
  EXPECT_EQ(steps[0].at("rows"), 8);
  EXPECT_FALSE(steps[0].at("kept"));
  EXPECT_TRUE(steps[1].at("kept"));
  EXPECT_GT(steps[1].at("tokens"), steps[0].at("tokens"));
  EXPECT_TRUE(steps[0].at("measured_device_ns").is_null());
  EXPECT_EQ(explained.at("choices").begin().value(), 6);
}

TEST(ExplainCli, OneStepOfATrace_IsThatStep) {
  const json all = json_of(kTrace);
  const ProcessResult one = run_apart({"explain", "--trace", "paper:bimodal", "--step", "4", "--json", "-"});
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const json explained = json::parse(one.out);
  EXPECT_THAT(explained.at("step").get<std::string>(),
              HasSubstr("step 4 of paper:bimodal: 8 rows, " + all.at("steps")[4].at("tokens").dump() + " tokens"));
  EXPECT_THAT(explained.at("reason_in_trace").get<std::string>(), HasSubstr("last step's choice"));
  EXPECT_GT(explained.at("candidates").size(), 1U);  // decided anew
}

TEST(ExplainCli, Measured_EveryCandidateHasATime) {
  const json explained = json_of(with({"explain", "--lens", "300,40,1"}, kSmall));
  EXPECT_EQ(explained.at("repeats"), 5);
  EXPECT_EQ(explained.at("num_workers_or_sms"), 1);  // those that ran, not the profile's
  EXPECT_THAT(explained.at("backend").get<std::string>(), HasSubstr("cpu"));
  EXPECT_TRUE(explained.at("noise").is_number());
  for (const json& candidate : explained.at("candidates")) {
    EXPECT_GT(candidate.at("measured_device_ns").get<double>(), 0.0);
    EXPECT_GE(candidate.at("measured_spread").get<double>(), 0.0);
    EXPECT_TRUE(candidate.at("prediction_error").is_number());
  }
}

TEST(ExplainCli, Learning_ShowsItsScalesAndSteps) {
  const std::vector<std::string> trace{"explain", "--trace", "paper:uniform", "--requests", "2", "--max-active", "1"};
  const json summary = json_of(with(with(trace, {"--steps", "5", "--learn"}), kSmall));
  EXPECT_EQ(summary.at("correction").at("steps"), 5);
  EXPECT_EQ(summary.at("steps")[0].at("correction").at("memory"), 1.0);
  EXPECT_NE(summary.at("steps")[4].at("correction"), summary.at("steps")[0].at("correction"));
  EXPECT_TRUE(summary.at("prediction_error_p50").is_number());
  const json step = json_of(with(with(trace, {"--step", "3", "--learn"}), kSmall));
  EXPECT_EQ(step.at("correction").at("steps"), 3);
  const json fixed = json_of(with(with(trace, {"--steps", "2"}), kSmall));
  EXPECT_TRUE(fixed.at("correction").is_null());
  EXPECT_TRUE(fixed.at("steps")[1].at("measured_device_ns").is_number());
}

TEST(ExplainCli, BadInput_NamesValueLimitAndPlace) {
  EXPECT_THAT(error_of({"explain"}), HasSubstr("--lens: is missing"));
  EXPECT_THAT(error_of({"explain", "--lens", "8x0x"}), HasSubstr("--lens[0] of '8x0x'"));
  EXPECT_THAT(error_of(with(kStep, {"--trace", "paper:zipf"})), HasSubstr("cannot be combined with --trace"));
  EXPECT_THAT(error_of(with(kStep, {"--step", "1"})), HasSubstr("--step: needs --trace"));
  EXPECT_THAT(error_of(with(kStep, {"--learn", "--measure"})), HasSubstr("--learn: needs --trace"));
  EXPECT_THAT(error_of(with(kStep, {"--repeats", "5"})), HasSubstr("--repeats: needs --measure"));
  EXPECT_THAT(error_of(with(kStep, {"--repeats", "2", "--measure"})), HasSubstr("2 is out of range; it must be 3 to"));
  EXPECT_THAT(error_of(with(kStep, {"--measure", "--backend", "sim:h100"})), HasSubstr("only predicts"));
  EXPECT_THAT(error_of(with(kStep, {"--profile", "h300"})), HasSubstr("neither a file nor one of"));
  EXPECT_THAT(error_of(with(kStep, {"--timeline", "-"})), HasSubstr("must be a file"));
  EXPECT_THAT(error_of(with(kStep, {"--timeline", "/nonexistent/t.json"})), HasSubstr("--timeline: "));
  EXPECT_THAT(error_of(with(kStep, {"--softmax-scale", "2"})), HasSubstr("--softmax-scale: needs --measure"));
  EXPECT_THAT(error_of(with(kTrace, {"--learn"})), HasSubstr("--learn: needs --measure"));
  EXPECT_THAT(error_of(with(kTrace, {"--step", "3"})), HasSubstr("--steps: cannot be combined with --step"));
  EXPECT_THAT(error_of({"explain", "--trace", "paper:bimodal", "--step", "100000"}),
              HasSubstr("--step: 100000 is not below the "));
  EXPECT_THAT(error_of({"explain", "--trace", "paper:bimodal", "--skip", "100000"}),
              HasSubstr("--skip: 100000 passes over all steps of paper:bimodal"));
}

}  // namespace
}  // namespace pkv::test

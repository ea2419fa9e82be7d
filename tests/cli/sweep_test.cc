// pkv sweep: its points and their JSON, capacity tables, what it refuses.
// Not here: the rounds themselves (tests/unit/replay), what prices say (tests/unit/cost).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/process.h"

namespace pkv::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

const std::vector<std::string> kMeasured{"--lens",    "300,40,0,1", "--kv-heads", "2",        "--head-dim", "64",
                                         "--rounds",  "3",          "--repeats",  "2",        "--warmup",   "1",
                                         "--threads", "1",          "--no-pin",   "--verify", "every"};

ProcessResult run_apart(const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  return run_pkv(arguments, {.environment = {"XDG_CACHE_HOME=" + folder.path("cache")}});
}

json sweep(const std::vector<std::string>& arguments) {
  const ProcessResult result = run_apart(with(with({"sweep"}, arguments), {"--json", "-"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out, nullptr, false);
}

std::string error_of(const std::vector<std::string>& arguments) {
  const ProcessResult result = run_apart(with({"sweep"}, arguments));
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_EQ(count_lines(result.err), 1) << result.err;
  return result.err;
}

/// Splits of the fastest fixed point.
int best_splits(const json& record) {
  const json* best = nullptr;
  for (const json& point : record.at("points")) {
    if (point.at("route") == "auto") continue;
    if (best == nullptr || point.at("device_ms") < best->at("device_ms")) best = &point;
  }
  return best->at("splits").get<int>();
}

void expect_measured(const json& point) {
  EXPECT_EQ(point.at("rounds"), 3);
  EXPECT_EQ(point.at("steps"), 6);
  for (const char* field : {"device_ms", "wall_ms", "ratio_device", "ratio_wall", "tokens_per_s_wall", "gb_per_s",
                            "probe_share", "predicted_ms"}) {
    EXPECT_GT(point.at(field).get<double>(), 0.0) << field << point;
  }
  EXPECT_GE(point.at("spread").get<double>(), 0.0);
  EXPECT_TRUE(point.at("prediction_error").is_number());
  EXPECT_LT(point.at("max_abs_error").get<double>(), 2e-3);
  EXPECT_TRUE(point.at("chosen").at("route").is_string());
}

TEST(SweepCli, Splits_AreMeasuredInTurnAndCompared) {
  const json record =
      sweep(with({"splits", "--splits", "1,2,3", "--routes", "row,workqueue", "--q-heads", "8"}, kMeasured));
  EXPECT_EQ(record.at("format"), "persistentkv-sweep");
  EXPECT_EQ(record.at("version"), 1);
  EXPECT_EQ(record.at("sweep"), "splits");
  EXPECT_EQ(record.at("mode"), "executed");
  EXPECT_EQ(record.at("options").at("splits"), "1,2,3");
  EXPECT_EQ(record.at("options").at("repeats"), 2);
  EXPECT_GT(record.at("probe_gb_per_s").get<double>(), 0.0);
  const json& points = record.at("points");
  ASSERT_EQ(points.size(), 5U);  // row, three workqueues, the policy
  EXPECT_EQ(points[0].at("route"), "row");
  EXPECT_EQ(points[0].at("ratio_device"), 1.0);
  EXPECT_TRUE(points[0].at("reference"));
  EXPECT_EQ(points[3].at("splits"), 3);
  EXPECT_EQ(points[4].at("route"), "auto");
  for (const json& point : points) expect_measured(point);
}

// Every run has another shape, layout or page table, all in one memory; the oracle checks each.
TEST(SweepCli, GroupsPagesHolesMix_RunEveryPointAndAreRight) {
  const json groups = sweep(with({"groups", "--groups", "1,3", "--routes", "split"}, kMeasured));
  ASSERT_EQ(groups.at("points").size(), 4U);
  EXPECT_EQ(groups.at("points")[2].at("axes").at("group"), 3);
  EXPECT_THAT(groups.at("shape").get<std::string>(), Not(HasSubstr("query heads")));
  const json pages = sweep(with({"pages", "--page-sizes", "1,16,256", "--packings", "separate,packed"}, kMeasured));
  ASSERT_EQ(pages.at("points").size(), 12U);
  EXPECT_EQ(pages.at("points")[11].at("axes"), (json{{"page_size", 256}, {"layout", "NHD"}, {"packing", "packed"}}));
  const json holes = sweep(with({"holes", "--hole-fractions", "0,0.9", "--reference", "2"}, kMeasured));
  ASSERT_EQ(holes.at("points").size(), 2U);
  EXPECT_TRUE(holes.at("points")[1].at("reference"));
  EXPECT_EQ(holes.at("points")[1].at("ratio_device"), 1.0);
  std::vector<std::string> no_lens(kMeasured.begin() + 2, kMeasured.end());
  const json mix = sweep(with({"mix", "--batches", "1,4", "--contexts", "70"}, no_lens));
  ASSERT_EQ(mix.at("points").size(), 5U);  // one row has no mix
  for (const json& record : {groups, pages, holes, mix}) {
    for (const json& point : record.at("points")) expect_measured(point);
  }
}

TEST(SweepCli, Trace_TakesItsStepsOnceARound) {
  const json record =
      sweep({"groups",  "--groups",   "1,2",          "--trace",  "paper:uniform", "--requests", "2",
             "--steps", "2",          "--max-active", "1",        "--kv-heads",    "2",          "--rounds",
             "3",       "--head-dim", "64",           "--verify", "every",         "--threads",  "1",
             "--no-pin"});
  EXPECT_EQ(record.at("workload"), "paper:uniform");
  EXPECT_EQ(record.at("time_of_a_round"), "mean");
  ASSERT_EQ(record.at("points").size(), 2U);
  for (const json& point : record.at("points")) expect_measured(point);
}

TEST(SweepCli, Simulated_IsDeterministicAndSaysSo) {
  const std::vector<std::string> arguments{"mix", "--backend", "sim:cpu96", "--batches", "2,8"};
  const json first = sweep(arguments);
  EXPECT_EQ(first, sweep(arguments));
  EXPECT_EQ(first.at("mode"), "simulated");
  EXPECT_EQ(first.at("num_workers_or_sms"), 96);
  for (const json& point : first.at("points")) {
    EXPECT_GT(point.at("device_ms").get<double>(), 0.0);
    EXPECT_TRUE(point.at("probe_share").is_null());
    EXPECT_TRUE(point.at("prediction_error").is_null());
    EXPECT_TRUE(point.at("spread").is_null());
  }
}

// The published sensitivity of the paper's traces: bimodal is best at 20 of 16, 20, 24, bucketed at 32 of 28, 32, 36;
// a step of the sweep is 4 splits.
TEST(SweepCli, SplitsOnTheRtx3060_AreBestWithinOneStepOfThePublished) {
  const json bimodal = sweep(
      {"splits", "--trace", "paper:bimodal", "--steps", "48", "--backend", "sim:rtx3060", "--splits", "4,8,16,20,24"});
  const json near = sweep(
      {"splits", "--trace", "paper:bimodal", "--steps", "48", "--backend", "sim:rtx3060", "--splits", "16,20,24"});
  EXPECT_NEAR(best_splits(near), 20, 4);
  const json bucketed =
      sweep({"splits", "--trace", "paper:bucketed", "--requests", "16", "--max-active", "1", "--steps", "64",
             "--backend", "sim:rtx3060", "--routes", "bucket", "--splits", "28,32,36"});
  EXPECT_NEAR(best_splits(bucketed), 32, 4);
  EXPECT_GT(bimodal.at("points")[0].at("device_ms"), bimodal.at("points")[1].at("device_ms"));  // four are too few
}

TEST(SweepCli, Capacity_CountsTokensOfAllLayers) {
  const json record = sweep({"capacity", "--backend", "sim:cpu96", "--batches", "1,8", "--contexts", "1024,8192",
                             "--groups", "1,8", "--layers", "32"});
  EXPECT_EQ(record.at("format"), "persistentkv-capacity");
  EXPECT_EQ(record.at("version"), 1);
  EXPECT_EQ(record.at("layers"), 32);
  EXPECT_EQ(record.at("profile"), "cpu96");
  EXPECT_THAT(record.at("scope").get<std::string>(), HasSubstr("attention only"));
  EXPECT_THAT(record.at("source").get<std::string>(), HasSubstr("DDR5-4800"));
  const json& points = record.at("points");
  ASSERT_EQ(points.size(), 8U);
  for (const json& point : points) {
    const double step_us = point.at("plan_us").get<double>() + 32.0 * point.at("layer_us").get<double>();
    EXPECT_NEAR(point.at("tokens_per_s").get<double>(), point.at("batch").get<double>() * 1e6 / step_us, 1e-6 * 1e6);
    // 8 KV heads of 128 half-precision elements, K and V.
    EXPECT_EQ(point.at("kv_bytes").get<std::int64_t>(),
              std::int64_t{32} * point.at("batch").get<int>() * point.at("context_tokens").get<int>() * 4096);
  }
  const ProcessResult table = run_apart({"sweep", "capacity", "--backend", "sim:h100", "--layers", "2"});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("tokens a second, group size 4"));
  EXPECT_THAT(table.out, HasSubstr("attention of 2 layers"));
}

TEST(SweepCli, Capacity_LongerContextsAndMoreLayersAreNeverFaster) {
  const auto rate = [](const char* context, const char* layers) {
    return sweep({"capacity", "--backend", "sim:h100", "--batches", "8", "--contexts", context, "--layers", layers})
        .at("points")[0]
        .at("tokens_per_s")
        .get<double>();
  };
  EXPECT_GT(rate("1024", "1"), rate("8192", "1"));
  EXPECT_GT(rate("1024", "1"), rate("1024", "2"));
}

TEST(SweepCli, Interrupted_KeepsWhatWasMeasured) {
  const TemporaryFolder folder;
  const std::string path = folder.path("sweep.json");
  const ProcessResult result =
      run_pkv({"sweep", "groups", "--lens", "2x300", "--groups", "1,2", "--rounds", "1000000", "--repeats", "1",
               "--verify", "off", "--threads", "1", "--no-pin", "--json", path, "--memory-limit", "64MiB"},
              {.interrupt_when = "measuring ([3-9]|[1-9][0-9])"});  // both points were measured
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_THAT(result.err, HasSubstr("pkv: interrupted"));
  EXPECT_THAT(result.out, HasSubstr("interrupted: figures of the rounds"));
  const json record = json::parse(read_file(path));
  EXPECT_TRUE(record.at("interrupted"));
  for (const json& point : record.at("points")) EXPECT_GT(point.at("device_ms").get<double>(), 0.0);
}

TEST(SweepCli, BadInput_NamesValueLimitAndPlace) {
  EXPECT_THAT(error_of({}), HasSubstr("it must be one of splits, groups, pages, holes, mix, capacity"));
  EXPECT_THAT(error_of({"spits"}), HasSubstr("unknown sweep 'spits' (did you mean 'splits'?)"));
  EXPECT_THAT(error_of({"groups", "--groups", "1,65"}),
              HasSubstr("--groups[1]: 65 is out of range; it must be 1 to 64"));
  EXPECT_THAT(error_of({"groups", "--groups", "2,2"}), HasSubstr("--groups: '2' is given twice"));
  EXPECT_THAT(error_of({"groups", "--groups", "1,,2"}), HasSubstr("empty entry at position 2"));
  EXPECT_THAT(error_of({"groups", "--q-heads", "8"}), HasSubstr("--q-heads: has no effect in sweep groups"));
  EXPECT_THAT(error_of({"pages", "--page-sizes", "0"}), HasSubstr("0 is out of range; it must be 1 to 256"));
  EXPECT_THAT(error_of({"pages", "--layouts", "NDH"}), HasSubstr("unknown layout 'NDH'"));
  EXPECT_THAT(error_of({"holes", "--hole-fractions", "0,1"}),
              HasSubstr("[1]: 1 is out of range; it must be at least 0"));
  EXPECT_THAT(error_of({"mix", "--mixes", "bimodel"}), HasSubstr("did you mean 'bimodal'?"));
  EXPECT_THAT(error_of({"mix", "--lens", "8"}), HasSubstr("--lens: has no effect in sweep mix"));
  EXPECT_THAT(error_of({"splits", "--lens", "8", "--trace", "paper:zipf"}), HasSubstr("cannot be combined"));
  EXPECT_THAT(error_of({"splits", "--steps", "4"}), HasSubstr("--steps: needs --trace"));
  EXPECT_THAT(error_of({"splits", "--backend", "sim:cpu", "--rounds", "3"}), HasSubstr("do not vary"));
  EXPECT_THAT(error_of({"splits", "--backend", "sim:cpu", "--reference", "99"}),
              HasSubstr("99 is above the 14 points"));
  EXPECT_THAT(error_of({"splits", "--backend", "cuda"}), HasSubstr("--profile: is missing"));
  EXPECT_THAT(error_of({"groups", "--merge", "fused"}), HasSubstr("--merge: needs --routes"));
  EXPECT_THAT(error_of({"splits", "--memory-limit", "1MiB"}), HasSubstr("1048576 bytes (0.00 GiB) are available"));
  EXPECT_THAT(error_of({"splits", "--backend", "sim:cpu", "--trace", "paper:zipf", "--skip", "100000"}),
              HasSubstr("--skip: 100000 passes over all steps"));
  EXPECT_THAT(error_of({"capacity"}), HasSubstr("--backend: is missing; capacity is planned on a profile"));
  EXPECT_THAT(error_of({"capacity", "--backend", "sim:h300"}), HasSubstr("neither a file nor one of"));
  EXPECT_THAT(error_of({"capacity", "--backend", "sim:h100", "--batches", "99999", "--contexts", "9999999"}),
              HasSubstr("at most 67108864"));
  EXPECT_THAT(error_of({"capacity", "--backend", "sim:h100", "--layers", "0"}),
              HasSubstr("--layers: 0 is out of range"));
}

}  // namespace
}  // namespace pkv::test

// The policy on the command line: participants, profiles, the oracle's JSON, simulated devices.
// Not here: what it chooses (tests/unit/cost), its figures (docs/performance.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/process.h"

namespace pkv::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::vector<std::string> kSmallRun{"run",        "--lens",    "300,40,0,1", "--q-heads", "8",
                                         "--kv-heads", "2",         "--head-dim", "64",        "--repeats",
                                         "3",          "--threads", "1",          "--no-pin"};
const std::vector<std::string> kSimRun{"run", "--lens", "48000,6000,6000", "--repeats", "1", "--json", "-"};

/// Runs with a cache folder of the test's own, so that no profile of the machine is found.
ProcessResult run_apart(const TemporaryFolder& folder, const std::vector<std::string>& arguments) {
  return run_pkv(arguments, {.environment = {"XDG_CACHE_HOME=" + folder.path("cache")}});
}

std::string error_of(const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  const ProcessResult result = run_apart(folder, arguments);
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_EQ(count_lines(result.err), 1) << result.err;
  return result.err;
}

TEST(PolicyCli, Oracle_GivesTheJsonOfTheContract) {
  const TemporaryFolder folder;
  const ProcessResult result = run_apart(folder, with(kSmallRun, {"--policy", "auto", "--oracle", "--json", "-"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json policy = json::parse(result.out).at("policy");
  for (const char* field :
       {"regret_mean", "regret_p95", "regret_max", "prediction_error_p50", "prediction_error_p90"}) {
    EXPECT_TRUE(policy.at(field).is_number()) << field;
  }
  int steps = 0;
  for (const auto& [route, count] : policy.at("choices").items()) steps += count.get<int>();
  EXPECT_EQ(steps, 3);
  EXPECT_EQ(policy.at("profile"), "cpu");
  EXPECT_EQ(policy.at("oracle_repeats"), 7);
  EXPECT_EQ(json::parse(result.out).at("routes").back().at("name"), "auto");
}

TEST(PolicyCli, WithoutOracle_RegretIsNull) {
  const TemporaryFolder folder;
  const ProcessResult result = run_apart(folder, with(kSmallRun, {"--policy", "paper", "--no-learn", "--json", "-"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json policy = json::parse(result.out).at("policy");
  EXPECT_TRUE(policy.at("regret_mean").is_null());
  EXPECT_EQ(policy.at("learns"), false);
  EXPECT_EQ(policy.at("choices").begin().key(), "row");  // too short for the paper's gates
  const ProcessResult plain = run_apart(folder, with(kSmallRun, {"--json", "-"}));
  EXPECT_TRUE(json::parse(plain.out).at("policy").is_null());
}

TEST(PolicyCli, SimulatedDevice_NeedsNoDeviceAndSaysSo) {
  const TemporaryFolder folder;
  const ProcessResult result = run_apart(
      folder, with(kSimRun, {"--backend", "sim:h100", "--routes", "row,flashinfer-tensor", "--policy", "auto"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json run = json::parse(result.out);
  EXPECT_EQ(run.at("mode"), "simulated");
  EXPECT_EQ(run.at("num_workers_or_sms"), 132);
  EXPECT_EQ(run.at("worker_kind"), "sm");
  EXPECT_GT(run.at("routes")[1].at("ratio_device").get<double>(), 1.0);
  EXPECT_TRUE(run.at("policy").at("prediction_error_p50").is_null());
}

TEST(PolicyCli, ProfileOfAFile_IsReadStrictly) {
  const TemporaryFolder folder;
  folder.write("bad.json", R"({"format": "persistentkv-profile", "version": 9})");
  folder.write("text.json", "bandwidth: fast");
  EXPECT_EQ(error_of(with(kSmallRun, {"--policy", "auto", "--profile", folder.path("bad.json")})),
            "pkv: error: --profile, " + folder.path("bad.json") +
                ", field version: 9 is not 1, the only one that this build reads; run pkv calibrate again\n");
  EXPECT_THAT(error_of(with(kSmallRun, {"--policy", "auto", "--profile", folder.path("text.json")})),
              HasSubstr("is not JSON"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--policy", "auto", "--profile", "h300"})),
              HasSubstr("--profile: 'h300' is neither a file nor one of cpu, cpu96, h100, h200, rtx3060"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim:h300"})), HasSubstr("neither a file nor one of cpu"));
}

// Every command that reads one, and what it was to write stays as it was.
TEST(PolicyCli, BadProfile_NamesFieldAndLimitAndOverwritesNothing) {
  const TemporaryFolder folder;
  const std::string good = read_file(PKV_PROFILES "/cpu.json");
  const std::string launch = R"("launch_ns": )";
  const auto with_launch = [&](const std::string& value) {
    const std::size_t begin = good.find(launch) + launch.size();
    return good.substr(0, begin) + value + good.substr(good.find(',', begin));
  };
  const std::pair<std::string, std::string> cases[] = {
      {with_launch("-1"), "field launch_ns: -1 is outside 0 to 1e+09"},
      {with_launch("1e12"), "field launch_ns: 1e+12 is outside 0 to 1e+09"},
      {with_launch("null"), "field launch_ns: null is not a number"},
      {with_launch("NaN"), "is not JSON"},
      {good.substr(0, good.find(launch)) + good.substr(good.find(R"("merge_launch_ns")")),
       "field launch_ns: is missing"}};
  const std::vector<std::vector<std::string>> commands = {
      with(kSmallRun, {"--policy", "auto", "--profile", folder.path("bad.json")}),
      {"replay", "--trace", "paper:bimodal", "--backend", "sim:" + folder.path("bad.json")},
      {"explain", "--lens", "300", "--profile", folder.path("bad.json"), "--timeline", folder.path("kept.txt")},
      {"sweep", "capacity", "--backend", "sim:" + folder.path("bad.json")}};
  for (const auto& [profile, words] : cases) {
    folder.write("bad.json", profile);
    folder.write("kept.json", "the old one");
    folder.write("kept.txt", "the old one");
    for (const auto& command : commands) {
      EXPECT_THAT(error_of(with(command, {"--json", folder.path("kept.json")})),
                  testing::AllOf(HasSubstr(folder.path("bad.json")), HasSubstr(words)));
      EXPECT_EQ(read_file(folder.path("kept.json")), "the old one");
      EXPECT_EQ(read_file(folder.path("kept.txt")), "the old one");
    }
    EXPECT_EQ(read_file(folder.path("bad.json")), profile);
  }
}

TEST(PolicyCli, Layers_ShareThePlanningOfAStep) {
  const TemporaryFolder folder;
  const auto route = [&](const char* layers) {
    const ProcessResult result =
        run_apart(folder, {"replay", "--trace", "paper:bimodal", "--steps", "4", "--backend", "sim:h100", "--routes",
                           "split,flashinfer-core", "--policy", "auto", "--oracle", "--layers", layers, "--json", "-"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out);
  };
  const json one = route("1");
  const json all = route("32");
  EXPECT_EQ(one.at("layers"), 1);
  EXPECT_EQ(all.at("layers"), 32);
  const auto host_us = [](const json& run, std::size_t route_idx) {
    const json& it = run.at("routes").at(route_idx);
    return 1e3 * (it.at("wall_ms_p50").get<double>() - it.at("device_ms_p50").get<double>());
  };
  for (const std::size_t route_idx : {0U, 1U}) {
    EXPECT_NEAR(host_us(all, route_idx), host_us(one, route_idx) / 32.0, 0.01);
    EXPECT_NEAR(all.at("routes").at(route_idx).at("plan_us_p50").get<double>(), host_us(one, route_idx), 0.01);
  }
  EXPECT_LT(all.at("policy").at("regret_max").get<double>(), 0.01);
  const ProcessResult explained =
      run_apart(folder, {"explain", "--lens", "48000,6000", "--profile", "h100", "--layers", "32", "--json", "-"});
  ASSERT_EQ(explained.exit_code, 0) << explained.err;
  EXPECT_EQ(json::parse(explained.out).at("layers"), 32);
}

TEST(PolicyCli, StoredProfileOfAnotherMachine_IsRefused) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.path("cache/persistentkv"));
  std::string other = read_file(PKV_PROFILES "/cpu.json");
  const std::string empty = "\"machine\": \"\"";
  other.replace(other.find(empty), empty.size(), "\"machine\": \"Other CPU, 64 workers\"");
  folder.write("cache/persistentkv/cpu-profile.json", other);
  const ProcessResult result = run_apart(folder, with(kSmallRun, {"--policy", "auto"}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("field identity.machine is 'Other CPU, 64 workers', here it is '"));
  EXPECT_THAT(result.err, HasSubstr("run pkv calibrate again, or name a --profile"));
  EXPECT_EQ(read_file(folder.path("cache/persistentkv/cpu-profile.json")), other);
}

TEST(PolicyCli, OptionsWithoutEffect_AreErrors) {
  EXPECT_THAT(error_of(with(kSmallRun, {"--oracle"})), HasSubstr("--oracle: needs --policy"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--profile", "cpu"})), HasSubstr("--profile: needs --policy"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--policy", "auto", "--oracle-repeats", "9"})), HasSubstr("needs --oracle"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--policy", "auto", "--oracle", "--oracle-repeats", "4"})), HasSubstr("5"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--policy", "fast"})), HasSubstr("unknown value 'fast'"));
  EXPECT_THAT(error_of({"run", "--lens", "1", "--policy", "auto", "--plan-only"}), HasSubstr("--backend sim:PROFILE"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim:h100", "--verify", "every"})), HasSubstr("executes nothing"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim:h100", "--threads", "2"})), HasSubstr("profile's workers"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim:h100", "--policy", "auto", "--profile", "cpu"})),
              HasSubstr("whose profile it is"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim"})), HasSubstr("unknown value 'sim'"));
  EXPECT_THAT(error_of(with(kSimRun, {"--backend", "sim:cpu", "--routes", "flashinfer-core"})),
              HasSubstr("route flashinfer-core: profile cpu has no price of it"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--layers", "0"})), HasSubstr("--layers: 0 is out of range"));
  EXPECT_THAT(error_of(with(kSmallRun, {"--layers", "1025"})), HasSubstr("1024"));
  EXPECT_THAT(error_of({"replay", "--trace", "paper:bimodal", "--plan-only", "--layers", "2"}),
              HasSubstr("--layers: has no effect with --plan-only"));
  EXPECT_THAT(error_of({"verify", "--backend", "sim:h100"}), HasSubstr("nothing that could be verified"));
}

TEST(CalibrateCli, Profile_IsKeptAndServesThePolicy) {
  const TemporaryFolder folder;
  const std::vector<std::string> workers{"--threads", "1", "--no-pin"};
  // Little more memory than its largest step needs: what is read, for seconds, grows with it.
  const ProcessResult result =
      run_apart(folder, with({"calibrate", "--repeats", "5", "--memory-limit", "1GiB"}, workers));
  EXPECT_THAT(result.out, HasSubstr("fit: median error "));
  if (result.exit_code == 2) {  // an absurd fit, on a machine that is more than busy
    EXPECT_THAT(result.err, HasSubstr("nothing was kept"));
    EXPECT_FALSE(std::filesystem::exists(folder.path("cache/persistentkv/cpu-profile.json")));
    GTEST_SKIP() << result.err;
  }
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json profile = json::parse(read_file(folder.path("cache/persistentkv/cpu-profile.json")));
  EXPECT_EQ(profile.at("num_workers"), 1);
  EXPECT_THAT(profile.at("identity").at("machine").get<std::string>(), HasSubstr("1 workers not pinned"));
  const ProcessResult run = run_apart(folder, with(kSmallRun, {"--policy", "auto", "--json", "-"}));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(json::parse(run.out).at("policy").at("profile"), "calibrated");
}

TEST(CalibrateCli, Interrupted_LeavesTheOldProfileWhole) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.path("cache/persistentkv"));
  folder.write("cache/persistentkv/cpu-profile.json", "the old one");
  const ProcessResult result = run_pkv(
      {"calibrate"}, {.environment = {"XDG_CACHE_HOME=" + folder.path("cache")}, .interrupt_when = "measuring"});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_EQ(read_file(folder.path("cache/persistentkv/cpu-profile.json")), "the old one");
}

TEST(CalibrateCli, BadArguments_AreErrors) {
  EXPECT_THAT(error_of({"calibrate", "--repeats", "4"}), HasSubstr("--repeats: "));
  EXPECT_THAT(error_of({"calibrate", "--output", "/nonexistent/profile.json"}), HasSubstr("--output"));
}

}  // namespace
}  // namespace pkv::test

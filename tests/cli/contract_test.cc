// The command line contract: what scripts rely on.
// Not here: bad input (bad_input_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
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

constexpr const char* kRouteFields[] = {"name",
                                        "steps",
                                        "rows",
                                        "useful_kv_mib_per_step",
                                        "launches_per_step",
                                        "nonempty_share",
                                        "tasks_per_step",
                                        "tasks_per_worker_or_sm",
                                        "merge_state_mib_per_step",
                                        "merge_launches_per_step",
                                        "plan_us_p50",
                                        "device_ms_p50",
                                        "wall_ms_p50",
                                        "tokens_per_s_device",
                                        "tokens_per_s_wall",
                                        "ratio_device",
                                        "ratio_wall",
                                        "max_abs_error",
                                        "mean_abs_error"};

const std::vector<std::string> kSmallRun{"run", "--lens",     "300,40,0,1", "--q-heads", "8", "--kv-heads",
                                         "2",   "--head-dim", "64",         "--repeats", "3", "--warmup",
                                         "1",   "--threads",  "1",          "--no-pin"};

void expect_route_fields(const json& route) {
  for (const char* field : kRouteFields) EXPECT_TRUE(route.contains(field)) << field;
}

TEST(ReplayJson, PlanOnly_GivesThePapersCountersAndNothingElse) {
  const ProcessResult result = run_pkv({"replay",
                                        "--trace",
                                        "paper:bimodal",
                                        "--max-active",
                                        "8",
                                        "--seed",
                                        "20260623",
                                        "--requests",
                                        "24",
                                        "--steps",
                                        "48",
                                        "--q-heads",
                                        "32",
                                        "--kv-heads",
                                        "8",
                                        "--routes",
                                        "bucket,workqueue",
                                        "--splits",
                                        "bucket=32,workqueue=20",
                                        "--sms",
                                        "28",
                                        "--plan-only",
                                        "--json",
                                        "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json root = json::parse(result.out);
  EXPECT_EQ(root["trace"], "paper:bimodal");
  EXPECT_EQ(root["seed"], 20260623);
  EXPECT_EQ(root["steps"], 48);
  EXPECT_EQ(root["physical_pages"], 24285);
  ASSERT_EQ(root["routes"].size(), 2U);
  for (const json& route : root["routes"]) {
    expect_route_fields(route);
    EXPECT_EQ(route["rows"], 384);
    EXPECT_NEAR(route["useful_kv_mib_per_step"].get<double>(), 550.5, 0.05);
    EXPECT_TRUE(route["device_ms_p50"].is_null());
    EXPECT_TRUE(route["max_abs_error"].is_null());
  }
  const json& bucket = root["routes"][0];
  EXPECT_EQ(bucket["name"], "bucket");
  EXPECT_NEAR(bucket["launches_per_step"].get<double>(), 16.0, 0.005);
  EXPECT_NEAR(bucket["tasks_per_worker_or_sm"].get<double>(), 73.1, 0.05);
  EXPECT_NEAR(bucket["merge_state_mib_per_step"].get<double>(), 4.06, 0.005);
  const json& workqueue = root["routes"][1];
  EXPECT_EQ(workqueue["name"], "workqueue");
  EXPECT_NEAR(workqueue["launches_per_step"].get<double>(), 2.0, 0.005);
  EXPECT_NEAR(workqueue["tasks_per_worker_or_sm"].get<double>(), 45.7, 0.05);
  EXPECT_NEAR(workqueue["merge_state_mib_per_step"].get<double>(), 2.54, 0.005);
}

TEST(ReplayJson, OneNumberOfSplits_SetsEveryRouteButRow) {
  const ProcessResult result = run_pkv({"replay", "--trace", "paper:uniform", "--steps", "2", "--splits", "5",
                                        "--plan-only", "--sms", "28", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json root = json::parse(result.out);
  for (const json& route : root["routes"]) {
    EXPECT_EQ(route["splits"], route["name"] == "row" ? json(nullptr) : json(5)) << route["name"];
  }
}

TEST(ReplayJson, SkipAndSteps_ChooseTheWindow) {
  const auto pages_of = [](const std::string& skip) {
    const ProcessResult result = run_pkv({"replay", "--trace", "paper:uniform", "--steps", "1", "--skip", skip,
                                          "--plan-only", "--sms", "28", "--routes", "row", "--json", "-"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out)["routes"][0]["useful_kv_mib_per_step"].get<double>();
  };
  EXPECT_GT(pages_of("5"), pages_of("0"));  // contexts have grown
}

TEST(RunJson, EveryRoute_IsMeasuredAndVerified) {
  const ProcessResult result = run_pkv(with(kSmallRun, {"--routes", "all", "--verify", "every", "--json", "-"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json root = json::parse(result.out);
  EXPECT_TRUE(root.contains("probe_gb_per_s"));
  ASSERT_EQ(root["routes"].size(), 6U);
  for (const json& route : root["routes"]) {
    expect_route_fields(route);
    EXPECT_EQ(route["steps"], 3);
    EXPECT_EQ(route["rows"], 12);
    EXPECT_GT(route["gb_per_s"].get<double>(), 0.0);
    EXPECT_LT(route["max_abs_error"].get<double>(), 2e-3);
    EXPECT_LT(route["mean_abs_error"].get<double>(), 3e-4);
  }
  EXPECT_EQ(root["routes"][0]["ratio_wall"], 1.0);
  EXPECT_EQ(root["worker_kind"], "thread");
  EXPECT_TRUE(root["routes"][0]["decode_ms_p50"].is_number());
}

TEST(RunJson, FusedMerge_IsNamedAndHasNoMergeLaunch) {
  const ProcessResult result = run_pkv({"run", "--lens", "48000,6000", "--plan-only", "--sms", "132", "--routes",
                                        "row,split,workqueue", "--merge", "fused", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json routes = json::parse(result.out)["routes"];
  EXPECT_EQ(routes[0]["merge"], "separate");
  for (const std::size_t i : {1, 2}) {
    EXPECT_EQ(routes[i]["merge"], "fused");
    EXPECT_EQ(routes[i]["launches_per_step"], 1.0);
    EXPECT_EQ(routes[i]["merge_launches_per_step"], 0.0);
    EXPECT_GT(routes[i]["merge_state_mib_per_step"].get<double>(), 0.0);
  }
}

TEST(RunJson, AllAndExternalRoutes_AreListedBehindOurs) {
  const ProcessResult result = run_pkv({"run", "--lens", "100", "--plan-only", "--sms", "132", "--routes",
                                        "all,flashinfer-core,flashinfer-tensor", "--splits", "2", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json routes = json::parse(result.out)["routes"];
  ASSERT_EQ(routes.size(), 8U);
  EXPECT_EQ(routes[5]["name"], "pages");
  EXPECT_EQ(routes[6]["name"], "flashinfer-core");
  EXPECT_EQ(routes[7]["name"], "flashinfer-tensor");
  EXPECT_EQ(routes[7]["tasks_per_step"], 0.0);
  EXPECT_TRUE(routes[7]["splits"].is_null());
}

// With a GPU they run; without one, each says why in one line, as the doctor does.
TEST(Cuda, EveryCommand_RunsOrSaysWhyNot) {
  const json cuda = json::parse(run_pkv({"doctor", "--no-probes", "--json", "-"}).out)["cuda"];
  const std::vector<std::vector<std::string>> commands = {
      {"run", "--lens", "300,40,0,1", "--repeats", "2", "--backend", "cuda", "--json", "-"},
      {"replay", "--trace", "paper:zipf", "--steps", "1", "--routes", "row", "--backend", "cuda", "--json", "-"},
      {"verify", "--cases", "8", "--backend", "cuda", "--json", "-"}};
  for (const auto& command : commands) {
    const ProcessResult result = run_pkv(command);
    if (!cuda["gpus"].empty()) {
      EXPECT_EQ(result.exit_code, 0) << command[0] << ": " << result.err;
      EXPECT_TRUE(json::parse(result.out).is_object());
      continue;
    }
    EXPECT_EQ(result.exit_code, 2) << command[0];
    EXPECT_EQ(count_lines(result.err), 1) << result.err;
    EXPECT_THAT(result.err, HasSubstr(cuda["reason"].get<std::string>())) << command[0];
  }
}

TEST(RunJson, File_HoldsTheSameObjectBesideTheTable) {
  const TemporaryFolder folder;
  const std::string path = folder.path("result.json");
  folder.write("result.json", std::string(100000, 'x'));  // a longer old file leaves nothing behind
  const ProcessResult result = run_pkv(with(kSmallRun, {"--routes", "row", "--json", path}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("row"));
  EXPECT_EQ(json::parse(read_file(path))["routes"].size(), 1U);
}

TEST(RunJson, BadLens_LeavesNoFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_pkv({"run", "--lens", "9x99999999", "--json", folder.path("x.json")}).exit_code, 2);
  EXPECT_EQ(read_file(folder.path("x.json")), "");
}

TEST(RunTable, Pipe_HasNoColour) {
  const ProcessResult result = run_pkv(with(kSmallRun, {"--routes", "row,pages"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(result.err, Not(HasSubstr("\x1b")));
}

TEST(TraceText, Terminal_HasColourUnlessNoColorIsSet) {
  const auto shown = [](const std::vector<std::string>& environment) {
    return run_pkv({"trace", "paper:zipf"}, {.environment = environment, .terminal = true}).out;
  };
  EXPECT_THAT(shown({"TERM=xterm", "NO_COLOR="}), HasSubstr("\x1b["));
  EXPECT_THAT(shown({"TERM=xterm", "NO_COLOR=1"}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(shown({"TERM=dumb", "NO_COLOR="}), Not(HasSubstr("\x1b")));
}

TEST(Verify, GoodCases_ExitZero) {
  const ProcessResult result = run_pkv({"verify", "--cases", "12", "--seed", "5", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  const json root = json::parse(result.out);
  EXPECT_EQ(root["cases_run"], 12);
  EXPECT_EQ(root["passed"], true);
}

TEST(Verify, OneCase_RunsAlone) {
  const ProcessResult result = run_pkv({"verify", "--seed", "5", "--case", "3", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_EQ(json::parse(result.out)["cases_run"], 1);
}

TEST(Trace, Converted_ReadsBackEqual) {
  const TemporaryFolder folder;
  for (const std::string format : {"csv", "json", "jsonl"}) {
    const std::string path = folder.path("trace." + format);
    const ProcessResult written = run_pkv({"trace", "paper:zipf", "--convert", format, "--output", path});
    ASSERT_EQ(written.exit_code, 0) << written.err;
    EXPECT_EQ(written.out, "");
    const ProcessResult again = run_pkv({"trace", path, "--json", "-"});
    ASSERT_EQ(again.exit_code, 0) << again.err;
    const json root = json::parse(again.out);
    const json source = json::parse(run_pkv({"trace", "paper:zipf", "--json", "-"}).out);
    EXPECT_EQ(root["format"], format);
    for (const char* field : {"requests", "prompt_len", "decode_len", "step_context", "arrival_gap"}) {
      EXPECT_EQ(root[field], source[field]) << format << " " << field;
    }
  }
}

TEST(Trace, Description_CountsEveryRequest) {
  const TemporaryFolder folder;
  folder.write("t.csv", "prompt_len,decode_len,arrival\n100,10,0\n200,20,1\n300,30,2\n");
  const json root = json::parse(run_pkv({"trace", folder.path("t.csv"), "--json", "-"}).out);
  EXPECT_EQ(root["requests"], 3);
  EXPECT_EQ(root["prompt_tokens"], 600);
  EXPECT_EQ(root["decode_tokens"], 60);
  EXPECT_EQ(root["prompt_len"]["p50"], 200.0);
  EXPECT_EQ(root["step_context"]["max"], 329.0);
  // Steps meet 100..109, 200..219 and 300..329: means 104.5, 209.5 and 314.5.
  EXPECT_DOUBLE_EQ(root["step_context"]["mean"].get<double>(), (10 * 104.5 + 20 * 209.5 + 30 * 314.5) / 60.0);
  EXPECT_EQ(root["step_context"]["p50"], 219.0);  // steps 0 to 29 of 60 are below 220
  std::int64_t counted = 0;
  for (const json& bin : root["prompt_histogram"]) counted += bin["count"].get<std::int64_t>();
  EXPECT_EQ(counted, 3);
}

TEST(Doctor, NoProbes_NamesMachineAndIsas) {
  const ProcessResult result = run_pkv({"doctor", "--no-probes", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json root = json::parse(result.out);
  EXPECT_GE(root["cores"].get<int>(), 1);
  EXPECT_EQ(root["isas"][0], "portable");
  EXPECT_TRUE(root["probes"].is_null());
  ASSERT_TRUE(root["cuda"]["built"].is_boolean());
  EXPECT_EQ(root["cuda"]["reason"].is_null(), !root["cuda"]["gpus"].empty());
}

TEST(Doctor, Text_NamesTheGpuOrTheReason) {
  const json cuda = json::parse(run_pkv({"doctor", "--no-probes", "--json", "-"}).out)["cuda"];
  const std::string text = run_pkv({"doctor", "--no-probes"}).out;
  if (cuda["gpus"].empty()) {
    EXPECT_THAT(text, HasSubstr("no GPU: " + cuda["reason"].get<std::string>() + "; the CPU is used"));
  } else {
    EXPECT_THAT(text, HasSubstr("0: " + cuda["gpus"][0]["name"].get<std::string>()));
  }
}

TEST(Help, EveryCommand_HasExamples) {
  for (const std::string command : {"tour", "replay", "run", "verify", "trace", "doctor"}) {
    const ProcessResult result = run_pkv({command, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_THAT(result.out, HasSubstr("Usage: pkv " + command));
    EXPECT_THAT(result.out, HasSubstr("Examples:\n  pkv " + command));
    EXPECT_THAT(result.out, HasSubstr("--json FILE|-"));
  }
}

TEST(Tour, LaterStopBeyondMemory_KeepsTheStopsBefore) {
  const TemporaryFolder folder;
  const std::string path = folder.path("tour.json");
  // Bimodal, the first stop, needs 1.49 GiB, uniform 1.93 GiB.
  const ProcessResult result = run_pkv({"tour", "--memory-limit", "1700MiB", "--steps", "1", "--verify", "off",
                                        "--routes", "row", "--threads", "1", "--no-pin", "--json", path});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.out, HasSubstr("bimodal 8  row *"));
  EXPECT_THAT(result.err, HasSubstr("\npkv: error: memory: "));
  EXPECT_THAT(result.err, HasSubstr("needs less"));
  const json runs = json::parse(read_file(path))["runs"];
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0]["routes"][0]["steps"], 1);
  EXPECT_TRUE(runs[0]["error"].is_null());
  EXPECT_EQ(runs[1]["trace"], "paper:uniform");
  EXPECT_THAT(runs[1]["error"].get<std::string>(), HasSubstr("memory"));
}

TEST(ReplayTable, NotesOfAFile_AppearOnce) {
  const TemporaryFolder folder;
  folder.write("t.csv", "prompt_len,decode_len,extra\n100,3,x\n200,3,y\n");  // the reader notes the third column
  const ProcessResult result =
      run_pkv({"replay", "--trace", folder.path("t.csv"), "--plan-only", "--sms", "2", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json notes = json::parse(result.out)["notes"];
  EXPECT_GE(notes.size(), 1U);
  const std::set<std::string> distinct(notes.begin(), notes.end());
  EXPECT_EQ(distinct.size(), notes.size()) << notes;
}

// A run that lasts until it is interrupted.
std::vector<std::string> endless_run(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = with(kSmallRun, {"--routes", "row", "--verify", "off"});
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--repeats") arguments[i + 1] = "1000000";
  }
  return with(arguments, more);
}

// What a terminal shows once a step of the endless run was measured.
const std::string kMeasured = "measuring [1-9]";

void expect_interrupted(const json& root) {
  EXPECT_EQ(root["interrupted"], true);
  EXPECT_GT(root["routes"][0]["steps"].get<int>(), 0);
  EXPECT_LT(root["routes"][0]["steps"].get<int>(), 1000000);
}

TEST(Interrupt, CtrlC_PrintsWhatWasMeasuredAndExits130) {
  const ProcessResult result = run_pkv(endless_run({"--json", "-"}), {.interrupt_when = kMeasured});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  expect_interrupted(json::parse(result.out));
}

TEST(Interrupt, EchoOfTheFirst_IsNoSecond) {
  for (const int echo_after_ms : {0, 1, 5, 20}) {
    const ProcessResult result =
        run_pkv(endless_run({"--json", "-"}), {.interrupt_when = kMeasured, .interrupt_again_after_ms = echo_after_ms});
    EXPECT_EQ(result.exit_code, 130) << echo_after_ms << " ms: " << result.err;
    EXPECT_THAT(result.err, HasSubstr("pkv: interrupted"));
    expect_interrupted(json::parse(result.out));
  }
}

TEST(JsonFile, KilledRun_LeavesTheOldOne) {
  const TemporaryFolder folder;
  folder.write("old.json", "old");
  for (const std::string name : {"old.json", "new.json"}) {
    const ProcessResult result =
        run_pkv(endless_run({"--json", folder.path(name)}), {.interrupt_when = kMeasured, .signal = SIGKILL});
    EXPECT_EQ(result.exit_code, 128 + SIGKILL);
  }
  EXPECT_EQ(read_file(folder.path("old.json")), "old");
  EXPECT_EQ(folder.num_entries(), 1);
}

TEST(JsonFile, NewText_KeepsModeAndSymbolicLink) {
  using std::filesystem::perms;
  const TemporaryFolder folder;
  folder.write("target.json", "old");
  std::filesystem::permissions(folder.path("target.json"), perms::owner_read | perms::owner_write);
  std::filesystem::create_symlink("target.json", folder.path("link.json"));
  ASSERT_EQ(run_pkv({"trace", "paper:zipf", "--json", folder.path("link.json")}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path("link.json")));
  EXPECT_EQ(json::parse(read_file(folder.path("target.json")))["requests"], 24);
  EXPECT_EQ(std::filesystem::status(folder.path("target.json")).permissions(), perms::owner_read | perms::owner_write);
  EXPECT_EQ(folder.num_entries(), 2);
}

TEST(JsonFile, FullDisk_IsAnErrorAfterTheTable) {
  const std::vector<std::vector<std::string>> commands = {{"trace", "paper:zipf"},
                                                          {"verify", "--cases", "2"},
                                                          {"doctor", "--no-probes"},
                                                          with(kSmallRun, {"--routes", "row"})};
  for (const auto& command : commands) {
    const ProcessResult result = run_pkv(with(command, {"--json", "/dev/full"}));
    EXPECT_EQ(result.exit_code, 2) << command[0];
    EXPECT_GT(count_lines(result.out), 4) << command[0];
    EXPECT_THAT(result.err, HasSubstr("pkv: error: --json: '/dev/full' cannot be written")) << command[0];
  }
}

}  // namespace
}  // namespace pkv::test

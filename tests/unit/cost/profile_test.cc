// Profiles as JSON: round trips, and what is refused with which words.
#include "persistentkv/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace pkv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string refusal(const std::string& json) {
  const auto profile = parse_profile(json, "p.json");
  return profile.ok() ? "accepted" : profile.error().to_string();
}

TEST(Profile, ShippedOnes_AreValidAndKnowTheirNames) {
  EXPECT_THAT(shipped_profile_names(), ElementsAre("cpu", "cpu96", "h100", "h200", "rtx3060"));
  for (const std::string_view name : shipped_profile_names()) {
    const auto profile = shipped_profile(name);
    ASSERT_TRUE(profile.ok()) << profile.error().to_string();
    EXPECT_EQ(profile->name, name);
    EXPECT_FALSE(profile->source.empty());
  }
  EXPECT_THAT(shipped_profile("h300").error().message, HasSubstr("known: cpu, cpu96, h100, h200, rtx3060"));
}

TEST(Profile, PapersConstants_AreThoseOfThePaper) {
  const DeviceProfile profile = shipped_profile("rtx3060").value();
  EXPECT_EQ(profile.num_workers, 28);
  EXPECT_EQ(profile.paper.read_bytes_per_ns, 302.0);
  EXPECT_EQ(profile.paper.min_tasks_per_worker, 4.0);
  EXPECT_EQ(profile.paper.launch_ns, 8000.0);
}

TEST(Profile, Json_ReadsBackAsItWasWritten) {
  for (const std::string_view name : shipped_profile_names()) {
    const std::string json = profile_json(shipped_profile(name).value());
    EXPECT_EQ(profile_json(parse_profile(json, "p.json").value()), json);
  }
}

TEST(Profile, BadJson_IsAnErrorThatNamesFieldAndLimit) {
  const std::string good = profile_json(shipped_profile("h100").value());
  ASSERT_EQ(refusal(good), "accepted");
  EXPECT_EQ(refusal(with(good, "\"version\": 1,", "\"version\": 2,")),
            "p.json, field version: 2 is not 1, the only one that this build reads; run pkv calibrate again");
  EXPECT_EQ(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": -1")),
            "p.json, field task_ns: -1 is outside 0 to 1e+09");
  EXPECT_EQ(refusal(with(good, "\"task_ns\": 1500.0,", "")), "p.json, field task_ns: is missing");
  EXPECT_EQ(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": null")),
            "p.json, field task_ns: null is not a number");
  EXPECT_THAT(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": NaN")), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": 1e999")), HasSubstr("is not JSON"));
  EXPECT_EQ(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": 1500.0, \"warp_ns\": 3")),
            "p.json, field warp_ns: is unknown; a profile of this version has no such field");
  EXPECT_EQ(refusal(with(good, "\"task_ns\": 1500.0", "\"task_ns\": 1500.0, \"task_ns\": 3")),
            "p.json, field task_ns: is given twice");
  EXPECT_EQ(refusal(with(good, "\"num_workers\": 132", "\"num_workers\": 0")),
            "p.json, field num_workers: 0 is outside 1 to 4096");
  EXPECT_EQ(refusal(with(good, "\"num_workers\": 132", "\"num_workers\": 3000000000")),
            "p.json, field num_workers: 3000000000 is outside 0 to 2147483647");
  EXPECT_EQ(
      refusal(with(good, "\"bytes_per_ns\": 3200.0", "\"bytes_per_ns\": 30.31")),
      "p.json, field bandwidth[2].bytes_per_ns: 30.31 is outside 3010 to 6850.34: bandwidth never falls with more "
      "tasks, nor grows faster than they do");
  EXPECT_EQ(refusal(with(good, "\"bytes_per_ns\": 3200.0", "\"bytes_per_ns\": 9e9")),
            "p.json, field bandwidth[2].bytes_per_ns: 9e+09 is not above 0 and at most 1e+06");
  EXPECT_EQ(refusal(with(good, "\"share\": 0.91", "\"share\": 1.5")),
            "p.json, field chunks[1].share: 1.5 is outside 0.01 to 1");
  EXPECT_EQ(refusal(with(good, "\"kind\": \"gpu\"", "\"kind\": \"tpu\"")),
            "p.json, field kind: 'tpu' is not one of cpu, gpu");
  EXPECT_EQ(refusal(with(good, "\"route\": \"flashinfer-core\"", "\"route\": \"row\"")),
            "p.json, field external[0].route: row is a route of our own, not of another project");
  EXPECT_EQ(refusal("[]"), "p.json, field (root): is not an object");
  EXPECT_THAT(refusal("{\"format\": "), HasSubstr("p.json: is not JSON: "));
  EXPECT_THAT(refusal(""), HasSubstr("p.json: is not JSON: "));
}

using Json = nlohmann::json;

/// Paths of a document's numbers: "/bandwidth/0/tasks".
std::vector<std::string> paths_of_numbers(const Json& json) {
  std::vector<std::string> paths;
  const Json flat = json.flatten();
  for (const auto& [path, value] : flat.items()) {
    if (value.is_number()) {
      paths.push_back(path);
    }
  }
  return paths;
}

std::string last_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// Whatever field it is: the refusal names it, and where the value is a number its limits.
TEST(Profile, AnyNumberThatIsMissingNegativeAbsurdOrNone_IsRefusedByName) {
  for (const std::string_view name : shipped_profile_names()) {
    const Json good = Json::parse(profile_json(shipped_profile(name).value()));
    const std::vector<std::string> paths = paths_of_numbers(good);
    EXPECT_GT(paths.size(), 20U);
    for (const std::string& path : paths) {
      const Json::json_pointer at(path);
      for (const Json& bad : {Json(-1), Json(-0.5), Json(1e300), Json(nullptr), Json("12"), Json(true)}) {
        Json changed = good;
        changed[at] = bad;
        EXPECT_THAT(refusal(changed.dump()), AllOf(HasSubstr("p.json, field "), HasSubstr(last_name(path))))
            << path << " = " << bad;
      }
      Json changed = good;
      changed[at.parent_pointer()].erase(last_name(path));
      EXPECT_THAT(refusal(changed.dump()), AllOf(HasSubstr(last_name(path)), HasSubstr("is missing"))) << path;
    }
  }
}

TEST(Profile, Kernels_AreThoseMeasuredOnHopperOrNone) {
  const std::string h100 = profile_json(shipped_profile("h100").value());
  EXPECT_EQ(shipped_profile("h100")->kernels, kH100Kernels);
  EXPECT_EQ(shipped_profile("h200")->kernels, kH100Kernels);
  EXPECT_TRUE(shipped_profile("rtx3060")->kernels.empty());
  EXPECT_THAT(refusal(with(h100, R"("kernels": "h100")", R"("kernels": "h300")")),
              AllOf(HasSubstr("field kernels"), HasSubstr("'h300'"), HasSubstr("'h100'")));
  DeviceProfile cpu = shipped_profile("cpu").value();
  cpu.kernels = kH100Kernels;
  EXPECT_THAT(validate(cpu).error().to_string(), AllOf(HasSubstr("kernels"), HasSubstr("of a cpu profile")));
}

TEST(Profile, NumbersThatJsonCannotHold_AreRefusedToo) {
  DeviceProfile profile = shipped_profile("cpu").value();
  profile.launch_ns = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(validate(profile).error().where, "profile.launch_ns");
  profile = shipped_profile("cpu").value();
  profile.overlap_exponent = std::numeric_limits<double>::infinity();
  EXPECT_EQ(validate(profile).error().where, "profile.overlap_exponent");
}

}  // namespace
}  // namespace pkv

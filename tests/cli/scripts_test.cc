// scripts/run and scripts/test on a copy of scripts/ with pretended tools: exit codes and totals.
// Not here: real builds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "cli/process.h"

namespace pkv::test {
namespace {

using testing::HasSubstr;

// A clone of nothing but scripts/, beside a folder of tools that do what the environment says.
class Clone {
 public:
  Clone() {
    std::filesystem::copy(PKV_SCRIPTS, folder_.path("scripts"));
    std::filesystem::create_directories(folder_.path("tools"));
    for (const char* input : {"CMakeLists.txt", "CMakePresets.json", "cmake", "include", "src"}) {
      folder_.write(input, "");
    }
    tool("dpkg-query", "shift 2; for package; do echo \"ii  $package\"; done");
    tool("cmake", "touch build/$2/CMakeCache.txt build/$2/build.ninja; exit ${CMAKE_EXIT:-0}");
    tool("ninja", "exit ${NINJA_EXIT:-0}");
    tool("ctest",
         "while [ $# -gt 0 ]; do [ \"$1\" = --output-junit ] && cp \"$JUNIT\" \"$2\" 2>&-; shift; done\n"
         "exit ${CTEST_EXIT:-0}");
  }

  ProcessResult run(const std::string& script, std::vector<std::string> environment,
                    const std::vector<std::string>& arguments = {}) const {
    environment.push_back("PATH=" + folder_.path("tools") + ":/usr/bin:/bin");
    return run_program(folder_.path("scripts/" + script), arguments, {.environment = environment});
  }

  /// scripts/test where ctest leaves these results and this exit code.
  [[nodiscard]] ProcessResult test(const std::string& testcases, const std::string& ctest_exit) const {
    folder_.write("results", "<testsuite name=\"(empty)\"\n\ttests=\"1\"\n\t>\n" + testcases + "</testsuite>\n");
    return run("test", {"JUNIT=" + folder_.path("results"), "CTEST_EXIT=" + ctest_exit}, {"Name"});
  }

  void tool(const std::string& name, const std::string& body) const { executable("tools/" + name, body); }
  void executable(const std::string& name, const std::string& body) const {
    std::filesystem::create_directories(std::filesystem::path(folder_.path(name)).parent_path());
    folder_.write(name, "#!/bin/sh\n" + body + "\n");
    std::filesystem::permissions(folder_.path(name), std::filesystem::perms::owner_all);
  }

 private:
  TemporaryFolder folder_;
};

std::string testcase(const std::string& status, const std::string& child = "") {
  return "\t<testcase name=\"A.B\" classname=\"A.B\" time=\"0\" status=\"" + status + "\">\n\t\t" + child +
         "\n\t\t<system-out>status=&quot;run&quot;</system-out>\n\t</testcase>\n";
}

const std::string kPassed = testcase("run");
const std::string kFailed = testcase("fail", "<failure message=\"\"/>");
const std::string kSkipped = testcase("notrun", "<skipped message=\"SKIP_REGULAR_EXPRESSION_MATCHED\"/>");
const std::string kCouldNotStart = testcase("notrun", "<skipped message=\"Unable to find executable\"/>");

TEST(ScriptsTest, AllPassed_IsGreen) {
  const ProcessResult result = Clone().test(kPassed + kSkipped + kPassed, "0");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("2 passed, 0 failed"));
}

TEST(ScriptsTest, OneFailed_IsRed) {
  const ProcessResult result = Clone().test(kPassed + kFailed, "8");
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1 passed, 1 failed"));
}

TEST(ScriptsTest, TestThatCouldNotStart_IsRed) {
  const ProcessResult result = Clone().test(kPassed + kCouldNotStart + kSkipped, "8");
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1 passed, 1 failed"));
}

TEST(ScriptsTest, NoTestMatches_IsRedAndSaysSo) {
  const ProcessResult result = Clone().test("", "8");
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.out, HasSubstr("0 passed, 1 failed"));
  EXPECT_THAT(result.err, HasSubstr("no test of build/test ran (-R Name)"));
}

TEST(ScriptsTest, AllSkipped_IsRed) { EXPECT_EQ(Clone().test(kSkipped, "0").exit_code, 1); }

TEST(ScriptsTest, CtestFailsWithoutAFailedTest_IsRed) {
  const ProcessResult result = Clone().test(kPassed, "8");
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.err, HasSubstr("exit code 8"));
}

TEST(ScriptsTest, CtestLeavesNoResults_IsRed) {
  EXPECT_EQ(Clone().run("test", {"JUNIT=/none", "CTEST_EXIT=0"}, {"Name"}).exit_code, 1);
}

TEST(ScriptsTest, BuildFails_ExitsTwo) { EXPECT_EQ(Clone().run("test", {"NINJA_EXIT=1"}, {"Name"}).exit_code, 2); }

TEST(ScriptsRun, ConfigureOrBuildFails_ExitsTwo) {
  const std::pair<std::string, std::string> failures[] = {{"CMAKE_EXIT=1", "could not configure"},
                                                          {"NINJA_EXIT=1", "the build failed"}};
  for (const auto& [environment, message] : failures) {
    const ProcessResult result = Clone().run("run", {environment});
    EXPECT_EQ(result.exit_code, 2) << environment;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(result.out, "");
  }
}

TEST(ScriptsRun, ExitCodeOfPkv_IsItsOwn) {
  const Clone clone;
  clone.executable("build/release/bin/pkv", "echo \"$@\"; exit 1");
  const ProcessResult result = clone.run("run", {}, {"verify", "--seed", "7"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_EQ(result.out, "verify --seed 7\n");
}

}  // namespace
}  // namespace pkv::test

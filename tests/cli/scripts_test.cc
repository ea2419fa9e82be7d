// scripts/run, scripts/test and scripts/gpu-test on a copy of scripts/ with pretended tools: exit codes and totals.
// Not here: real builds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

  /// Without CUDA, unless the environment says otherwise: this machine may have it.
  ProcessResult run(const std::string& script, std::vector<std::string> environment,
                    const std::vector<std::string>& arguments = {}) const {
    if (std::ranges::none_of(environment, [](const auto& entry) { return entry.starts_with("PKV_CUDA="); })) {
      environment.push_back("PKV_CUDA=off");
    }
    environment.push_back("PATH=" + folder_.path("tools") + ":/usr/bin:/bin");
    return run_program(folder_.path("scripts/" + script), arguments, {.environment = environment});
  }

  /// scripts/test where ctest leaves these results and this exit code.
  [[nodiscard]] ProcessResult test(const std::string& testcases, const std::string& ctest_exit) const {
    write_results(testcases);
    return run("test", {"JUNIT=" + folder_.path("results"), "CTEST_EXIT=" + ctest_exit}, {"Name"});
  }

  /// A GPU and a compiler for it.
  void add_cuda() const {
    tool("nvidia-smi", "[ \"$1\" = -L ] || echo 9.0");
    tool("nvcc", "");
  }

  [[nodiscard]] std::string path(const std::string& name) const { return folder_.path(name); }

  void write_results(const std::string& testcases) const {
    folder_.write("results", "<testsuite name=\"(empty)\"\n\ttests=\"1\"\n\t>\n" + testcases + "</testsuite>\n");
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

// Under sanitizers an entry of ctest is many GoogleTests.
TEST(ScriptsTest, EntryOfManyTests_CountsThemAll) {
  const std::string summary =
      "</system-out>\n\t\t<system-out>Running main()\n[  PASSED  ] 11 tests.\n[  SKIPPED ] 1 test, listed below:\n"
      "[  SKIPPED ] A.C\n";
  const ProcessResult good = Clone().test(testcase("run", summary) + kPassed, "0");
  EXPECT_THAT(good.out, HasSubstr("12 passed, 0 failed")) << good.err;
  const ProcessResult bad =
      Clone().test(testcase("fail", summary + "[  FAILED  ] 2 tests, listed below:\n[  FAILED  ] A.D\n"), "8");
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.out, HasSubstr("11 passed, 2 failed"));
}

// A crash before the summary, or a leak found after it.
TEST(ScriptsTest, EntryThatFailsWithoutSayingWhichTest_IsOneFailure) {
  EXPECT_THAT(Clone().test(testcase("fail", "[ RUN      ] A.B\n"), "8").out, HasSubstr("0 passed, 1 failed"));
  EXPECT_THAT(Clone().test(testcase("fail", "\n[  PASSED  ] 3 tests.\n==1==ERROR: LeakSanitizer\n"), "8").out,
              HasSubstr("3 passed, 1 failed"));
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

TEST(ScriptsTest, WholeRun_CompilesCudaWhereNvccIs) {
  const Clone clone;
  clone.write_results(kPassed);
  const std::string results = "JUNIT=" + clone.path("results");
  const ProcessResult without = clone.run("test", {results});
  EXPECT_EQ(without.exit_code, 0) << without.err;
  EXPECT_THAT(without.out, HasSubstr("3 passed, 0 failed"));  // test, asan, tsan
  EXPECT_THAT(without.err, HasSubstr("CUDA was not compiled"));
  clone.tool("nvcc", "");
  const ProcessResult with = clone.run("test", {results, "PKV_CUDA="});
  EXPECT_THAT(with.out, HasSubstr("4 passed, 0 failed")) << with.err;
  EXPECT_THAT(with.err, HasSubstr("building build/cuda-all"));
}

TEST(ScriptsRun, GpuAndNvcc_BuildForThatGpu) {
  const Clone clone;
  clone.add_cuda();
  clone.tool("cmake", "echo \"$@\"; touch build/$2/CMakeCache.txt build/$2/build.ninja");
  clone.executable("build/gpu/bin/pkv", "echo \"$@\"");
  const ProcessResult result = clone.run("run", {"PKV_CUDA="}, {"doctor"});
  EXPECT_EQ(result.out, "doctor\n") << result.err;
  EXPECT_THAT(read_file(clone.path("build/gpu/configure.log")),
              HasSubstr("--preset gpu -DPKV_BUILD_TESTS=OFF -DPKV_CUDA_ARCHS=90-real"));
}

TEST(ScriptsRun, CudaOnWithoutAGpu_BuildsForAllGpus) {
  const Clone clone;
  clone.tool("nvcc", "");
  clone.tool("nvidia-smi", "exit 9");
  clone.executable("build/cuda/bin/pkv", "echo \"$@\"");
  EXPECT_EQ(clone.run("run", {"PKV_CUDA=on"}, {"doctor"}).out, "doctor\n");
}

TEST(ScriptsRun, CudaNeitherOnNorOff_ExitsTwo) {
  const ProcessResult result = Clone().run("run", {"PKV_CUDA=yes"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("'yes'"));
}

TEST(ScriptsGpuTest, NoGpu_SaysSoAndIsGreen) {
  const Clone clone;
  clone.tool("nvidia-smi", "exit 9");
  const ProcessResult result = clone.run("gpu-test", {});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("no GPU here"));
}

/// A GPU, and a gpu_test that leaves a report of five tests, some of them failed.
void add_gpu_test(const Clone& clone, int failures, int exit_code) {
  clone.add_cuda();
  clone.tool("compute-sanitizer", "exit ${SANITIZER_EXIT:-0}");
  clone.executable("bin/pkv", "exit ${PKV_EXIT:-0}");
  clone.executable("bin/gpu_test",
                   "for a; do case $a in --gtest_output=xml:*) echo '<testsuites tests=\"5\" failures=\"" +
                       std::to_string(failures) + "\" disabled=\"0\">' > \"${a#*xml:}\";; esac; done\n" + "exit " +
                       std::to_string(exit_code));
}

TEST(ScriptsGpuTest, BinariesThatTravelled_AreRunAndCounted) {
  const Clone good;
  add_gpu_test(good, 0, 0);
  const std::vector<std::string> arguments = {"--binary-dir", good.path("bin")};
  const ProcessResult result = good.run("gpu-test", {}, arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "10 passed, 0 failed\n");  // five tests, pkv verify, four sanitizers
  EXPECT_EQ(good.run("gpu-test", {"PKV_EXIT=1"}, arguments).out, "9 passed, 1 failed\n");
  EXPECT_EQ(good.run("gpu-test", {"SANITIZER_EXIT=99"}, arguments).out, "6 passed, 4 failed\n");
}

TEST(ScriptsGpuTest, FailedOrCrashedTests_AreRed) {
  const Clone failing;
  add_gpu_test(failing, 2, 1);
  const ProcessResult failed = failing.run("gpu-test", {}, {"--binary-dir", failing.path("bin")});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_EQ(failed.out, "8 passed, 2 failed\n");
  const Clone crashing;
  add_gpu_test(crashing, 0, 134);
  const ProcessResult crashed = crashing.run("gpu-test", {}, {"--binary-dir", crashing.path("bin")});
  EXPECT_EQ(crashed.exit_code, 1);
  EXPECT_EQ(crashed.out, "5 passed, 1 failed\n");
}

TEST(ScriptsGpuTest, MissingBinaries_ExitTwo) {
  const Clone clone;
  clone.add_cuda();
  EXPECT_EQ(clone.run("gpu-test", {}, {"--binary-dir", "/nowhere"}).exit_code, 2);
  EXPECT_EQ(clone.run("gpu-test", {}, {"--binary-dir"}).exit_code, 2);
}

}  // namespace
}  // namespace pkv::test

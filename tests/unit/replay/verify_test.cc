// Verification must pass on right results, cover what it says, and fail on wrong ones.
#include "replay/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "replay_fixture.h"
#include "test_backends.h"

namespace pkv {
namespace {

using testing::CountingObserver;
using ::testing::HasSubstr;
using testing::OracleBackend;
using testing::SpoiledBackend;

Result<VerifyRecords> verify_on(Backend& backend, const VerifyOptions& options) {
  CountingObserver observer;
  Backend* const backends[] = {&backend};
  return verify(options, backends, observer);
}

TEST(Verify, OracleAsBackend_PassesAndCoversEveryKind) {
  OracleBackend backend;
  const auto records = verify_on(backend, {.num_cases = 300, .seed = 11, .only_case = {}});
  ASSERT_TRUE(records.ok());
  ASSERT_FALSE(records->failure.has_value()) << records->failure->description << "\n" << records->failure->message;
  EXPECT_EQ(records->cases_run, 300);
  EXPECT_EQ(records->runs, 300 * 6);
  for (const auto& [kind, count] : records->coverage) {
    if (kind != "repeated_bit_by_bit") {  // one backend alone
      EXPECT_GT(count, 0) << kind;
    }
  }
}

TEST(Verify, CpuBackends_Pass) {
  CountingObserver observer;
  const auto records = verify({.num_cases = 200, .seed = 3, .only_case = {}}, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_FALSE(records->failure.has_value()) << records->failure->description << "\n" << records->failure->message;
  const std::map<std::string, std::int64_t> coverage(records->coverage.begin(), records->coverage.end());
  EXPECT_GT(coverage.at("repeated_bit_by_bit"), 0);
  EXPECT_GT(records->max_abs_error_16bit, 0.0);
}

TEST(Verify, WrongElement_FailsAndCanBeRepeated) {
  OracleBackend inner;
  const auto spoil = [](std::int64_t, const Plan& plan, const RunArgs& args) -> Status {
    if (plan.route() == Route::kSplit && args.batch.num_rows() > 5) {
      const std::int64_t last = args.batch.shape().head_dim - 1;
      store_element(args.out.data, args.out.dtype, last, load_element(args.out.data, args.out.dtype, last) + 0.5F);
    }
    return {};
  };
  SpoiledBackend backend(inner, spoil);
  const auto records = verify_on(backend, {.num_cases = 50, .seed = 4, .only_case = {}});
  ASSERT_TRUE(records.ok() && records->failure.has_value());
  EXPECT_THAT(records->failure->message, HasSubstr("row 0, query head 0"));
  EXPECT_THAT(records->failure->description, HasSubstr("route=split"));
  EXPECT_LT(records->cases_run, 50);

  const auto alone = verify_on(backend, {.num_cases = 1, .seed = 4, .only_case = records->failure->case_idx});
  ASSERT_TRUE(alone.ok() && alone->failure.has_value());
  EXPECT_EQ(alone->failure->description, records->failure->description);
  EXPECT_EQ(alone->failure->message, records->failure->message);
  EXPECT_EQ(alone->cases_run, 1);
}

TEST(Verify, WrongLse_Fails) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t, const Plan&, const RunArgs& args) -> Status {
    if (!args.lse.empty()) {
      args.lse.back() += 0.01F;
    }
    return {};
  });
  const auto records = verify_on(backend, {.num_cases = 20, .seed = 4, .only_case = {}});
  ASSERT_TRUE(records.ok() && records->failure.has_value());
  EXPECT_THAT(records->failure->message, HasSubstr("LSE of row"));
}

TEST(Verify, WriteBetweenHeads_Fails) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t, const Plan&, const RunArgs& args) -> Status {
    if (args.out.head_stride > args.batch.shape().head_dim) {
      store_element(args.out.data, args.out.dtype, args.batch.shape().head_dim, 0.0F);
    }
    return {};
  });
  const auto records = verify_on(backend, {.num_cases = 60, .seed = 4, .only_case = {}});
  ASSERT_TRUE(records.ok() && records->failure.has_value());
  EXPECT_THAT(records->failure->message, HasSubstr("between output heads"));
}

TEST(Verify, BackendError_IsAFailureWithItsMessage) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t run_idx, const Plan&, const RunArgs&) -> Status {
    return run_idx == 7 ? Status{Error{ErrorCode::kUnsupported, "cannot", "here"}} : Status{};
  });
  const auto records = verify_on(backend, {.num_cases = 20, .seed = 4, .only_case = {}});
  ASSERT_TRUE(records.ok() && records->failure.has_value());
  EXPECT_EQ(records->failure->case_idx, 1);
  EXPECT_EQ(records->failure->message, "here: cannot");
}

TEST(Verify, Cancelled_SaysSo) {
  CountingObserver observer(3);
  OracleBackend backend;
  Backend* const backends[] = {&backend};
  const auto records = verify({.num_cases = 20, .seed = 4, .only_case = {}}, backends, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->interrupted);
  EXPECT_EQ(records->cases_run, 3);
}

TEST(Verify, BadOptions_AreErrors) {
  OracleBackend backend;
  CountingObserver observer;
  EXPECT_FALSE(verify_on(backend, {.num_cases = 0, .seed = 1, .only_case = {}}).ok());
  EXPECT_FALSE(verify_on(backend, {.num_cases = 1, .seed = 1, .only_case = -1}).ok());
  EXPECT_FALSE(verify({}, std::span<Backend* const>{}, observer).ok());
}

}  // namespace
}  // namespace pkv

// Result and Error.
#include "persistentkv/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

namespace pkv {
namespace {

Result<int> half_of(int value) {
  if (value % 2 != 0) {
    return Error{ErrorCode::kInvalidArgument, "3 is odd", "value"};
  }
  return value / 2;
}

Status check_quarter(int value) {
  PKV_RETURN_IF_ERROR(half_of(value));
  PKV_RETURN_IF_ERROR(half_of(value / 2));
  return {};
}

TEST(Result, Value_IsOk) {
  ASSERT_TRUE(half_of(4).ok());
  EXPECT_EQ(half_of(4).value(), 2);
}

TEST(Result, Error_CarriesPlaceAndMessage) {
  const Result<int> result = half_of(3);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().to_string(), "value: 3 is odd");
}

TEST(Result, ReturnIfError_PassesTheFirstError) {
  EXPECT_TRUE(check_quarter(8).ok());
  EXPECT_FALSE(check_quarter(6).ok());
}

TEST(Result, MoveOnlyValue_IsMovedOut) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  const std::unique_ptr<int> value = *std::move(result);
  EXPECT_EQ(*value, 5);
}

TEST(ResultDeathTest, ValueOfError_Aborts) {
  Result<int> result = Error{ErrorCode::kIo, "x", ""};
  EXPECT_DEATH(static_cast<void>(result.value()), "");
}

TEST(ErrorCode, EveryCode_HasItsOwnName) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kCancelled); ++code) {
    names.insert(error_code_name(static_cast<ErrorCode>(code)));
  }
  EXPECT_EQ(names.size(), 7U);
  EXPECT_EQ(names.count("unknown"), 0U);
}

}  // namespace
}  // namespace pkv

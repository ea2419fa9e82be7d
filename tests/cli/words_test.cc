// Nearest names and strict numbers.
// Not here: the real command (contract_test.cc, bad_input_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "../../tools/pkv/failure.h"
#include "../../tools/pkv/names.h"
#include "../../tools/pkv/numbers.h"

namespace pkv::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Failure& failure) {
    return failure.error.to_string();
  }
  return "";
}

TEST(EditDistance, KnownPairs_AreExact) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("replya", "replay"), 1U);  // neighbours swapped
  EXPECT_EQ(edit_distance("ROW", "row"), 0U);
}

TEST(NearestNames, CloseWord_ComesFirst) {
  const std::vector<std::string> names{"row", "padded", "bucket", "split", "workqueue", "pages"};
  EXPECT_THAT(nearest_names("workqeue", names), ElementsAre("workqueue"));
  EXPECT_THAT(nearest_names("page", names), ElementsAre("pages"));
  EXPECT_THAT(nearest_names("zzzzzz", names), IsEmpty());
  EXPECT_THAT(nearest_names(std::string(100000, 'x'), names), IsEmpty());
}

TEST(ParseInt, WholeText_OrFailure) {
  EXPECT_EQ(parse_int("--n", "42", {.min = 0, .max = 100}), 42);
  EXPECT_EQ(parse_int("--n", "-3", {.min = -5, .max = 100}), -3);
  for (const char* text : {"", " 1", "1 ", "+1", "1e3", "0x1", "12abc", "1.0", "\xEF\xBC\x91"}) {
    EXPECT_NE(failure_of([&] { parse_int("--n", text, {}); }), "") << text;
  }
  EXPECT_EQ(failure_of([] { parse_int("--n", "101", {.min = 0, .max = 100}); }),
            "--n: 101 is out of range; it must be 0 to 100");
}

TEST(ParseReal, NotFiniteOrOutside_IsAFailure) {
  EXPECT_EQ(parse_real("--x", "0.5", {.min = 0, .max = 1}), 0.5);
  for (const char* text : {"nan", "inf", "-inf", "1e999", "", "0.5x", "1", "-0.1"}) {
    const RealLimits limits{.min = 0.0, .max = 1.0, .low = RealLimits::Low::kClosed, .high = RealLimits::High::kOpen};
    EXPECT_NE(failure_of([&] { parse_real("--x", text, limits); }), "") << text;
  }
}

TEST(ParseLengths, Repeats_AreSpelledOut) {
  EXPECT_THAT(parse_lengths("--lens", "5,3x2,0", 10), ElementsAre(5, 2, 2, 2, 0));
  EXPECT_NE(failure_of([] { parse_lengths("--lens", "6x1,6x1", 10); }), "");
}

TEST(ParseBytes, Units_ArePowersOf1024) {
  EXPECT_EQ(parse_bytes("--m", "4096"), 4096);
  EXPECT_EQ(parse_bytes("--m", "6GiB"), std::int64_t{6} << 30);
  EXPECT_EQ(parse_bytes("--m", "2M"), std::int64_t{2} << 20);
  for (const char* text : {"", "GiB", "0", "-1", "1.5GiB", "9223372036854775808", "8388608TiB", "1PiB"}) {
    EXPECT_NE(failure_of([&] { parse_bytes("--m", text); }), "") << text;
  }
}

TEST(ErrorLine, ControlCharacters_AreEscaped) {
  const Error error{ErrorCode::kIo, "a\nb\x1b[31m", "file"};
  EXPECT_EQ(error_line(error), "pkv: error: file: a\\x0ab\\x1b[31m");
}

}  // namespace
}  // namespace pkv::cli

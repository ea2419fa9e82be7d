// Large JSON objects: cost, and members that appear twice.
// Not here: traces in JSON (readers_test.cc, bad_trace_test.cc).
#include "trace/json_value.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace pkv::trace_internal {
namespace {

/// {"0": 0, ... }, one member a line from line 2.
std::string object_of(std::int64_t num_members, const std::string& last_name) {
  std::string text = "{\n";
  for (std::int64_t i = 0; i < num_members; ++i) {
    text += fmt::format("\"member {}\": {},\n", i, i);
  }
  return text + fmt::format("\"{}\": 0}}", last_name);
}

Result<JsonValue> parse(const std::string& text) {
  return parse_json({.text = text, .file = "t.json", .wanted = [](std::string_view name) { return name != "other"; }});
}

/// Names compared pair by pair would take 2e11 comparisons, ten minutes; a set takes a second.
TEST(JsonObject, ManyMembers_TakeLinearTime) {
  constexpr std::int64_t kMembers = 600000;
  const std::string text = object_of(kMembers, "last");
  const auto begin = std::chrono::steady_clock::now();
  const auto root = parse(text);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  ASSERT_TRUE(root.ok()) << root.error().to_string();
  ASSERT_EQ(root->members.size(), static_cast<std::size_t>(kMembers) + 1);
  EXPECT_EQ(root->members[12345].name, "member 12345");
  EXPECT_EQ(root->members[12345].value.number, 12345);
}

/// Small and large objects look for doubles in different ways.
TEST(JsonObject, MemberThatAppearsTwice_IsRefusedAtAnySize) {
  for (const std::int64_t num_members : {1, 2, 15, 16, 17, 18, 40, 1000}) {
    for (const std::int64_t doubled : {std::int64_t{0}, num_members / 2, num_members - 1}) {
      const auto root = parse(object_of(num_members, fmt::format("member {}", doubled)));
      ASSERT_FALSE(root.ok()) << num_members;
      EXPECT_EQ(root.error().code, ErrorCode::kInvalidArgument);
      EXPECT_EQ(root.error().to_string(),
                fmt::format("t.json:{}, field member {}: appears twice in one object", num_members + 2, doubled));
    }
  }
}

TEST(JsonObject, SameNamesInOtherObjects_AreNoDoubles) {
  const std::string large = object_of(50, "last");
  const auto root = parse("{\"member 3\": " + large + ", \"list\": [" + large + ", " + large + "]}");
  ASSERT_TRUE(root.ok()) << root.error().to_string();
  EXPECT_EQ(root->find("list")->elements[1].members.size(), 51U);
}

/// Members that nobody asked for are passed over, however often they appear.
TEST(JsonObject, UnwantedMembers_MayAppearTwice) {
  const auto root = parse(R"({"other": 1, "a": 2, "other": {"a": 3}})");
  ASSERT_TRUE(root.ok()) << root.error().to_string();
  EXPECT_EQ(root->members.size(), 1U);
}

}  // namespace
}  // namespace pkv::trace_internal

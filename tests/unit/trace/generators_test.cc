// The paper's trace rule: draws, rounding, arrivals, and refused options.
// Not here: admission.
#include "trace/generators.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

namespace pkv {
namespace {

using ::testing::HasSubstr;

constexpr std::array<PaperFamily, 5> kFamilies = {PaperFamily::kUniform, PaperFamily::kBimodal, PaperFamily::kZipf,
                                                  PaperFamily::kBucketed, PaperFamily::kHomogeneous};

struct Bounds {
  std::int32_t prompt_low, prompt_high, decode_low, decode_high;  // half-open, before rounding
};

Bounds bounds_of(PaperFamily family, std::size_t i) {
  switch (family) {
    case PaperFamily::kUniform: return {4096, 32769, 16, 97};
    case PaperFamily::kBimodal: return i % 4 == 0 ? Bounds{24576, 65537, 32, 129} : Bounds{2048, 12289, 8, 65};
    case PaperFamily::kZipf: return {2048 + 11585 - 512, 2048 + 65536 + 513, 8, 129};
    case PaperFamily::kBucketed: return {8192 << (i % 4), (8192 << (i % 4)) + 1, 32, 97};
    case PaperFamily::kHomogeneous: return {32768, 32769, 32, 97};
  }
  return {};
}

TEST(PaperTrace, EveryFamily_StaysInsideThePapersRanges) {
  for (const PaperFamily family : kFamilies) {
    SCOPED_TRACE(paper_family_name(family));
    const auto trace = make_paper_trace({.family = family, .seed = 7, .num_requests = 4000, .max_active = 8});
    ASSERT_TRUE(trace.ok());
    std::int32_t smallest = std::numeric_limits<std::int32_t>::max();
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < trace->requests.size(); ++i) {
      const Request& request = trace->requests[i];
      const Bounds bounds = bounds_of(family, i);
      ASSERT_EQ(request.prompt_len % 16, 0);
      ASSERT_GE(request.prompt_len, bounds.prompt_low);
      ASSERT_LT(request.prompt_len, bounds.prompt_high + 15);
      ASSERT_GE(request.decode_len, bounds.decode_low);
      ASSERT_LT(request.decode_len, bounds.decode_high);
      ASSERT_EQ(request.arrival, static_cast<double>(i / 8));
      smallest = std::min(smallest, request.decode_len);
      largest = std::max(largest, request.decode_len);
    }
    // 4000 draws meet both ends of every decode range.
    EXPECT_EQ(smallest, bounds_of(family, 1).decode_low);
    EXPECT_EQ(largest, bounds_of(family, 0).decode_high - 1);
  }
}

TEST(PaperTrace, FirstDraws_AreThoseOfMt19937) {
  // std::mt19937's published sequence for seed 5489 begins 3499211612, 581869302, 3890346734, 3586334585.
  const auto trace =
      make_paper_trace({.family = PaperFamily::kUniform, .seed = 5489, .num_requests = 2, .page_size = 1});
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->requests[0].prompt_len, 4096 + static_cast<std::int32_t>(3499211612U % 28673U));
  EXPECT_EQ(trace->requests[0].decode_len, 16 + static_cast<std::int32_t>(581869302U % 81U));
  EXPECT_EQ(trace->requests[1].prompt_len, 4096 + static_cast<std::int32_t>(3890346734U % 28673U));
  EXPECT_EQ(trace->requests[1].decode_len, 16 + static_cast<std::int32_t>(3586334585U % 81U));
}

TEST(PaperTrace, PageSize_RoundsPromptsUp) {
  const auto fine = make_paper_trace({.family = PaperFamily::kZipf, .seed = 3, .num_requests = 50, .page_size = 1});
  const auto coarse = make_paper_trace({.family = PaperFamily::kZipf, .seed = 3, .num_requests = 50, .page_size = 64});
  ASSERT_TRUE(fine.ok() && coarse.ok());
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(coarse->requests[i].prompt_len, (fine->requests[i].prompt_len + 63) / 64 * 64);
    EXPECT_EQ(coarse->requests[i].decode_len, fine->requests[i].decode_len);
  }
}

TEST(PaperTrace, Name_IsWhatTheUserTypes) {
  for (const PaperFamily family : kFamilies) {
    const auto parsed = parse_paper_family(paper_family_name(family));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, family);
  }
  const auto trace = make_paper_trace({});
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->name, "paper:bimodal");
  EXPECT_EQ(trace->format, "paper");
  EXPECT_EQ(trace->arrival_unit, ArrivalUnit::kSteps);
  EXPECT_TRUE(trace->has_arrivals);
}

TEST(PaperTrace, UnknownName_AnswersWithTheNearest) {
  for (const auto& [typed, meant] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
           {"bimodl", "bimodal"}, {"Zipf", "zipf"}, {"bukceted", "bucketed"}, {"uni", "uniform"}, {"", "zipf"}}) {
    const auto parsed = parse_paper_family(typed);
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message, HasSubstr("did you mean \"" + std::string(meant) + "\""));
    EXPECT_THAT(parsed.error().message, HasSubstr("homogeneous"));
  }
}

TEST(PaperTrace, BadOptions_AreErrorsThatNameThem) {
  const auto message = [](const PaperTraceOptions& options) {
    const auto trace = make_paper_trace(options);
    return trace.ok() ? std::string("no error") : trace.error().message;
  };
  EXPECT_EQ(message({.num_requests = 0}), "num_requests is 0, must be 1 to 10000000");
  EXPECT_EQ(message({.num_requests = -5}), "num_requests is -5, must be 1 to 10000000");
  EXPECT_EQ(message({.max_active = 0}), "max_active is 0, must be 1 to 2147483647");
  EXPECT_EQ(message({.page_size = 0}), "page_size is 0, must be 1 to 256");
  EXPECT_EQ(message({.page_size = 257}), "page_size is 257, must be 1 to 256");
}

}  // namespace
}  // namespace pkv

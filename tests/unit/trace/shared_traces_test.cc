// The public traces in ../shared/traces against their published statistics; skipped where they are missing.
// Not here: formats (readers_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "trace/admission.h"
#include "trace/readers.h"

namespace pkv {
namespace {

using nlohmann::json;

const std::string kTraces = std::string(PKV_SHARED_DIR) + "/traces/";

struct SharedFile {
  std::string file;
  std::string profile;
  std::string format;
};

void PrintTo(const SharedFile& shared, std::ostream* out) { *out << shared.file; }

json profile_of(const std::string& name) {
  std::ifstream in(kTraces + "profiles.json");
  return json::parse(in).at(name);
}

std::vector<double> sorted(const Trace& trace, const std::function<double(const Request&)>& of) {
  std::vector<double> values;
  values.reserve(trace.requests.size());
  for (const Request& request : trace.requests) {
    values.push_back(of(request));
  }
  std::sort(values.begin(), values.end());
  return values;
}

/// Linear interpolation, as in profiles.json.
double quantile(const std::vector<double>& values, double q) {
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) {
    sum += value;
  }
  return sum / static_cast<double>(values.size());
}

/// profiles.json prints six digits.
void expect_profile(const std::vector<double>& values, const json& profile) {
  constexpr double kPrinted = 1e-5;
  const auto near = [&](double value, const char* name) {
    const double published = profile.at(name).get<double>();
    EXPECT_NEAR(value, published, kPrinted * std::max(1.0, std::abs(published))) << name;
  };
  near(quantile(values, 0.01), "p1");
  near(quantile(values, 0.05), "p5");
  near(quantile(values, 0.25), "p25");
  near(quantile(values, 0.50), "p50");
  near(quantile(values, 0.75), "p75");
  near(quantile(values, 0.95), "p95");
  near(quantile(values, 0.99), "p99");
  near(quantile(values, 0.999), "p99.9");
  near(values.back(), "max");
  near(mean(values), "mean");
}

std::vector<double> gaps(const Trace& trace) {
  std::vector<double> values;
  for (std::size_t i = 1; i < trace.requests.size(); ++i) {
    values.push_back(trace.requests[i].arrival - trace.requests[i - 1].arrival);
  }
  std::sort(values.begin(), values.end());
  return values;
}

double prompt_of(const Request& request) { return request.prompt_len; }
double output_of(const Request& request) { return request.decode_len; }

class SharedTrace : public ::testing::TestWithParam<SharedFile> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kTraces + GetParam().file)) {
      GTEST_SKIP() << kTraces << GetParam().file << " is not here";
    }
  }
};

TEST_P(SharedTrace, RequestLogs_HaveThePublishedStatistics) {
  const auto trace = read_trace(kTraces + GetParam().file, {.spread_ticks = false});
  ASSERT_TRUE(trace.ok()) << trace.error().to_string();
  EXPECT_EQ(trace->format, GetParam().format);
  const json profile = profile_of(GetParam().profile);
  ASSERT_EQ(std::ssize(trace->requests), profile.at("count").get<std::int64_t>());
  expect_profile(sorted(*trace, prompt_of), profile.at("prompt_tokens"));
  expect_profile(sorted(*trace, output_of), profile.at("output_tokens"));
  expect_profile(gaps(*trace), profile.at("inter_arrival_s"));
  EXPECT_NEAR(trace->requests.back().arrival, profile.at("duration_s").get<double>(), 0.01);
}

TEST_P(SharedTrace, FirstWindow_RunsToItsEndUnderFcfs) {
  const auto trace = read_trace(kTraces + GetParam().file, {.limit = 300});
  ASSERT_TRUE(trace.ok());
  const auto admission = make_admission(*trace, {.mode = AdmissionMode::kFcfs, .max_active = 16});
  ASSERT_TRUE(admission.ok());
  StepRows rows;
  while (*(*admission)->next(rows)) {
  }
  EXPECT_EQ((*admission)->stats().finished, 300);
  EXPECT_EQ((*admission)->stats().pages_in_use, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Files, SharedTrace,
    ::testing::Values(SharedFile{"azure2023_conv_first_half.csv", "azure2023_conv_first_half", "azure2023"},
                      SharedFile{"azure2023_code_first_half.csv", "azure2023_code_first_half", "azure2023"},
                      SharedFile{"mooncake_conversation_first_half.jsonl", "mooncake_conversation_first_half",
                                 "mooncake"},
                      SharedFile{"mooncake_synthetic_first_half.jsonl", "mooncake_synthetic_first_half", "mooncake"}),
    [](const auto& instance) { return instance.param.profile; });

TEST(SharedMooncake, SpreadTicks_KeepEveryRequestInsideItsTick) {
  const std::string path = kTraces + "mooncake_conversation_first_half.jsonl";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path << " is not here";
  }
  const auto raw = read_trace(path, {.spread_ticks = false});
  const auto spread = read_trace(path, {});
  ASSERT_TRUE(raw.ok() && spread.ok());
  ASSERT_EQ(raw->requests.size(), spread->requests.size());
  EXPECT_GT(gaps(*spread).front(), 0.0);
  for (std::size_t i = 0; i < raw->requests.size(); ++i) {
    const double later = spread->requests[i].arrival - raw->requests[i].arrival;
    ASSERT_GE(later, -0.0011);
    ASSERT_LT(later, 3.0011);
    ASSERT_EQ(spread->requests[i].prompt_len, raw->requests[i].prompt_len);
  }
  // The synthetic trace has no ticks, and is left alone.
  const auto synthetic = read_trace(kTraces + "mooncake_synthetic_first_half.jsonl", {});
  ASSERT_TRUE(synthetic.ok());
  EXPECT_TRUE(synthetic->notes.empty());
}

TEST(SharedSessions, Calls_HaveThePublishedStatistics) {
  const std::string path = kTraces + "claude_code_sessions_mod4eq1.jsonl.gz";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path << " is not here";
  }
  const auto trace = read_trace(path, {});
  ASSERT_TRUE(trace.ok()) << trace.error().to_string();
  EXPECT_EQ(trace->format, "coding-sessions");
  const json profile = profile_of("claude_code_sessions_mod4eq1");
  // The 11 calls without output are left out here and counted there.
  const std::int64_t without = profile.at("zero_output_requests").get<std::int64_t>();
  ASSERT_EQ(without, 11);
  ASSERT_EQ(std::ssize(trace->requests), profile.at("count").get<std::int64_t>() - without);
  EXPECT_NE(std::find(trace->notes.begin(), trace->notes.end(), "11 requests without output tokens left out"),
            trace->notes.end());
  std::int64_t outputs = 0;
  for (const Request& request : trace->requests) {
    outputs += request.decode_len;
  }
  EXPECT_EQ(outputs, profile.at("total_output_tokens").get<std::int64_t>());
  const std::vector<double> prompts = sorted(*trace, prompt_of);
  EXPECT_EQ(prompts.back(), profile.at("prompt_tokens").at("max").get<double>());
  EXPECT_NEAR(quantile(prompts, 0.5) / profile.at("prompt_tokens").at("p50").get<double>(), 1.0, 0.002);
  EXPECT_NEAR(mean(prompts) / profile.at("prompt_tokens").at("mean").get<double>(), 1.0, 0.005);
  EXPECT_TRUE(std::is_sorted(trace->requests.begin(), trace->requests.end(),
                             [](const Request& a, const Request& b) { return a.arrival < b.arrival; }));
}

TEST(SharedServeGen, DrawnRequests_FollowThePublishedDistributions) {
  const std::string path = kTraces + "servegen_deepseek_r1_12h_18h.tar.gz";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path << " is not here";
  }
  const json profile = profile_of("servegen_deepseek_r1_12h_18h");
  double count = 0.0;
  constexpr int kSeeds = 4;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const auto trace = read_trace(path, {.seed = seed});
    ASSERT_TRUE(trace.ok()) << trace.error().to_string();
    EXPECT_EQ(trace->format, "servegen");
    EXPECT_LT(trace->requests.back().arrival, 6 * 3600.0);
    count += static_cast<double>(trace->requests.size()) / kSeeds;
    const std::vector<double> prompts = sorted(*trace, prompt_of);
    const std::vector<double> outputs = sorted(*trace, output_of);
    for (const auto& [name, q] : std::initializer_list<std::pair<const char*, double>>{
             {"p25", 0.25}, {"p50", 0.5}, {"p75", 0.75}, {"p90", 0.9}}) {
      EXPECT_NEAR(quantile(prompts, q) / profile.at("prompt_tokens").at(name).get<double>(), 1.0, 0.1) << name;
      EXPECT_NEAR(quantile(outputs, q) / profile.at("output_tokens").at(name).get<double>(), 1.0, 0.1) << name;
    }
    EXPECT_NEAR(mean(prompts) / profile.at("prompt_tokens").at("mean").get<double>(), 1.0, 0.1);
    EXPECT_NEAR(mean(outputs) / profile.at("output_tokens").at("mean").get<double>(), 1.0, 0.1);
  }
  EXPECT_NEAR(count / profile.at("requests_implied").get<double>(), 1.0, 0.03);
}

}  // namespace
}  // namespace pkv

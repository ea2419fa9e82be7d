// The probes as one set: which figures there are, and their JSON.
#include "replay/cpu_probes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/cpu_backend.h"

namespace pkv {
namespace {

using json = nlohmann::json;

constexpr std::int64_t kSmallBuffer = 1 << 21;

void expect_spread(const json& spread, std::int64_t passes) {
  EXPECT_EQ(spread["passes"], passes);
  EXPECT_GT(spread["min"].get<double>(), 0.0);
  EXPECT_LE(spread["min"], spread["p25"]);
  EXPECT_LE(spread["p25"], spread["median"]);
  EXPECT_LE(spread["median"], spread["p75"]);
  EXPECT_LE(spread["p75"], spread["max"]);
}

TEST(CpuProbes, QuickSet_HasOneWorkerAndAllOnBothKindsOfPages) {
  const auto backend = testing::make_backend(supported_isas().back(), 3);
  const auto probes = measure_cpu_probes(*backend, {.passes = 2, .buffer_bytes = kSmallBuffer});
  ASSERT_TRUE(probes.ok()) << probes.error().to_string();
  EXPECT_TRUE(probes->methods.empty());
  EXPECT_EQ(probes->method, ReadMethod{});
  // Sequential and six chunk sizes for 1 and 3 workers, and the pages, twice.
  EXPECT_EQ(probes->reads.size(), 2U * (2 * 7 + 1));
  EXPECT_EQ(probes->fork_join.size(), 2U);
  EXPECT_EQ(probes->exp.size(), 2U);
  EXPECT_LE(probes->huge_bytes, kSmallBuffer);
}

TEST(CpuProbes, MemoryLimit_BoundsTheBuffers) {
  const auto backend = testing::make_backend(supported_isas().back());
  const auto probes = measure_cpu_probes(*backend, {.passes = 1, .memory_limit_bytes = 8 * kSmallBuffer});
  ASSERT_TRUE(probes.ok()) << probes.error().to_string();
  EXPECT_EQ(probes->buffer_bytes, kSmallBuffer);
}

TEST(CpuProbes, FullSet_UsesTheDefaultUnlessAnotherMethodIsFaster) {
  const auto backend = testing::make_backend(supported_isas().back(), 3);
  const auto probes = measure_cpu_probes(*backend, {.set = ProbeSet::kFull, .passes = 1, .buffer_bytes = kSmallBuffer});
  ASSERT_TRUE(probes.ok()) << probes.error().to_string();
  EXPECT_EQ(probes->methods.size(), 3U * (1 + 2 * 3));
  const auto fastest =
      std::max_element(probes->methods.begin(), probes->methods.end(),
                       [](const ReadRate& a, const ReadRate& b) { return a.gb_per_s.median < b.gb_per_s.median; });
  const auto standard = std::find_if(probes->methods.begin(), probes->methods.end(),
                                     [](const ReadRate& rate) { return rate.method == ReadMethod{}; });
  ASSERT_NE(standard, probes->methods.end());
  EXPECT_EQ(probes->method,
            fastest->gb_per_s.median > 1.03 * standard->gb_per_s.median ? fastest->method : ReadMethod{});
  for (const ReadRate& read : probes->reads) {
    EXPECT_EQ(read.method, probes->method);
  }
  EXPECT_EQ(probes->reads.size(), 2U * (3 * 7 + 1));
}

TEST(CpuProbes, Json_IsTheDocumentedVersionWithEveryFigure) {
  const auto backend = testing::make_backend(supported_isas().back());
  auto probes = measure_cpu_probes(*backend, {.passes = 3, .buffer_bytes = kSmallBuffer});
  ASSERT_TRUE(probes.ok());
  const json root = json::parse(cpu_probes_json(*probes));
  EXPECT_EQ(root["format"], "persistentkv-cpu-probes");
  EXPECT_EQ(root["version"], 1);
  EXPECT_EQ(root["buffer_bytes"], kSmallBuffer);
  EXPECT_EQ(root["num_workers"], 2);
  EXPECT_EQ(root["method"]["prefetch"], "l2");
  for (const json& read : root["reads"]) {
    expect_spread(read["gb_per_s"], 3);
    EXPECT_EQ(read["chunk_bytes"].is_null(), read["order"] != "random");
  }
  for (const json& time : root["fork_join"]) {
    expect_spread(time["us"], 101);
  }
  for (const json& rate : root["exp"]) {
    expect_spread(rate["exp_per_ns"], 3);
  }
  ASSERT_EQ(root["in_cache"].size(), 12U);
  for (const json& rate : root["in_cache"]) {
    expect_spread(rate["gb_per_s"], 3);
    EXPECT_EQ(rate["kv_order"], "HND");
  }
}

TEST(CpuProbes, BadOptions_AreErrors) {
  const auto backend = testing::make_backend(Isa::kPortable, 1);
  for (const std::int32_t passes : {-1, 0, 1001}) {
    const auto probes = measure_cpu_probes(*backend, {.passes = passes});
    ASSERT_FALSE(probes.ok());
    EXPECT_EQ(probes.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(measure_cpu_probes(*backend, {.buffer_bytes = 1000}).ok());
}

TEST(HugePageBytes, SmallPages_AreNotCounted) {
  const auto backend = testing::make_backend(Isa::kPortable, 1);
  const auto small = make_probe_buffer(backend->pool(), std::int64_t{8} << 20, MemoryPages::kSmall);
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(huge_page_bytes(small->data(), static_cast<std::int64_t>(small->size())), 0);
}

}  // namespace
}  // namespace pkv

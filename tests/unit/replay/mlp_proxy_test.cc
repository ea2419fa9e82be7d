// The MLP proxy: any row count runs, and needs are known before they are allocated.
#include "replay/mlp_proxy.h"

#include <gtest/gtest.h>

namespace pkv {
namespace {

const AttentionShape kShape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16};

constexpr MlpProxy kSizes = {.hidden = 96, .intermediate = 200};

TEST(MlpLayer, AnyRowCount_TakesTime) {
  const auto crew = Crew::make().value();
  const auto layer = MlpLayer::make(kShape, kSizes, {.max_rows = 64, .seed = 1}, *crew);
  ASSERT_TRUE(layer.ok()) << layer.error().to_string();
  for (const std::int32_t rows : {1, 8, 3, 64, 1}) {
    const auto elapsed_ns = (*layer)->run(rows);
    ASSERT_TRUE(elapsed_ns.ok()) << elapsed_ns.error().to_string();
    EXPECT_GT(*elapsed_ns, 0);
  }
}

TEST(MlpLayer, MoreRowCountsThanAreKept_StillRun) {
  const auto crew = Crew::make().value();
  const auto layer = MlpLayer::make(kShape, kSizes, {.max_rows = 40, .seed = 1}, *crew);
  ASSERT_TRUE(layer.ok()) << layer.error().to_string();
  for (std::int32_t rows = 1; rows <= 40; ++rows) {
    ASSERT_TRUE((*layer)->run(rows).ok()) << rows;
  }
  EXPECT_TRUE((*layer)->run(1).ok());
}

TEST(MlpLayer, MoreRowsThanAnnounced_IsAnError) {
  const auto crew = Crew::make().value();
  const auto layer = MlpLayer::make(kShape, kSizes, {.max_rows = 4, .seed = 1}, *crew);
  ASSERT_TRUE(layer.ok()) << layer.error().to_string();
  const auto elapsed_ns = (*layer)->run(5);
  ASSERT_FALSE(elapsed_ns.ok());
  EXPECT_EQ(elapsed_ns.error().code, ErrorCode::kOutOfRange);
  EXPECT_FALSE((*layer)->run(0).ok());
}

TEST(MlpLayer, NeededBytes_CountsEveryMatrix) {
  const std::int64_t elements = 96 * 64 + 2 * 96 * 32 + 64 * 96 + 3 * 96 * 200;
  const std::int64_t largest = 96 * 200;
  const std::int64_t activations = 1000 * (200 + 200);
  const std::int64_t bytes = MlpLayer::needed_bytes(kShape, kSizes, 1000);
  const std::int64_t all = elements + largest + activations;
  EXPECT_TRUE(bytes == 2 * all || bytes == 4 * all) << bytes;
}

}  // namespace
}  // namespace pkv

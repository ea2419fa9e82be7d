// The MLP proxy: any row count runs, and needs are known before they are allocated.
#include "replay/mlp_proxy.h"

#include <gtest/gtest.h>

namespace pkv {
namespace {

const AttentionShape kShape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16};

TEST(MlpLayer, AnyRowCount_TakesTime) {
  const auto crew = Crew::make().value();
  const auto layer = MlpLayer::make(kShape, {.hidden = 96, .intermediate = 200}, 1, *crew);
  ASSERT_TRUE(layer.ok()) << layer.error().to_string();
  for (const std::int32_t rows : {1, 8, 3, 64, 1}) {
    const auto elapsed_ns = (*layer)->run(rows);
    ASSERT_TRUE(elapsed_ns.ok()) << elapsed_ns.error().to_string();
    EXPECT_GT(*elapsed_ns, 0);
  }
}

TEST(MlpLayer, NeededBytes_CountsEveryMatrix) {
  const std::int64_t elements = 96 * 64 + 2 * 96 * 32 + 64 * 96 + 3 * 96 * 200;
  const std::int64_t largest = 96 * 200;
  const std::int64_t bytes = MlpLayer::needed_bytes(kShape, {.hidden = 96, .intermediate = 200});
  EXPECT_TRUE(bytes == 2 * (elements + largest) || bytes == 4 * (elements + largest)) << bytes;
}

}  // namespace
}  // namespace pkv

// Placement: ranges of pages by node, and what happens on machines that have not so many nodes.
#include "exec/cpu/placement.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "base/aligned_buffer.h"
#include "support/cpu_backend.h"

namespace pkv {
namespace {

constexpr AttentionShape kShape = {.num_q_heads = 8, .num_kv_heads = 8, .head_dim = 128};
constexpr std::int64_t kPages = 101;

class Placement : public ::testing::TestWithParam<KvPacking> {
 protected:
  Placement()
      : layout_(KvLayout::make(KvOrder::kHND, GetParam(), 16, kShape).value()),
        memory_(AlignedBuffer::allocate(2 * kPages * 16 * 8 * 128 * 2).value()) {
    auto* base = memory_.as<std::byte>();
    kv_ = GetParam() == KvPacking::kPacked ? PagedKv::packed(base, DType::kF16, layout_, kPages)
                                           : PagedKv{.k = base,
                                                     .v = base + kPages * layout_.k_strides.page * 2,
                                                     .dtype = DType::kF16,
                                                     .layout = layout_,
                                                     .num_pages = kPages};
  }

  KvLayout layout_;
  AlignedBuffer memory_;
  PagedKv kv_;
};

INSTANTIATE_TEST_SUITE_P(Packings, Placement, ::testing::Values(KvPacking::kSeparate, KvPacking::kPacked));

TEST_P(Placement, OneNode_TouchesNothing) {
  kv_.pages_per_node = 7;
  ASSERT_TRUE(place_on_nodes(kv_, std::array{0}).ok());
  EXPECT_EQ(kv_.pages_per_node, 0);
  EXPECT_EQ(node_of_memory(kv_.k), -1);
}

// This machine may have one node: the same node twice is the nearest thing to two.
TEST_P(Placement, TwoRanges_LieWhereTheyWereAskedFor) {
  const std::int32_t node = read_topology()->core_nodes[0];
  ASSERT_TRUE(place_on_nodes(kv_, std::array{node, node}).ok());
  EXPECT_EQ(kv_.pages_per_node, 50);
  EXPECT_EQ(kv_.node_of(49, 2), 0);
  EXPECT_EQ(kv_.node_of(50, 2), 1);
  EXPECT_EQ(kv_.node_of(100, 2), 1);  // the last node has the rest
  std::memset(memory_.data(), 1, memory_.size());
  const std::int32_t found = node_of_memory(kv_.v);
  EXPECT_TRUE(found == node || found == -1) << found;
}

TEST_P(Placement, WrittenMemory_KeepsItsValues) {
  std::memset(memory_.data(), 0x5A, memory_.size());
  const std::int32_t node = read_topology()->core_nodes[0];
  ASSERT_TRUE(place_on_nodes(kv_, std::array{node, node}).ok());
  for (std::size_t i = 0; i < memory_.size(); i += 1001) {
    ASSERT_EQ(memory_.as<std::uint8_t>()[i], 0x5A);
  }
}

TEST_P(Placement, UnknownNode_IsAnErrorAndLeavesPagesAnywhere) {
  const Status status = place_on_nodes(kv_, std::array{0, 4095});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(status.error().message.find("4095"), std::string::npos);
  EXPECT_EQ(kv_.pages_per_node, 0);
}

TEST_P(Placement, FewerPagesThanNodes_LieAnywhere) {
  kv_.num_pages = 2;
  ASSERT_TRUE(place_on_nodes(kv_, std::array{0, 0, 0}).ok());
  EXPECT_EQ(kv_.pages_per_node, 0);
}

TEST(NodeOfTask, IsThatOfTheFirstPage) {
  const std::vector<std::int32_t> indptr = {0, 2, 5};
  const std::vector<std::int32_t> ids = {9, 0, 4, 5, 30};
  const BlockTable table = BlockTable::csr(indptr, ids).value();
  PagedKv kv;  // pages of 16 tokens
  kv.num_pages = 31;
  kv.pages_per_node = 5;
  const auto node = [&](const Task& task) { return node_of_task(task, table, kv, 3); };
  EXPECT_EQ(node({.row = 0, .token_begin = 0, .token_end = 32}), 1);
  EXPECT_EQ(node({.row = 0, .token_begin = 16, .token_end = 20}), 0);
  EXPECT_EQ(node({.row = 1, .token_begin = 15, .token_end = 40}), 0);
  EXPECT_EQ(node({.row = 1, .token_begin = 16, .token_end = 40}), 1);
  EXPECT_EQ(node({.row = 1, .token_begin = 40, .token_end = 41}), 2);  // the last node has the rest
  EXPECT_EQ(node({.row = 0, .token_begin = 40, .token_end = 40}), 0);  // nothing to read: no page is looked up
}

}  // namespace
}  // namespace pkv

// TaskQueues: every item once, a worker's own node first, in order, whoever draws.
#include "exec/cpu/task_queues.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "base/random.h"
#include "support/count_allocations.h"

namespace pkv {
namespace {

using Items = std::vector<std::int64_t>;

Items draw_all(TaskQueues& queues, std::int32_t node) {
  Items items;
  for (std::int64_t item = queues.draw(node); item != TaskQueues::kNone; item = queues.draw(node)) {
    items.push_back(item);
  }
  return items;
}

TEST(TaskQueues, OneNode_DrawsTheRangeInOrder) {
  TaskQueues queues(1);
  EXPECT_TRUE(queues.covers(1 << 20));  // it lists nothing
  queues.begin(3, 7);
  EXPECT_EQ(draw_all(queues, 0), (Items{3, 4, 5, 6}));
  EXPECT_EQ(queues.draw(0), TaskQueues::kNone);
}

TEST(TaskQueues, TwoNodes_OwnItemsFirstAndInOrder) {
  TaskQueues queues(2);
  ASSERT_TRUE(queues.reserve(6).ok());
  const auto node_of = [](std::int64_t item) { return static_cast<std::int32_t>(item % 2); };
  queues.begin(10, 16, node_of);
  EXPECT_EQ(draw_all(queues, 1), (Items{11, 13, 15, 10, 12, 14}));
  queues.begin(10, 16, node_of);
  EXPECT_EQ(draw_all(queues, 0), (Items{10, 12, 14, 11, 13, 15}));
}

TEST(TaskQueues, TwoNodes_AnUnorderedLaunchIsForEverybody) {
  TaskQueues queues(2);
  ASSERT_TRUE(queues.reserve(4).ok());
  queues.begin(0, 4, [](std::int64_t) { return 1; });
  EXPECT_EQ(draw_all(queues, 1), (Items{0, 1, 2, 3}));
  queues.begin(5, 8);
  EXPECT_EQ(queues.draw(1), 5);
  EXPECT_EQ(draw_all(queues, 0), (Items{6, 7}));
}

TEST(TaskQueues, NoItems_AreNone) {
  TaskQueues queues(3);
  queues.begin(0, 0, [](std::int64_t) { return 0; });
  for (std::int32_t node = 0; node < 3; ++node) {
    EXPECT_EQ(queues.draw(node), TaskQueues::kNone);
  }
}

TEST(TaskQueues, BeginAfterReserve_AllocatesNothing) {
  TaskQueues queues(2);
  EXPECT_FALSE(queues.covers(100));
  ASSERT_TRUE(queues.reserve(100).ok());
  EXPECT_TRUE(queues.covers(100));
  const std::int64_t before = testing::num_allocations();
  queues.begin(0, 100, [](std::int64_t item) { return item < 50 ? 1 : 0; });
  EXPECT_EQ(testing::num_allocations(), before);
}

// Workers of all nodes at once, random nodes of items.
TEST(TaskQueues, ManyWorkers_DrawEveryItemOnce) {
  SplitMix64 random(5);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const auto num_nodes = static_cast<std::int32_t>(1 + random.below(4));
    const auto begin = static_cast<std::int64_t>(random.below(50));
    const auto count = static_cast<std::int64_t>(random.below(2000));
    std::vector<std::int32_t> nodes(static_cast<std::size_t>(count));
    std::ranges::generate(
        nodes, [&] { return static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(num_nodes))); });
    TaskQueues queues(num_nodes);
    ASSERT_TRUE(queues.reserve(count).ok());
    queues.begin(begin, begin + count,
                 [&](std::int64_t item) { return nodes[static_cast<std::size_t>(item - begin)]; });
    constexpr std::int32_t kWorkers = 5;
    std::vector<Items> drawn(kWorkers);
    std::vector<std::thread> workers;
    for (std::int32_t worker = 0; worker < kWorkers; ++worker) {
      workers.emplace_back(
          [&, worker] { drawn[static_cast<std::size_t>(worker)] = draw_all(queues, worker % num_nodes); });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    Items all;
    for (std::int32_t worker = 0; worker < kWorkers; ++worker) {
      const Items& items = drawn[static_cast<std::size_t>(worker)];
      const auto is_own = [&](std::int64_t item) {
        return nodes[static_cast<std::size_t>(item - begin)] == worker % num_nodes;
      };
      EXPECT_TRUE(std::ranges::is_partitioned(items, is_own));  // its own node's, then others'
      all.insert(all.end(), items.begin(), items.end());
    }
    std::ranges::sort(all);
    Items expected(static_cast<std::size_t>(count));
    std::iota(expected.begin(), expected.end(), begin);
    EXPECT_EQ(all, expected);
  }
}

}  // namespace
}  // namespace pkv

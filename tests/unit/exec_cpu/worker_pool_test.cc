// WorkerPool: every worker runs once a fork, barriers order, affinity is left alone, shutdown ends.
#include "exec/cpu/worker_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>
#include <vector>

#include "exec/cpu/topology.h"

namespace pkv {
namespace {

std::unique_ptr<WorkerPool> make_pool(std::int32_t workers, WaitMode wait, std::vector<std::int32_t> cpus = {}) {
  Result<std::unique_ptr<WorkerPool>> pool =
      WorkerPool::create({.num_workers = workers, .cpus = std::move(cpus), .wait = wait});
  EXPECT_TRUE(pool.ok());
  return *std::move(pool);
}

class WorkerPoolInMode : public ::testing::TestWithParam<WaitMode> {};
INSTANTIATE_TEST_SUITE_P(AllModes, WorkerPoolInMode, ::testing::Values(WaitMode::kSpin, WaitMode::kSleep),
                         [](const auto& test) { return test.param == WaitMode::kSpin ? "spin" : "sleep"; });

TEST_P(WorkerPoolInMode, ManyRuns_CallEveryWorkerOnce) {
  for (const std::int32_t workers : {1, 2, 3, 7}) {
    const std::unique_ptr<WorkerPool> pool = make_pool(workers, GetParam());
    std::vector<std::int64_t> calls(static_cast<std::size_t>(workers) * 16);  // unsynchronised: the join orders
    for (std::int64_t run = 1; run <= 2000; ++run) {
      pool->run([&](std::int32_t worker) { ++calls[static_cast<std::size_t>(worker) * 16]; });
      for (std::int32_t worker = 0; worker < workers; ++worker) {
        ASSERT_EQ(calls[static_cast<std::size_t>(worker) * 16], run);
      }
    }
  }
}

TEST_P(WorkerPoolInMode, ManyMoreWorkersThanCores_Finish) {
  const std::unique_ptr<WorkerPool> pool = make_pool(64, GetParam());
  std::atomic<std::int32_t> calls{0};
  for (std::int32_t run = 0; run < 20; ++run) {
    pool->run([&](std::int32_t) {
      calls.fetch_add(1);
      pool->barrier([] {});
      calls.fetch_add(1);
    });
  }
  EXPECT_EQ(calls.load(), 20 * 64 * 2);
}

TEST_P(WorkerPoolInMode, Barrier_OrdersPhases) {
  constexpr std::int32_t kWorkers = 5;
  constexpr std::int32_t kPhases = 200;
  const std::unique_ptr<WorkerPool> pool = make_pool(kWorkers, GetParam());
  std::int32_t phase = 0;  // written by the last to arrive only
  std::atomic<std::int32_t> arrived{0};
  std::atomic<std::int32_t> mistakes{0};
  pool->run([&](std::int32_t) {
    for (std::int32_t i = 0; i < kPhases; ++i) {
      arrived.fetch_add(1);
      pool->barrier([&] {
        mistakes.fetch_add(arrived.load() == kWorkers * (i + 1) ? 0 : 1);
        ++phase;
      });
      mistakes.fetch_add(phase == i + 1 ? 0 : 1);
      pool->barrier([] {});
    }
  });
  EXPECT_EQ(phase, kPhases);
  EXPECT_EQ(mistakes.load(), 0);
}

TEST_P(WorkerPoolInMode, PausesBetweenRuns_LoseNoWork) {
  const std::unique_ptr<WorkerPool> pool = make_pool(3, GetParam());
  std::atomic<std::int32_t> calls{0};
  for (std::int32_t run = 0; run < 10; ++run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long enough to fall asleep
    pool->run([&](std::int32_t) { calls.fetch_add(1); });
  }
  EXPECT_EQ(calls.load(), 30);
}

TEST_P(WorkerPoolInMode, CreateAndDestroy_EndsWithAndWithoutRuns) {
  for (std::int32_t i = 0; i < 50; ++i) {
    const std::unique_ptr<WorkerPool> pool = make_pool(1 + i % 5, GetParam());
    if (i % 2 == 0) {
      pool->run([](std::int32_t) {});
    }
  }
}

TEST(WorkerPool, Limits_AreErrors) {
  for (const std::int32_t workers : {-1, 0, kMaxWorkers + 1}) {
    const Result<std::unique_ptr<WorkerPool>> pool = WorkerPool::create({.num_workers = workers});
    ASSERT_FALSE(pool.ok());
    EXPECT_EQ(pool.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(pool.error().where, "threads");
  }
}

TEST(WorkerPool, MostWorkersAllowed_Run) {
  const std::unique_ptr<WorkerPool> pool = make_pool(kMaxWorkers, WaitMode::kSleep);
  std::atomic<std::int32_t> calls{0};
  pool->run([&](std::int32_t) { calls.fetch_add(1); });
  EXPECT_EQ(calls.load(), kMaxWorkers);
}

TEST(WorkerPool, Pinned_WorkersRunOnTheirCpusAndTheCallerKeepsItsAffinity) {
  const Result<Topology> topology = read_topology();
  ASSERT_TRUE(topology.ok());
  const std::unique_ptr<WorkerPool> pool = make_pool(topology->num_cores(), WaitMode::kSleep, topology->core_cpus);
  ASSERT_TRUE(pool->pinned());
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  for (std::int32_t run = 0; run < 100; ++run) {
    std::vector<std::int32_t> cpus(static_cast<std::size_t>(pool->num_workers()));
    pool->run([&](std::int32_t worker) { cpus[static_cast<std::size_t>(worker)] = sched_getcpu(); });
    for (std::size_t worker = 1; worker < cpus.size(); ++worker) {
      EXPECT_EQ(cpus[worker], topology->core_cpus[worker]);
    }
    cpu_set_t after;
    ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
    ASSERT_TRUE(CPU_EQUAL(&before, &after));
  }
}

TEST(WorkerPool, MoreWorkersThanCpus_AreNotPinned) { EXPECT_FALSE(make_pool(3, WaitMode::kSleep, {0, 0})->pinned()); }

}  // namespace
}  // namespace pkv

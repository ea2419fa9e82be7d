// CpuBackend on several NUMA nodes: workers know theirs, and plans give the same bits as on one.
// Not here: the queues (task_queues_test.cc), memory (placement_test.cc).
#include <gtest/gtest.h>

#include "support/count_allocations.h"
#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv {
namespace {

using testing::CaseOutput;
using testing::CaseSpec;
using testing::PagedCase;

/// This machine with its cores, as many as asked for, said to be on these nodes.
Topology machine_of(const std::vector<std::int32_t>& core_nodes) {
  Topology topology = read_topology().value();
  const std::int32_t last = topology.core_cpus.back();
  topology.core_cpus.resize(core_nodes.size(), last);
  topology.core_nodes = core_nodes;
  return topology;
}

std::unique_ptr<CpuBackend> make_backend(const std::vector<std::int32_t>& core_nodes, const CpuOptions& options = {}) {
  return CpuBackend::create(options, machine_of(core_nodes)).value();
}

std::vector<std::int32_t> nodes_of(const CpuBackend& backend) {
  return {backend.nodes().begin(), backend.nodes().end()};
}

TEST(CpuNodes, Workers_NameTheNodesThatTheyAreOn) {
  EXPECT_EQ(nodes_of(*make_backend({2, 2, 0, 0})), (std::vector<std::int32_t>{2, 0}));
  EXPECT_EQ(nodes_of(*make_backend({2, 2, 0, 0}, {.threads = 2})), (std::vector<std::int32_t>{2}));
  EXPECT_EQ(nodes_of(*make_backend({2, 2, 0, 0}, {.pin = false})).size(), 1U);
  EXPECT_EQ(nodes_of(*make_backend({1, 0}, {.threads = 3})).size(), 1U);  // more than cores: not pinned
}

TEST(CpuNodes, SyntheticMachine_GivesTheWorkersTheirNodes) {
  const Topology machine = read_synthetic_topology("numa:4 core:2 pu:1").value();
  const std::unique_ptr<CpuBackend> backend = CpuBackend::create({}, machine).value();
  EXPECT_EQ(backend->num_workers(), 8);
  EXPECT_EQ(nodes_of(*backend), (std::vector<std::int32_t>{0, 1, 2, 3}));
}

TEST(CpuNodes, Description_NamesThemWhereThereAreSeveral) {
  EXPECT_NE(make_backend({0, 1})->describe().find("2 NUMA nodes"), std::string::npos);
  EXPECT_EQ(make_backend({1, 1})->describe().find("NUMA"), std::string::npos);
}

// Every task exactly once, whichever node its pages are on: states that are missing or merged twice would differ.
TEST(CpuNodes, PagesOnNodes_GiveTheBitsOfOneNode) {
  PagedCase paged({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64},
                   .lens = {300, 1, 0, 77, 500, 900},
                   .page_size = 4});
  for (const Route route : kAllRoutes) {
    for (const MergeMode merge : {MergeMode::kSeparate, MergeMode::kFused}) {
      if (route == Route::kRow && merge == MergeMode::kFused) {
        continue;
      }
      const PlanOptions options = {.route = route, .num_workers = 4, .merge = merge};
      const CaseOutput expected = paged.run(*testing::make_backend(Isa::kPortable), options);
      for (const std::int64_t pages_per_node : {0, 1, 40, 100000}) {
        paged.set_pages_per_node(pages_per_node);
        const auto backend = make_backend({0, 1, 2, 2}, {.isa = Isa::kPortable});
        for (int repeat = 0; repeat < 3; ++repeat) {
          const CaseOutput output = paged.run(*backend, options);
          EXPECT_EQ(output.out, expected.out) << route_name(route) << " " << pages_per_node;
          EXPECT_EQ(output.lse, expected.lse);
        }
      }
    }
  }
}

TEST(CpuNodes, ARun_AllocatesNothing) {
  PagedCase paged(CaseSpec{});
  paged.set_pages_per_node(2);
  const auto backend = make_backend({0, 1}, {.isa = Isa::kPortable});
  const Plan plan = make_plan(paged.batch(), {.route = Route::kWorkqueue, .splits = 3}).value();
  ASSERT_TRUE(backend->reserve(plan).ok());
  std::vector<float> out(8 * 64);
  const RunArgs args = paged.args(out.data(), nullptr);
  const std::int64_t before = testing::num_allocations();
  const bool ran = backend->run(plan, args).ok();
  EXPECT_EQ(testing::num_allocations(), before);
  EXPECT_TRUE(ran);
}

TEST(CpuNodes, RunWithoutReserve_IsAnErrorOnSeveralNodesToo) {
  const PagedCase paged(CaseSpec{});
  const auto backend = make_backend({0, 1}, {.isa = Isa::kPortable});
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  std::vector<float> out(8 * 64);
  EXPECT_FALSE(backend->run(plan, paged.args(out.data(), nullptr)).ok());
}

TEST(CpuNodes, PlacePages_OnOneNodeLeavesThemAnywhere) {
  const PagedCase paged(CaseSpec{});
  PagedKv kv = paged.kv();
  kv.pages_per_node = 3;
  ASSERT_TRUE(place_pages(*make_backend({0, 0}), kv).ok());
  EXPECT_EQ(kv.pages_per_node, 0);
}

TEST(CpuNodes, PlacePages_OnASecondNodeThatIsNotThere_IsAnError) {
  const PagedCase paged(CaseSpec{.lens = {600}});
  PagedKv kv = paged.kv();
  const Status status = place_pages(*make_backend({0, 4095}), kv);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace pkv

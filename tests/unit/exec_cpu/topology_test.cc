// Topology: what every machine that runs the tests must report.
#include "exec/cpu/topology.h"

#include <gtest/gtest.h>

namespace pkv {
namespace {

TEST(Topology, ThisMachine_HasCoresAndMemory) {
  const Result<Topology> topology = read_topology();
  ASSERT_TRUE(topology.ok()) << topology.error().to_string();
  EXPECT_GE(topology->num_cores(), 1);
  EXPECT_GE(topology->num_hardware_threads, topology->num_cores());
  EXPECT_GE(topology->num_numa_nodes, 1);
  EXPECT_EQ(topology->core_nodes.size(), topology->core_cpus.size());
  EXPECT_GT(topology->total_memory_bytes, std::int64_t{256} << 20);
  EXPECT_LE(topology->available_memory_bytes, topology->total_memory_bytes);
  EXPECT_FALSE(topology->cpu_model.empty());
}

TEST(Topology, TwoNodes_EveryCoreKnowsItsOwn) {
  const Result<Topology> topology = read_synthetic_topology("numa:2 core:3 pu:2");
  ASSERT_TRUE(topology.ok()) << topology.error().to_string();
  EXPECT_EQ(topology->num_numa_nodes, 2);
  EXPECT_EQ(topology->core_cpus, (std::vector<std::int32_t>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(topology->core_nodes, (std::vector<std::int32_t>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(topology->num_hardware_threads, 12);
}

TEST(Topology, NodesOfADifferentNumber_AreNamedByTheSystemsIndex) {
  const Result<Topology> topology = read_synthetic_topology("numa:2(indexes=3,1) core:1 pu:1");
  ASSERT_TRUE(topology.ok()) << topology.error().to_string();
  EXPECT_EQ(topology->core_nodes, (std::vector<std::int32_t>{3, 1}));
}

TEST(Topology, OneNode_HoldsEveryCore) {
  const Result<Topology> topology = read_synthetic_topology("pack:2 core:2 pu:1");
  ASSERT_TRUE(topology.ok());
  EXPECT_EQ(topology->core_nodes, (std::vector<std::int32_t>{0, 0, 0, 0}));
}

TEST(Topology, NoDescription_IsAnError) {
  const Result<Topology> topology = read_synthetic_topology("no machine");
  ASSERT_FALSE(topology.ok());
  EXPECT_EQ(topology.error().code, ErrorCode::kInvalidArgument);
}

TEST(Topology, AvailableMemory_IsPositive) { EXPECT_GT(available_memory_bytes(), 0); }

TEST(Topology, LastLevelCache_IsL2OfAllCoresWithoutL3) {
  Topology topology;
  topology.core_cpus = {0, 1};
  topology.l2_bytes = 100;
  EXPECT_EQ(topology.last_level_cache_bytes(), 200);
  topology.l3_bytes = 1000;
  topology.num_l3 = 2;
  EXPECT_EQ(topology.last_level_cache_bytes(), 2000);
}

TEST(Topology, HugePageModes_HaveNames) {
  EXPECT_EQ(huge_page_mode_name(HugePageMode::kMadvise), "madvise");
  EXPECT_EQ(huge_page_mode_name(HugePageMode::kAlways), "always");
  EXPECT_EQ(huge_page_mode_name(HugePageMode::kNever), "never");
  EXPECT_EQ(huge_page_mode_name(HugePageMode::kUnknown), "unknown");
}

}  // namespace
}  // namespace pkv

// The tile kernels of every vector ISA against the float64 oracle, with poisoned memory: what the decode suite, mostly
// of fp16, leaves out. Not here: which steps they take by default (isa_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "exec/cpu/tile_kernels.h"
#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv::testing {
namespace {

/// A kernel, the type it is tested with, and the sizes where its blocks differ.
struct TileCase {
  std::string name;
  RanKernel kernel;
  DType dtype = DType::kBF16;
  std::int32_t least_group = 1;
  std::vector<std::int32_t> groups;  // one or more for every size of a block of heads
  std::vector<std::int32_t> head_dims;
  Tolerance tolerance = {};
};

TileCase vector_case(const std::string& name, RanKernel kernel, DType dtype) {
  return {.name = name + (kernel.into_l1 ? "IntoL1" : "") + std::string(dtype_name(dtype)),
          .kernel = kernel,
          .dtype = dtype,
          .groups = {1, 2, 3, 4, 5, 6, 7, 8},
          .head_dims = {16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 272, 512}};
}

TileCase avx2_case(DType dtype) { return vector_case("Avx2", {DecodeKernel::kAvx2Tile, Isa::kAvx2}, dtype); }
TileCase avx512_case(DType dtype, bool into_l1) {
  return vector_case("Avx512", {DecodeKernel::kAvx512Tile, Isa::kAvx512, into_l1}, dtype);
}
TileCase avx512_bf16_case(bool into_l1) {
  return vector_case("Avx512Bf16", {DecodeKernel::kAvx512Bf16Tile, Isa::kAvx512Bf16, into_l1}, DType::kBF16);
}

TileCase amx_case() {
  return {.name = "Amx",
          .kernel = {DecodeKernel::kAmxTile, Isa::kAmx},
          .least_group = kAmxLeastGroup,
          .groups = {4, 8, 16},
          .head_dims = {32, 64, 96, 128, 160, 192, 224, 256, 288, 512},
          .tolerance = {.weights = 0x1p-17}};  // weights are two bf16, so rounded to 16 bits
}

class TileKernel : public ::testing::TestWithParam<TileCase> {
 protected:
  void SetUp() override {
    const std::vector<Isa> isas = supported_isas();
    if (std::find(isas.begin(), isas.end(), GetParam().kernel.isa) == isas.end()) {
      GTEST_SKIP() << isa_name(GetParam().kernel.isa) << " does not run here";
    }
    backend_ = make_backend(GetParam().kernel.isa);
    ASSERT_TRUE(backend_->set_tile_prefetch(prefetch_).ok());
  }

  void check(CaseSpec spec, const PlanOptions& options = {.route = Route::kPages, .splits = 2}) const {
    spec.kv_dtype = GetParam().dtype;
    spec.q_dtype = GetParam().dtype;
    PagedCase(spec).expect_correct(*backend_, options, GetParam().tolerance);
    EXPECT_EQ(backend_->ran_kernel(), GetParam().kernel);
  }

  /// Not as is best here, so that every machine runs all of them.
  const TilePrefetch prefetch_ = {.streams = GetParam().kernel.into_l1 ? 2 : 8, .into_l1 = GetParam().kernel.into_l1};
  std::unique_ptr<CpuBackend> backend_;
};

AttentionShape shape_of(std::int32_t group_size, std::int32_t head_dim = 64, std::int32_t num_kv_heads = 2) {
  return {.num_q_heads = group_size * num_kv_heads, .num_kv_heads = num_kv_heads, .head_dim = head_dim};
}

TEST_P(TileKernel, EveryGroupSize_MatchesOracle) {
  for (std::int32_t group_size = GetParam().least_group; group_size <= 33; ++group_size) {
    check({.shape = shape_of(group_size), .lens = {75, 33}});
  }
  check({.shape = shape_of(64), .lens = {75, 33}});
}

TEST_P(TileKernel, EveryHeadDim_MatchesOracle) {
  for (const std::int32_t group_size : GetParam().groups) {
    for (const std::int32_t head_dim : GetParam().head_dims) {
      check({.shape = shape_of(group_size, head_dim), .lens = {83}});
    }
  }
}

TEST_P(TileKernel, EveryPageSizeAndOrder_MatchesOracle) {
  for (const std::int32_t group_size : GetParam().groups) {
    for (const std::int32_t page_size : {1, 2, 3, 4, 8, 15, 16, 17, 24, 32, 48, 64, 128, 256}) {
      for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
        for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
          check({.shape = shape_of(group_size),
                 .lens = {page_size, 301, 15, 16, 17},
                 .page_size = page_size,
                 .order = order,
                 .packing = packing,
                 .padding = 8});
        }
      }
    }
  }
}

TEST_P(TileKernel, EveryLengthUpToThreeTiles_MatchesOracle) {
  std::vector<std::int32_t> lens;
  for (std::int32_t len = 0; len <= 200; ++len) {
    lens.push_back(len);
  }
  for (const std::int32_t group_size : GetParam().groups) {
    check({.shape = shape_of(group_size, 32, 1), .lens = lens}, {.route = Route::kPages});
  }
}

TEST_P(TileKernel, WindowsOfEveryAlignment_MatchOracle) {
  for (const std::int32_t group_size : {3, 8, 16}) {
    for (std::int32_t window = 1; window <= 150; window += 7) {
      AttentionShape shape = shape_of(group_size);
      shape.sliding_window_tokens = window;
      check({.shape = shape, .lens = {400, window, window + 1, 97}});
    }
  }
}

TEST_P(TileKernel, SoftCapAndSinks_MatchOracle) {
  for (const std::int32_t group_size : {3, 8, 13}) {
    AttentionShape shape = shape_of(group_size);
    shape.logit_soft_cap = 20.0F;
    shape.sinks = Sinks::kPerQueryHead;
    check({.shape = shape, .lens = {130, 5, 64}, .q_scale = 5.0F});
  }
}

TEST_P(TileKernel, HugeLogits_MatchOracle) {
  for (const std::int32_t group_size : GetParam().groups) {
    check({.shape = shape_of(group_size), .lens = {200}, .q_scale = 300.0F});
  }
}

TEST_P(TileKernel, OneWorkerAndMany_AreBitIdentical) {
  const CaseSpec spec = {
      .shape = shape_of(7, 128, 4), .lens = {700, 20, 333}, .kv_dtype = GetParam().dtype, .q_dtype = GetParam().dtype};
  const PagedCase paged(spec);
  const PlanOptions options = {.route = Route::kPages, .splits = 5, .num_workers = 2};
  const CaseOutput two = paged.run(*backend_, options);
  const std::unique_ptr<CpuBackend> single = make_backend(GetParam().kernel.isa, 1);
  ASSERT_TRUE(single->set_tile_prefetch(prefetch_).ok());
  const CaseOutput one = paged.run(*single, options);
  EXPECT_EQ(one.out, two.out);
  EXPECT_EQ(one.lse, two.lse);
}

// What is listed is tested in tile_pairs_test.cc; here that lists fit into scratch and disturb nothing.
TEST_P(TileKernel, EveryNumberOfStreams_GivesTheSameBits) {
  for (const std::int32_t page_size : {1, 2, 5, 16, 64}) {
    for (const std::int32_t head_dim : {96, 128}) {  // rows that are and are not whole pairs of lines
      for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
        const PagedCase paged({.shape = shape_of(4, head_dim, 3),
                               .lens = {page_size, 301, 64},
                               .page_size = page_size,
                               .order = order,
                               .kv_dtype = GetParam().dtype,
                               .q_dtype = GetParam().dtype});
        const PlanOptions options = {.route = Route::kPages, .splits = 2};
        const CaseOutput expected = paged.run(*backend_, options);
        for (const std::int32_t streams : {1, 2, 4, 8}) {
          ASSERT_TRUE(backend_->set_tile_prefetch({.streams = streams, .into_l1 = prefetch_.into_l1}).ok());
          const CaseOutput found = paged.run(*backend_, options);
          EXPECT_EQ(found.out, expected.out) << streams << " streams, pages of " << page_size;
          EXPECT_EQ(found.lse, expected.lse);
          EXPECT_EQ(backend_->ran_kernel(), GetParam().kernel);
        }
        ASSERT_TRUE(backend_->set_tile_prefetch(prefetch_).ok());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllKernels, TileKernel,
                         ::testing::Values(avx2_case(DType::kF16), avx2_case(DType::kBF16), avx2_case(DType::kF32),
                                           avx512_case(DType::kF16, false), avx512_case(DType::kBF16, false),
                                           avx512_case(DType::kF32, false), avx512_case(DType::kF16, true),
                                           avx512_case(DType::kBF16, true), avx512_case(DType::kF32, true),
                                           avx512_bf16_case(false), avx512_bf16_case(true), amx_case()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace pkv::testing

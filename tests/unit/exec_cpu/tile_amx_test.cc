// The AMX kernel against the float64 oracle, with poisoned memory: what the decode suite, mostly of fp16, leaves out.
// Not here: which steps it takes by default (isa_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "exec/cpu/tile_kernels.h"
#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv::testing {
namespace {

/// Weights are two bf16, so rounded to 16 bits.
constexpr Tolerance kTwoBf16 = {.weights = 0x1p-17};

class AmxTile : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<Isa> isas = supported_isas();
    if (std::find(isas.begin(), isas.end(), Isa::kAmx) == isas.end()) {
      GTEST_SKIP() << "amx does not run here";
    }
    backend_ = make_backend(Isa::kAmx);
  }

  void check(CaseSpec spec, const PlanOptions& options = {.route = Route::kPages, .splits = 2}) const {
    spec.kv_dtype = DType::kBF16;
    spec.q_dtype = DType::kBF16;
    PagedCase(spec).expect_correct(*backend_, options, kTwoBf16);
    EXPECT_EQ(backend_->ran_kernel(), (RanKernel{DecodeKernel::kAmxTile, Isa::kAmx}));
  }

  std::unique_ptr<CpuBackend> backend_;
};

AttentionShape shape_of(std::int32_t group_size, std::int32_t head_dim = 64, std::int32_t num_kv_heads = 2) {
  return {.num_q_heads = group_size * num_kv_heads, .num_kv_heads = num_kv_heads, .head_dim = head_dim};
}

TEST_F(AmxTile, EveryGroupSize_MatchesOracle) {
  for (std::int32_t group_size = kAmxLeastGroup; group_size <= 33; ++group_size) {
    check({.shape = shape_of(group_size), .lens = {75, 33}});
  }
  check({.shape = shape_of(64), .lens = {75, 33}});
}

TEST_F(AmxTile, EveryHeadDim_MatchesOracle) {
  for (const std::int32_t group_size : {4, 8, 16}) {
    for (const std::int32_t head_dim : {32, 64, 96, 128, 160, 192, 224, 256, 288, 512}) {
      check({.shape = shape_of(group_size, head_dim), .lens = {83}});
    }
  }
}

TEST_F(AmxTile, EveryPageSizeAndOrder_MatchesOracle) {
  for (const std::int32_t group_size : {4, 8, 16}) {
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

TEST_F(AmxTile, EveryLengthUpToThreeTiles_MatchesOracle) {
  std::vector<std::int32_t> lens;
  for (std::int32_t len = 0; len <= 200; ++len) {
    lens.push_back(len);
  }
  for (const std::int32_t group_size : {4, 8, 16}) {
    check({.shape = shape_of(group_size, 32, 1), .lens = lens}, {.route = Route::kPages});
  }
}

TEST_F(AmxTile, WindowsOfEveryAlignment_MatchOracle) {
  for (const std::int32_t group_size : {3, 8, 16}) {
    for (std::int32_t window = 1; window <= 150; window += 7) {
      AttentionShape shape = shape_of(group_size);
      shape.sliding_window_tokens = window;
      check({.shape = shape, .lens = {400, window, window + 1, 97}});
    }
  }
}

TEST_F(AmxTile, SoftCapAndSinks_MatchOracle) {
  for (const std::int32_t group_size : {3, 8, 13}) {
    AttentionShape shape = shape_of(group_size);
    shape.logit_soft_cap = 20.0F;
    shape.sinks = Sinks::kPerQueryHead;
    check({.shape = shape, .lens = {130, 5, 64}, .q_scale = 5.0F});
  }
}

TEST_F(AmxTile, HugeLogits_MatchOracle) {
  for (const std::int32_t group_size : {4, 8, 16}) {
    check({.shape = shape_of(group_size), .lens = {200}, .q_scale = 300.0F});
  }
}

TEST_F(AmxTile, OneWorkerAndMany_AreBitIdentical) {
  const CaseSpec spec = {
      .shape = shape_of(8, 128, 4), .lens = {700, 20, 333}, .kv_dtype = DType::kBF16, .q_dtype = DType::kBF16};
  const PagedCase paged(spec);
  const PlanOptions options = {.route = Route::kPages, .splits = 5, .num_workers = 2};
  const CaseOutput two = paged.run(*backend_, options);
  const CaseOutput one = paged.run(*make_backend(Isa::kAmx, 1), options);
  EXPECT_EQ(one.out, two.out);
  EXPECT_EQ(one.lse, two.lse);
}

}  // namespace
}  // namespace pkv::testing

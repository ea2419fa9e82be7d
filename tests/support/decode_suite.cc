// The decode and merge kernels of any backend against the float64 oracle, with poisoned memory.
// Not here: which backends (exec_cpu/decode_test.cc, gpu/), workers, workspace, errors.
#include "support/decode_suite.h"

#include <array>
#include <cmath>
#include <limits>

#include "base/half.h"

namespace pkv::testing {
namespace {

TEST_P(DecodeOnBackend, EveryGroupSize_MatchesOracle) {
  for (const std::int32_t group_size : {1, 2, 3, 4, 5, 6, 7, 8, 16, 64}) {
    for (const Route route : {Route::kRow, Route::kPages}) {
      check({.shape = {.num_q_heads = 2 * group_size, .num_kv_heads = 2, .head_dim = 64}, .lens = {75, 33}},
            {.route = route, .num_workers = 2});
    }
  }
}

TEST_P(DecodeOnBackend, EveryHeadDim_MatchesOracle) {
  for (const std::int32_t head_dim : {8, 16, 24, 32, 40, 64, 80, 96, 112, 128, 136, 192, 256, 512}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const std::int32_t group_size : {1, 3, 4}) {
        check({.shape = {.num_q_heads = group_size, .num_kv_heads = 1, .head_dim = head_dim},
               .lens = {47},
               .kv_dtype = dtype},
              {.route = Route::kRow});
      }
    }
  }
}

TEST_P(DecodeOnBackend, EveryTypeAndLayout_MatchesOracle) {
  constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  for (const DType kv : kTypes) {
    for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
      for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
        for (const DType q : kTypes) {
          for (const DType out : kTypes) {
            check({.shape = {.num_q_heads = 12, .num_kv_heads = 3, .head_dim = 40},
                   .lens = {50, 1, 17},
                   .order = order,
                   .packing = packing,
                   .kv_dtype = kv,
                   .q_dtype = q,
                   .out_dtype = out,
                   .padding = 8},
                  {.route = Route::kWorkqueue, .splits = 2});
          }
        }
      }
    }
  }
}

TEST_P(DecodeOnBackend, EveryLengthAroundAPage_MatchesOracleByEveryRoute) {
  for (const std::int32_t page_size : {1, 3, 16, 64, 256}) {
    for (const Route route : kAllRoutes) {
      for (const TableForm table : {TableForm::kCsr, TableForm::kDense}) {
        check({.lens = {0, 1, page_size - 1, page_size, page_size + 1, 2 * page_size + 5, 0},
               .page_size = page_size,
               .table = table},
              {.route = route, .num_workers = 2});
      }
    }
  }
}

TEST_P(DecodeOnBackend, EveryRouteWithSplits_MatchesOracle) {
  for (const Route route : {Route::kPadded, Route::kBucket, Route::kSplit, Route::kWorkqueue, Route::kPages}) {
    for (const std::int32_t splits : {1, 2, 3, 7, 40}) {  // 40: more splits than tiles
      check({.lens = {300, 5, 0, 161, 300}}, {.route = route, .splits = splits});
    }
  }
}

TEST_P(DecodeOnBackend, FusedMerges_MatchOracle) {
  for (const Route route : {Route::kPadded, Route::kBucket, Route::kSplit, Route::kWorkqueue, Route::kPages}) {
    for (const std::int32_t splits : {1, 3, 40}) {  // 40: more splits than tiles
      check({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .sinks = Sinks::kPerQueryHead},
             .lens = {300, 5, 0, 161, 1, 300}},
            {.route = route, .splits = splits, .kv_heads_per_task = 1, .merge = MergeMode::kFused});
    }
  }
}

// Empty tasks are the only work of these steps.
TEST_P(DecodeOnBackend, OnlyEmptyRows_WriteZerosAndMinusInfinity) {
  for (const MergeMode merge : {MergeMode::kSeparate, MergeMode::kFused}) {
    for (const Route route : {Route::kRow, Route::kPadded, Route::kSplit, Route::kWorkqueue}) {
      check({.lens = {0, 0, 0}}, {.route = route, .num_workers = 2, .merge = merge});
    }
  }
}

TEST_P(DecodeOnBackend, TasksOfSeveralHeads_MatchOracle) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const Route route : kAllRoutes) {
      for (const std::int32_t heads : {1, 2, 3, 5}) {  // 2 and 3 leave a remainder
        check({.shape = {.num_q_heads = 15, .num_kv_heads = 5, .head_dim = 32}, .lens = {130, 64}, .order = order},
              {.route = route, .num_workers = 3, .kv_heads_per_task = heads});
      }
    }
  }
}

TEST_P(DecodeOnBackend, PlansWithOtherTiles_MatchOracle) {
  for (const std::int32_t tile_tokens : {1, 8, 16, 48, 64}) {
    check({.lens = {200, 31}}, {.route = Route::kWorkqueue, .splits = 5, .tile_tokens = tile_tokens});
  }
}

TEST_P(DecodeOnBackend, SlidingWindow_ReadsOnlyTheWindow) {
  // Tokens before the window are NaN, and their pages have absurd ids: a read of either would show.
  for (const std::int32_t window : {1, 15, 16, 17, 100}) {
    for (const Route route : kAllRoutes) {
      check({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .sliding_window_tokens = window},
             .lens = {210, 16, 99, 0}},
            {.route = route, .num_workers = 2});
    }
  }
}

TEST_P(DecodeOnBackend, SoftCap_MatchesOracle) {
  for (const float cap : {0.5F, 30.0F, 1000.0F}) {
    for (const float q_scale : {0.1F, 1.0F, 8.0F}) {
      check({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .logit_soft_cap = cap},
             .lens = {100},
             .kv_dtype = DType::kF32,
             .q_scale = q_scale},
            {.route = Route::kSplit, .splits = 3});
    }
  }
}

TEST_P(DecodeOnBackend, Sinks_JoinOnceByEveryRoute) {
  for (const Route route : kAllRoutes) {
    check({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .sinks = Sinks::kPerQueryHead},
           .lens = {0, 1, 150, 40}},
          {.route = route, .num_workers = 2});
  }
}

TEST_P(DecodeOnBackend, WindowSoftCapAndSinksTogether_MatchOracle) {
  for (const Route route : kAllRoutes) {
    check({.shape = {.num_q_heads = 14,
                     .num_kv_heads = 2,
                     .head_dim = 80,
                     .softmax_scale = 0.3F,
                     .logit_soft_cap = 20.0F,
                     .sliding_window_tokens = 45,
                     .sinks = Sinks::kPerQueryHead},
           .lens = {0, 44, 45, 46, 333},
           .page_size = 7,
           .kv_dtype = DType::kBF16},
          {.route = route, .num_workers = 2});
  }
}

TEST_P(DecodeOnBackend, HugeLogits_StayFinite) {
  for (const float q_scale : {1e3F, 1e4F}) {  // logits of +-5e4 and more
    check({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64}, .lens = {200}, .q_scale = q_scale},
          {.route = Route::kWorkqueue, .splits = 4});
  }
}

/// 96 tokens of one row whose keys and queries are constants: token t has the values t, all heads alike.
class ConstantKeys {
 public:
  static constexpr std::int32_t kTokens = 96;

  /// The first `num_masked` keys begin with -inf.
  ConstantKeys(DType dtype, float key, float query, std::int32_t num_masked = 0) : dtype_(dtype) {
    for (std::int32_t i = 0; i < kTokens * kDim; ++i) {
      const bool masked = i % kDim == 0 && i / kDim < num_masked;
      store_element(k_.data(), dtype, i, masked ? -std::numeric_limits<float>::infinity() : key);
      store_element(v_.data(), dtype, i, static_cast<float>(i / kDim));
    }
    for (std::int32_t i = 0; i < kHeads * kDim; ++i) {
      store_element(q_.data(), dtype, i, query);
    }
  }

  RunArgs args() {
    return {.batch = BatchState::make({.shape = kShape,
                                       .page_size = 16,
                                       .seq_lens = lens_,
                                       .block_table = BlockTable::csr(indptr_, pages_).value(),
                                       .num_pages = 6})
                         .value(),
            .q = dense_queries(q_.data(), dtype_, kShape),
            .kv = {.k = k_.data(),
                   .v = v_.data(),
                   .dtype = dtype_,
                   .layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, kShape).value(),
                   .num_pages = 6},
            .out = dense_outputs(out_.data(), DType::kF32, kShape),
            .lse = lse_};
  }

  /// Whole and in splits.
  void expect_mean(Backend& backend, double mean, const Tolerance& tolerance) {
    const RunArgs step = args();
    const ReferenceOutput expected = reference_attention(step).value();
    ASSERT_NEAR(expected.out[0], mean, 1e-9);
    for (const PlanOptions& options : {PlanOptions{.route = Route::kRow}, {.route = Route::kSplit, .splits = 3}}) {
      const Plan plan = make_plan(step.batch, options).value();
      ASSERT_TRUE(backend.reserve(plan).ok());
      ASSERT_TRUE(backend.run(plan, step).ok());
      for (const float value : out_) {
        ASSERT_NEAR(value, mean, 1e-4 + kTokens * tolerance.weights) << dtype_name(dtype_);
      }
      if (std::isinf(expected.lse[3])) {
        ASSERT_EQ(lse_[3], -std::numeric_limits<float>::infinity()) << dtype_name(dtype_);
      } else {
        ASSERT_NEAR(lse_[3], expected.lse[3], 1e-5 + tolerance.weights + 0x1p-22 * std::abs(expected.lse[3]));
      }
    }
  }

 private:
  static constexpr std::int32_t kDim = 8;
  static constexpr std::int32_t kHeads = 4;
  static constexpr AttentionShape kShape{.num_q_heads = kHeads, .num_kv_heads = 1, .head_dim = kDim};
  DType dtype_;
  std::vector<std::uint32_t> k_ = std::vector<std::uint32_t>(kTokens * kDim);  // four bytes an element
  std::vector<std::uint32_t> v_ = k_;
  std::vector<std::uint32_t> q_ = std::vector<std::uint32_t>(kHeads * kDim);
  std::vector<std::int32_t> lens_{kTokens}, indptr_{0, 6}, pages_{0, 1, 2, 3, 4, 5};
  std::vector<float> out_ = std::vector<float>(kHeads * kDim), lse_ = std::vector<float>(kHeads);
};

// Keys of -inf are how some callers mask tokens: whole tiles of them come before any finite logit.
TEST_P(DecodeOnBackend, MinusInfinityKeys_WeighNothing) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const std::int32_t num_masked : {1, 32, 40, 96}) {
      const double mean = num_masked == 96 ? 0.0 : (num_masked + 95) / 2.0;
      ConstantKeys(dtype, 0.25F, 1.0F, num_masked).expect_mean(*backend_, mean, GetParam().tolerance);
    }
  }
}

// -84,853 each: a maximum that starts at a finite "minus infinity" would give zeros.
TEST_P(DecodeOnBackend, LogitsFarBelowZero_StillWeighEqually) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    ConstantKeys(dtype, 1.0F, -30000.0F).expect_mean(*backend_, 47.5, GetParam().tolerance);
  }
}

TEST_P(DecodeOnBackend, EqualLogits_AverageTheValues) {
  check({.lens = {129}, .q_scale = 0.0F}, {.route = Route::kWorkqueue, .splits = 3});
}

TEST_P(DecodeOnBackend, LongRows_MatchOracle) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Route route : {Route::kRow, Route::kPages}) {
      check({.shape = {.num_q_heads = 4, .num_kv_heads = 1, .head_dim = 128}, .lens = {5000}, .kv_dtype = dtype},
            {.route = route, .num_workers = 2});
    }
  }
}

// What threads share follows from routes and workers, not from values: ThreadSanitizer, ten times as slow, takes fewer.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kRandomCases = 60;
#else
constexpr std::uint64_t kRandomCases = 300;
#endif

TEST_P(DecodeOnBackend, RandomCases_MatchOracle) {
  constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  for (std::uint64_t seed = 1; seed <= kRandomCases; ++seed) {
    SplitMix64 random(seed);
    const auto pick = [&](std::uint64_t bound) { return static_cast<std::int32_t>(random.below(bound)); };
    CaseSpec spec;
    spec.seed = seed;
    spec.shape.num_kv_heads = 1 + pick(4);
    spec.shape.num_q_heads = spec.shape.num_kv_heads * (1 + pick(9));
    spec.shape.head_dim = 8 * (1 + pick(20));
    if (pick(3) == 0) {
      spec.shape.sliding_window_tokens = 1 + pick(120);
    }
    if (pick(3) == 0) {
      spec.shape.logit_soft_cap = 1.0F + static_cast<float>(pick(50));
    }
    spec.shape.sinks = pick(3) == 0 ? Sinks::kPerQueryHead : Sinks::kNone;
    spec.page_size = 1 + pick(40);
    spec.lens.resize(static_cast<std::size_t>(1 + pick(4)));
    for (std::int32_t& len : spec.lens) {
      len = pick(5) == 0 ? 0 : pick(200);
    }
    spec.order = pick(2) == 0 ? KvOrder::kHND : KvOrder::kNHD;
    spec.packing = pick(2) == 0 ? KvPacking::kSeparate : KvPacking::kPacked;
    spec.kv_dtype = kTypes[pick(3)];
    spec.q_dtype = kTypes[pick(3)];
    spec.out_dtype = kTypes[pick(3)];
    spec.table = pick(2) == 0 ? TableForm::kCsr : TableForm::kDense;
    const Route route = kAllRoutes[pick(6)];
    PlanOptions options = {.route = route, .num_workers = 1 + pick(4)};
    if (route != Route::kRow && pick(2) == 0) {
      options.splits = 1 + pick(9);
    }
    check(spec, options);
    if (HasFatalFailure() || HasNonfatalFailure()) {
      return;  // one failing case is enough to read
    }
  }
}

}  // namespace
}  // namespace pkv::testing

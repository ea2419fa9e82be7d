// The engine from a batch to a record, against the oracle, and its errors.
#include "persistentkv/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "base/half.h"
#include "base/random.h"
#include "persistentkv/reference.h"

namespace pkv {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64};

// Two layers of fp16 pages, and the tensors of one step.
class EngineTest : public ::testing::Test {
 protected:
  explicit EngineTest(std::vector<std::int32_t> seq_lens = {300, 0, 17, 1, 1000})
      : seq_lens_(std::move(seq_lens)),
        layout_(KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, kShape).value()) {
    SplitMix64 random(5);
    indptr_ = {0};
    for (const std::int32_t seq_len : seq_lens_) {
      for (std::int32_t p = 0; p < (seq_len + 15) / 16; ++p) {
        indices_.push_back(static_cast<std::int32_t>(indices_.size()));
      }
      indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
    }
    for (auto& layer : kv_data_) {
      layer.resize(indices_.size() * static_cast<std::size_t>(layout_.page_elements()) * 2);
      for (std::uint16_t& element : layer) {
        element = f32_to_f16(random.normal());
      }
    }
    q_.resize(seq_lens_.size() * 8 * 64);
    for (float& element : q_) {
      element = random.normal();
    }
    out_.resize(q_.size());
    lse_.resize(seq_lens_.size() * 8);
  }

  BatchState batch() const {
    return BatchState::make({.shape = kShape,
                             .page_size = 16,
                             .seq_lens = seq_lens_,
                             .block_table = BlockTable::csr(indptr_, indices_).value(),
                             .num_pages = static_cast<std::int64_t>(indices_.size())})
        .value();
  }
  RunArgs args(std::size_t layer) {
    const std::uint16_t* k = kv_data_[layer].data();
    return {.batch = batch(),
            .q = dense_queries(q_.data(), DType::kF32, kShape),
            .kv = {.k = k,
                   .v = k + kv_data_[layer].size() / 2,
                   .dtype = DType::kF16,
                   .layout = layout_,
                   .num_pages = static_cast<std::int64_t>(indices_.size())},
            .out = dense_outputs(out_.data(), DType::kF32, kShape),
            .lse = lse_};
  }
  void expect_correct(std::size_t layer) {
    const ReferenceOutput expected = reference_attention(args(layer)).value();
    for (std::size_t i = 0; i < out_.size(); ++i) {
      ASSERT_NEAR(out_[i], expected.out[i], 1e-4) << i;
    }
    for (std::size_t i = 0; i < lse_.size(); ++i) {
      if (std::isinf(expected.lse[i])) {
        ASSERT_EQ(lse_[i], -std::numeric_limits<float>::infinity());
      } else {
        ASSERT_NEAR(lse_[i], expected.lse[i], 1e-4) << i;
      }
    }
  }

  std::vector<std::int32_t> seq_lens_;
  std::vector<std::int32_t> indptr_, indices_;
  KvLayout layout_;
  std::vector<std::uint16_t> kv_data_[2];
  std::vector<float> q_, out_, lse_;
};

TEST_F(EngineTest, OneDecision_ServesAllLayers) {
  Engine engine = Engine::create({.cpu = {.threads = 2}}).value();
  const Decision decision = engine.decide(batch(), DType::kF16).value();
  EXPECT_EQ(decision.plan.route(), Route::kPages);
  EXPECT_EQ(decision.plan.merge_mode(), MergeMode::kFused);
  EXPECT_THAT(decision.reason(), ::testing::HasSubstr("the rule for CPUs: pages, "));
  EXPECT_GT(decision.plan_ns, 0);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const StepRecord record = engine.run(decision, args(layer)).value();
    expect_correct(layer);
    EXPECT_EQ(record.route, decision.plan.route());
    EXPECT_EQ(record.num_rows, 5);
    EXPECT_EQ(record.useful_kv_bytes, 1318 * 2 * 64 * 2 * 2);
    EXPECT_GE(record.wall_ns, record.plan_ns + record.run.total_ns);
    EXPECT_DOUBLE_EQ(record.predicted_ns.value(), decision.predicted_ns);
  }
}

TEST_F(EngineTest, EveryRoute_GivesTheSameAnswer) {
  Engine engine = Engine::create({.cpu = {.threads = 2}}).value();
  for (const Route route : kAllRoutes) {
    const Decision decision = engine.plan(batch(), DType::kF16, {.route = route}).value();
    ASSERT_EQ(decision.plan.route(), route);
    ASSERT_TRUE(engine.run(decision, args(0)).ok());
    expect_correct(0);
  }
}

TEST_F(EngineTest, AllRoutesNamed_AreDecidedByPrice) {
  const std::vector<Route> all(std::begin(kAllRoutes), std::end(kAllRoutes));
  Engine engine = Engine::create({.cpu = {.threads = 2}, .routes = all}).value();
  const Decision decision = engine.decide(batch(), DType::kF16).value();
  ASSERT_FALSE(decision.candidates.empty());
  EXPECT_EQ(decision.candidates.front().route, decision.plan.route());
  EXPECT_GT(decision.predicted_ns, 0.0);
  EXPECT_FALSE(decision.reason().empty());
}

TEST_F(EngineTest, Layers_ShareTheDecision) {
  const std::vector<Route> routes = {Route::kPages};
  const Decision one = Engine::create({.cpu = {.threads = 2}, .routes = routes})->decide(batch(), DType::kF16).value();
  Engine engine = Engine::create({.cpu = {.threads = 2}, .routes = routes, .num_layers = 32}).value();
  const Decision all = engine.decide(batch(), DType::kF16).value();
  EXPECT_LE(all.price.device_ns, one.price.device_ns);  // a search pays sooner
  EXPECT_LT(all.price.plan_ns, one.price.plan_ns / 16.0);
  ASSERT_TRUE(engine.run(all, args(0)).ok());
  expect_correct(0);
}

/// Runs on the CPU and says that each run took the same time, as many SMs as an H100 has.
class SteadyBackend : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "steady"; }
  [[nodiscard]] std::string describe() const override { return cpu_->describe(); }
  [[nodiscard]] Capabilities capabilities() const override { return cpu_->capabilities(); }
  [[nodiscard]] std::int32_t num_workers() const override { return 132; }
  Status reserve(const Plan& plan) override { return cpu_->reserve(plan); }
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    PKV_RETURN_IF_ERROR(cpu_->run(plan, args));
    return RunTimes{.total_ns = 1'000'000, .decode_ns = 1'000'000};
  }

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend({.threads = 2}).value();
};

class LongStepTest : public EngineTest {
 protected:
  LongStepTest() : EngineTest({14000, 300, 7000}) {}
};

// Prices of a GPU's kernels, by which plans of nearly one price are tried.
TEST_F(LongStepTest, Trial_RunsInTheSecondLayer_AndIsAsExact) {
  const std::vector<Route> all(std::begin(kAllRoutes), std::end(kAllRoutes));
  Engine engine = Engine::create(std::make_unique<SteadyBackend>(),
                                 {.routes = all, .profile = shipped_profile("h100").value(), .num_layers = 32})
                      .value();
  int trials = 0;
  for (int step = 0; step < 8; ++step) {
    const Decision decision = engine.decide(batch(), DType::kF16).value();
    trials += decision.trial ? 1 : 0;
    for (std::size_t layer = 0; layer < 4; ++layer) {
      const StepRecord record = engine.run(decision, args(layer % 2)).value();
      const Plan& plan = decision.trial && layer == 1 ? decision.trial->plan : decision.plan;
      EXPECT_EQ(record.max_splits, plan.max_splits());
      EXPECT_EQ(record.counters.num_tasks, plan.counters().num_tasks);
      expect_correct(layer % 2);
    }
  }
  EXPECT_GE(trials, 1);
}

TEST_F(EngineTest, RoutesOfOptions_AreTheOnlyCandidates) {
  Engine engine = Engine::create({.cpu = {.threads = 1}, .routes = {Route::kSplit}}).value();
  EXPECT_EQ(engine.decide(batch(), DType::kF16)->plan.route(), Route::kSplit);
  EXPECT_EQ(engine.profile()->num_workers, 1);
}

TEST_F(EngineTest, OtherBatchThanPlanned_IsAnError) {
  Engine engine = Engine::create({.cpu = {.threads = 1}}).value();
  const Decision decision = engine.decide(batch(), DType::kF16).value();
  seq_lens_[0] = 299;
  EXPECT_EQ(engine.run(decision, args(0)).error().where, "plan");
}

TEST_F(EngineTest, TensorsThatDoNotFit_AreErrorsThatNameThem) {
  Engine engine = Engine::create({.cpu = {.threads = 1}}).value();
  const Decision decision = engine.decide(batch(), DType::kF16).value();
  const auto where = [&](const RunArgs& bad) { return engine.run(decision, bad).error().where; };
  RunArgs bad = args(0);
  bad.q.data = nullptr;
  EXPECT_EQ(where(bad), "q");
  bad = args(0);
  bad.out.head_stride = 63;
  EXPECT_EQ(where(bad), "out.head_stride");
  bad = args(0);
  bad.q.row_stride = 511;
  EXPECT_EQ(where(bad), "q.row_stride");
  bad = args(0);
  bad.q.row_stride = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(where(bad), "q strides");
  bad.q.head_stride = bad.q.row_stride;
  EXPECT_EQ(where(bad), "q strides");
  bad = args(0);
  bad.lse = bad.lse.subspan(1);
  EXPECT_EQ(where(bad), "lse");
  bad = args(0);
  const std::vector<float> sinks(8);
  bad.sinks = sinks;
  EXPECT_EQ(where(bad), "sinks");
  bad = args(0);
  bad.kv.v = nullptr;
  EXPECT_EQ(where(bad), "kv.v");
  bad = args(0);
  bad.kv.num_pages -= 1;
  EXPECT_EQ(where(bad), "kv.num_pages");
  bad = args(0);
  bad.kv.layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 8, kShape).value();
  EXPECT_EQ(where(bad), "kv.layout.page_size");
}

TEST_F(EngineTest, BackendOfTheCaller_RunsTheSameWay) {
  Engine engine = Engine::create(make_cpu_backend({.threads = 2}).value(), {.routes = {Route::kSplit}}).value();
  EXPECT_EQ(engine.backend().num_workers(), 2);
  EXPECT_EQ(engine.profile()->num_workers, 2);
  const Decision decision = engine.decide(batch(), DType::kF16).value();
  EXPECT_EQ(decision.plan.route(), Route::kSplit);
  ASSERT_TRUE(engine.run(decision, args(0)).ok());
  expect_correct(0);
}

TEST_F(EngineTest, RouteThatTheBackendLacks_IsAnError) {
  const auto refused = Engine::create({.cpu = {.threads = 1}, .routes = {Route::kRow, Route::kFlashInferCore}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(refused.error().to_string(), "routes: flashinfer-core is not run by the cpu backend");
  Engine engine = Engine::create({.cpu = {.threads = 1}}).value();
  EXPECT_EQ(engine.plan(batch(), DType::kF16, {.route = Route::kFlashInferTensor}).error().code,
            ErrorCode::kUnsupported);
}

TEST(ShapeSupport, WhatABackendLacks_IsNamed) {
  const Capabilities little{.max_head_dim = 64, .max_group_size = 4, .f16 = true};
  const auto where = [&](const AttentionShape& shape) {
    const Status status = validate_shape_support(shape, little, "tiny");
    return status.ok() ? std::string("ok") : status.error().where;
  };
  AttentionShape shape = kShape;
  EXPECT_EQ(where(shape), "ok");
  shape.logit_soft_cap = 30.0F;
  EXPECT_EQ(where(shape), "logit_soft_cap");
  shape = kShape;
  shape.sliding_window_tokens = 128;
  EXPECT_EQ(where(shape), "sliding_window_tokens");
  const Error error = validate_shape_support(shape, little, "tiny").error();
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_EQ(error.message, "128: sliding windows are not supported (backend tiny)");
  shape = kShape;
  shape.sinks = Sinks::kPerQueryHead;
  EXPECT_EQ(where(shape), "sinks");
  EXPECT_EQ(where({.num_q_heads = 8, .num_kv_heads = 8, .head_dim = 128}), "head_dim");
  EXPECT_EQ(where({.num_q_heads = 16, .num_kv_heads = 2, .head_dim = 64}), "group_size");
}

TEST(Engine, BadOptions_AreErrors) {
  EXPECT_FALSE(Engine::create({.cpu = {.threads = 0}}).ok());
  EXPECT_FALSE(Engine::create({.cpu = {.threads = -2}}).ok());
  EXPECT_FALSE(Engine::create({.cpu = {.threads = 1025}}).ok());
  EXPECT_EQ(Engine::create(nullptr, {}).error().where, "backend");
  EXPECT_EQ(Engine::create({.cpu = {.threads = 1}, .num_layers = 0}).error().to_string(),
            "num_layers: 0 is outside 1 to 1024");
  DeviceProfile profile = shipped_profile("cpu").value();
  profile.launch_ns = -1.0;
  EXPECT_EQ(Engine::create({.cpu = {.threads = 1}, .profile = profile}).error().where, "profile.launch_ns");
}

}  // namespace
}  // namespace pkv

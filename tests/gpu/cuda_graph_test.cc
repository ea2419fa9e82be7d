// Captured graphs: one capture replays steps of other lengths and rows, and refuses what it cannot hold.
// Not here: runs without a graph (cuda_backend_test.cc), the arithmetic of bounds (exec_cuda).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gpu/device_rig.h"

namespace pkv::testing {
namespace {

using ::testing::HasSubstr;
using Lens = std::vector<std::int32_t>;

constexpr std::int32_t kThousandPages = 16000;  // of 16 tokens

Lens one_long_row(std::int32_t others_len) {
  Lens lens(61, others_len);
  lens[17] = kThousandPages;
  return lens;
}

/// A graph captured for the largest step, and the tensors that it reads and writes.
class GraphRig {
 public:
  GraphRig(CudaBackend& backend, const CaseSpec& largest, const PlanOptions& options, double slack = 1.5)
      : backend_(backend), options_(options), largest_(largest), rig_(backend, largest_) {
    const Plan plan = make_plan(largest_.batch(), options).value();
    bounds_ = CudaGraphBounds::around(plan, largest_.batch(), slack);
    const RunArgs layers[] = {rig_.args(largest_)};
    Result<std::unique_ptr<CudaGraph>> graph = backend.capture(plan, largest_.batch(), bounds_, layers);
    EXPECT_TRUE(graph.ok()) << (graph.ok() ? "" : graph.error().to_string());
    graph_ = graph.ok() ? *std::move(graph) : nullptr;
  }

  /// Replays a step of these lengths; it and run() agree with the oracle.
  void expect_replay(const Lens& lens) {
    ASSERT_NE(graph_, nullptr);
    CaseSpec spec = largest_.spec();
    spec.lens = lens;
    spec.seed += 1;
    PagedCase paged(spec);
    rig_.load(paged);
    const Plan plan = make_plan(paged.batch(), options_).value();
    SCOPED_TRACE(plan.to_string(0));
    expect_ok(graph_->update(plan, paged.batch()));
    for (int i = 0; i < 2; ++i) {  // the second replay finds counters as the first left them
      rig_.poison();
      expect_ok(graph_->launch());
      expect_ok(backend_.synchronize());
      paged.expect_agreement(rig_.read(paged), kTensorCores);
    }
    paged.expect_agreement(run_on(backend_, rig_, paged, plan), kTensorCores);
  }

  /// What update() answers to a step of these lengths.
  Status update(const Lens& lens, const PlanOptions& options) {
    CaseSpec spec = largest_.spec();
    spec.lens = lens;
    const PagedCase paged(spec);
    return graph_->update(make_plan(paged.batch(), options).value(), paged.batch());
  }

  [[nodiscard]] const CudaGraphBounds& bounds() const { return bounds_; }

 private:
  CudaBackend& backend_;
  PlanOptions options_;
  PagedCase largest_;
  DeviceRig rig_;
  CudaGraphBounds bounds_;
  std::unique_ptr<CudaGraph> graph_;
};

PlanOptions split_plan(MergeMode merge = MergeMode::kSeparate) {
  return {.route = Route::kSplit, .splits = 24, .merge = merge};
}

class CudaGraphTest : public ::testing::TestWithParam<MergeMode> {
 protected:
  std::unique_ptr<CudaBackend> backend_ = make_cuda();
};

INSTANTIATE_TEST_SUITE_P(Merges, CudaGraphTest, ::testing::Values(MergeMode::kSeparate, MergeMode::kFused),
                         [](const auto& test) { return std::string(merge_mode_name(test.param)); });

TEST_P(CudaGraphTest, OtherLengthsAndFewerRows_EqualRun) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    GraphRig graph(*backend_, tensor_core_spec(dtype, Lens(20, 1000)), split_plan(GetParam()));
    graph.expect_replay(Lens(20, 1000));
    graph.expect_replay({17, 1000, 999, 1, 0, 512});
    graph.expect_replay({1});
    graph.expect_replay(Lens(20, 333));
  }
}

TEST_P(CudaGraphTest, ManyEmptyRowsAndOneOfAThousandPages_EqualRun) {
  GraphRig graph(*backend_, tensor_core_spec(DType::kF16, one_long_row(300)), split_plan(GetParam()));
  graph.expect_replay(one_long_row(0));
  graph.expect_replay(one_long_row(1));
  graph.expect_replay(Lens(61, 0));
  graph.expect_replay({kThousandPages});
}

TEST_P(CudaGraphTest, ZeroAndOneToken_EqualRun) {
  GraphRig graph(*backend_, tensor_core_spec(DType::kF16, Lens(8, 64)), split_plan(GetParam()));
  for (const Lens& lens : {Lens{0}, Lens{1}, Lens{0, 1, 0, 1}, Lens(8, 0), Lens(8, 1)}) {
    graph.expect_replay(lens);
  }
}

TEST_P(CudaGraphTest, WideTablesWithAbsurdIds_EqualRun) {
  CaseSpec spec = tensor_core_spec(DType::kBF16, {700, 650, 600, 500});
  spec.table = TableForm::kDense;
  GraphRig graph(*backend_, spec, split_plan(GetParam()));
  graph.expect_replay({700, 1, 0, 31});
  graph.expect_replay({15, 16, 17});
}

TEST_P(CudaGraphTest, WindowsSoftCapsAndSinks_EqualRun) {
  CaseSpec spec = tensor_core_spec(DType::kF16, {700, 650, 600, 500});
  spec.shape.sliding_window_tokens = 100;
  spec.shape.logit_soft_cap = 20.0F;
  spec.shape.sinks = Sinks::kPerQueryHead;
  GraphRig graph(*backend_, spec, split_plan(GetParam()));
  graph.expect_replay({700, 101, 100, 99});
  graph.expect_replay({0, 1, 650});
}

TEST_P(CudaGraphTest, HugeLogits_EqualRun) {
  CaseSpec spec = tensor_core_spec(DType::kF16, {200, 100}, 64);
  spec.q_scale = 1e4F;  // logits of -5e4 and below
  GraphRig graph(*backend_, spec, split_plan(GetParam()));
  graph.expect_replay({190, 3});
}

TEST_P(CudaGraphTest, SeveralLayers_AreAllReplayed) {
  PagedCase paged(tensor_core_spec(DType::kF16, {700, 30, 0}));
  DeviceRig first(*backend_, paged);
  DeviceRig second(*backend_, paged);
  const Plan plan = make_plan(paged.batch(), split_plan(GetParam())).value();
  const RunArgs layers[] = {first.args(paged), second.args(paged)};
  const auto graph = backend_->capture(plan, paged.batch(), CudaGraphBounds::around(plan, paged.batch()), layers);
  ASSERT_TRUE(graph.ok()) << graph.error().to_string();
  expect_ok((*graph)->launch());
  expect_ok(backend_->synchronize());
  paged.expect_agreement(first.read(paged), kTensorCores);
  paged.expect_agreement(second.read(paged), kTensorCores);
}

// Layers overlap, and have their partial states in the same place: none may take another's.
TEST_P(CudaGraphTest, LayersOfOtherQueries_DoNotMix) {
  constexpr int kLayers = 12;
  constexpr int kReplays = 10;
  for (const auto& [dtype, group_size] :
       {std::pair{DType::kF16, 4}, std::pair{DType::kF16, 16}, std::pair{DType::kF16, 32}, std::pair{DType::kF32, 4}}) {
    for (const std::int32_t splits : {2, 8, 16, 33, 66, 130}) {
      const CaseSpec spec = tensor_core_spec(dtype, {9000}, 128, group_size);
      const PagedCase paged(spec);
      const Plan plan =
          make_plan(paged.batch(), {.route = Route::kSplit, .splits = splits, .merge = GetParam()}).value();
      SCOPED_TRACE(plan.to_string(0));
      std::vector<std::unique_ptr<DeviceRig>> rigs;
      std::vector<CaseOutput> expected;
      std::vector<RunArgs> layers;
      for (int i = 0; i < kLayers; ++i) {
        CaseSpec other = spec;
        other.seed += static_cast<std::uint32_t>(i);
        rigs.push_back(std::make_unique<DeviceRig>(*backend_, paged));
        rigs.back()->load_queries(PagedCase(other));
        expected.push_back(run_on(*backend_, *rigs.back(), paged, plan));
        layers.push_back(rigs.back()->args(paged));
      }
      const auto graph = backend_->capture(plan, paged.batch(), CudaGraphBounds::around(plan, paged.batch()), layers);
      ASSERT_TRUE(graph.ok()) << graph.error().to_string();
      for (int replay = 0; replay < kReplays; ++replay) {
        for (const auto& rig : rigs) rig->poison();
        expect_ok((*graph)->launch());
        expect_ok(backend_->synchronize());
        for (std::size_t i = 0; i < rigs.size(); ++i) {
          ASSERT_EQ(rigs[i]->read(paged).out, expected[i].out) << "layer " << i << ", replay " << replay;
        }
      }
    }
  }
}

TEST_P(CudaGraphTest, StepsAboveABound_AreErrorsThatNameIt) {
  const PlanOptions options = split_plan(GetParam());
  GraphRig graph(*backend_, tensor_core_spec(DType::kF16, {500, 400}), options, 1.0);
  const auto expect_refused = [&](const Lens& lens, const PlanOptions& other, const std::string& bound) {
    const Status status = graph.update(lens, other);
    ASSERT_FALSE(status.ok()) << bound;
    EXPECT_EQ(status.error().code, ErrorCode::kOutOfRange);
    EXPECT_THAT(status.error().to_string(), HasSubstr("graph " + bound));
    EXPECT_THAT(status.error().to_string(), HasSubstr("above the captured bound of"));
  };
  expect_refused({20, 20, 20}, options, "rows");
  expect_refused({500, 500}, options, "tasks");
  PlanOptions whole = options;
  whole.splits = 1;
  expect_refused({5000, 400}, whole, "page ids");
}

TEST_P(CudaGraphTest, StepOfAnotherMergeMode_IsRefused) {
  GraphRig graph(*backend_, tensor_core_spec(DType::kF16, {500, 400}), split_plan(GetParam()));
  const MergeMode other = GetParam() == MergeMode::kFused ? MergeMode::kSeparate : MergeMode::kFused;
  const Status status = graph.update({500, 400}, split_plan(other));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().to_string(), HasSubstr("merge mode"));
}

TEST(CudaGraphCapture, RoutesOfSeveralLaunchesOrOtherProjects_AreRefused) {
  const std::unique_ptr<CudaBackend> backend = make_cuda();
  const PagedCase paged(tensor_core_spec(DType::kF16, {500, 400, 0}));
  const DeviceRig rig(*backend, paged);
  const RunArgs layers[] = {rig.args(paged)};
  for (const Route route : {Route::kBucket, Route::kFlashInferCore, Route::kFlashInferTensor}) {
    const Plan plan = make_plan(paged.batch(), {.route = route, .num_workers = 8}).value();
    const auto graph = backend->capture(plan, paged.batch(), CudaGraphBounds::around(plan, paged.batch(), 2.0), layers);
    ASSERT_FALSE(graph.ok()) << route_name(route);
    EXPECT_EQ(graph.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(graph.error().to_string(), HasSubstr(std::string(route_name(route))));
  }
  // The stream is usable afterwards.
  const Plan plan = make_plan(paged.batch(), split_plan()).value();
  EXPECT_TRUE(backend->capture(plan, paged.batch(), CudaGraphBounds::around(plan, paged.batch()), layers).ok());
}

// What compute-sanitizer runs (scripts/gpu-test).
TEST(CudaSmall, GraphReplay_AgreesWithTheOracle) {
  const std::unique_ptr<CudaBackend> backend = make_cuda();
  for (const MergeMode merge : {MergeMode::kSeparate, MergeMode::kFused}) {
    GraphRig graph(*backend, tensor_core_spec(DType::kF16, {130, 90, 20}), split_plan(merge));
    graph.expect_replay({0, 100, 1});
    graph.expect_replay({17});
  }
}

}  // namespace
}  // namespace pkv::testing

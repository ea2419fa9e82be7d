// The decode suite on NEON kernels, by one worker: the CPU backend without its pool and topology, which need
// libraries for Arm. Not here: its cases (support/decode_suite.cc).
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "exec/cpu/kernels.h"
#include "support/decode_suite.h"

namespace pkv::testing {
namespace {

/// Runs a plan's tasks and merges in their order, with the kernels of Isa::kPortable.
class SerialBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "serial"; }
  [[nodiscard]] std::string describe() const override { return "serial: portable kernels"; }
  [[nodiscard]] Capabilities capabilities() const override {
    return {.max_head_dim = kMaxHeadDim,
            .max_group_size = kMaxGroupSize,
            .soft_cap = true,
            .sliding_window = true,
            .sinks = true,
            .f32 = true,
            .f16 = true,
            .bf16 = true};
  }
  [[nodiscard]] std::int32_t num_workers() const override { return 1; }
  Status reserve(const Plan& plan) override { return validate_shape_support(plan.shape(), capabilities(), name()); }

  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
    const AttentionShape& shape = plan.shape();
    const KernelTable& kernels = *find_kernels(Isa::kPortable);
    const std::size_t states = static_cast<std::size_t>(plan.counters().num_partial_slots * shape.group_size());
    std::vector<float> ml(2 * states), acc(states * static_cast<std::size_t>(shape.head_dim));
    const StepArgs step = {
        .shape = shape,
        .scale = shape.scale(),
        .block_table = args.batch.block_table(),
        .q = args.q,
        .kv = args.kv,
        .out = args.out,
        .lse = args.lse.empty() ? nullptr : args.lse.data(),
        .sinks = args.sinks.empty() ? nullptr : args.sinks.data(),
        .partials = {.ml = ml.data(), .acc = acc.data(), .group_size = shape.group_size(), .head_dim = shape.head_dim},
        .write_head = kernels.write_head};
    const std::int32_t heads = plan.kv_heads_per_task() * shape.group_size();
    std::vector<std::byte> memory(static_cast<std::size_t>(Scratch::bytes(shape, heads, plan.max_splits())) + 64);
    auto* aligned = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    const Scratch scratch = Scratch::make(aligned, shape, heads, plan.max_splits());
    const Lookahead nothing = {.next = [](void*) -> const Task* { return nullptr; }, .context = nullptr};
    for (const Task& task : plan.tasks()) {
      kernels.decode(step, task, scratch, nothing);
    }
    for (const MergeRange& range : plan.merges()) {
      for (std::int32_t head = 0; head < shape.num_kv_heads; ++head) {
        kernels.merge(step, range, head, scratch);
      }
    }
    return RunTimes{};
  }
};

TEST(ArmKernels, Portable_AreNeon) {
  EXPECT_EQ(find_kernels(Isa::kPortable)->vector_bytes, 16);
  EXPECT_EQ(supported_isas(), std::vector<Isa>{Isa::kPortable});
}

INSTANTIATE_TEST_SUITE_P(Neon, DecodeOnBackend,
                         ::testing::Values(BackendCase{.name = "neon",
                                                       .make = [] { return std::make_shared<SerialBackend>(); }}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace pkv::testing

// Backends for tests: one that computes with the oracle, and one that spoils another's results.
#pragma once

#include <functional>
#include <vector>

#include "base/half.h"
#include "persistentkv/backend.h"
#include "persistentkv/reference.h"

namespace pkv::testing {

/// Computes with the oracle and remembers which routes ran in which order.
class OracleBackend : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "oracle"; }
  [[nodiscard]] std::string describe() const override { return "oracle backend of the tests"; }
  [[nodiscard]] Capabilities capabilities() const override {
    return {.max_head_dim = 512,
            .max_group_size = 64,
            .soft_cap = true,
            .sliding_window = true,
            .sinks = true,
            .f32 = true,
            .f16 = true,
            .bf16 = true};
  }
  [[nodiscard]] std::int32_t num_workers() const override { return 2; }

  Status reserve(const Plan&) override { return {}; }

  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
    routes.push_back(plan.route());
    first_pages.push_back(args.batch.block_table().row(0)[0]);
    const auto result = reference_attention(args);
    if (!result.ok()) {
      return result.error();
    }
    const AttentionShape& shape = args.batch.shape();
    std::int64_t i = 0;
    for (std::int64_t row = 0; row < args.batch.num_rows(); ++row) {
      for (std::int64_t head = 0; head < shape.num_q_heads; ++head) {
        for (std::int64_t d = 0; d < shape.head_dim; ++d, ++i) {
          store_element(args.out.data, args.out.dtype, row * args.out.row_stride + head * args.out.head_stride + d,
                        static_cast<float>(result->out[static_cast<std::size_t>(i)]));
        }
      }
    }
    for (std::size_t j = 0; j < args.lse.size(); ++j) {
      args.lse[j] = static_cast<float>(result->lse[j]);
    }
    return RunTimes{.total_ns = 1000, .decode_ns = 800, .merge_ns = 100, .dispatch_ns = 100};
  }

  std::vector<Route> routes;
  std::vector<std::int32_t> first_pages;
};

/// Runs another backend, then spoils: called with the number of the run (from 0), the plan and the tensors.
class SpoiledBackend final : public OracleBackend {
 public:
  using Spoil = std::function<Status(std::int64_t run_idx, const Plan& plan, const RunArgs& args)>;
  SpoiledBackend(Backend& inner, Spoil spoil) : inner_(inner), spoil_(std::move(spoil)) {}

  Status reserve(const Plan& plan) override { return inner_.reserve(plan); }
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    Result<RunTimes> times = inner_.run(plan, args);
    if (times.ok()) {
      PKV_RETURN_IF_ERROR(spoil_(runs_++, plan, args));
    }
    return times;
  }

 private:
  Backend& inner_;
  Spoil spoil_;
  std::int64_t runs_ = 0;
};

}  // namespace pkv::testing

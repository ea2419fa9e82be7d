// Validation of what replay and run have in common, and names of modes and backends.
// Not here: what depends on a trace or a backend (measure.cc).
#include "replay/options.h"

#include <fmt/format.h>

#include <algorithm>

namespace pkv {
namespace {

constexpr std::int32_t kMaxWarmupSteps = 1000000;
constexpr std::int32_t kMaxMlpSize = 1 << 20;
constexpr std::int32_t kMaxOracleRepeats = 1000;

Error invalid(std::string message, std::string where) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(where)};
}

Status validate_external(const RouteChoice& choice, const std::string& where) {
  if (choice.splits || choice.kv_heads_per_task || choice.merge == MergeMode::kFused) {
    return invalid("plans itself: it takes no splits, heads a task or merge mode", where);
  }
  return {};
}

Status validate_merge(const RouteChoice& choice, const std::string& where) {
  if (choice.merge == MergeMode::kSeparate) {
    return {};
  }
  if (choice.route == Route::kRow) {
    return invalid("merge is fused, must be separate: only other routes split rows", where);
  }
  return {};
}

Status validate_routes(const std::vector<RouteChoice>& routes) {
  if (routes.empty()) {
    return invalid("at least one route is needed", "routes");
  }
  for (std::size_t i = 0; i < routes.size(); ++i) {
    const std::string where = fmt::format("routes[{}] {}", i, route_name(routes[i].route));
    if (routes[i].splits.value_or(1) < 1) {
      return invalid(fmt::format("splits is {}, must be at least 1", *routes[i].splits), where);
    }
    if (routes[i].route == Route::kRow && routes[i].splits.value_or(1) != 1) {
      return invalid(fmt::format("splits is {}, must be 1: only other routes split rows", *routes[i].splits), where);
    }
    PKV_RETURN_IF_ERROR(is_external(routes[i].route) ? validate_external(routes[i], where)
                                                     : validate_merge(routes[i], where));
    if (std::find(routes.begin(), routes.begin() + static_cast<std::ptrdiff_t>(i), routes[i]) !=
        routes.begin() + static_cast<std::ptrdiff_t>(i)) {
      return invalid("the same route with the same splits is named twice", where);
    }
  }
  return {};
}

Status validate_policy(const RunOptions& options) {
  const auto policies =
      std::ranges::count_if(options.routes, [](const auto& choice) { return choice.policy.has_value(); });
  if (policies > 1) {
    return invalid(fmt::format("{} policies, at most 1 can take part", policies), "policy");
  }
  if ((policies > 0 || options.backend == BackendKind::kSim) && !options.profile) {
    return invalid("is not set; policies and the backend sim need its prices", "profile");
  }
  if (options.oracle_repeats < 0 || options.oracle_repeats > kMaxOracleRepeats) {
    return invalid(fmt::format("{} repeats, must be 0 to {}", options.oracle_repeats, kMaxOracleRepeats), "oracle");
  }
  if (options.oracle_repeats > 0 && policies == 0) {
    return invalid("needs a policy, whose regret it measures", "oracle");
  }
  return options.profile ? validate(*options.profile) : Status{};
}

Status validate_mlp(const MlpProxy& mlp) {
  if (mlp.hidden < 1 || mlp.hidden > kMaxMlpSize) {
    return invalid(fmt::format("hidden is {}, must be 1 to {}", mlp.hidden, kMaxMlpSize), "mlp");
  }
  if (mlp.intermediate < 1 || mlp.intermediate > kMaxMlpSize) {
    return invalid(fmt::format("intermediate is {}, must be 1 to {}", mlp.intermediate, kMaxMlpSize), "mlp");
  }
  return {};
}

}  // namespace

std::string_view backend_kind_name(BackendKind kind) {
  switch (kind) {
    case BackendKind::kCpu: return "cpu";
    case BackendKind::kCuda: return "cuda";
    case BackendKind::kSim: return "sim";
  }
  return "unknown";
}

Result<BackendKind> parse_backend_kind(std::string_view name) {
  for (const BackendKind kind : {BackendKind::kCpu, BackendKind::kCuda, BackendKind::kSim}) {
    if (name == backend_kind_name(kind)) {
      return kind;
    }
  }
  return invalid(fmt::format("unknown backend '{}', must be one of cpu, cuda, sim", name), "backend");
}

Result<VerifyMode> parse_verify_mode(std::string_view name) {
  for (const VerifyMode mode : {VerifyMode::kOff, VerifyMode::kSample, VerifyMode::kEvery}) {
    if (name == verify_mode_name(mode)) {
      return mode;
    }
  }
  return invalid(fmt::format("unknown mode '{}', must be one of off, sample, every", name), "verify");
}

std::string_view verify_mode_name(VerifyMode mode) {
  switch (mode) {
    case VerifyMode::kOff: return "off";
    case VerifyMode::kSample: return "sample";
    case VerifyMode::kEvery: return "every";
  }
  return "unknown";
}

Status validate(const RunOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options.shape));
  PKV_RETURN_IF_ERROR(validate_routes(options.routes));
  PKV_RETURN_IF_ERROR(validate_policy(options));
  if (options.warmup_steps < 0 || options.warmup_steps > kMaxWarmupSteps) {
    return invalid(fmt::format("{} warm-up steps, must be 0 to {}", options.warmup_steps, kMaxWarmupSteps), "warmup");
  }
  if (options.num_layers < 1 || options.num_layers > kMaxLayers) {
    return invalid(fmt::format("{} layers, must be 1 to {}", options.num_layers, kMaxLayers), "layers");
  }
  if (options.sample_stride < 1) {
    return invalid(fmt::format("stride is {}, must be at least 1", options.sample_stride), "verify sample");
  }
  if (options.memory_limit_bytes.value_or(1) < 1) {
    return invalid(fmt::format("limit is {} bytes, must be positive", *options.memory_limit_bytes), "memory");
  }
  return options.mlp ? validate_mlp(*options.mlp) : Status{};
}

}  // namespace pkv

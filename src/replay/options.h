// What `pkv replay` and `pkv run` have in common: what is computed, by which routes, how it is checked.
// Not here: where steps come from (replay.h, step.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "persistentkv/cpu.h"
#include "persistentkv/cuda.h"
#include "persistentkv/decision.h"
#include "persistentkv/dtype.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"
#include "persistentkv/shape.h"

namespace pkv {

/// Which backend a run makes for itself.
enum class BackendKind : std::uint8_t { kCpu, kCuda, kSim };

/// "cpu", "cuda", "sim".
std::string_view backend_kind_name(BackendKind kind);
/// Errors: kInvalidArgument that lists the names.
Result<BackendKind> parse_backend_kind(std::string_view name);

/// A route to measure; the same route may appear with several splits. External routes take nothing else.
struct RouteChoice {
  Route route = Route::kRow;
  /// The route chooses from the number of workers when not set.
  std::optional<std::int32_t> splits;
  /// KV heads a task; the route chooses when not set.
  std::optional<std::int32_t> kv_heads_per_task = std::nullopt;
  /// kFused is for routes that split rows; on backends with device memory with one KV head a task.
  MergeMode merge = MergeMode::kSeparate;
  /// Set: the policy chooses the plan of every step, and nothing above counts. At most one of a run.
  std::optional<PolicyKind> policy = std::nullopt;

  friend bool operator==(const RouteChoice&, const RouteChoice&) = default;
};

/// Which measured steps are compared with the float64 oracle, in untimed passes of their own.
enum class VerifyMode : std::uint8_t {
  kOff,
  kSample,  // the first and every sample_stride-th measured step
  kEvery,
};

/// "off", "sample", "every". Errors: kInvalidArgument that lists the names.
Result<VerifyMode> parse_verify_mode(std::string_view name);
std::string_view verify_mode_name(VerifyMode mode);

/// Sizes of the layer around the attention: projections Q, K, V, O and gated MLP (gate, up, down).
struct MlpProxy {
  std::int32_t hidden = 0;
  std::int32_t intermediate = 0;
};

struct RunOptions {
  AttentionShape shape;
  KvOrder order = KvOrder::kHND;
  KvPacking packing = KvPacking::kSeparate;
  DType kv_dtype = DType::kF16;
  /// As kv_dtype when not set. Outputs are FP32 where tensors lie in host memory, so that errors are the
  /// kernel's own; on a device they have the type of the queries, as in serving.
  std::optional<DType> query_dtype;
  /// In the order of the report. At least one.
  std::vector<RouteChoice> routes;
  /// Ratios are against it; against the first of `routes` if it is not among them.
  Route baseline = Route::kRow;
  /// Unmeasured executions of the first measured step by every route, before anything is measured.
  /// They take no step of the trace away.
  std::int32_t warmup_steps = 2;
  VerifyMode verify = VerifyMode::kSample;
  std::int32_t sample_stride = 16;
  std::optional<MlpProxy> mlp;
  /// Of the backend, or for kSim instead of one. Prices every plan; needed by policies and by kSim.
  std::optional<DeviceProfile> profile;
  Learning learning = Learning::kOn;
  /// Attention layers that run each plan. Times stay those of one layer, of which wall_ns then has 1 / num_layers of
  /// what is not the device's: validation, deciding, planning, copies of plans. 1 to kMaxLayers.
  std::int32_t num_layers = 1;
  /// Above 0, with a policy: every participant runs every step so often, interleaved, and the medians count.
  std::int32_t oracle_repeats = 0;
  BackendKind backend = BackendKind::kCpu;
  /// Of the backend that is made; the other one's options are not used.
  CpuOptions cpu;
  CudaOptions cuda;
  /// Seeds K, V, queries, sinks and weights.
  std::uint64_t data_seed = 1;
  /// Bytes that may be allocated, in host memory and on the device each; what is available there when not
  /// set or when that is less.
  std::optional<std::int64_t> memory_limit_bytes;
};

/// Checks every field that does not need a trace. Errors: kInvalidArgument naming field, value and limit.
Status validate(const RunOptions& options);

}  // namespace pkv

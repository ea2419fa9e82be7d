// Arguments that replay, run and tour share: shape, layout, routes, backend, workers, verification.
// Not here: traces (trace_arguments.h), measuring (src/replay).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "options.h"
#include "replay/options.h"

namespace pkv::cli {

/// As typed; unset is the default.
struct ShapeArguments {
  std::optional<std::int64_t> q_heads, kv_heads, head_dim, window;
  std::optional<double> softmax_scale, soft_cap;
  std::optional<bool> sinks;
};

struct KvArguments {
  std::optional<std::int64_t> page_size, page_seed;
  std::optional<DType> dtype, query_dtype;
  std::optional<KvOrder> layout;
  std::optional<KvPacking> packing;
  std::optional<double> hole_fraction;
};

struct BackendChoice {
  BackendKind kind = BackendKind::kCpu;
  /// Of kSim.
  std::string profile = {};
};

struct BackendArguments {
  std::optional<BackendChoice> backend;
  std::optional<std::int64_t> device;
};

struct WorkerArguments {
  std::optional<std::int64_t> threads;
  std::optional<bool> pin;
  std::optional<WaitMode> wait;
  std::optional<Isa> isa;
};

struct RouteArguments {
  std::optional<std::string> routes, splits, baseline;
  std::optional<std::int64_t> heads_per_task;
  std::optional<MergeMode> merge;
};

struct MeasureArguments {
  std::optional<VerifyMode> verify;
  std::optional<std::string> mlp;
  std::optional<std::int64_t> warmup, memory_limit, layers;
  std::optional<bool> plan_only;
  std::optional<std::int64_t> sms;
};

struct PolicyArguments {
  std::optional<PolicyKind> policy;
  std::optional<std::string> profile;
  std::optional<bool> oracle, learn;
  std::optional<std::int64_t> oracle_repeats;
};

struct RunArguments {
  ShapeArguments shape;
  KvArguments kv;
  BackendArguments backend;
  WorkerArguments workers;
  RouteArguments routes;
  MeasureArguments measure;
  PolicyArguments policy;
};

void add_shape_options(Options& options, ShapeArguments& shape);
void add_kv_options(Options& options, KvArguments& kv);
void add_backend_options(Options& options, BackendArguments& backend);
void add_worker_options(Options& options, WorkerArguments& workers);
void add_route_options(Options& options, RouteArguments& routes);
void add_measure_options(Options& options, MeasureArguments& measure);
void add_layers_option(Options& options, MeasureArguments& measure);
void add_policy_options(Options& options, PolicyArguments& policy);
/// All of the above, in the order of the help text.
void add_run_options(Options& options, RunArguments& arguments);

/// Defaults filled in, combinations checked. Fails on arguments that would have no effect.
RunOptions resolve(const RunArguments& arguments, std::uint64_t data_seed);
/// Workers or SMs to plan for, if --plan-only.
std::optional<std::int32_t> plan_only_workers(const RunArguments& arguments);
std::int32_t page_size_of(const KvArguments& kv);
CpuOptions resolve_workers(const WorkerArguments& workers);
bool is_cuda(const BackendArguments& backend);
bool is_sim(const BackendArguments& backend);
CudaOptions resolve_cuda(const BackendArguments& backend);
/// Fails on options of the one backend that were given with the other.
void check_backend(const BackendArguments& backend, const WorkerArguments& workers);
/// " --backend cuda --device 1": what repeats the choice; empty for the default.
std::string backend_text(const BackendArguments& backend);

/// "row,workqueue"; "all" stands for our own routes, "all,flashinfer-core" adds one.
std::vector<Route> parse_routes(std::string_view option, std::string_view text);

}  // namespace pkv::cli

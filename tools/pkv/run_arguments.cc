// Arguments that replay, run and tour share, and how they become RunOptions.
// Not here: traces (trace_arguments.cc).
#include "run_arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "exec/cpu/topology.h"
#include "machine_profile.h"

namespace pkv::cli {
namespace {

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxThreads = 1024;
constexpr std::int64_t kMaxSms = 65536;
constexpr std::int64_t kMaxSplits = 1 << 20;
constexpr std::int64_t kMaxWarmup = 1000000;
constexpr std::int64_t kMaxMlpSize = 1 << 20;
constexpr std::int64_t kMaxDevice = 1023;
constexpr std::int32_t kOracleRepeats = 7;
constexpr std::int64_t kMaxOracleRepeats = 1000;

Result<BackendChoice> parse_backend(std::string_view name) {
  constexpr std::string_view kSim = "sim:";
  if (name.starts_with(kSim) && name.size() > kSim.size()) {
    return BackendChoice{.kind = BackendKind::kSim, .profile = std::string(name.substr(kSim.size()))};
  }
  const auto kind = parse_backend_kind(name);
  if (!kind.ok() || *kind == BackendKind::kSim) return Error{};
  return BackendChoice{.kind = *kind};
}

Result<KvPacking> parse_packing(std::string_view name) {
  if (name == "separate") return KvPacking::kSeparate;
  if (name == "packed") return KvPacking::kPacked;
  return Error{};
}

Result<WaitMode> parse_wait(std::string_view name) {
  if (name == "spin") return WaitMode::kSpin;
  if (name == "sleep") return WaitMode::kSleep;
  return Error{};
}

BackendKind kind_of(const BackendArguments& backend) {
  return backend.backend ? backend.backend->kind : BackendKind::kCpu;
}

std::int32_t to_int32(std::optional<std::int64_t> value, std::int32_t fallback) {
  return static_cast<std::int32_t>(value.value_or(fallback));
}

std::vector<std::string> route_names() {
  std::vector<std::string> names;
  for (const Route route : kAllRoutes) names.emplace_back(route_name(route));
  for (const Route route : kExternalRoutes) names.emplace_back(route_name(route));
  return names;
}

Route parse_route_at(std::string_view option, const std::string& name) {
  const Result<Route> route = parse_route(name);
  if (!route.ok()) fail(std::string(option), unknown_name("route", name, route_names()));
  return route.value();
}

RouteChoice& find_choice(std::vector<RouteChoice>& choices, Route route, std::string_view option) {
  const auto found = std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.route == route; });
  if (found == choices.end())
    fail(std::string(option), fmt::format("route '{}' is not one of --routes", route_name(route)));
  return *found;
}

bool takes_splits(const RouteChoice& choice) { return choice.route != Route::kRow && !is_external(choice.route); }

// What splits, heads a task and merge modes can be set for, or the end: an option without effect is an error.
template <typename Takes>
std::vector<RouteChoice*> choices_that(Takes takes, std::vector<RouteChoice>& choices, std::string_view option,
                                       std::string_view value) {
  std::vector<RouteChoice*> chosen;
  std::vector<std::string_view> names;
  for (RouteChoice& choice : choices) {
    names.push_back(route_name(choice.route));
    if (takes(choice)) chosen.push_back(&choice);
  }
  if (chosen.empty()) {
    fail(std::string(option),
         fmt::format("{} has no effect: --routes {} can do nothing with it", value, fmt::join(names, ",")));
  }
  return chosen;
}

// "20" for all routes that split.
void set_all_splits(std::vector<RouteChoice>& choices, const std::string& text) {
  const auto splits = static_cast<std::int32_t>(parse_int("--splits", text, {.min = 1, .max = kMaxSplits}));
  if (choices.size() == 1 && choices[0].route == Route::kRow && splits == 1) return;
  for (RouteChoice* choice : choices_that(takes_splits, choices, "--splits", text)) choice->splits = splits;
}

// "bucket=32,workqueue=20".
void set_named_splits(std::vector<RouteChoice>& choices, const std::string& text) {
  for (const std::string& part : split_list("--splits", text)) {
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos) {
      fail("--splits", fmt::format("'{}' is neither N nor ROUTE=N (as in bucket=32,workqueue=20)", part));
    }
    const Route route = parse_route_at("--splits", part.substr(0, equals));
    const std::int64_t max = route == Route::kRow ? 1 : kMaxSplits;
    if (is_external(route)) {
      fail("--splits", fmt::format("route '{}' plans itself; it takes no splits", route_name(route)));
    }
    RouteChoice& choice = find_choice(choices, route, "--splits");
    if (choice.splits) fail("--splits", fmt::format("route '{}' is given twice; at most once", route_name(route)));
    choice.splits = static_cast<std::int32_t>(
        parse_int(fmt::format("--splits {}", route_name(route)), part.substr(equals + 1), {.min = 1, .max = max}));
  }
}

std::vector<RouteChoice> resolve_routes(const RouteArguments& arguments) {
  std::vector<RouteChoice> choices;
  for (const Route route : parse_routes("--routes", arguments.routes.value_or("all")))
    choices.push_back({.route = route, .splits = std::nullopt});
  if (arguments.splits) {
    const bool named = arguments.splits->find_first_of("=,") != std::string::npos;
    named ? set_named_splits(choices, *arguments.splits) : set_all_splits(choices, *arguments.splits);
  }
  return choices;
}

void set_heads_per_task(std::vector<RouteChoice>& choices, std::int64_t heads, std::int32_t num_kv_heads) {
  if (heads > num_kv_heads) {
    fail("--heads-per-task", fmt::format("{} is out of range; it must be 1 to --kv-heads = {}", heads, num_kv_heads));
  }
  const auto is_ours = [](const RouteChoice& choice) { return !is_external(choice.route); };
  for (RouteChoice* choice : choices_that(is_ours, choices, "--heads-per-task", fmt::format("{}", heads))) {
    choice->kv_heads_per_task = static_cast<std::int32_t>(heads);
  }
}

// After the heads a task are known: on a GPU the last finisher of one KV head is counted.
void set_merge(std::vector<RouteChoice>& choices, MergeMode merge, bool on_gpu) {
  for (RouteChoice* choice : choices_that(takes_splits, choices, "--merge", merge_mode_name(merge))) {
    const bool one_head = choice->kv_heads_per_task.value_or(choice->route == Route::kPages ? 0 : 1) == 1;
    if (merge == MergeMode::kFused && on_gpu && !one_head) {
      fail("--merge",
           fmt::format("fused takes 1 KV head a task on a GPU, but route '{}' has {}; leave it out of --routes or "
                       "take --heads-per-task 1",
                       route_name(choice->route),
                       choice->kv_heads_per_task ? fmt::format("{}", *choice->kv_heads_per_task) : "all"));
    }
    choice->merge = merge;
  }
}

Route resolve_baseline(const RouteArguments& arguments, std::vector<RouteChoice>& choices) {
  if (arguments.baseline) {
    return find_choice(choices, parse_route_at("--baseline", *arguments.baseline), "--baseline").route;
  }
  return Route::kRow;  // the first route stands in when row is not measured
}

std::optional<MlpProxy> resolve_mlp(const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  const std::vector<std::string> sizes = split_list("--mlp", *text);
  if (sizes.size() != 2)
    fail("--mlp", fmt::format("'{}' has {} sizes; it must be HIDDEN,INTERMEDIATE", *text, sizes.size()));
  const IntLimits limits{.min = 1, .max = kMaxMlpSize};
  return MlpProxy{.hidden = static_cast<std::int32_t>(parse_int("--mlp hidden", sizes[0], limits)),
                  .intermediate = static_cast<std::int32_t>(parse_int("--mlp intermediate", sizes[1], limits))};
}

// The library names its fields; users typed options.
void check_shape(const AttentionShape& shape) {
  const Status status = validate(shape);
  if (status.ok()) return;
  Error error = status.error();
  constexpr std::pair<std::string_view, std::string_view> kOptions[] = {
      {"num_kv_heads", "--kv-heads"},       {"num_q_heads", "--q-heads"},     {"head_dim", "--head-dim"},
      {"softmax_scale", "--softmax-scale"}, {"logit_soft_cap", "--soft-cap"}, {"sliding_window_tokens", "--window"}};
  for (const auto& [field, option] : kOptions) {
    if (error.where == field) error.where = option;
  }
  throw Failure{std::move(error)};
}

AttentionShape resolve_shape(const ShapeArguments& arguments) {
  AttentionShape shape;
  shape.num_q_heads = to_int32(arguments.q_heads, shape.num_q_heads);
  shape.num_kv_heads = to_int32(arguments.kv_heads, shape.num_kv_heads);
  shape.head_dim = to_int32(arguments.head_dim, shape.head_dim);
  if (arguments.softmax_scale) shape.softmax_scale = static_cast<float>(*arguments.softmax_scale);
  if (arguments.soft_cap) shape.logit_soft_cap = static_cast<float>(*arguments.soft_cap);
  if (arguments.window) shape.sliding_window_tokens = to_int32(arguments.window, 0);
  shape.sinks = arguments.sinks.value_or(false) ? Sinks::kPerQueryHead : Sinks::kNone;
  check_shape(shape);
  return shape;
}

// Nothing is executed, so nothing that only execution would use may be given.
void refuse_execution_options(const RunArguments& arguments, std::string_view reason) {
  refuse(arguments.shape.softmax_scale, "--softmax-scale", reason);
  refuse(arguments.shape.soft_cap, "--soft-cap", reason);
  refuse(arguments.shape.sinks, "--sinks", reason);
  refuse(arguments.kv.query_dtype, "--query-dtype", reason);
  refuse(arguments.measure.verify, "--verify", reason);
  refuse(arguments.measure.mlp, "--mlp", reason);
  refuse(arguments.measure.warmup, "--warmup", reason);
  refuse(arguments.measure.memory_limit, "--memory-limit", reason);
}

void refuse_plan_only_options(const RunArguments& arguments) {
  constexpr std::string_view kReason = "has no effect with --plan-only, which executes nothing";
  refuse_execution_options(arguments, kReason);
  refuse(arguments.kv.layout, "--layout", kReason);
  refuse(arguments.kv.packing, "--packing", kReason);
  refuse(arguments.backend.backend, "--backend", kReason);
  refuse(arguments.backend.device, "--device", kReason);
  refuse(arguments.workers.pin, "--pin/--no-pin", kReason);
  refuse(arguments.workers.wait, "--wait", kReason);
  refuse(arguments.workers.isa, "--isa", kReason);
  refuse(arguments.routes.baseline, "--baseline", kReason);
  refuse(arguments.measure.layers, "--layers", "has no effect with --plan-only, which shows the planning of a step");
  refuse(arguments.policy.policy, "--policy", "has no effect with --plan-only; take --backend sim:PROFILE for prices");
}

// An option of the policy without one would have no effect.
void check_policy(const RunArguments& arguments) {
  const PolicyArguments& policy = arguments.policy;
  if (is_sim(arguments.backend)) {
    refuse(policy.profile, "--profile", "cannot be combined with --backend sim:PROFILE, whose profile it is");
    refuse(policy.learn, "--learn/--no-learn", "has no effect with --backend sim: nothing is measured");
  }
  if (!policy.policy) {
    constexpr std::string_view kReason = "needs --policy";
    refuse(policy.profile, "--profile", kReason);
    refuse(policy.oracle, "--oracle", kReason);
    refuse(policy.learn, "--learn/--no-learn", kReason);
  }
  if (!policy.oracle.value_or(false)) refuse(policy.oracle_repeats, "--oracle-repeats", "needs --oracle");
  if (policy.policy && is_cuda(arguments.backend) && !policy.profile) {
    fail("--profile", "is missing; on a GPU the policy needs h100, h200 or a file");
  }
}

// The policy takes part after all routes.
void resolve_policy(const RunArguments& arguments, RunOptions& options) {
  const PolicyArguments& policy = arguments.policy;
  if (is_sim(arguments.backend)) {
    options.profile = load_profile("--backend sim", arguments.backend.backend->profile);
    options.learning = Learning::kOff;
  }
  if (!policy.policy) return;
  if (policy.profile) {
    options.profile = load_profile("--profile", *policy.profile);
  } else if (!options.profile) {
    options.profile = machine_profile(arguments.workers);
  }
  if (!policy.learn.value_or(true)) options.learning = Learning::kOff;
  if (policy.oracle.value_or(false)) options.oracle_repeats = to_int32(policy.oracle_repeats, kOracleRepeats);
  options.routes.push_back({.route = Route::kRow, .splits = std::nullopt, .policy = policy.policy});
}

void check_combinations(const RunArguments& arguments) {
  const MeasureArguments& measure = arguments.measure;
  if (!measure.plan_only.value_or(false)) {
    refuse(measure.sms, "--sms", "needs --plan-only: executed plans are made for the workers or SMs of this machine");
    check_backend(arguments.backend, arguments.workers);
    check_policy(arguments);
    if (is_sim(arguments.backend)) {
      refuse_execution_options(arguments, "has no effect with --backend sim:PROFILE, which executes nothing");
      return;
    }
    return;
  }
  refuse_plan_only_options(arguments);
  check_policy(arguments);
  if (measure.sms && arguments.workers.threads)
    fail("--threads", "cannot be combined with --sms: both set the workers to plan for");
}

}  // namespace

void add_shape_options(Options& options, ShapeArguments& shape) {
  options.integer({"--q-heads", "Query heads", "32"}, shape.q_heads, {.min = 1, .max = kMaxKvHeads * kMaxGroupSize});
  options.integer({"--kv-heads", "KV heads; a divisor of the query heads", "8"}, shape.kv_heads,
                  {.min = 1, .max = kMaxKvHeads});
  options.integer({"--head-dim", "Head dimension, a multiple of 8", "128"}, shape.head_dim,
                  {.min = kMinHeadDim, .max = kMaxHeadDim});
  options.real({"--softmax-scale", "Factor of the logits", "1/sqrt(head dim)"}, shape.softmax_scale,
               {.min = -1e6, .max = 1e6});
  options.real({"--soft-cap", "Squash logits into (-X, X)", ""}, shape.soft_cap,
               {.min = 0.0, .max = 1e6, .low = RealLimits::Low::kOpen});
  options.integer({"--window", "Attend to the last N tokens only", ""}, shape.window, {.min = 1, .max = kInt32Max});
  options.flag({"--sinks", "One attention sink a query head", ""}, shape.sinks);
}

void add_kv_options(Options& options, KvArguments& kv) {
  options.integer({"--page-size", "Tokens a page", "16"}, kv.page_size, {.min = 1, .max = kMaxPageSize});
  options.choice<DType>({"--dtype", "Element type of K and V", "f16"}, kv.dtype, {"f32", "f16", "bf16"}, parse_dtype);
  options.choice<DType>({"--query-dtype", "Element type of queries", "as --dtype"}, kv.query_dtype,
                        {"f32", "f16", "bf16"}, parse_dtype);
  options.choice<KvOrder>({"--layout", "Order of axes inside a page", "HND"}, kv.layout, {"HND", "NHD"},
                          parse_kv_order);
  options.choice<KvPacking>({"--packing", "K and V in two tensors or in one", "separate"}, kv.packing,
                            {"separate", "packed"}, parse_packing);
  options.real({"--hole-fraction", "Share of physical pages that hold nothing", "0"}, kv.hole_fraction,
               {.min = 0.0, .max = 1.0, .high = RealLimits::High::kOpen});
  options.integer({"--page-seed", "Seed of the page permutation", "1"}, kv.page_seed, {});
}

void add_backend_options(Options& options, BackendArguments& backend) {
  options.choice<BackendChoice>(
      {"--backend", "Where plans run; sim:PROFILE only predicts, on a profile of --profile", "cpu"}, backend.backend,
      {"cpu", "cuda", "sim:PROFILE"}, parse_backend);
  options.integer({"--device", "With --backend cuda: the GPU, as CUDA counts them", "0"}, backend.device,
                  {.min = 0, .max = kMaxDevice});
}

void add_worker_options(Options& options, WorkerArguments& workers) {
  options.integer({"--threads", "Workers of the CPU", "physical cores"}, workers.threads,
                  {.min = 1, .max = kMaxThreads});
  options.flag({"--pin,!--no-pin", "Pin workers to cores (the default), or do not", ""}, workers.pin);
  options.choice<WaitMode>({"--wait", "How workers wait between steps", "sleep"}, workers.wait, {"spin", "sleep"},
                           parse_wait);
  options.choice<Isa>({"--isa", "Instruction set of the kernels", "the best this CPU has"}, workers.isa,
                      {"portable", "avx2", "avx512", "avx512bf16", "amx"}, parse_isa);
}

void add_route_options(Options& options, RouteArguments& routes) {
  options.words({"--routes",
                 "Routes: row, padded, bucket, split, workqueue, pages (these are all); flashinfer-core and "
                 "flashinfer-tensor on a GPU",
                 "all"},
                "all|LIST", routes.routes);
  options.words({"--splits", "Splits of all routes that split, or of single ones", "the route chooses"},
                "N|ROUTE=N,...", routes.splits);
  options.integer({"--heads-per-task", "KV heads a task, for all routes", "1, for pages what the rule chooses"},
                  routes.heads_per_task, {.min = 1, .max = kMaxKvHeads});
  options.choice<MergeMode>(
      {"--merge", "Who merges the splits of a row: a pass of its own, or the last task to end", "separate"},
      routes.merge, {"separate", "fused"}, parse_merge_mode);
  options.words({"--baseline", "Route that ratios are against", "row, or else the first"}, "ROUTE", routes.baseline);
}

void add_measure_options(Options& options, MeasureArguments& measure) {
  options.choice<VerifyMode>({"--verify", "Steps to compare with the float64 oracle", "sample"}, measure.verify,
                             {"every", "sample", "off"}, parse_verify_mode);
  options.words({"--mlp", "Add a layer's projections and MLP of these sizes", ""}, "HIDDEN,INTERMEDIATE", measure.mlp);
  options.integer({"--warmup", "Unmeasured executions of the first step", "2"}, measure.warmup,
                  {.min = 0, .max = kMaxWarmup});
  options.bytes({"--memory-limit", "Memory that may be allocated", "what is available"}, measure.memory_limit);
  add_layers_option(options, measure);
  options.flag({"--plan-only", "Make plans and counters, execute nothing", ""}, measure.plan_only);
  options.integer({"--sms", "With --plan-only: SMs or workers to plan for", "--threads"}, measure.sms,
                  {.min = 1, .max = kMaxSms});
}

void add_layers_option(Options& options, MeasureArguments& measure) {
  options.integer({"--layers", "Layers that run each plan: planning counts once for all of them", "1"}, measure.layers,
                  {.min = 1, .max = kMaxLayers});
}

void add_policy_options(Options& options, PolicyArguments& policy) {
  options.choice<PolicyKind>({"--policy", "One more participant that chooses each step's plan", ""}, policy.policy,
                             {"auto", "paper"}, parse_policy_kind);
  options.words(
      {"--profile", "Its prices: cpu, cpu96, h100, h200, rtx3060, or a file", "what pkv calibrate stored, or else cpu"},
      "NAME|FILE", policy.profile);
  options.flag({"--learn,!--no-learn", "Let its prices follow what steps took (the default), or not", ""},
               policy.learn);
  options.flag({"--oracle", "Repeat every step by all participants and report the policy's regret", ""}, policy.oracle);
  options.integer({"--oracle-repeats", "With --oracle: repeats of a step", fmt::format("{}", kOracleRepeats)},
                  policy.oracle_repeats, {.min = 5, .max = kMaxOracleRepeats});
}

void add_run_options(Options& options, RunArguments& arguments) {
  add_shape_options(options, arguments.shape);
  add_kv_options(options, arguments.kv);
  add_route_options(options, arguments.routes);
  add_measure_options(options, arguments.measure);
  add_policy_options(options, arguments.policy);
  add_backend_options(options, arguments.backend);
  add_worker_options(options, arguments.workers);
}

std::vector<Route> parse_routes(std::string_view option, std::string_view text) {
  std::vector<Route> routes;
  const auto add = [&](Route route) {
    if (std::find(routes.begin(), routes.end(), route) != routes.end()) {
      fail(std::string(option), fmt::format("route '{}' is given twice; at most once", route_name(route)));
    }
    routes.push_back(route);
  };
  for (const std::string& name : split_list(option, text)) {
    if (name == "all") {
      std::for_each(std::begin(kAllRoutes), std::end(kAllRoutes), add);
    } else {
      add(parse_route_at(option, name));
    }
  }
  return routes;
}

std::int32_t page_size_of(const KvArguments& kv) { return to_int32(kv.page_size, 16); }

CpuOptions resolve_workers(const WorkerArguments& arguments) {
  CpuOptions cpu;
  if (arguments.threads) cpu.threads = to_int32(arguments.threads, 1);
  cpu.pin = arguments.pin.value_or(cpu.pin);
  cpu.wait = arguments.wait.value_or(cpu.wait);
  cpu.isa = arguments.isa;
  return cpu;
}

bool is_cuda(const BackendArguments& backend) { return kind_of(backend) == BackendKind::kCuda; }
bool is_sim(const BackendArguments& backend) { return kind_of(backend) == BackendKind::kSim; }

CudaOptions resolve_cuda(const BackendArguments& backend) {
  CudaOptions cuda;
  cuda.device = to_int32(backend.device, cuda.device);
  return cuda;
}

void check_backend(const BackendArguments& backend, const WorkerArguments& workers) {
  if (!is_cuda(backend)) {
    refuse(backend.device, "--device", "needs --backend cuda: it chooses a GPU");
    if (!is_sim(backend)) return;
  }
  const std::string_view reason = is_sim(backend) ? "is for --backend cpu: a simulated device has its profile's workers"
                                                  : "is for --backend cpu: on a GPU its SMs are the workers";
  refuse(workers.threads, "--threads", reason);
  refuse(workers.pin, "--pin/--no-pin", reason);
  refuse(workers.wait, "--wait", reason);
  refuse(workers.isa, "--isa", reason);
}

std::string backend_text(const BackendArguments& backend) {
  std::string text;
  if (is_sim(backend)) {
    text += fmt::format(" --backend sim:{}", backend.backend->profile);
  } else if (backend.backend) {
    text += fmt::format(" --backend {}", backend_kind_name(backend.backend->kind));
  }
  if (backend.device) text += fmt::format(" --device {}", *backend.device);
  return text;
}

RunOptions resolve(const RunArguments& arguments, std::uint64_t data_seed) {
  check_combinations(arguments);
  RunOptions options;
  options.shape = resolve_shape(arguments.shape);
  options.order = arguments.kv.layout.value_or(options.order);
  options.packing = arguments.kv.packing.value_or(options.packing);
  options.kv_dtype = arguments.kv.dtype.value_or(options.kv_dtype);
  options.query_dtype = arguments.kv.query_dtype;
  options.routes = resolve_routes(arguments.routes);
  if (arguments.routes.heads_per_task) {
    set_heads_per_task(options.routes, *arguments.routes.heads_per_task, options.shape.num_kv_heads);
  }
  if (arguments.routes.merge) set_merge(options.routes, *arguments.routes.merge, is_cuda(arguments.backend));
  options.baseline = resolve_baseline(arguments.routes, options.routes);
  options.warmup_steps = to_int32(arguments.measure.warmup, options.warmup_steps);
  options.verify = arguments.measure.verify.value_or(options.verify);
  options.mlp = resolve_mlp(arguments.measure.mlp);
  options.num_layers = to_int32(arguments.measure.layers, options.num_layers);
  options.backend = kind_of(arguments.backend);
  resolve_policy(arguments, options);
  options.cpu = resolve_workers(arguments.workers);
  options.cuda = resolve_cuda(arguments.backend);
  options.data_seed = data_seed;
  options.memory_limit_bytes = arguments.measure.memory_limit;
  return options;
}

std::optional<std::int32_t> plan_only_workers(const RunArguments& arguments) {
  if (!arguments.measure.plan_only.value_or(false)) return std::nullopt;
  if (arguments.measure.sms) return to_int32(arguments.measure.sms, 1);
  if (arguments.workers.threads) return to_int32(arguments.workers.threads, 1);
  return unwrap(read_topology()).num_cores();
}

}  // namespace pkv::cli

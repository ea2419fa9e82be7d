// Decode speed of the CPU kernels as a share of the paged-read probe, interleaved in the same run. JSON.
// Not here: traces and proxies (src/replay), peers.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/half.h"
#include "base/math.h"
#include "base/random.h"
#include "exec/cpu/cpu_backend.h"
#include "persistentkv/decision.h"
#include "persistentkv/plan.h"

namespace pkv {
namespace {

struct Options {
  std::vector<std::int32_t> lens = {32768};
  AttentionShape shape;
  std::int32_t page_size = 16;
  std::string dtype = "f16";
  std::string q_dtype;  // empty: as dtype
  std::int64_t cache_kb = 256;
  std::string order = "HND";
  std::vector<std::string> routes = {"row", "split", "workqueue", "pages", "rule"};
  std::int32_t splits = 0;
  std::int32_t heads_per_task = 0;
  std::string merge = "separate";
  std::int32_t threads = 0;
  std::vector<std::string> isas = {""};        // "": the best
  std::vector<std::string> prefetches = {""};  // "": as is best here
  std::int32_t repeats = 20;
  double pool_caches = 8.0;  // K,V pool in multiples of the last-level cache
};

std::string prefetch_name(const TilePrefetch& prefetch) {
  return std::to_string(prefetch.streams) + (prefetch.into_l1 ? ":l1" : ":l2");
}

/// The level as the kernel itself says it: not every one can prefetch into the L1.
TilePrefetch prefetch_that_ran(const CpuBackend& backend) {
  return {.streams = backend.tile_prefetch().streams, .into_l1 = backend.ran_kernel().value_or(RanKernel{}).into_l1};
}

/// Values over repeats: median, and the quartiles as spread.
nlohmann::json spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) { return values[static_cast<std::size_t>(q * double(values.size() - 1) + 0.5)]; };
  return {{"median", quantile(0.5)}, {"p25", quantile(0.25)}, {"p75", quantile(0.75)}, {"max", values.back()}};
}

/// Random K,V pages, several caches' worth, and block tables that rotate through them.
class Pool {
 public:
  static Result<Pool> make(const Options& options, DType dtype, const KvLayout& layout, std::int64_t cache_bytes) {
    Pool pool;
    for (const std::int32_t len : options.lens) {
      pool.indptr_.push_back(pool.indptr_.back() + ceil_div(len, options.page_size));
    }
    const std::int64_t page_bytes = layout.page_elements() * dtype_bytes(dtype);
    const auto wanted = static_cast<std::int64_t>(options.pool_caches * static_cast<double>(cache_bytes));
    pool.num_pages_ = std::max<std::int64_t>(wanted / (2 * page_bytes), 2 * pool.indptr_.back());
    for (AlignedBuffer* buffer : {&pool.k_, &pool.v_}) {
      Result<AlignedBuffer> made = AlignedBuffer::allocate(static_cast<std::size_t>(pool.num_pages_ * page_bytes));
      if (!made.ok()) {
        return made.error();
      }
      *buffer = *std::move(made);
      fill(*buffer, dtype, buffer == &pool.k_ ? 1 : 2);
    }
    pool.order_.resize(static_cast<std::size_t>(pool.num_pages_));
    SplitMix64 random(3);
    for (std::size_t i = 0; i < pool.order_.size(); ++i) {
      const std::size_t j = random.below(i + 1);
      pool.order_[i] = pool.order_[j];
      pool.order_[j] = static_cast<std::int32_t>(i);
    }
    pool.indices_.resize(static_cast<std::size_t>(pool.indptr_.back()));
    pool.kv_ = {
        .k = pool.k_.data(), .v = pool.v_.data(), .dtype = dtype, .layout = layout, .num_pages = pool.num_pages_};
    return pool;
  }

  /// The next batch: other pages than the batches before, as far as the pool reaches.
  /// In the cache: the rows repeat a few pages, so that after the first tiles nothing comes from memory.
  enum class From : std::uint8_t { kMemory, kCache };
  Result<BatchState> next_batch(const Options& options, From from = From::kMemory) {
    const std::int64_t page_bytes = 2 * kv_.layout.page_elements() * dtype_bytes(kv_.dtype);
    const std::size_t reach =
        from == From::kMemory ? order_.size() : std::max<std::int64_t>(options.cache_kb * 1024 / page_bytes, 1);
    const std::size_t first = next_ % order_.size();
    for (std::size_t i = 0; i < indices_.size(); ++i) {
      indices_[i] = order_[(first + i % reach) % order_.size()];
    }
    next_ += indices_.size();
    Result<BlockTable> table = BlockTable::csr(indptr_, indices_);
    return table.ok() ? BatchState::make({.shape = options.shape,
                                          .page_size = options.page_size,
                                          .seq_lens = options.lens,
                                          .block_table = *table,
                                          .num_pages = num_pages_})
                      : table.error();
  }
  [[nodiscard]] const PagedKv& kv() const { return kv_; }

 private:
  static void fill(AlignedBuffer& buffer, DType dtype, std::uint64_t seed) {
    std::vector<float> values(1 << 16);
    SplitMix64 random(seed);
    std::generate(values.begin(), values.end(), [&] { return random.normal(); });
    const auto count = static_cast<std::int64_t>(buffer.size()) / dtype_bytes(dtype);
    for (std::int64_t i = 0; i < count; ++i) {
      store_element(buffer.data(), dtype, i, values[static_cast<std::size_t>((i + (i >> 16)) & 0xFFFF)]);
    }
  }

  AlignedBuffer k_, v_;
  std::int64_t num_pages_ = 0;
  std::vector<std::int32_t> order_, indices_, indptr_ = {0};
  std::size_t next_ = 0;
  PagedKv kv_;
};

struct RouteSamples {
  std::string name;
  CpuBackend* backend = nullptr;
  PlanOptions options;
  bool by_rule = false;  // cpu_rule divides every step anew
  Plan plan;
  std::vector<double> gb_per_s, share, share_of_bound, in_cache_gb_per_s, wall_us, plan_us, dispatch_us, merge_us;
};

/// "2:l1" as two pieces side by side into the L1.
std::optional<TilePrefetch> parse_prefetch(const std::string& text) {
  for (const std::int32_t streams : {1, 2, 4, 8}) {
    for (const bool into_l1 : {false, true}) {
      const TilePrefetch prefetch = {.streams = streams, .into_l1 = into_l1};
      if (text == prefetch_name(prefetch)) {
        return prefetch;
      }
    }
  }
  return std::nullopt;
}

Result<std::unique_ptr<CpuBackend>> make_backend(const Options& options, const std::string& isa_name,
                                                 const std::string& prefetch_text) {
  CpuOptions cpu;
  if (options.threads > 0) {
    cpu.threads = options.threads;
  }
  if (!isa_name.empty()) {
    const Result<Isa> isa = parse_isa(isa_name);
    if (!isa.ok()) {
      return isa.error();
    }
    cpu.isa = *isa;
  }
  Result<std::unique_ptr<CpuBackend>> made = CpuBackend::create(cpu);
  if (made.ok() && !prefetch_text.empty()) {
    const std::optional<TilePrefetch> prefetch = parse_prefetch(prefetch_text);
    if (!prefetch) {
      return Error{ErrorCode::kInvalidArgument, "'" + prefetch_text + "' is not 1, 2, 4 or 8, ':', and l1 or l2",
                   "prefetch"};
    }
    PKV_RETURN_IF_ERROR((*made)->set_tile_prefetch(*prefetch));
  }
  return made;
}

Result<nlohmann::json> measure(const Options& options) {
  const Result<DType> dtype = parse_dtype(options.dtype);
  const Result<KvOrder> order = parse_kv_order(options.order);
  if (!dtype.ok() || !order.ok()) {
    return dtype.ok() ? order.error() : dtype.error();
  }
  const Result<KvLayout> layout = KvLayout::make(*order, KvPacking::kSeparate, options.page_size, options.shape);
  if (!layout.ok()) {
    return layout.error();
  }
  std::vector<std::unique_ptr<CpuBackend>> backends;
  for (const std::string& isa : options.isas) {
    for (const std::string& prefetch : options.prefetches) {
      Result<std::unique_ptr<CpuBackend>> made = make_backend(options, isa, prefetch);
      if (!made.ok()) {
        return made.error();
      }
      backends.push_back(*std::move(made));
    }
  }
  CpuBackend& prober = *backends.front();
  Result<Pool> pool = Pool::make(options, *dtype, *layout, prober.topology().last_level_cache_bytes());
  if (!pool.ok()) {
    return pool.error();
  }
  Result<BatchState> batch = pool->next_batch(options);
  if (!batch.ok()) {
    return batch.error();
  }
  std::vector<RouteSamples> routes;
  for (std::size_t i = 0; i < options.routes.size() * backends.size(); ++i) {
    const std::string& name = options.routes[i / backends.size()];
    CpuBackend& backend = *backends[i % backends.size()];
    const bool by_rule = name == "rule";
    const Result<Route> route = by_rule ? Route::kPages : parse_route(name);
    if (!route.ok()) {
      return route.error();
    }
    PlanOptions plan_options = {.route = *route, .num_workers = backend.num_workers()};
    if (options.splits > 0 && *route != Route::kRow) {
      plan_options.splits = options.splits;
    }
    if (options.heads_per_task > 0) {
      plan_options.kv_heads_per_task = options.heads_per_task;
    }
    const Result<MergeMode> merge = parse_merge_mode(options.merge);
    if (!merge.ok()) {
      return merge.error();
    }
    if (*route != Route::kRow) {
      plan_options.merge = *merge;
    }
    if (by_rule) {
      plan_options = cpu_rule(*batch, *layout, *dtype, backend.num_workers());
    }
    Result<Plan> plan = make_plan(*batch, plan_options);
    if (!plan.ok()) {
      return plan.error();
    }
    PKV_RETURN_IF_ERROR(backend.reserve(*plan));
    RouteSamples samples;
    samples.name = name;
    samples.backend = &backend;
    samples.options = plan_options;
    samples.by_rule = by_rule;
    samples.plan = *std::move(plan);
    routes.push_back(std::move(samples));
  }

  const std::size_t q_elements = options.lens.size() * static_cast<std::size_t>(options.shape.num_q_heads) *
                                 static_cast<std::size_t>(options.shape.head_dim);
  const Result<DType> q_dtype = parse_dtype(options.q_dtype.empty() ? options.dtype : options.q_dtype);
  if (!q_dtype.ok()) {
    return q_dtype.error();
  }
  std::vector<float> q(q_elements), out(q_elements);  // q: large enough for every type
  SplitMix64 random(4);
  for (std::size_t i = 0; i < q_elements; ++i) {
    store_element(q.data(), *q_dtype, static_cast<std::int64_t>(i), random.normal());
  }
  const double bytes = static_cast<double>(kv_bytes(batch->attended_tokens(), options.shape, *dtype));
  std::vector<double> probe_gb_per_s;
  constexpr std::int32_t kWarmUp = 2;
  for (std::int32_t repeat = -kWarmUp; repeat < options.repeats; ++repeat) {
    for (RouteSamples& route : routes) {  // a probe before each route: neighbours in time
      batch = pool->next_batch(options);
      CpuBackend& backend = *route.backend;
      const Result<ProbeResult> probe = prober.paged_read_probe(*batch, pool->kv());
      if (!probe.ok()) {
        return probe.error();
      }
      double gb_per_s[2] = {};
      double wall_us = 0.0;
      double plan_us = 0.0;
      RunTimes memory_times;
      for (const auto from : {Pool::From::kCache, Pool::From::kMemory}) {
        batch = pool->next_batch(options, from);
        const std::int64_t begin_ns = now_ns();
        const PlanOptions plan_options =
            route.by_rule ? cpu_rule(*batch, *layout, *dtype, backend.num_workers()) : route.options;
        Result<Plan> plan = make_plan(*batch, plan_options, std::move(route.plan));
        if (!plan.ok()) {
          return plan.error();
        }
        route.plan = *std::move(plan);
        const std::int64_t planned_ns = now_ns();
        const Result<RunTimes> times =
            backend.run(route.plan, {.batch = *batch,
                                     .q = dense_queries(q.data(), *q_dtype, options.shape),
                                     .kv = pool->kv(),
                                     .out = dense_outputs(out.data(), DType::kF32, options.shape)});
        if (!times.ok()) {
          return times.error();
        }
        memory_times = *times;
        plan_us = static_cast<double>(planned_ns - begin_ns) / 1e3;
        wall_us = static_cast<double>(now_ns() - begin_ns) / 1e3;  // planning included
        gb_per_s[static_cast<int>(from)] = bytes / (wall_us * 1e3);
      }
      if (repeat >= 0) {
        const double rate = gb_per_s[static_cast<int>(Pool::From::kMemory)];
        const double in_cache = gb_per_s[static_cast<int>(Pool::From::kCache)];
        probe_gb_per_s.push_back(probe->gb_per_s());
        route.gb_per_s.push_back(rate);
        route.in_cache_gb_per_s.push_back(in_cache);
        route.share.push_back(rate / probe->gb_per_s());
        route.share_of_bound.push_back(rate / std::min(probe->gb_per_s(), in_cache));
        route.wall_us.push_back(wall_us);
        route.plan_us.push_back(plan_us);
        route.dispatch_us.push_back(static_cast<double>(memory_times.dispatch_ns) / 1e3);
        route.merge_us.push_back(static_cast<double>(memory_times.merge_ns) / 1e3);
      }
    }
  }
  for (const RouteSamples& route : routes) {
    if (!options.prefetches.front().empty() && prefetch_that_ran(*route.backend) != route.backend->tile_prefetch()) {
      return Error{ErrorCode::kUnsupported, "the kernel that ran does not prefetch into the L1", "prefetch"};
    }
  }
  nlohmann::json report = {{"device", prober.describe()},
                           {"huge_pages", huge_page_mode_name(prober.topology().huge_pages)},
                           {"lens", options.lens},
                           {"dtype", options.dtype},
                           {"order", options.order},
                           {"page_size", options.page_size},
                           {"q_dtype", dtype_name(*q_dtype)},
                           {"in_cache_kb", options.cache_kb},
                           {"q_heads", options.shape.num_q_heads},
                           {"kv_heads", options.shape.num_kv_heads},
                           {"head_dim", options.shape.head_dim},
                           {"repeats", options.repeats},
                           {"probe_gb_per_s", spread(probe_gb_per_s)},
                           {"routes", nlohmann::json::array()}};
  for (RouteSamples& route : routes) {
    const Isa isa = route.backend->isa();
    report["routes"].push_back({{"name", route.name},
                                {"isa", isa_name(isa)},
                                {"prefetch", prefetch_name(prefetch_that_ran(*route.backend))},
                                {"kernel", decode_kernel_name(decode_kernel(isa, options.shape, *dtype, *q_dtype))},
                                {"splits", route.plan.max_splits()},
                                {"tasks", route.plan.counters().num_tasks},
                                {"gb_per_s", spread(route.gb_per_s)},
                                {"in_cache_gb_per_s", spread(route.in_cache_gb_per_s)},
                                {"share_of_probe", spread(route.share)},
                                {"share_of_bound", spread(route.share_of_bound)},
                                {"heads_per_task", route.plan.kv_heads_per_task()},
                                {"wall_us", spread(route.wall_us)},
                                {"plan_us", spread(route.plan_us)},
                                {"dispatch_us", spread(route.dispatch_us)},
                                {"merge_us", spread(route.merge_us)}});
  }
  return report;
}

}  // namespace
}  // namespace pkv

int main(int argc, char** argv) {
  pkv::Options options;
  CLI::App app("Decode kernels against the paged-read probe, interleaved. Prints JSON.");
  app.add_option("--lens", options.lens, "Row lengths in tokens")->delimiter(',')->capture_default_str();
  app.add_option("--q-heads", options.shape.num_q_heads)->capture_default_str();
  app.add_option("--kv-heads", options.shape.num_kv_heads)->capture_default_str();
  app.add_option("--head-dim", options.shape.head_dim)->capture_default_str();
  app.add_option("--page-size", options.page_size)->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--dtype", options.dtype, "f32, f16 or bf16")->capture_default_str();
  app.add_option("--q-dtype", options.q_dtype, "as --dtype when not set");
  app.add_option("--in-cache-kb", options.cache_kb, "K and V in the cache: pages of so many KiB, repeated")
      ->capture_default_str();
  app.add_option("--layout", options.order, "HND or NHD")->capture_default_str();
  app.add_option("--routes", options.routes, "Routes, or rule: as cpu_rule divides the step")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--splits", options.splits, "0: each route chooses")->capture_default_str();
  app.add_option("--heads-per-task", options.heads_per_task, "0: each route chooses")->capture_default_str();
  app.add_option("--merge", options.merge, "separate or fused")->capture_default_str();
  app.add_option("--prefetch", options.prefetches,
                 "How the tile kernels prefetch: pieces side by side (1, 2, 4, 8), ':', l1 or l2; several in turn; "
                 "as is best on this CPU when not set")
      ->delimiter(',');
  app.add_option("--threads", options.threads, "0: one a physical core")->capture_default_str();
  app.add_option("--isa", options.isas,
                 "portable, avx2, avx512, avx512bf16, amx; several in turn; the best when not set")
      ->delimiter(',');
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--pool-caches", options.pool_caches, "K,V pool in multiples of the last-level cache")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const pkv::Result<nlohmann::json> report = pkv::measure(options);
  if (!report.ok()) {
    std::fprintf(stderr, "bench_decode: %s\n", report.error().to_string().c_str());
    return 2;
  }
  std::printf("%s\n", report->dump(2).c_str());
  return 0;
}

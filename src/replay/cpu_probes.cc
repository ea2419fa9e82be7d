// All figures in turn, pass after pass: neighbours in time are comparable, slow and fast states of memory show
// as spread instead of as differences.
// Not here: the walks (exec/cpu/probe.cc), text (tools/pkv).
#include "replay/cpu_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "base/half.h"
#include "base/math.h"
#include "base/random.h"
#include "persistentkv/plan.h"
#include "replay/read_probe.h"
#include "report/statistics.h"

namespace pkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kJsonVersion = 1;
constexpr std::int64_t kMib = std::int64_t{1} << 20;
constexpr std::int64_t kCachesToPass = 4;  // what is read is over four times the last-level cache
constexpr std::int64_t kLeastBufferBytes = 256 * kMib;
constexpr std::int64_t kMostMemoryShare = 8;  // of the available memory, for each of two buffers
constexpr std::int32_t kMostPasses = 1000;
constexpr std::int32_t kMostWorkerCountsInARow = 8;
constexpr std::int32_t kForkJoinsAPass = 101;
constexpr std::int64_t kIdleNs = 1'000'000;
constexpr std::int64_t kSearchChunkBytes = 32768;

std::int64_t default_buffer_bytes(const Topology& topology, std::optional<std::int64_t> memory_limit_bytes) {
  const std::int64_t wanted = std::max(kLeastBufferBytes, kCachesToPass * topology.last_level_cache_bytes());
  const std::int64_t available =
      topology.available_memory_bytes > 0 ? topology.available_memory_bytes : kMostMemoryShare * wanted;
  const std::int64_t allowed = std::min(available, memory_limit_bytes.value_or(available)) / kMostMemoryShare;
  return std::max<std::int64_t>(round_up(std::min(wanted, allowed), kMib), kMib);
}

ProbeSpread spread_of(const std::vector<double>& values) {
  return {.median = quantile(values, 0.5).value_or(0.0),
          .p25 = quantile(values, 0.25).value_or(0.0),
          .p75 = quantile(values, 0.75).value_or(0.0),
          .least = quantile(values, 0.0).value_or(0.0),
          .most = quantile(values, 1.0).value_or(0.0),
          .passes = static_cast<std::int32_t>(values.size())};
}

/// The paper's cache laid over a buffer: one row of all its pages, dealt at random.
class DealtPages {
 public:
  static Result<DealtPages> make(const AlignedBuffer& buffer) {
    DealtPages dealt;
    const AttentionShape shape;
    const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, kPageSize, shape);
    if (!layout.ok()) {
      return layout.error();
    }
    const auto half_bytes = static_cast<std::int64_t>(buffer.size()) / 2;
    const std::int64_t num_pages = half_bytes / (layout->page_elements() * dtype_bytes(DType::kF16));
    dealt.ids_.resize(static_cast<std::size_t>(num_pages));
    std::iota(dealt.ids_.begin(), dealt.ids_.end(), 0);
    SplitMix64 random(1);
    for (std::size_t i = dealt.ids_.size(); i > 1; --i) {
      std::swap(dealt.ids_[i - 1], dealt.ids_[random.below(i)]);
    }
    dealt.lens_ = {static_cast<std::int32_t>(num_pages) * kPageSize};
    dealt.indptr_ = {0, static_cast<std::int32_t>(num_pages)};
    dealt.kv_ = {.k = buffer.data(),
                 .v = buffer.as<char>() + half_bytes,
                 .dtype = DType::kF16,
                 .layout = *layout,
                 .num_pages = num_pages};
    return dealt;
  }

  Result<ProbeResult> read(CpuBackend& backend, const ReadMethod& method) const {
    const auto table = BlockTable::csr(indptr_, ids_);
    if (!table.ok()) {
      return table.error();
    }
    const auto batch = BatchState::make({.shape = AttentionShape{},
                                         .page_size = kPageSize,
                                         .seq_lens = lens_,
                                         .block_table = *table,
                                         .num_pages = kv_.num_pages});
    if (!batch.ok()) {
      return batch.error();
    }
    return paged_read_probe(backend.pool(), backend.kernels(), *batch, kv_, method);
  }

 private:
  static constexpr std::int32_t kPageSize = 16;
  std::vector<std::int32_t> ids_, lens_, indptr_;
  PagedKv kv_;
};

/// A step whose rows' pages are a few that lie in every worker's L2: what the kernel costs without memory.
class InCacheStep {
 public:
  static Result<InCacheStep> make(CpuBackend& backend, DType dtype, std::int32_t group_size) {
    InCacheStep step;
    step.dtype_ = dtype;
    step.shape_.num_q_heads = step.shape_.num_kv_heads * group_size;
    const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, kPageSize, step.shape_);
    if (!layout.ok()) {
      return layout.error();
    }
    const std::int64_t page_bytes = layout->page_elements() * dtype_bytes(dtype);
    const std::int64_t num_pages = std::max<std::int64_t>(bytes_in_cache(backend) / (2 * page_bytes), 1);
    for (AlignedBuffer* buffer : {&step.k_, &step.v_}) {
      Result<AlignedBuffer> made = AlignedBuffer::allocate(static_cast<std::size_t>(num_pages * page_bytes));
      if (!made.ok()) {
        return made.error();
      }
      *buffer = *std::move(made);
      step.fill(buffer->data(), num_pages * layout->page_elements());
    }
    step.kv_ = {.k = step.k_.data(), .v = step.v_.data(), .dtype = dtype, .layout = *layout, .num_pages = num_pages};
    step.lens_.assign(static_cast<std::size_t>(backend.num_workers()), kTokens);
    step.indptr_ = {0};
    for (std::size_t row = 0; row < step.lens_.size(); ++row) {
      for (std::int32_t page = 0; page < kTokens / kPageSize; ++page) {
        step.ids_.push_back(static_cast<std::int32_t>(page % num_pages));
      }
      step.indptr_.push_back(static_cast<std::int32_t>(step.ids_.size()));
    }
    const std::size_t q_elements =
        step.lens_.size() * static_cast<std::size_t>(step.shape_.num_q_heads * step.shape_.head_dim);
    step.q_.resize(q_elements * sizeof(float));
    step.fill(step.q_.data(), static_cast<std::int64_t>(q_elements));
    step.out_.resize(q_elements);
    return step;
  }

  /// Useful bytes of K and V a nanosecond.
  Result<double> run(CpuBackend& backend) {
    const auto table = BlockTable::csr(indptr_, ids_);
    if (!table.ok()) {
      return table.error();
    }
    const auto batch = BatchState::make({.shape = shape_,
                                         .page_size = kPageSize,
                                         .seq_lens = lens_,
                                         .block_table = *table,
                                         .num_pages = kv_.num_pages});
    if (!batch.ok()) {
      return batch.error();
    }
    const auto plan = make_plan(*batch, {.route = Route::kPages, .splits = 1, .num_workers = backend.num_workers()});
    if (!plan.ok()) {
      return plan.error();
    }
    PKV_RETURN_IF_ERROR(backend.reserve(*plan));
    const auto times = backend.run(*plan, {.batch = *batch,
                                           .q = dense_queries(q_.data(), dtype_, shape_),
                                           .kv = kv_,
                                           .out = dense_outputs(out_.data(), DType::kF32, shape_)});
    if (!times.ok()) {
      return times.error();
    }
    return static_cast<double>(kv_bytes(batch->attended_tokens(), shape_, dtype_)) /
           static_cast<double>(std::max<std::int64_t>(times->total_ns, 1));
  }

 private:
  static constexpr std::int32_t kPageSize = 16;
  static constexpr std::int32_t kTokens = 8192;  // a row for each worker: a fraction of a millisecond and more

  void fill(void* data, std::int64_t count) const {
    SplitMix64 random(5);
    for (std::int64_t i = 0; i < count; ++i) {
      store_element(data, dtype_, i, random.normal());
    }
  }

  DType dtype_ = DType::kF16;
  AttentionShape shape_;
  AlignedBuffer k_, v_;
  PagedKv kv_;
  std::vector<std::int32_t> lens_, indptr_, ids_;
  std::vector<std::byte> q_;
  std::vector<float> out_;
};

/// One read that is measured pass after pass.
struct ReadSeries {
  ReadRate rate;
  std::vector<double> gb_per_s;
};

/// The fastest method, but the default while nothing is clearly faster: in the slow state of memory most are equal,
/// and the fastest of 21 would be a draw.
ReadMethod choose_method(const std::vector<ReadRate>& methods) {
  constexpr double kClearly = 1.03;
  const ReadRate* fastest = &methods.front();
  double default_rate = 0.0;
  for (const ReadRate& rate : methods) {
    if (rate.gb_per_s.median > fastest->gb_per_s.median) {
      fastest = &rate;
    }
    if (rate.method == ReadMethod{}) {
      default_rate = rate.gb_per_s.median;
    }
  }
  return fastest->gb_per_s.median > kClearly * default_rate ? fastest->method : ReadMethod{};
}

class Suite {
 public:
  Suite(CpuBackend& backend, const CpuProbeOptions& options) : backend_(backend), options_(options) {}

  Result<CpuProbes> measure() {
    describe();
    PKV_RETURN_IF_ERROR(make_buffers());
    if (options_.set == ProbeSet::kFull) {
      PKV_RETURN_IF_ERROR(search_method());
    }
    PKV_RETURN_IF_ERROR(measure_reads());
    measure_fork_join();
    PKV_RETURN_IF_ERROR(measure_exp());
    PKV_RETURN_IF_ERROR(measure_in_cache());
    return std::move(probes_);
  }

 private:
  void describe() {
    const Topology& topology = backend_.topology();
    probes_.cpu = topology.cpu_model;
    probes_.isa = backend_.isa();
    probes_.num_workers = backend_.num_workers();
    probes_.num_cores = topology.num_cores();
    probes_.l1d_bytes = topology.l1d_bytes;
    probes_.l2_bytes = topology.l2_bytes;
    probes_.l3_bytes = topology.l3_bytes;
    probes_.num_l3 = topology.num_l3;
    probes_.huge_pages = topology.huge_pages;
    probes_.passes = options_.passes;
    probes_.buffer_bytes = options_.buffer_bytes.value_or(default_buffer_bytes(topology, options_.memory_limit_bytes));
  }

  Status make_buffers() {
    for (const MemoryPages pages : {MemoryPages::kHuge, MemoryPages::kSmall}) {
      Result<AlignedBuffer> buffer = make_probe_buffer(backend_.pool(), probes_.buffer_bytes, pages);
      if (!buffer.ok()) {
        return buffer.error();
      }
      (pages == MemoryPages::kHuge ? huge_ : small_) = *std::move(buffer);
    }
    probes_.huge_bytes = huge_page_bytes(huge_.data(), probes_.buffer_bytes);
    return {};
  }

  [[nodiscard]] const AlignedBuffer& buffer(MemoryPages pages) const {
    return pages == MemoryPages::kHuge ? huge_ : small_;
  }

  Result<double> read_once(const ReadRate& rate) {
    Result<ProbeResult> result = ProbeResult{};
    if (rate.order == ReadOrder::kPages) {
      const auto dealt = DealtPages::make(buffer(rate.memory));
      if (!dealt.ok()) {
        return dealt.error();
      }
      result = dealt->read(backend_, rate.method);
    } else {
      result = read_probe(backend_.pool(), backend_.kernels(), buffer(rate.memory),
                          {.chunk_bytes = rate.chunk_bytes, .workers = rate.workers, .method = rate.method});
    }
    return result.ok() ? Result<double>(result->gb_per_s()) : result.error();
  }

  Result<std::vector<ReadRate>> run(std::vector<ReadSeries> series) {
    for (std::int32_t pass = -1; pass < options_.passes; ++pass) {  // the first warms up
      for (ReadSeries& one : series) {
        if (options_.cancelled()) {
          return Error{ErrorCode::kCancelled, "stopped by the caller", "probes"};
        }
        const Result<double> gb_per_s = read_once(one.rate);
        if (!gb_per_s.ok()) {
          return gb_per_s.error();
        }
        if (pass >= 0) {
          one.gb_per_s.push_back(*gb_per_s);
        }
      }
    }
    std::vector<ReadRate> rates;
    for (ReadSeries& one : series) {
      one.rate.gb_per_s = spread_of(one.gb_per_s);
      rates.push_back(one.rate);
    }
    return rates;
  }

  Status search_method() {
    std::vector<ReadSeries> series;
    for (const std::int32_t streams : {1, 2, 4}) {
      for (const ReadPrefetch prefetch : {ReadPrefetch::kNone, ReadPrefetch::kL1, ReadPrefetch::kL2}) {
        for (const std::int64_t ahead_bytes : {8192, 32768, 65536}) {
          if (prefetch == ReadPrefetch::kNone && ahead_bytes != 8192) {
            continue;  // nothing is ahead
          }
          series.push_back({.rate = {.order = ReadOrder::kRandom,
                                     .chunk_bytes = kSearchChunkBytes,
                                     .workers = backend_.num_workers(),
                                     .memory = MemoryPages::kHuge,
                                     .method = {streams, prefetch, ahead_bytes},
                                     .gb_per_s = {}},
                            .gb_per_s = {}});
        }
      }
    }
    Result<std::vector<ReadRate>> rates = run(std::move(series));
    if (!rates.ok()) {
      return rates.error();
    }
    probes_.methods = *std::move(rates);
    probes_.method = choose_method(probes_.methods);
    return {};
  }

  [[nodiscard]] std::vector<std::int32_t> worker_counts() const {
    const std::int32_t all = backend_.num_workers();
    std::vector<std::int32_t> counts;
    if (options_.set == ProbeSet::kQuick) {
      counts = {1};
    } else {
      for (std::int32_t n = 1; n < all; n += n < kMostWorkerCountsInARow ? 1 : n) {
        counts.push_back(n);
      }
    }
    if (counts.empty() || counts.back() != all) {
      counts.push_back(all);
    }
    return counts;
  }

  Status measure_reads() {
    std::vector<ReadSeries> series;
    const auto add = [&](ReadOrder order, std::optional<std::int64_t> chunk_bytes, std::int32_t workers,
                         MemoryPages memory) {
      series.push_back({.rate = {.order = order,
                                 .chunk_bytes = chunk_bytes,
                                 .workers = workers,
                                 .memory = memory,
                                 .method = probes_.method,
                                 .gb_per_s = {}},
                        .gb_per_s = {}});
    };
    for (const MemoryPages memory : {MemoryPages::kHuge, MemoryPages::kSmall}) {
      for (const std::int32_t workers : worker_counts()) {
        add(ReadOrder::kSequential, std::nullopt, workers, memory);
        for (const std::int64_t chunk_bytes : kProbeChunkBytes) {
          add(ReadOrder::kRandom, chunk_bytes, workers, memory);
        }
      }
      add(ReadOrder::kPages, std::nullopt, backend_.num_workers(), memory);
    }
    Result<std::vector<ReadRate>> rates = run(std::move(series));
    if (!rates.ok()) {
      return rates.error();
    }
    probes_.reads = *std::move(rates);
    return {};
  }

  void measure_fork_join() {
    for (const std::int64_t idle_ns : {std::int64_t{0}, kIdleNs}) {
      std::vector<double> us;
      fork_join_probe_ns(backend_.pool());
      for (std::int32_t i = 0; i < kForkJoinsAPass; ++i) {
        if (idle_ns > 0) {
          std::this_thread::sleep_for(std::chrono::nanoseconds(idle_ns));
        }
        us.push_back(static_cast<double>(fork_join_probe_ns(backend_.pool())) / 1e3);
      }
      probes_.fork_join.push_back({.workers = backend_.num_workers(), .idle_ns = idle_ns, .us = spread_of(us)});
    }
  }

  Status measure_exp() {
    for (const std::int32_t workers : worker_counts()) {
      std::vector<double> rates;
      for (std::int32_t pass = 0; pass < options_.passes; ++pass) {
        const Result<ExpResult> result = exp_probe(backend_.pool(), backend_.kernels(), workers);
        if (!result.ok()) {
          return result.error();
        }
        rates.push_back(result->exp_per_ns());
      }
      probes_.exp.push_back({.workers = workers, .exp_per_ns = spread_of(rates)});
    }
    return {};
  }

  Status measure_in_cache() {
    for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      for (const std::int32_t group_size : {1, 2, 4, 8}) {
        Result<InCacheStep> step = InCacheStep::make(backend_, dtype, group_size);
        if (!step.ok()) {
          return step.error();
        }
        std::vector<double> rates;
        for (std::int32_t pass = -1; pass < options_.passes; ++pass) {  // the first fills the caches
          const Result<double> rate = step->run(backend_);
          if (!rate.ok()) {
            return rate.error();
          }
          if (pass >= 0) {
            rates.push_back(*rate);
          }
        }
        probes_.in_cache.push_back({.dtype = dtype,
                                    .kv_order = std::string(kv_order_name(KvOrder::kHND)),
                                    .group_size = group_size,
                                    .head_dim = AttentionShape{}.head_dim,
                                    .page_size = 16,
                                    .workers = backend_.num_workers(),
                                    .gb_per_s = spread_of(rates)});
      }
    }
    return {};
  }

  CpuBackend& backend_;
  const CpuProbeOptions options_;
  CpuProbes probes_;
  AlignedBuffer huge_, small_;
};

Json spread_json(const ProbeSpread& spread) {
  return {{"median", spread.median}, {"p25", spread.p25},  {"p75", spread.p75},
          {"min", spread.least},     {"max", spread.most}, {"passes", spread.passes}};
}

Json method_json(const ReadMethod& method) {
  return {{"streams", method.streams},
          {"prefetch", read_prefetch_name(method.prefetch)},
          {"ahead_bytes", method.ahead_bytes}};
}

Json rates_json(const std::vector<ReadRate>& rates) {
  Json json = Json::array();
  for (const ReadRate& rate : rates) {
    json.push_back({{"order", read_order_name(rate.order)},
                    {"chunk_bytes", rate.chunk_bytes ? Json(*rate.chunk_bytes) : Json(nullptr)},
                    {"workers", rate.workers},
                    {"memory_pages", rate.memory == MemoryPages::kHuge ? "huge" : "4k"},
                    {"method", method_json(rate.method)},
                    {"gb_per_s", spread_json(rate.gb_per_s)}});
  }
  return json;
}

}  // namespace

std::string_view read_order_name(ReadOrder order) {
  switch (order) {
    case ReadOrder::kSequential: return "sequential";
    case ReadOrder::kRandom: return "random";
    case ReadOrder::kPages: return "pages";
  }
  return "unknown";
}

Result<CpuProbes> measure_cpu_probes(CpuBackend& backend, const CpuProbeOptions& options) {
  if (options.passes < 1 || options.passes > kMostPasses) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not in 1 to {}", options.passes, kMostPasses),
                 "passes"};
  }
  return Suite(backend, options).measure();
}

std::string cpu_probes_json(const CpuProbes& probes) {
  Json fork_join = Json::array();
  for (const ForkJoinTime& time : probes.fork_join) {
    fork_join.push_back({{"workers", time.workers}, {"idle_ns", time.idle_ns}, {"us", spread_json(time.us)}});
  }
  Json exp = Json::array();
  for (const ExpRate& rate : probes.exp) {
    exp.push_back({{"workers", rate.workers}, {"exp_per_ns", spread_json(rate.exp_per_ns)}});
  }
  Json in_cache = Json::array();
  for (const InCacheRate& rate : probes.in_cache) {
    in_cache.push_back({{"dtype", dtype_name(rate.dtype)},
                        {"kv_order", rate.kv_order},
                        {"group_size", rate.group_size},
                        {"head_dim", rate.head_dim},
                        {"page_size", rate.page_size},
                        {"workers", rate.workers},
                        {"gb_per_s", spread_json(rate.gb_per_s)}});
  }
  const Json json = {{"format", "persistentkv-cpu-probes"},
                     {"version", kJsonVersion},
                     {"cpu", probes.cpu},
                     {"isa", isa_name(probes.isa)},
                     {"num_workers", probes.num_workers},
                     {"num_cores", probes.num_cores},
                     {"l1d_bytes", probes.l1d_bytes},
                     {"l2_bytes", probes.l2_bytes},
                     {"l3_bytes", probes.l3_bytes},
                     {"num_l3", probes.num_l3},
                     {"huge_pages", huge_page_mode_name(probes.huge_pages)},
                     {"buffer_bytes", probes.buffer_bytes},
                     {"huge_bytes", probes.huge_bytes},
                     {"passes", probes.passes},
                     {"method", method_json(probes.method)},
                     {"methods", rates_json(probes.methods)},
                     {"reads", rates_json(probes.reads)},
                     {"fork_join", std::move(fork_join)},
                     {"exp", std::move(exp)},
                     {"in_cache", std::move(in_cache)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::int64_t huge_page_bytes(const void* data, std::int64_t bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t end = begin + static_cast<std::uintptr_t>(bytes);
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  std::int64_t huge = 0;
  while (std::getline(smaps, line)) {
    std::uintptr_t from = 0, to = 0;
    std::int64_t kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2) {
      inside = from < end && to > begin;
    } else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %" SCNd64, &kib) == 1) {
      huge += kib * 1024;
    }
  }
  return std::min(huge, bytes);
}

}  // namespace pkv

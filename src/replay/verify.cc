// The loop over cases: every route on one backend against the oracle, and two worker counts bit by bit.
// Not here: how a case is drawn (verify_case.h).
#include "replay/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "base/clock.h"
#include "persistentkv/cpu.h"
#include "persistentkv/reference.h"
#include "replay/oracle.h"
#include "replay/verify_case.h"

namespace pkv {
namespace {

constexpr std::int32_t kWorkerCounts[] = {1, 2, 3};
// Every so many cases, the same plans run with another number of workers, too.
constexpr std::int64_t kRepeatStride = 4;

/// Backends of the same group must agree bit by bit.
struct Candidate {
  Backend* backend = nullptr;
  std::string label;
  int group = 0;
};

/// Counts by name, in the order of first mention.
class Coverage {
 public:
  void count(const std::string& kind, bool happened = true) {
    auto found = std::find_if(counts_.begin(), counts_.end(), [&](const auto& entry) { return entry.first == kind; });
    if (found == counts_.end()) {
      found = counts_.insert(counts_.end(), {kind, 0});
    }
    found->second += happened ? 1 : 0;
  }
  [[nodiscard]] std::vector<std::pair<std::string, std::int64_t>> take() { return std::move(counts_); }

 private:
  std::vector<std::pair<std::string, std::int64_t>> counts_;
};

void count_types(const CaseSpec& spec, Coverage& coverage) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    coverage.count(fmt::format("kv={}", dtype_name(dtype)), spec.kv_dtype == dtype);
    coverage.count(fmt::format("q={}", dtype_name(dtype)), spec.query_dtype == dtype);
    coverage.count(fmt::format("out={}", dtype_name(dtype)), spec.out_dtype == dtype);
  }
}

void count_shape(const CaseSpec& spec, Coverage& coverage) {
  const std::int32_t group = spec.shape.group_size();
  for (const std::int32_t size : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    coverage.count(fmt::format("group_size={}", size), group == size);
  }
  coverage.count("group_size=others", group > 8 && group != 16);
  for (const std::int32_t dim : {32, 64, 128, 256}) {
    coverage.count(fmt::format("head_dim={}", dim), spec.shape.head_dim == dim);
  }
  coverage.count("head_dim=others", spec.shape.head_dim % 32 != 0);
  coverage.count("scale", spec.shape.softmax_scale.has_value());
  coverage.count("scale=large", Tolerance::logit_factor(spec.shape) > 2.0);
  coverage.count("soft_cap", spec.shape.logit_soft_cap.has_value());
  coverage.count("window", spec.shape.sliding_window_tokens.has_value());
  coverage.count("sinks", spec.shape.sinks == Sinks::kPerQueryHead);
}

void count_memory(const CaseSpec& spec, Coverage& coverage) {
  coverage.count("order=HND", spec.order == KvOrder::kHND);
  coverage.count("order=NHD", spec.order == KvOrder::kNHD);
  coverage.count("packing=separate", spec.packing == KvPacking::kSeparate);
  coverage.count("packing=packed", spec.packing == KvPacking::kPacked);
  coverage.count("page_size=1", spec.page_size == 1);
  coverage.count("page_size=16", spec.page_size == 16);
  coverage.count("page_size=256", spec.page_size == kMaxPageSize);
  coverage.count("page_size=odd", spec.page_size % 2 == 1 && spec.page_size > 1);
  coverage.count("kv_gaps", spec.slot_gap + spec.page_gap > 0);
  coverage.count("head_gaps", spec.head_gap > 0);
  coverage.count("table=csr", !spec.dense_table);
  coverage.count("table=dense", spec.dense_table);
  coverage.count("shared_pages", spec.shared_prefix_pages > 0);
}

void count_rows(const CaseSpec& spec, Coverage& coverage) {
  const auto has = [&](auto condition) { return std::any_of(spec.seq_lens.begin(), spec.seq_lens.end(), condition); };
  coverage.count("row=empty", has([](std::int32_t length) { return length == 0; }));
  coverage.count("row=one_token", has([](std::int32_t length) { return length == 1; }));
  coverage.count("row=whole_pages",
                 has([&](std::int32_t length) { return length > 0 && length % spec.page_size == 0; }));
  coverage.count("row=over_1000", has([](std::int32_t length) { return length > 1000; }));
  coverage.count("lse", spec.wants_lse);
}

void count_plan(const PlanOptions& options, const Plan& plan, Coverage& coverage) {
  coverage.count("splits=given", options.splits.has_value());
  coverage.count("splits=chosen", !options.splits.has_value());
  coverage.count("plan=merges", plan.counters().num_partial_slots > 0);
  coverage.count("plan=empty_tasks", plan.counters().num_nonempty_tasks < plan.counters().num_tasks);
  coverage.count("kv_heads_per_task=given", options.kv_heads_per_task.has_value());
  coverage.count("tile=32", options.tile_tokens == 32);
  coverage.count("tile=others", options.tile_tokens != 32);
}

class Verifier {
 public:
  Verifier(const VerifyOptions& options, std::vector<Candidate> candidates, RunObserver& observer)
      : options_(options),
        candidates_(std::move(candidates)),
        observer_(observer),
        blocks_(options.seed),
        tensors_(blocks_) {
    for (const Candidate& candidate : candidates_) {
      max_head_dim_ = std::min(max_head_dim_, candidate.backend->capabilities().max_head_dim);
    }
  }

  Result<VerifyRecords> run() {
    const std::int64_t begin_ns = now_ns();
    const std::int64_t first = options_.only_case.value_or(0);
    const std::int64_t count = options_.only_case ? 1 : options_.num_cases;
    records_.seed = options_.seed;
    records_.cases_asked = count;
    for (std::int64_t i = 0; i < count && !records_.failure; ++i) {
      if (observer_.cancelled()) {
        records_.interrupted = true;
        break;
      }
      run_case(first + i);
      ++records_.cases_run;
      observer_.on_progress({.phase = RunPhase::kVerifying, .done = i + 1, .total = count, .num_rows = 0});
    }
    finish(now_ns() - begin_ns);
    return std::move(records_);
  }

 private:
  struct ErrorSum {
    double sum = 0.0;
    std::int64_t count = 0;
    [[nodiscard]] double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0.0; }
  };

  void finish(std::int64_t elapsed_ns) {
    records_.elapsed_ns = elapsed_ns;
    records_.mean_abs_error_16bit = sum_16bit_.mean();
    records_.mean_abs_error_f32 = sum_f32_.mean();
    records_.coverage = coverage_.take();
  }

  void run_case(std::int64_t case_idx) {
    // Two draws apart, so that cases of nearby seeds and indices have nothing in common.
    SplitMix64 random(SplitMix64(options_.seed)() ^ SplitMix64(static_cast<std::uint64_t>(case_idx) + 0x5EED)());
    spec_ = draw_case(random, max_head_dim_);
    case_idx_ = case_idx;
    count_types(spec_, coverage_);
    count_shape(spec_, coverage_);
    count_memory(spec_, coverage_);
    count_rows(spec_, coverage_);
    const auto args = tensors_.build(spec_, random);
    if (!args.ok()) {
      fail("", args.error().to_string());
      return;
    }
    make_expected(*args);
    const Candidate& candidate = candidates_[random.below(candidates_.size())];
    count_backends(candidate);
    for (std::size_t i = 0; i < spec_.plans.size() && !records_.failure; ++i) {
      run_route(*args, with_merge(spec_.plans[i], i), candidate);
    }
  }

  void make_expected(const RunArgs& args) {
    const auto heads = static_cast<std::size_t>(spec_.shape.num_q_heads);
    const std::size_t row_elements = heads * static_cast<std::size_t>(spec_.shape.head_dim);
    expected_.resize(spec_.seq_lens.size() * row_elements);
    expected_lse_.resize(spec_.seq_lens.size() * heads);
    for (std::size_t row = 0; row < spec_.seq_lens.size(); ++row) {
      reference_attention_row(args, static_cast<std::int32_t>(row),
                              std::span(expected_).subspan(row * row_elements, row_elements),
                              std::span(expected_lse_).subspan(row * heads, heads));
    }
  }

  void count_backends(const Candidate& used) {
    for (const Candidate& candidate : candidates_) {
      coverage_.count("backend=" + candidate.label, &candidate == &used);
    }
  }

  /// No random draw decides, so that the cases of a seed are the same with and without fused merges.
  [[nodiscard]] PlanOptions with_merge(PlanOptions options, std::size_t plan_idx) const {
    const std::int32_t heads =
        options.kv_heads_per_task.value_or(options.route == Route::kPages ? spec_.shape.num_kv_heads : 1);
    const bool heads_fit = options_.fused_merges == FusedMerges::kAnyHeads ||
                           (options_.fused_merges == FusedMerges::kOneHead && heads == 1);
    const bool second = (case_idx_ + static_cast<std::int64_t>(plan_idx)) % 2 == 1;
    if (options.route != Route::kRow && heads_fit && second) {
      options.merge = MergeMode::kFused;
    }
    return options;
  }

  void run_route(const RunArgs& args, const PlanOptions& options, const Candidate& candidate) {
    const auto plan = make_plan(args.batch, options);
    if (!plan.ok()) {
      fail(route_text(options, candidate), plan.error().to_string());
      return;
    }
    count_plan(options, *plan, coverage_);
    if (options_.fused_merges != FusedMerges::kNone) {
      coverage_.count("merge=fused", options.merge == MergeMode::kFused && !plan->merges().empty());
    }
    for (const Route route : kAllRoutes) {
      coverage_.count(fmt::format("route={}", route_name(route)), route == options.route);
    }
    if (!execute(*plan, args, candidate, options)) {
      return;
    }
    compare(options, candidate);
    repeat_elsewhere(*plan, args, candidate, options);
  }

  /// False after a failure.
  bool execute(const Plan& plan, const RunArgs& args, const Candidate& candidate, const PlanOptions& options) {
    tensors_.poison_outputs();
    const Status reserved = candidate.backend->reserve(plan);
    if (!reserved.ok()) {
      fail(route_text(options, candidate), reserved.error().to_string());
      return false;
    }
    const auto times = candidate.backend->run(plan, args);
    if (!times.ok()) {
      fail(route_text(options, candidate), times.error().to_string());
      return false;
    }
    ++records_.runs;
    if (!tensors_.output_gaps_untouched()) {
      fail(route_text(options, candidate), "elements between output heads were overwritten");
      return false;
    }
    return true;
  }

  /// A plan's result must not depend on the number of workers.
  void repeat_elsewhere(const Plan& plan, const RunArgs& args, const Candidate& used, const PlanOptions& options) {
    const auto other = std::find_if(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
      return candidate.group == used.group && &candidate != &used;
    });
    const bool repeats = case_idx_ % kRepeatStride == 0 && other != candidates_.end() && !records_.failure;
    coverage_.count("repeated_bit_by_bit", repeats);
    if (!repeats) {
      return;
    }
    const std::vector<std::uint8_t> first = tensors_.output_bytes();
    if (execute(plan, args, *other, options) && tensors_.output_bytes() != first) {
      fail(route_text(options, used), fmt::format("outputs differ bit by bit from {}", other->label));
    }
  }

  [[nodiscard]] bool is_f32() const { return spec_.kv_dtype == DType::kF32 && spec_.query_dtype == DType::kF32; }

  void compare(const PlanOptions& options, const Candidate& candidate) {
    const Tolerance tolerance = Tolerance::of(spec_.kv_dtype, spec_.query_dtype, spec_.shape);
    double& max_abs = is_f32() ? records_.max_abs_error_f32 : records_.max_abs_error_16bit;
    ErrorSum total;
    std::size_t i = 0;
    for (std::int32_t row = 0; row < static_cast<std::int32_t>(spec_.seq_lens.size()); ++row) {
      for (std::int32_t head = 0; head < spec_.shape.num_q_heads; ++head) {
        for (std::int32_t element = 0; element < spec_.shape.head_dim; ++element, ++i) {
          const double actual = tensors_.output(row, head, element);
          const double error = output_error(actual, expected_[i], spec_.out_dtype);
          if (!(error < tolerance.max_abs)) {
            fail(route_text(options, candidate),
                 fmt::format("row {}, query head {}, element {}: got {:.9g}, expected {:.9g}, error limit {:.1e}", row,
                             head, element, actual, expected_[i], tolerance.max_abs));
            return;
          }
          max_abs = std::max(max_abs, error);
          total.sum += error;
          ++total.count;
        }
      }
    }
    if (!(total.mean() < tolerance.mean_abs)) {
      fail(route_text(options, candidate),
           fmt::format("mean error {:.3g}, limit {:.1e}", total.mean(), tolerance.mean_abs));
    }
    ErrorSum& sum = is_f32() ? sum_f32_ : sum_16bit_;
    sum.sum += total.sum;
    sum.count += total.count;
    compare_lse(options, candidate);
  }

  void compare_lse(const PlanOptions& options, const Candidate& candidate) {
    const double limit = Tolerance::of(spec_.kv_dtype, spec_.query_dtype, spec_.shape).lse_abs;
    for (std::size_t i = 0; i < tensors_.lse().size(); ++i) {
      const double actual = tensors_.lse()[i];
      const bool equal = actual == expected_lse_[i];  // -inf for rows with nothing to attend
      const double error = equal ? 0.0 : std::abs(actual - expected_lse_[i]);
      if (!(error < limit)) {
        const auto heads = static_cast<std::size_t>(spec_.shape.num_q_heads);
        fail(route_text(options, candidate), fmt::format("LSE of row {}, query head {}: got {:.9g}, expected {:.9g}",
                                                         i / heads, i % heads, actual, expected_lse_[i]));
        return;
      }
      records_.max_abs_error_lse = std::max(records_.max_abs_error_lse, error);
    }
  }

  static std::string route_text(const PlanOptions& options, const Candidate& candidate) {
    return fmt::format(" route={} splits={} merge={} num_workers={} tile={} kv_heads_per_task={} backend={}",
                       route_name(options.route), options.splits ? fmt::format("{}", *options.splits) : "chosen",
                       merge_mode_name(options.merge), options.num_workers, options.tile_tokens,
                       options.kv_heads_per_task.value_or(0), candidate.label);
  }

  void fail(const std::string& route, std::string message) {
    records_.failure =
        VerifyFailure{.case_idx = case_idx_, .description = spec_.describe() + route, .message = std::move(message)};
  }

  const VerifyOptions& options_;
  std::vector<Candidate> candidates_;
  RunObserver& observer_;
  RandomBlocks blocks_;
  CaseTensors tensors_;
  std::int32_t max_head_dim_ = kMaxHeadDim;
  VerifyRecords records_;
  Coverage coverage_;
  CaseSpec spec_;
  std::int64_t case_idx_ = 0;
  std::vector<double> expected_;
  std::vector<double> expected_lse_;
  ErrorSum sum_16bit_;
  ErrorSum sum_f32_;
};

Status validate(const VerifyOptions& options) {
  if (options.num_cases < 1) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} cases, must be at least 1", options.num_cases), "cases"};
  }
  if (options.only_case.value_or(0) < 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("case {}, must be at least 0", *options.only_case), "case"};
  }
  return {};
}

}  // namespace

Result<VerifyRecords> verify(const VerifyOptions& options, RunObserver& observer) {
  PKV_RETURN_IF_ERROR(validate(options));
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<Candidate> candidates;
  for (const Isa isa : supported_isas()) {
    for (const std::int32_t workers : kWorkerCounts) {
      // Unpinned: many pools share the cores, and speed is not what is looked at here.
      auto made = make_cpu_backend({.threads = workers, .pin = false, .wait = WaitMode::kSleep, .isa = isa});
      if (!made.ok()) {
        return made.error();
      }
      backends.push_back(std::move(*made));
      candidates.push_back(
          {backends.back().get(), fmt::format("{}x{}", isa_name(isa), workers), static_cast<int>(isa)});
    }
  }
  return Verifier(options, std::move(candidates), observer).run();
}

Result<VerifyRecords> verify(const VerifyOptions& options, std::span<Backend* const> backends, RunObserver& observer) {
  PKV_RETURN_IF_ERROR(validate(options));
  if (backends.empty()) {
    return Error{ErrorCode::kInvalidArgument, "no backends", "backends"};
  }
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < backends.size(); ++i) {
    if (backends[i]->device_memory() != nullptr) {
      return Error{ErrorCode::kUnsupported, "its tensors lie in device memory; wrap it in a StagedBackend",
                   fmt::format("backends[{}] {}", i, backends[i]->name())};
    }
    const auto alike = std::find_if(backends.begin(), backends.end(),
                                    [&](Backend* other) { return other->describe() == backends[i]->describe(); });
    candidates.push_back(
        {backends[i], fmt::format("{}[{}]", backends[i]->name(), i), static_cast<int>(alike - backends.begin())});
  }
  return Verifier(options, std::move(candidates), observer).run();
}

}  // namespace pkv

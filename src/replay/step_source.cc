// Steps of an admission, and one step over and over.
#include "replay/step_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "base/math.h"
#include "base/random.h"
#include "replay/memory.h"

namespace pkv {
namespace {

Error invalid(std::string message, std::string where) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(where)};
}

class TraceSource final : public StepSource {
 public:
  TraceSource(std::unique_ptr<Admission> admission, const StepBounds& bounds, const ReplayOptions& options)
      : admission_(std::move(admission)), bounds_(bounds), skip_(options.skip_steps), max_steps_(options.max_steps) {}

  Result<bool> next(StepRows& rows) override {
    if (max_steps_ && yielded_ >= *max_steps_) {
      return false;
    }
    for (; skip_ > 0; --skip_) {
      const Result<bool> passed = admission_->next(rows);
      if (!passed.ok() || !*passed) {
        return passed;
      }
    }
    ++yielded_;
    return admission_->next(rows);
  }

  [[nodiscard]] std::int64_t num_physical_pages() const override { return admission_->num_physical_pages(); }
  [[nodiscard]] std::optional<std::int64_t> max_steps() const override { return max_steps_; }
  [[nodiscard]] StepBounds bounds() const override { return bounds_; }
  [[nodiscard]] bool reads_every_page() const override { return false; }

 private:
  std::unique_ptr<Admission> admission_;
  StepBounds bounds_;
  std::int64_t skip_;
  std::optional<std::int64_t> max_steps_;
  std::int64_t yielded_ = 0;
};

/// The first `count` ids of a seeded permutation of [0, universe).
std::vector<std::int32_t> deal_ids(std::int64_t count, std::int64_t universe, std::uint64_t seed) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(universe));
  std::iota(ids.begin(), ids.end(), 0);
  SplitMix64 random(seed);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto other = static_cast<std::size_t>(i) + random.below(static_cast<std::uint64_t>(universe - i));
    std::swap(ids[static_cast<std::size_t>(i)], ids[other]);
  }
  ids.resize(static_cast<std::size_t>(count));
  return ids;
}

class RepeatedSource final : public StepSource {
 public:
  /// `rows` without page ids: they are dealt on the first call of next, when the caller has found that
  /// the pool fits.
  RepeatedSource(StepRows rows, std::int64_t num_physical_pages, const StepBounds& bounds, const StepOptions& options)
      : rows_(std::move(rows)),
        num_physical_pages_(num_physical_pages),
        bounds_(bounds),
        page_seed_(options.page_seed),
        repeats_(options.repeats) {}

  Result<bool> next(StepRows& rows) override {
    if (yielded_ >= repeats_) {
      return false;
    }
    if (yielded_ == 0) {
      rows_.kv_indices = deal_ids(rows_.kv_indptr.back(), num_physical_pages_, page_seed_);
    }
    rows = rows_;
    rows.step_idx = yielded_++;
    return true;
  }

  [[nodiscard]] std::int64_t num_physical_pages() const override { return num_physical_pages_; }
  [[nodiscard]] std::optional<std::int64_t> max_steps() const override { return repeats_; }
  [[nodiscard]] StepBounds bounds() const override { return bounds_; }
  [[nodiscard]] bool reads_every_page() const override { return true; }

 private:
  StepRows rows_;
  std::int64_t num_physical_pages_;
  StepBounds bounds_;
  std::uint64_t page_seed_;
  std::int64_t repeats_;
  std::int64_t yielded_ = 0;
};

constexpr auto kIdBytes = static_cast<std::int64_t>(sizeof(std::int32_t));
constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();

/// Page ids alone can be gigabytes (2^31 tokens, page size 1), in plan-only mode too.
Status check_tables(const StepBounds& bounds, const RunOptions& options) {
  // A step's ids are held once by the source's caller.
  const std::int64_t bytes = saturating_add(bounds.table_bytes, saturating_mul(bounds.max_pages, kIdBytes));
  return check_memory(bytes, memory_budget_bytes(options.memory_limit_bytes),
                      fmt::format("block tables of {} pages", bounds.max_pages));
}

/// Pages among which `num_pages` are dealt; 0 if that is more than ids can name, or no share at all, which
/// the admission refuses by name before it allocates.
std::int64_t physical_pages(std::int64_t num_pages, double hole_fraction) {
  const double physical = std::ceil(static_cast<double>(num_pages) / (1.0 - hole_fraction));
  return physical >= 0.0 && physical <= static_cast<double>(kMaxPages) ? static_cast<std::int64_t>(physical) : 0;
}

std::int64_t pages_of(std::int64_t tokens, std::int32_t page_size) {
  return ceil_div(std::max<std::int64_t>(0, tokens), std::int64_t{page_size});
}

/// Pages of every request up to `end_of(request)` tokens, the most first if only `count` of them matter.
template <typename End>
std::int64_t sum_pages(const Trace& trace, std::int32_t page_size, std::size_t count, End end_of) {
  std::vector<std::int64_t> pages;
  pages.reserve(trace.requests.size());
  for (const Request& request : trace.requests) {
    pages.push_back(pages_of(end_of(request), page_size));
  }
  const auto end = pages.begin() + static_cast<std::ptrdiff_t>(std::min(count, pages.size()));
  std::partial_sort(pages.begin(), end, pages.end(), std::greater<>());
  return std::accumulate(pages.begin(), end, std::int64_t{0}, saturating_add);
}

std::int64_t last_token(const Request& request) { return std::int64_t{request.prompt_len} + request.decode_len; }

/// Bounds of a trace that need not be valid: what cannot be is left to the admission to refuse.
StepBounds trace_bounds(const Trace& trace, const AdmissionOptions& options) {
  StepBounds bounds;
  bounds.max_rows = std::clamp<std::int64_t>(options.max_active, 0, static_cast<std::int64_t>(trace.requests.size()));
  for (const Request& request : trace.requests) {
    bounds.max_seq_len = std::max(bounds.max_seq_len, last_token(request));
  }
  const auto rows = static_cast<std::size_t>(bounds.max_rows);
  const auto end_of_row = [](const Request& request) { return last_token(request) - 1; };
  const std::int64_t of_rows = sum_pages(trace, options.page_size, rows, end_of_row);
  if (options.mode == AdmissionMode::kPaper) {
    const std::int64_t owned = sum_pages(trace, options.page_size, trace.requests.size(), last_token);
    bounds.max_pages = of_rows;
    bounds.table_bytes = saturating_mul(physical_pages(owned, options.hole_fraction), kIdBytes);
    return bounds;
  }
  // The pool: the order of dealing, one reference count a page and the ring of free ones. The order is
  // gone when rows hold ids, which are at most as many.
  const std::int64_t pool = std::max<std::int64_t>(0, options.pool_pages.value_or(of_rows));
  constexpr std::int64_t kCopies = 3;
  bounds.max_pages = std::min(of_rows, pool);
  bounds.table_bytes = saturating_mul(physical_pages(pool, options.hole_fraction), kCopies * kIdBytes);
  return bounds;
}

Status validate_step(const StepOptions& options) {
  if (options.seq_lens.empty()) {
    return invalid("no lengths", "lens");
  }
  if (options.seq_lens.size() > static_cast<std::size_t>(kMaxRows)) {
    return invalid(fmt::format("{} rows, at most {}", options.seq_lens.size(), kMaxRows), "lens");
  }
  for (std::size_t row = 0; row < options.seq_lens.size(); ++row) {
    if (options.seq_lens[row] < 0) {
      return invalid(fmt::format("length is {}, must be at least 0", options.seq_lens[row]),
                     fmt::format("lens[{}]", row));
    }
  }
  if (options.page_size < 1 || options.page_size > kMaxPageSize) {
    return invalid(fmt::format("page size is {}, must be 1 to {}", options.page_size, kMaxPageSize), "page_size");
  }
  if (!(options.hole_fraction >= 0.0 && options.hole_fraction < 1.0)) {
    return invalid(fmt::format("hole fraction is {}, must be in [0, 1)", options.hole_fraction), "hole_fraction");
  }
  return options.repeats >= 1 ? Status{}
                              : invalid(fmt::format("{} repeats, must be at least 1", options.repeats), "repeats");
}

}  // namespace

Result<std::unique_ptr<StepSource>> make_trace_source(const Trace& trace, const ReplayOptions& options) {
  if (options.max_steps.value_or(1) < 1) {
    return invalid(fmt::format("{} steps, must be at least 1", *options.max_steps), "steps");
  }
  if (options.skip_steps < 0) {
    return invalid(fmt::format("{} steps to skip, must be at least 0", options.skip_steps), "skip");
  }
  const StepBounds bounds = trace_bounds(trace, options.admission);
  PKV_RETURN_IF_ERROR(check_tables(bounds, options.run));
  auto admission = make_admission(trace, options.admission);
  if (!admission.ok()) {
    return admission.error();
  }
  return std::unique_ptr<StepSource>(std::make_unique<TraceSource>(std::move(*admission), bounds, options));
}

Result<std::unique_ptr<StepSource>> make_repeated_source(const StepOptions& options) {
  PKV_RETURN_IF_ERROR(validate_step(options));
  StepRows rows;
  rows.seq_lens = options.seq_lens;
  std::int64_t used_pages = 0;
  rows.kv_indptr.push_back(0);
  for (std::size_t row = 0; row < rows.seq_lens.size(); ++row) {
    rows.request_idx.push_back(static_cast<std::int32_t>(row));
    used_pages += ceil_div(rows.seq_lens[row], options.page_size);
    if (used_pages > std::numeric_limits<std::int32_t>::max()) {
      return Error{ErrorCode::kOutOfRange,
                   fmt::format("more than {} pages in all", std::numeric_limits<std::int32_t>::max()),
                   fmt::format("lens[{}]", row)};
    }
    rows.kv_indptr.push_back(static_cast<std::int32_t>(used_pages));
  }
  const double universe = std::ceil(static_cast<double>(used_pages) / (1.0 - options.hole_fraction));
  if (universe > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{:.0f} physical pages, at most {}", universe, std::numeric_limits<std::int32_t>::max()),
                 "hole_fraction"};
  }
  // The ids are cut out of a permutation of all physical pages.
  const auto num_physical = static_cast<std::int64_t>(universe);
  const StepBounds bounds{
      .max_rows = static_cast<std::int64_t>(rows.seq_lens.size()),
      .max_seq_len = *std::max_element(rows.seq_lens.begin(), rows.seq_lens.end()),
      .max_pages = used_pages,
      .table_bytes = num_physical * kIdBytes,
  };
  PKV_RETURN_IF_ERROR(check_tables(bounds, options.run));
  return std::unique_ptr<StepSource>(std::make_unique<RepeatedSource>(std::move(rows), num_physical, bounds, options));
}

}  // namespace pkv

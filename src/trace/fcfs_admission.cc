// First come, first served: a queue, a page pool, and preemption by recomputation.
// Not here: the paper's ageing rule (paper_admission.cc), prefill (it takes no steps).
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "base/check.h"
#include "persistentkv/page_pool.h"
#include "trace/admission_modes.h"
#include "trace/page_deal.h"

namespace pkv::trace_internal {
namespace {

/// Pages of a request in its last step, when its row is prompt_len + decode_len - 1 tokens long.
std::int64_t peak_pages(const Request& request, std::int32_t page_size) {
  return pages_for(static_cast<std::int64_t>(request.prompt_len) + request.decode_len - 1, page_size);
}

/// Every step decodes one token of every row, and the oldest row is never preempted for another: at
/// most sum(decode_len) steps, each with at least one row.
class FcfsAdmission final : public Admission {
 public:
  FcfsAdmission(StepTrace trace, const AdmissionOptions& options, PagePool pool, std::int64_t pool_pages)
      : trace_(std::move(trace)),
        max_active_(static_cast<std::size_t>(options.max_active)),
        page_size_(options.page_size),
        pool_(std::move(pool)),
        pool_pages_(pool_pages),
        too_large_(find_too_large()) {}

  Result<bool> next(StepRows& rows) override {
    if (too_large_) {
      return *too_large_;
    }
    if (running_.empty() && queue_.empty()) {
      if (num_arrived_ == trace_.requests.size()) {
        return false;
      }
      step_ = std::max(step_, trace_.arrival_steps[num_arrived_]);
    }
    enqueue_arrivals();
    PKV_RETURN_IF_ERROR(grow());
    PKV_RETURN_IF_ERROR(admit());
    fill(rows);
    PKV_RETURN_IF_ERROR(retire());
    return true;
  }

  [[nodiscard]] std::int64_t num_physical_pages() const override { return pool_.num_pages(); }
  [[nodiscard]] const AdmissionStats& stats() const override { return stats_; }

 private:
  struct Waiting {
    std::int32_t request_idx = 0;
    std::int32_t generated = 0;
  };
  struct Running {
    std::int32_t request_idx = 0;
    std::int32_t generated = 0;
    std::int32_t seq_len = 0;
    std::vector<std::int32_t> pages;
  };

  [[nodiscard]] const Request& request(std::int32_t request_idx) const {
    return trace_.requests[static_cast<std::size_t>(request_idx)];
  }

  [[nodiscard]] std::optional<Error> find_too_large() const {
    for (std::size_t i = 0; i < trace_.requests.size(); ++i) {
      const Request& r = trace_.requests[i];
      if (const std::int64_t needed = peak_pages(r, page_size_); needed > pool_pages_) {
        return Error{
            .code = ErrorCode::kResourceExhausted,
            .message = fmt::format("prompt_len {} and decode_len {} need {} pages of {} tokens, the pool has {}",
                                   r.prompt_len, r.decode_len, needed, page_size_, pool_pages_),
            .where = fmt::format("{}, request {}", trace_.name, i)};
      }
    }
    return std::nullopt;
  }

  void enqueue_arrivals() {
    while (num_arrived_ < trace_.requests.size() && trace_.arrival_steps[num_arrived_] <= step_) {
      queue_.push_back({.request_idx = static_cast<std::int32_t>(num_arrived_++), .generated = 0});
    }
  }

  /// Rows of earlier steps come before new ones, the oldest first.
  Status grow() {
    for (std::size_t i = 0; i < running_.size(); ++i) {
      while (i < running_.size() && lacks_page(running_[i])) {
        if (pool_.num_free() == 0) {
          PKV_RETURN_IF_ERROR(preempt_newest());
          continue;
        }
        const Result<std::int32_t> page = pool_.allocate();
        PKV_RETURN_IF_ERROR(page);
        running_[i].pages.push_back(page.value());
      }
    }
    return {};
  }

  [[nodiscard]] bool lacks_page(const Running& row) const {
    return static_cast<std::int64_t>(row.pages.size()) < pages_for(row.seq_len, page_size_);
  }

  Status preempt_newest() {
    const Running& victim = running_.back();
    PKV_RETURN_IF_ERROR(give_back(victim.pages));
    queue_.push_front({.request_idx = victim.request_idx, .generated = victim.generated});
    running_.pop_back();
    ++stats_.preempted;
    return {};
  }

  Status give_back(const std::vector<std::int32_t>& pages) {
    for (const std::int32_t page : pages) {
      PKV_RETURN_IF_ERROR(pool_.free(page));
    }
    return {};
  }

  Status admit() {
    while (!queue_.empty() && running_.size() < max_active_) {
      const Waiting head = queue_.front();
      const std::int32_t prefix = request(head.request_idx).prompt_len + head.generated;
      const std::int64_t needed = pages_for(prefix, page_size_);
      if (needed > pool_.num_free()) {
        break;
      }
      Running row{.request_idx = head.request_idx, .generated = head.generated, .seq_len = prefix, .pages = {}};
      row.pages.reserve(static_cast<std::size_t>(peak_pages(request(head.request_idx), page_size_)));
      PKV_RETURN_IF_ERROR(pool_.allocate(needed, row.pages));
      running_.push_back(std::move(row));
      queue_.pop_front();
      stats_.admitted += head.generated == 0 ? 1 : 0;
      stats_.recomputed_tokens += head.generated == 0 ? 0 : prefix;
    }
    PKV_ASSERT(!running_.empty());
    return {};
  }

  void fill(StepRows& rows) {
    rows.step_idx = step_++;
    rows.request_idx.clear();
    rows.seq_lens.clear();
    rows.kv_indptr.assign(1, 0);
    rows.kv_indices.clear();
    for (const Running& row : running_) {
      rows.request_idx.push_back(row.request_idx);
      rows.seq_lens.push_back(row.seq_len);
      rows.kv_indices.insert(rows.kv_indices.end(), row.pages.begin(), row.pages.end());
      rows.kv_indptr.push_back(static_cast<std::int32_t>(rows.kv_indices.size()));
    }
    ++stats_.steps;
    stats_.peak_pages = std::max(stats_.peak_pages, pool_pages_ - pool_.num_free());
  }

  /// After a step every row has one token more; those that have all of theirs leave.
  Status retire() {
    for (Running& row : running_) {
      ++row.generated;
      ++row.seq_len;
      if (is_finished(row)) {
        PKV_RETURN_IF_ERROR(give_back(row.pages));
        ++stats_.finished;
      }
    }
    std::erase_if(running_, [this](const Running& row) { return is_finished(row); });
    stats_.pages_in_use = pool_pages_ - pool_.num_free();
    return {};
  }

  [[nodiscard]] bool is_finished(const Running& row) const {
    return row.generated == request(row.request_idx).decode_len;
  }

  StepTrace trace_;
  std::size_t max_active_;
  std::int32_t page_size_;
  PagePool pool_;
  std::int64_t pool_pages_;
  std::optional<Error> too_large_;
  std::deque<Waiting> queue_;
  std::vector<Running> running_;  // in order of admission
  std::size_t num_arrived_ = 0;
  std::int64_t step_ = 0;
  AdmissionStats stats_;
};

/// Pages that the max_active largest requests need together: nobody is preempted.
std::int64_t default_pool_pages(const StepTrace& trace, const AdmissionOptions& options) {
  std::vector<std::int64_t> needs;
  needs.reserve(trace.requests.size());
  for (const Request& request : trace.requests) {
    needs.push_back(peak_pages(request, options.page_size));
  }
  const std::size_t num_rows = std::min(needs.size(), static_cast<std::size_t>(options.max_active));
  const auto end = needs.begin() + static_cast<std::ptrdiff_t>(num_rows);
  std::nth_element(needs.begin(), end - 1, needs.end(), std::greater<>());
  return std::max<std::int64_t>(1, std::accumulate(needs.begin(), end, std::int64_t{0}));
}

}  // namespace

Result<std::unique_ptr<Admission>> make_fcfs_admission(StepTrace trace, const AdmissionOptions& options) {
  const std::int64_t pool_pages = options.pool_pages.value_or(default_pool_pages(trace, options));
  Result<PageDeal> deal = deal_pages(pool_pages, options.hole_fraction, options.page_seed);
  PKV_RETURN_IF_ERROR(deal);
  Result<PagePool> pool = PagePool::make(deal->num_physical_pages, deal->order);
  PKV_RETURN_IF_ERROR(pool);
  return std::unique_ptr<Admission>(
      std::make_unique<FcfsAdmission>(std::move(trace), options, std::move(pool).value(), pool_pages));
}

}  // namespace pkv::trace_internal

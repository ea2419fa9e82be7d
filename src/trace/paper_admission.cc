// The paper's admission: the first max_active candidates in request order, ageing whether active or not.
// Not here: pools and preemption (fcfs_admission.cc).
#include <fmt/format.h>

#include <cstddef>
#include <limits>
#include <utility>

#include "trace/admission_modes.h"
#include "trace/page_deal.h"

namespace pkv::trace_internal {
namespace {

/// Candidates are a singly linked list in request order. A step walks it only until max_active live
/// ones are found and unlinks the aged-out ones it meets, so that the cost over a whole trace is
/// linear in requests plus rows even when most candidates wait behind the first.
class PaperAdmission final : public Admission {
 public:
  PaperAdmission(StepTrace trace, const AdmissionOptions& options, std::vector<std::int64_t> first_page, PageDeal deal)
      : trace_(std::move(trace)),
        max_active_(static_cast<std::size_t>(options.max_active)),
        page_size_(options.page_size),
        first_page_(std::move(first_page)),
        deal_(std::move(deal)),
        next_candidate_(trace_.requests.size() + 1, kEnd),
        seen_(trace_.requests.size(), false) {
    stats_.pages_in_use = stats_.peak_pages = static_cast<std::int64_t>(deal_.order.size());
  }

  Result<bool> next(StepRows& rows) override {
    for (;;) {
      append_arrivals();
      rows.step_idx = step_;
      fill(rows);
      if (!rows.request_idx.empty()) {
        ++step_;
        ++stats_.steps;
        return true;
      }
      if (num_arrived_ == trace_.requests.size()) {
        return false;
      }
      step_ = trace_.arrival_steps[num_arrived_];
    }
  }

  [[nodiscard]] std::int64_t num_physical_pages() const override { return deal_.num_physical_pages; }
  [[nodiscard]] const AdmissionStats& stats() const override { return stats_; }

 private:
  static constexpr std::int32_t kEnd = -1;

  /// The head of the list is kept behind the last request.
  [[nodiscard]] std::size_t head() const { return trace_.requests.size(); }

  void append_arrivals() {
    if (next_candidate_[head()] == kEnd) {
      tail_ = head();
    }
    while (num_arrived_ < trace_.requests.size() && trace_.arrival_steps[num_arrived_] <= step_) {
      next_candidate_[tail_] = static_cast<std::int32_t>(num_arrived_);
      tail_ = num_arrived_++;
    }
  }

  void fill(StepRows& rows) {
    rows.request_idx.clear();
    rows.seq_lens.clear();
    rows.kv_indptr.assign(1, 0);
    rows.kv_indices.clear();
    std::size_t previous = head();
    while (next_candidate_[previous] != kEnd && rows.request_idx.size() < max_active_) {
      const std::int32_t request_idx = next_candidate_[previous];
      const auto candidate = static_cast<std::size_t>(request_idx);
      const std::int64_t generated = step_ - trace_.arrival_steps[candidate];
      if (generated >= trace_.requests[candidate].decode_len) {
        next_candidate_[previous] = next_candidate_[candidate];
        tail_ = tail_ == candidate ? previous : tail_;
        continue;
      }
      append_row(rows, request_idx, static_cast<std::int32_t>(generated));
      previous = candidate;
    }
  }

  void append_row(StepRows& rows, std::int32_t request_idx, std::int32_t generated) {
    const auto i = static_cast<std::size_t>(request_idx);
    const Request& request = trace_.requests[i];
    const std::int32_t seq_len = request.prompt_len + generated;
    const auto pages = deal_.order.begin() + first_page_[i];
    rows.request_idx.push_back(request_idx);
    rows.seq_lens.push_back(seq_len);
    rows.kv_indices.insert(rows.kv_indices.end(), pages, pages + pages_for(seq_len, page_size_));
    rows.kv_indptr.push_back(static_cast<std::int32_t>(rows.kv_indices.size()));
    stats_.admitted += seen_[i] ? 0 : 1;
    seen_[i] = true;
    stats_.finished += generated + 1 == request.decode_len ? 1 : 0;
  }

  StepTrace trace_;
  std::size_t max_active_;
  std::int32_t page_size_;
  std::vector<std::int64_t> first_page_;  // by request, into deal_.order
  PageDeal deal_;
  std::vector<std::int32_t> next_candidate_;
  std::vector<bool> seen_;
  std::size_t tail_ = 0;
  std::size_t num_arrived_ = 0;
  std::int64_t step_ = 0;
  AdmissionStats stats_;
};

}  // namespace

Result<std::unique_ptr<Admission>> make_paper_admission(StepTrace trace, const AdmissionOptions& options) {
  std::vector<std::int64_t> first_page;
  first_page.reserve(trace.requests.size());
  std::int64_t total = 0;
  for (const Request& request : trace.requests) {
    first_page.push_back(total);
    total += pages_for(static_cast<std::int64_t>(request.prompt_len) + request.decode_len, options.page_size);
  }
  if (total > std::numeric_limits<std::int32_t>::max()) {
    return Error{
        .code = ErrorCode::kInvalidArgument,
        .message = fmt::format("paper mode gives all {} requests their pages at once: {} pages, the limit is {}; "
                               "use fcfs admission or fewer requests",
                               trace.requests.size(), total, std::numeric_limits<std::int32_t>::max()),
        .where = {}};
  }
  Result<PageDeal> deal = deal_pages(total, options.hole_fraction, options.page_seed);
  PKV_RETURN_IF_ERROR(deal);
  return std::unique_ptr<Admission>(
      std::make_unique<PaperAdmission>(std::move(trace), options, std::move(first_page), std::move(deal).value()));
}

}  // namespace pkv::trace_internal

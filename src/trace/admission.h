// Admission: which requests are active in a step, how long they are, and which pages they hold.
// Not here: K,V data, plans.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "persistentkv/result.h"
#include "trace/trace.h"

namespace pkv {

/// Both modes count time in whole steps from 0; the row of a request that has generated g tokens is
/// prompt_len + g tokens long, g = 0 in its first step (the paper's convention: the token that a step
/// produces is in the cache from the next step on). Prefill takes no steps. An arrival between two
/// steps counts for the later one; an arrival in seconds falls on step ceil(arrival / step_seconds).
enum class AdmissionMode : std::uint8_t {
  kPaper,  // the paper's exact rule: a candidate beyond max_active ages and loses its tokens
  /// First come, first served, with a page pool. The head of the queue is admitted when a place and
  /// pages for its whole prefix are free; nobody overtakes it. A row that crosses a page border takes
  /// one more page; when there is none, the most recently admitted row gives all its pages back and
  /// goes to the front of the queue, its prefix (prompt and generated tokens) to be recomputed.
  kFcfs,
};

std::string_view admission_mode_name(AdmissionMode mode);
Result<AdmissionMode> parse_admission_mode(std::string_view name);

struct AdmissionOptions {
  AdmissionMode mode = AdmissionMode::kPaper;
  std::int32_t max_active = 8;
  std::int32_t page_size = 16;
  /// Share of physical pages that hold nothing, in [0, 1).
  double hole_fraction = 0.0;
  /// Seeds the permutation that deals physical pages out.
  std::uint64_t page_seed = 1;
  /// fcfs: pages of the pool, holes not counted. When not set, as many as the max_active requests that
  /// need most pages need together, so that nobody is ever preempted.
  std::optional<std::int64_t> pool_pages = std::nullopt;
  /// Arrivals in seconds: time that one decode step takes on the trace's clock.
  double step_seconds = 0.02;
};

/// The rows of one decode step. Buffers are reused from step to step.
struct StepRows {
  std::int64_t step_idx = 0;
  std::vector<std::int32_t> request_idx;  // [rows], into Trace::requests
  std::vector<std::int32_t> seq_lens;     // [rows], tokens in the cache
  std::vector<std::int32_t> kv_indptr;    // [rows + 1]
  std::vector<std::int32_t> kv_indices;   // physical page ids
};

/// Totals so far.
struct AdmissionStats {
  /// Steps yielded.
  std::int64_t steps = 0;
  /// Requests that had a row at least once.
  std::int64_t admitted = 0;
  /// Requests whose last token was decoded. In paper mode fewer than were admitted: some lose tokens.
  std::int64_t finished = 0;
  /// fcfs: times that a row was preempted.
  std::int64_t preempted = 0;
  /// fcfs: prefix tokens of preempted requests when they were admitted again.
  std::int64_t recomputed_tokens = 0;
  /// Pages owned in the last step and in the fullest one. In paper mode every request owns its pages
  /// from the beginning to the end, so both are the total.
  std::int64_t pages_in_use = 0;
  std::int64_t peak_pages = 0;
};

/// Yields the steps of a trace one after the other, the same for the same inputs.
class Admission {
 public:
  virtual ~Admission() = default;
  /// Fills `rows` with the next step that has at least one row; false when the trace is over (and
  /// then all pages of fcfs are free again). Each row lists ceil(seq_len / page_size) pages.
  /// Errors: kResourceExhausted (one request alone needs more pages than the pool has), naming it;
  /// answered by the first call, whichever request it is.
  virtual Result<bool> next(StepRows& rows) = 0;
  /// Physical page ids are below it (holes included).
  [[nodiscard]] virtual std::int64_t num_physical_pages() const = 0;
  [[nodiscard]] virtual const AdmissionStats& stats() const = 0;
};

/// The trace must outlive the admission. Errors: kInvalidArgument (options, empty trace, a request with
/// lengths or an arrival that cannot be, arrivals out of order, total pages above INT32_MAX).
Result<std::unique_ptr<Admission>> make_admission(const Trace& trace, const AdmissionOptions& options);

}  // namespace pkv

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

enum class AdmissionMode : std::uint8_t {
  kPaper,  // the paper's exact rule: a candidate beyond max_active ages and loses its tokens
  kFcfs,   // first come, first served, with a page pool and preemption by recomputation
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
  /// fcfs: pages of the pool. When not set, as many as the largest max_active requests of the trace need.
  std::optional<std::int64_t> pool_pages;
  /// fcfs with arrivals in seconds: time that one decode step takes on the trace's clock.
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

struct AdmissionStats {
  std::int64_t steps = 0;
  std::int64_t admitted = 0;
  std::int64_t finished = 0;
  std::int64_t preempted = 0;
  std::int64_t recomputed_tokens = 0;
  std::int64_t peak_pages = 0;
};

/// Yields the steps of a trace one after the other, the same for the same inputs.
class Admission {
 public:
  virtual ~Admission() = default;
  /// Fills `rows` with the next step that has at least one row; false when the trace is over.
  /// Errors: kResourceExhausted (one request alone needs more pages than the pool has), naming it.
  virtual Result<bool> next(StepRows& rows) = 0;
  /// Physical page ids are below it (holes included).
  [[nodiscard]] virtual std::int64_t num_physical_pages() const = 0;
  [[nodiscard]] virtual const AdmissionStats& stats() const = 0;
};

/// The trace must outlive the admission. Errors: kInvalidArgument (options, empty trace, total pages
/// above INT32_MAX).
Result<std::unique_ptr<Admission>> make_admission(const Trace& trace, const AdmissionOptions& options);

}  // namespace pkv

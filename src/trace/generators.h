// The paper's five trace families by its exact rule (paper, "The traces").
// Not here: admission, page tables.
#pragma once

#include <cstdint>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/trace.h"

namespace pkv {

enum class PaperFamily : std::uint8_t { kUniform, kBimodal, kZipf, kBucketed, kHomogeneous };

std::string_view paper_family_name(PaperFamily family);
/// "uniform", "bimodal", "zipf", "bucketed", "homogeneous". Errors: kInvalidArgument with the nearest name.
Result<PaperFamily> parse_paper_family(std::string_view name);

struct PaperTraceOptions {
  PaperFamily family = PaperFamily::kBimodal;
  std::uint32_t seed = 20260623;
  std::int32_t num_requests = 24;
  std::int32_t max_active = 8;
  /// Prompts are rounded up to a multiple of it.
  std::int32_t page_size = 16;
};

/// Request i arrives at step i / max_active. Errors: kInvalidArgument (counts, page size).
Result<Trace> make_paper_trace(const PaperTraceOptions& options);

}  // namespace pkv

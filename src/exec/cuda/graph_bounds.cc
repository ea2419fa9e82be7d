// CudaGraphBounds: host arithmetic, the same with and without CUDA.
// Not here: capture (cuda_backend.cc).
#include <algorithm>
#include <cmath>

#include "persistentkv/cuda.h"

namespace pkv {

CudaGraphBounds CudaGraphBounds::around(const Plan& plan, const BatchState& batch, double slack) {
  const auto scaled = [&](std::int64_t value) {
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(value) * std::max(1.0, slack)));
  };
  const auto scaled32 = [&](std::int64_t value) {
    return static_cast<std::int32_t>(std::min<std::int64_t>(scaled(value), 1 << 30));
  };
  std::int64_t page_ids = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange tokens = batch.attended(row);
    page_ids += tokens.size() == 0 ? 0 : (tokens.end - 1) / batch.page_size() - tokens.begin / batch.page_size() + 1;
  }
  return {.max_rows = batch.num_rows(),
          .max_tasks = scaled32(plan.counters().num_tasks),
          // Any row may become split or empty in a later step.
          .max_merges = batch.num_rows(),
          .max_partial_slots = scaled32(plan.counters().num_partial_slots),
          .max_page_ids = scaled(page_ids),
          .max_splits = scaled32(plan.max_splits())};
}

}  // namespace pkv

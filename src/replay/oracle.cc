// Rows of the oracle in parallel, and the comparison.
#include "replay/oracle.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "persistentkv/reference.h"

namespace pkv {
namespace {

std::vector<std::int32_t> rows_by_length(const BatchState& batch) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(batch.num_rows()));
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](std::int32_t a, std::int32_t b) { return batch.attended(a).size() > batch.attended(b).size(); });
  return rows;
}

}  // namespace

Tolerance Tolerance::of(DType kv_dtype, DType query_dtype) {
  if (kv_dtype == DType::kF32 && query_dtype == DType::kF32) {
    return {.max_abs = 1e-5, .mean_abs = 1e-5};
  }
  return {.max_abs = 2e-3, .mean_abs = 3e-4};
}

std::optional<std::vector<double>> oracle_outputs(const RunArgs& args, Crew& crew,
                                                  const std::function<bool()>& cancelled) {
  const AttentionShape& shape = args.batch.shape();
  const auto row_elements = static_cast<std::size_t>(shape.num_q_heads) * static_cast<std::size_t>(shape.head_dim);
  std::vector<double> out(row_elements * static_cast<std::size_t>(args.batch.num_rows()));
  const std::vector<std::int32_t> rows = rows_by_length(args.batch);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  const Crew::Job job = [&](int) {
    std::vector<double> lse(static_cast<std::size_t>(shape.num_q_heads));
    for (std::size_t i = next++; i < rows.size() && !stop; i = next++) {
      const auto begin = static_cast<std::size_t>(rows[i]) * row_elements;
      reference_attention_row(args, rows[i], std::span(out).subspan(begin, row_elements), lse);
    }
  };
  crew.run_on_all(job, [&] { stop = stop || cancelled(); });
  if (stop) {
    return std::nullopt;
  }
  return out;
}

Comparison compare_outputs(std::span<const float> actual, std::span<const double> expected, const AttentionShape& shape,
                           const Tolerance& tolerance) {
  Comparison result;
  result.num_values = static_cast<std::int64_t>(expected.size());
  std::size_t worst_idx = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    error = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    result.sum_abs += error;
    if (error > result.max_abs) {
      result.max_abs = error;
      worst_idx = i;
    }
  }
  const bool max_holds = result.max_abs < tolerance.max_abs;
  const bool mean_holds =
      expected.empty() || result.sum_abs / static_cast<double>(expected.size()) < tolerance.mean_abs;
  if (max_holds && mean_holds) {
    return result;
  }
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  const auto heads = static_cast<std::size_t>(shape.num_q_heads);
  result.worst = Mismatch{.step_idx = 0,
                          .route = {},
                          .row = static_cast<std::int32_t>(worst_idx / dim / heads),
                          .q_head = static_cast<std::int32_t>(worst_idx / dim % heads),
                          .element = static_cast<std::int32_t>(worst_idx % dim),
                          .actual = actual[worst_idx],
                          .expected = expected[worst_idx],
                          .limit = max_holds ? tolerance.mean_abs : tolerance.max_abs};
  return result;
}

}  // namespace pkv

// Rows of the oracle in parallel, and the comparison.
#include "replay/oracle.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "persistentkv/reference.h"
#include "replay/memory.h"

namespace pkv {
namespace {

std::vector<std::int32_t> rows_by_length(const BatchState& batch) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(batch.num_rows()));
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](std::int32_t a, std::int32_t b) { return batch.attended(a).size() > batch.attended(b).size(); });
  return rows;
}

/// Half a unit in the last place.
double rounding_of(DType dtype, double value) {
  switch (dtype) {
    case DType::kF32: return 0.0;
    case DType::kF16: return std::max(std::abs(value) * 0x1p-11, 0x1p-25);
    case DType::kBF16: return std::abs(value) * 0x1p-8;
  }
  return 0.0;
}

}  // namespace

Tolerance Tolerance::of(DType kv_dtype, DType query_dtype, const AttentionShape& shape) {
  const double factor = logit_factor(shape);
  const Tolerance f32{.max_abs = 1e-5 * factor, .mean_abs = 1e-5 * factor, .lse_abs = 1e-4 * factor};
  if (kv_dtype == DType::kF32 && query_dtype == DType::kF32) {
    return f32;
  }
  return {.max_abs = std::max(2e-3, f32.max_abs),
          .mean_abs = std::max(3e-4, f32.mean_abs),
          .lse_abs = std::max(2e-3, f32.lse_abs)};
}

double Tolerance::logit_factor(const AttentionShape& shape) {
  if (!shape.softmax_scale.has_value()) {
    return 1.0;
  }
  constexpr double kNoCap = std::numeric_limits<double>::infinity();
  const double magnitude = std::abs(static_cast<double>(*shape.softmax_scale)) * std::sqrt(shape.head_dim);
  const double cap = shape.logit_soft_cap.has_value() ? static_cast<double>(*shape.logit_soft_cap) : kNoCap;
  return std::max(1.0, std::min(magnitude, cap));
}

double output_error(double actual, double expected, DType out_dtype) {
  const double difference = std::abs(actual - expected);
  if (!std::isfinite(difference)) {
    return std::numeric_limits<double>::infinity();
  }
  return std::max(0.0, difference - rounding_of(out_dtype, expected));
}

Result<std::vector<double>> oracle_outputs(const RunArgs& args, Crew& crew, const std::function<bool()>& cancelled) {
  const AttentionShape& shape = args.batch.shape();
  const auto kv_heads = static_cast<std::size_t>(shape.num_kv_heads);
  const auto group = static_cast<std::size_t>(shape.group_size());
  const std::size_t group_elements = group * static_cast<std::size_t>(shape.head_dim);
  std::vector<double> out(group_elements * kv_heads * static_cast<std::size_t>(args.batch.num_rows()));
  const std::vector<std::int32_t> rows = rows_by_length(args.batch);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{cancelled()};
  const Crew::Job job = [&](int) {
    std::vector<double> lse(group);
    for (std::size_t i = next++; i < rows.size() * kv_heads && !stop; i = next++) {
      const std::int32_t row = rows[i / kv_heads];
      const std::size_t head = i % kv_heads;
      const std::size_t begin = (static_cast<std::size_t>(row) * kv_heads + head) * group_elements;
      reference_attention_heads(args, row, static_cast<std::int32_t>(head),
                                std::span(out).subspan(begin, group_elements), lse);
    }
  };
  PKV_RETURN_IF_ERROR(crew.run_on_all(job, [&] { stop = stop || cancelled(); }));
  if (stop) {
    return Error{ErrorCode::kCancelled, "stopped by the caller", "verification"};
  }
  return out;
}

std::int64_t oracle_bytes(const AttentionShape& shape, std::int64_t num_rows, std::int64_t max_tokens,
                          std::int64_t num_threads) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(double));
  const std::int64_t outputs = saturating_mul(num_rows, std::int64_t{shape.num_q_heads} * shape.head_dim);
  // Logits of one group, and its queries and accumulators.
  const std::int64_t group = std::int64_t{shape.group_size()};
  const std::int64_t scratch = saturating_mul(group, saturating_add(max_tokens, 2 * std::int64_t{shape.head_dim}));
  return saturating_mul(saturating_add(outputs, saturating_mul(num_threads, scratch)), kBytes);
}

Comparison compare_outputs(const StoredOutputs& actual, std::span<const double> expected, const AttentionShape& shape,
                           const Tolerance& tolerance) {
  Comparison result;
  result.num_values = static_cast<std::int64_t>(expected.size());
  std::size_t worst_idx = 0;
  const auto value_at = [&](std::size_t i) {
    return load_element(actual.data, actual.dtype, static_cast<std::int64_t>(i));
  };
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = output_error(value_at(i), expected[i], actual.dtype);
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
                          .actual = value_at(worst_idx),
                          .expected = expected[worst_idx],
                          .limit = max_holds ? tolerance.mean_abs : tolerance.max_abs};
  return result;
}

}  // namespace pkv

// Comparison of one executed step with the float64 oracle.
// Not here: random cases (verify.h), the oracle itself (persistentkv/reference.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "persistentkv/backend.h"
#include "replay/crew.h"
#include "report/records.h"

namespace pkv {

/// Absolute errors that pass are below these (paper, "The measurements", for 16-bit).
struct Tolerance {
  double max_abs = 0.0;
  double mean_abs = 0.0;
  /// Of the log-sum-exp.
  double lse_abs = 0.0;

  /// By the types of K,V and queries: 2e-3, 3e-4 and 2e-3 when either has 16 bits; for fp32 1e-5, 1e-5
  /// and 1e-4 times logit_factor(shape). 16-bit kernels compute logits in FP32, too: their limits are
  /// never below those of fp32.
  static Tolerance of(DType kv_dtype, DType query_dtype, const AttentionShape& shape);

  /// How much larger logits are than with the default scale: max(1, |scale| * sqrt(head_dim)), at most
  /// the soft cap. A logit x is rounded by about |x| * 2^-24 in FP32, and exp turns an absolute error of
  /// a logit into a relative error of its weight, so that a kernel without a mistake errs in proportion.
  /// A cap c squashes large logits and their errors alike: the error of c * tanh(x / c) is below
  /// c * 2^-24 however large x is.
  static double logit_factor(const AttentionShape& shape);
};

/// |actual - expected| beyond half a unit in the last place of the stored type, which is not the
/// kernel's error. Infinite if either is NaN or they are infinite: no limit may hold for these.
double output_error(double actual, double expected, DType out_dtype);

/// Outputs of all rows of a batch in float64, [num_rows][num_q_heads][head_dim]. Pairs of row and KV
/// head are dealt to the crew, longest rows first, so that one long row takes all threads and stops
/// within a head of it. Requires validated args.
/// Errors: kCancelled if `cancelled` said true meanwhile; those of Crew::run_on_all.
Result<std::vector<double>> oracle_outputs(const RunArgs& args, Crew& crew, const std::function<bool()>& cancelled);

/// Bytes that oracle_outputs allocates for a batch of that many rows and longest attended length.
std::int64_t oracle_bytes(const AttentionShape& shape, std::int64_t num_rows, std::int64_t max_tokens,
                          std::int64_t num_threads);

/// What a comparison found. `worst` is set when a limit is broken (NaN breaks every limit).
struct Comparison {
  double max_abs = 0.0;
  double sum_abs = 0.0;
  std::int64_t num_values = 0;
  std::optional<Mismatch> worst;
};

/// Dense outputs [num_rows][num_q_heads][head_dim] in host memory, as a backend wrote them.
struct StoredOutputs {
  const void* data = nullptr;
  DType dtype = DType::kF32;
};

/// Outputs, as many as are expected, against the oracle's; errors are those of output_error. Of the mismatch
/// the place and the values are filled in; step and route are the caller's.
Comparison compare_outputs(const StoredOutputs& actual, std::span<const double> expected, const AttentionShape& shape,
                           const Tolerance& tolerance);

}  // namespace pkv

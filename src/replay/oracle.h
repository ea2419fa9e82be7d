// Comparison of one executed step with the float64 oracle.
// Not here: random cases (verify.h), the oracle itself (persistentkv/reference.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "persistentkv/backend.h"
#include "replay/crew.h"
#include "report/records.h"

namespace pkv {

/// Absolute errors that pass are below these (paper, "The measurements", for 16-bit).
struct Tolerance {
  double max_abs = 0.0;
  double mean_abs = 0.0;

  /// By the types of K,V and queries: 2e-3 and 3e-4 when either has 16 bits, 1e-5 and 1e-5 for fp32.
  static Tolerance of(DType kv_dtype, DType query_dtype);
};

/// Outputs of all rows of a batch in float64, [num_rows][num_q_heads][head_dim], rows dealt to the
/// crew, longest first. Nothing if `cancelled` said true meanwhile. Requires validated args.
std::optional<std::vector<double>> oracle_outputs(const RunArgs& args, Crew& crew,
                                                  const std::function<bool()>& cancelled);

/// What a comparison found. `worst` is set when a limit is broken (NaN breaks every limit).
struct Comparison {
  double max_abs = 0.0;
  double sum_abs = 0.0;
  std::int64_t num_values = 0;
  std::optional<Mismatch> worst;
};

/// Outputs [num_rows][num_q_heads][head_dim] against the oracle's. Of the mismatch the place and the
/// values are filled in; step and route are the caller's.
Comparison compare_outputs(std::span<const float> actual, std::span<const double> expected, const AttentionShape& shape,
                           const Tolerance& tolerance);

}  // namespace pkv

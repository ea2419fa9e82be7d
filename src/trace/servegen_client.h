// One ServeGen client as its publisher describes it: a rate table and length distributions.
// Not here: drawing requests (read_servegen.cc).
#pragma once

#include <cstdint>
#include <vector>

#include "persistentkv/result.h"
#include "trace/renewal.h"
#include "trace/text_input.h"

namespace pkv::trace_internal {

/// Rows of a rate table cover so many seconds each.
inline constexpr double kRateWindowSeconds = 600.0;

/// One row of chunk-N-trace.csv in which requests arrive.
struct RateWindow {
  double start_s = 0.0;
  double rate = 0.0;  // requests a second
  IntervalFamily family = IntervalFamily::kGamma;
  double shape = 1.0;
  std::int64_t line = 0;
};

struct RateTable {
  std::string file;
  double first_start_s = 0.0;
  /// By start; idle windows are not kept.
  std::vector<RateWindow> windows;
};

/// Values with their probabilities summed up: cumulative.back() is 1.
struct TokenDistribution {
  std::vector<std::int32_t> values;
  std::vector<double> cumulative;

  [[nodiscard]] bool empty() const { return values.empty(); }
  [[nodiscard]] std::int32_t draw(SplitMix64& random) const;
};

/// One window of chunk-N-dataset.json; it holds until the next one starts.
struct LengthWindow {
  double start_s = 0.0;
  TokenDistribution input_tokens;
  TokenDistribution output_tokens;
};

/// Errors: kInvalidArgument, kIo naming file, line and field.
Result<RateTable> parse_rate_table(TextInput& input);
/// By start, at least one. Errors: kInvalidArgument, kIo naming file, line and field.
Result<std::vector<LengthWindow>> parse_length_windows(TextInput& input);

}  // namespace pkv::trace_internal

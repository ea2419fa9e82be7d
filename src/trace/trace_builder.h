// TraceBuilder: where all readers put their requests; one set of limits, one order, one set of notes.
// Not here: file formats.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/trace.h"

namespace pkv::trace_internal {

/// Longest prompt, output, and prompt + output.
inline constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
/// Arrivals in seconds or steps; steps are exact in double up to here.
inline constexpr double kMaxArrival = 9007199254740992.0;

/// A value as it stands in a file: where it came from, for errors.
struct FieldPlace {
  std::string_view file;
  std::int64_t line = 0;
  std::string_view field;

  [[nodiscard]] std::string text() const;
};

/// kInvalidArgument at a place.
Error field_error(const FieldPlace& place, std::string message);

/// The whole of `text` as a finite number; nullopt if it is none.
std::optional<double> parse_number(std::string_view text);

/// Token count: a whole number (12 or 12.0) in 0 to kMaxTokens. Errors: kInvalidArgument.
Result<std::int32_t> parse_tokens(std::string_view text, const FieldPlace& place);
Result<std::int32_t> check_tokens(double value, std::string_view shown, const FieldPlace& place);
/// Arrival in 0 to kMaxArrival; a whole number when the unit is steps. Errors: kInvalidArgument.
Result<double> check_arrival(double value, ArrivalUnit unit, const FieldPlace& place);

/// `text` with its spaces and tabs at both ends removed.
std::string_view trimmed(std::string_view text);

class TraceBuilder {
 public:
  TraceBuilder(std::string name, std::string_view format);

  /// Keeps a request, or counts it as left out when it has no prompt or no output tokens.
  /// Errors: kInvalidArgument (prompt + output above kMaxTokens) at file and line.
  Status add(const Request& request, std::string_view file, std::int64_t line);
  void add_note(std::string note) { trace_.notes.push_back(std::move(note)); }

  void set_arrival_unit(ArrivalUnit unit) { trace_.arrival_unit = unit; }
  /// For formats whose order is not that of arrival by design: ordering them is no news.
  void expect_any_order() { any_order_ = true; }
  void set_no_arrivals() { trace_.has_arrivals = false; }
  [[nodiscard]] std::size_t num_requests() const { return trace_.requests.size(); }

  /// Shifts arrivals so that the first of the file, left out or not, is 0.
  void start_at_first_arrival();
  /// Orders by arrival, keeps the first `limit`, writes the notes.
  /// Errors: kInvalidArgument (no requests).
  Result<Trace> finish(std::optional<std::int64_t> limit) &&;

 private:
  void add_left_out_notes();

  Trace trace_;
  std::int64_t without_prompt_ = 0;
  std::int64_t without_output_ = 0;
  bool any_order_ = false;
  double first_arrival_ = std::numeric_limits<double>::infinity();
};

}  // namespace pkv::trace_internal

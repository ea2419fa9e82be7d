// Parses the two files of a ServeGen client.
// Not here: drawing requests (read_servegen.cc).
#include "trace/servegen_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "trace/csv_rows.h"
#include "trace/json_value.h"
#include "trace/names.h"
#include "trace/trace_builder.h"

namespace pkv::trace_internal {
namespace {

/// Columns of chunk-N-trace.csv, which has no header.
enum RateColumn : std::size_t { kStart, kRate, kVariation, kFamily, kShape, kScale, kNumRateColumns };
constexpr std::string_view kRateColumnNames[] = {"window start",   "rate",  "coefficient of variation",
                                                 "arrival family", "shape", "scale"};
/// Published probabilities add up to 1 within 2e-13.
constexpr double kMaxProbabilityError = 0.01;
constexpr double kMaxRate = 1e6;

/// One row of a rate table, field by field.
class RateRow {
 public:
  RateRow(const TextInput& input, const CsvRow& row) : file_(input.name()), row_(row) {}

  [[nodiscard]] Error error(RateColumn column, std::string_view expected) const {
    return field_error({.file = file_, .line = row_.line, .field = kRateColumnNames[column]},
                       fmt::format("\"{}\", expected {}", printable(row_.fields[column]), expected));
  }

  [[nodiscard]] Result<double> number(RateColumn column, double low, double high) const {
    const std::optional<double> value = parse_number(row_.fields[column]);
    if (!value || *value < low || *value > high) {
      return error(column, fmt::format("a number from {} to {}", low, high));
    }
    return *value;
  }

  /// Idle windows have no family, or a rate of 0. The scale is not used: the published fits miss the
  /// measured rate by up to a factor of 1400, so intervals are scaled to the rate instead.
  [[nodiscard]] Result<std::optional<RateWindow>> parse() const {
    const auto start = number(kStart, 0.0, 1e12);
    PKV_RETURN_IF_ERROR(start);
    const auto rate = number(kRate, 0.0, kMaxRate);
    PKV_RETURN_IF_ERROR(rate);
    const std::string& family = row_.fields[kFamily];
    if (!family.empty() && family != "Gamma" && family != "Weibull") {
      return error(kFamily, "Gamma, Weibull, or nothing for an idle window");
    }
    if (family.empty() || rate.value() == 0.0) {
      return std::optional<RateWindow>();
    }
    const bool gamma = family == "Gamma";
    const auto shape = number(kShape, gamma ? kMinGammaShape : kMinWeibullShape, kMaxShape);
    PKV_RETURN_IF_ERROR(shape);
    return std::optional<RateWindow>({.start_s = start.value(),
                                      .rate = rate.value(),
                                      .family = gamma ? IntervalFamily::kGamma : IntervalFamily::kWeibull,
                                      .shape = shape.value(),
                                      .line = row_.line});
  }

 private:
  std::string_view file_;
  const CsvRow& row_;
};

/// "{294: 0.25, 301: 0.75}": a Python dictionary as the publisher stores it in a JSON string.
class DistributionParser {
 public:
  DistributionParser(std::string_view text, FieldPlace place) : text_(text), rest_(text), place_(place) {}

  Result<TokenDistribution> parse() {
    if (!take('{')) {
      return expected("'{'");
    }
    while (!take('}')) {
      if (!distribution_.values.empty() && !take(',')) {
        return expected("',' or '}'");
      }
      PKV_RETURN_IF_ERROR(parse_pair());
    }
    if (!trimmed(rest_).empty()) {
      return expected("nothing after '}'");
    }
    return normalised();
  }

 private:
  Status parse_pair() {
    const std::string_view value_text = number_text();
    const auto value = parse_tokens(value_text, place_);
    PKV_RETURN_IF_ERROR(value);
    if (!take(':')) {
      return expected("':'");
    }
    const std::optional<double> probability = parse_number(number_text());
    if (!probability || *probability < 0.0 || *probability > 1.0) {
      return expected(fmt::format("a probability from 0 to 1 for the value {}", value.value()));
    }
    distribution_.values.push_back(value.value());
    sum_ += *probability;
    distribution_.cumulative.push_back(sum_);
    return {};
  }

  Result<TokenDistribution> normalised() {
    if (distribution_.empty()) {
      return std::move(distribution_);
    }
    if (std::abs(sum_ - 1.0) > kMaxProbabilityError) {
      return field_error(
          place_, fmt::format("probabilities add up to {:.4f}, expected 1 within {}", sum_, kMaxProbabilityError));
    }
    for (double& cumulative : distribution_.cumulative) {
      cumulative /= sum_;
    }
    return std::move(distribution_);
  }

  bool take(char c) {
    skip_spaces();
    const bool found = rest_.starts_with(c);
    rest_.remove_prefix(found ? 1 : 0);
    return found;
  }

  std::string_view number_text() {
    skip_spaces();
    const std::size_t end = std::min(rest_.find_first_not_of("0123456789.eE+-"), rest_.size());
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return text;
  }

  void skip_spaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t"), rest_.size())); }

  [[nodiscard]] Error expected(std::string_view what) const {
    return field_error(place_, fmt::format("position {}: expected {}, found \"{}\"", text_.size() - rest_.size(), what,
                                           printable(rest_, 20)));
  }

  std::string_view text_;
  std::string_view rest_;
  FieldPlace place_;
  TokenDistribution distribution_;
  double sum_ = 0.0;
};

Result<TokenDistribution> parse_distribution(const JsonValue& window, std::string_view field, std::string_view file) {
  const JsonValue* value = window.find(field);
  if (value == nullptr || value->kind != JsonKind::kString) {
    return field_error({.file = file, .line = window.line, .field = field},
                       "is missing or no string, expected \"{value: probability, ...}\"");
  }
  return DistributionParser(value->text, {.file = file, .line = value->line, .field = field}).parse();
}

Result<LengthWindow> parse_length_window(const JsonMember& member, std::string_view file) {
  const std::optional<double> start = parse_number(member.name);
  if (!start || *start < 0.0) {
    return field_error({.file = file, .line = member.value.line, .field = printable(member.name)},
                       "is no start of a window in seconds");
  }
  if (member.value.kind != JsonKind::kObject) {
    return field_error({.file = file, .line = member.value.line, .field = printable(member.name)},
                       fmt::format("is {}, expected an object", json_kind_name(member.value.kind)));
  }
  auto input_tokens = parse_distribution(member.value, "input_tokens", file);
  PKV_RETURN_IF_ERROR(input_tokens);
  auto output_tokens = parse_distribution(member.value, "output_tokens", file);
  PKV_RETURN_IF_ERROR(output_tokens);
  return LengthWindow{.start_s = *start,
                      .input_tokens = std::move(input_tokens).value(),
                      .output_tokens = std::move(output_tokens).value()};
}

}  // namespace

std::int32_t TokenDistribution::draw(SplitMix64& random) const {
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), random.uniform());
  const auto i = std::min<std::ptrdiff_t>(found - cumulative.begin(), std::ssize(values) - 1);
  return values[static_cast<std::size_t>(i)];
}

Result<RateTable> parse_rate_table(TextInput& input) {
  RateTable table;
  table.file = input.name();
  double previous_start = -1.0;
  CsvRow row;
  for (;;) {
    const Result<bool> more = next_csv_row(input, row);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      break;
    }
    if (row.fields.size() != kNumRateColumns) {
      return Error{.code = ErrorCode::kIo,
                   .message = fmt::format("{} fields, a rate table has {}", row.fields.size(), +kNumRateColumns),
                   .where = input.place()};
    }
    const RateRow rate_row(input, row);
    const auto start = rate_row.number(kStart, 0.0, 1e12);
    PKV_RETURN_IF_ERROR(start);
    if (start.value() <= previous_start) {
      return rate_row.error(kStart, fmt::format("a start after the one before it, {}", previous_start));
    }
    table.first_start_s = previous_start < 0.0 ? start.value() : table.first_start_s;
    previous_start = start.value();
    const auto window = rate_row.parse();
    PKV_RETURN_IF_ERROR(window);
    if (window.value()) {
      table.windows.push_back(*window.value());
    }
  }
  if (previous_start < 0.0) {
    return Error{.code = ErrorCode::kIo, .message = "is empty, expected a rate table", .where = input.name()};
  }
  return table;
}

Result<std::vector<LengthWindow>> parse_length_windows(TextInput& input) {
  const Result<std::string> document = input.read_rest();
  PKV_RETURN_IF_ERROR(document);
  const auto wanted = [](std::string_view name) { return name != "reason_ratio"; };
  const Result<JsonValue> root =
      parse_json({.text = document.value(), .file = input.name(), .first_line = 1, .wanted = wanted});
  PKV_RETURN_IF_ERROR(root);
  if (root->kind != JsonKind::kObject || root->members.empty()) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = "expected an object with at least one window of lengths",
                 .where = format_place(input.name(), 1)};
  }
  std::vector<LengthWindow> windows;
  for (const JsonMember& member : root->members) {
    Result<LengthWindow> window = parse_length_window(member, input.name());
    PKV_RETURN_IF_ERROR(window);
    windows.push_back(std::move(window).value());
  }
  std::sort(windows.begin(), windows.end(),
            [](const LengthWindow& a, const LengthWindow& b) { return a.start_s < b.start_s; });
  return windows;
}

}  // namespace pkv::trace_internal

// Azure LLM inference trace 2023: TIMESTAMP, ContextTokens, GeneratedTokens.
// Not here: CSV in the paper's columns (read_csv.cc).
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>

#include "trace/formats.h"
#include "trace/names.h"

namespace pkv::trace_internal {
namespace {

/// The publisher's digits: 100 ns.
constexpr std::int64_t kTicksPerSecond = 10'000'000;
constexpr int kTickDigits = 7;

/// Reads digits and separators from the left; stays failed after the first that does not fit.
class DateScanner {
 public:
  explicit DateScanner(std::string_view text) : rest_(text) {}

  /// Exactly `digits` digits.
  std::int64_t number(std::size_t digits) {
    std::int64_t value = 0;
    ok_ = ok_ && rest_.size() >= digits && rest_.front() != '-';
    if (ok_) {
      const auto [stop, error] = std::from_chars(rest_.data(), rest_.data() + digits, value);
      ok_ = error == std::errc() && stop == rest_.data() + digits;
      rest_.remove_prefix(digits);
    }
    return value;
  }
  void separator(std::string_view any_of) {
    ok_ = ok_ && !rest_.empty() && any_of.find(rest_.front()) != std::string_view::npos;
    rest_.remove_prefix(ok_ ? 1 : 0);
  }
  /// A fraction of a second in ticks; nothing is 0. Digits beyond a tick are dropped.
  std::int64_t fraction_ticks() {
    if (!ok_ || !rest_.starts_with('.')) {
      return 0;
    }
    rest_.remove_prefix(1);
    std::int64_t ticks = 0;
    int digits = 0;
    for (; !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; ++digits, rest_.remove_prefix(1)) {
      ticks = digits < kTickDigits ? ticks * 10 + (rest_.front() - '0') : ticks;
    }
    ok_ = digits > 0;
    for (; digits < kTickDigits; ++digits) {
      ticks *= 10;
    }
    return ticks;
  }
  /// Whether all fitted and nothing is left but a mark of UTC.
  [[nodiscard]] bool finished() const { return ok_ && (rest_.empty() || rest_ == "Z" || rest_ == "+00:00"); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

/// "2023-11-16 18:15:46.6805900" in ticks since 1970; nullopt if it is no such time.
std::optional<std::int64_t> parse_timestamp(std::string_view text) {
  DateScanner scan(text);
  const std::int64_t year = scan.number(4);
  scan.separator("-");
  const std::int64_t month = scan.number(2);
  scan.separator("-");
  const std::int64_t day = scan.number(2);
  scan.separator(" T");
  const std::int64_t hour = scan.number(2);
  scan.separator(":");
  const std::int64_t minute = scan.number(2);
  scan.separator(":");
  const std::int64_t second = scan.number(2);
  const std::int64_t fraction = scan.fraction_ticks();
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(year)),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!scan.finished() || !date.ok() || hour > 23 || minute > 59 || second > 60) {
    return std::nullopt;
  }
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return (((days * 24 + hour) * 60 + minute) * 60 + second) * kTicksPerSecond + fraction;
}

struct Columns {
  std::size_t timestamp = 0;
  std::size_t context = 0;
  std::size_t generated = 0;
};

Result<Columns> find_columns(const CsvHeader& header) {
  const auto timestamp = header.require({"TIMESTAMP"});
  PKV_RETURN_IF_ERROR(timestamp);
  const auto context = header.require({"ContextTokens"});
  PKV_RETURN_IF_ERROR(context);
  const auto generated = header.require({"GeneratedTokens"});
  PKV_RETURN_IF_ERROR(generated);
  return Columns{.timestamp = timestamp.value(), .context = context.value(), .generated = generated.value()};
}

struct AzureRow {
  std::int64_t ticks = 0;
  std::int32_t context = 0;
  std::int32_t generated = 0;
};

Result<AzureRow> parse_row(const TextInput& input, const CsvRow& row, const Columns& columns) {
  const auto place = [&](std::string_view field) {
    return FieldPlace{.file = input.name(), .line = row.line, .field = field};
  };
  const std::optional<std::int64_t> ticks = parse_timestamp(row.fields[columns.timestamp]);
  if (!ticks) {
    return field_error(place("TIMESTAMP"), fmt::format("\"{}\" is no time like 2023-11-16 18:15:46.6805900",
                                                       printable(row.fields[columns.timestamp])));
  }
  const auto context = parse_tokens(row.fields[columns.context], place("ContextTokens"));
  PKV_RETURN_IF_ERROR(context);
  const auto generated = parse_tokens(row.fields[columns.generated], place("GeneratedTokens"));
  PKV_RETURN_IF_ERROR(generated);
  return AzureRow{.ticks = *ticks, .context = context.value(), .generated = generated.value()};
}

}  // namespace

Status read_azure2023(TextInput& input, TraceBuilder& builder) {
  const Result<CsvHeader> header = CsvHeader::read(input);
  PKV_RETURN_IF_ERROR(header);
  const Result<Columns> columns = find_columns(header.value());
  PKV_RETURN_IF_ERROR(columns);
  // Seconds since 1970 would lose the last digits of a double.
  std::optional<std::int64_t> first_ticks;
  CsvRow row;
  for (;;) {
    const Result<bool> more = next_csv_row(input, row);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      break;
    }
    PKV_RETURN_IF_ERROR(header->check_width(input, row));
    const Result<AzureRow> parsed = parse_row(input, row, columns.value());
    PKV_RETURN_IF_ERROR(parsed);
    first_ticks = first_ticks.value_or(parsed->ticks);
    const double arrival = static_cast<double>(parsed->ticks - *first_ticks) / static_cast<double>(kTicksPerSecond);
    PKV_RETURN_IF_ERROR(builder.add(
        {.arrival = arrival, .prompt_len = parsed->context, .decode_len = parsed->generated}, input.name(), row.line));
  }
  builder.start_at_first_arrival();
  return {};
}

}  // namespace pkv::trace_internal

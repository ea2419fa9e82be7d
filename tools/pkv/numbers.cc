// Strict parsing by std::from_chars: no white space, no sign but a minus, no locale.
// Not here: options (options.h).
#include "numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <system_error>

#include "failure.h"

namespace pkv::cli {
namespace {

template <typename T>
std::errc convert(std::string_view text, T& value) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{}) return code;
  return end == text.data() + text.size() ? std::errc{} : std::errc::invalid_argument;
}

std::string describe(const RealLimits& limits) {
  return fmt::format("{} {:g} and {} {:g}", limits.low == RealLimits::Low::kOpen ? "above" : "at least", limits.min,
                     limits.high == RealLimits::High::kOpen ? "below" : "at most", limits.max);
}

bool within(double value, const RealLimits& limits) {
  const bool above = limits.low == RealLimits::Low::kOpen ? value > limits.min : value >= limits.min;
  const bool below = limits.high == RealLimits::High::kOpen ? value < limits.max : value <= limits.max;
  return above && below;
}

}  // namespace

std::int64_t parse_int(std::string_view option, std::string_view text, IntLimits limits) {
  std::int64_t value = 0;
  const std::errc code = convert(text, value);
  if (code == std::errc::invalid_argument) {
    fail(std::string(option),
         fmt::format("'{}' is no whole number; it must be {} to {}", text, limits.min, limits.max));
  }
  if (code == std::errc::result_out_of_range || value < limits.min || value > limits.max) {
    fail(std::string(option), fmt::format("{} is out of range; it must be {} to {}", text, limits.min, limits.max));
  }
  return value;
}

double parse_real(std::string_view option, std::string_view text, const RealLimits& limits) {
  double value = 0.0;
  const std::errc code = convert(text, value);
  if (code == std::errc::invalid_argument || (code == std::errc{} && !std::isfinite(value))) {
    fail(std::string(option), fmt::format("'{}' is no finite number; it must be {}", text, describe(limits)));
  }
  if (code == std::errc::result_out_of_range || !within(value, limits)) {
    fail(std::string(option), fmt::format("{} is out of range; it must be {}", text, describe(limits)));
  }
  return value;
}

std::vector<std::string> split_list(std::string_view option, std::string_view text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    if (comma == begin) fail(std::string(option), fmt::format("'{}' has an empty entry at position {}", text, begin));
    parts.emplace_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return parts;
}

std::vector<std::int32_t> parse_lengths(std::string_view option, std::string_view text, std::int64_t max_count) {
  constexpr IntLimits kLength{.min = 0, .max = std::numeric_limits<std::int32_t>::max()};
  std::vector<std::int32_t> lengths;
  for (const std::string& part : split_list(option, text)) {
    const std::size_t cross = part.find('x');
    const std::string where = fmt::format("{}[{}] of '{}'", option, lengths.size(), part);
    std::int64_t count = 1;
    if (cross != std::string::npos) {
      count = parse_int("the count in " + where, std::string_view(part).substr(0, cross), {.min = 1, .max = max_count});
    }
    const std::string_view length = std::string_view(part).substr(cross == std::string::npos ? 0 : cross + 1);
    const auto value = static_cast<std::int32_t>(parse_int(where, length, kLength));
    if (static_cast<std::int64_t>(lengths.size()) + count > max_count) {
      fail(std::string(option), fmt::format("'{}' makes {} rows; at most {}", text,
                                            static_cast<std::int64_t>(lengths.size()) + count, max_count));
    }
    lengths.insert(lengths.end(), static_cast<std::size_t>(count), value);
  }
  return lengths;
}

std::int64_t parse_bytes(std::string_view option, std::string_view text) {
  struct Unit {
    std::string_view suffix;
    int shift;
  };
  constexpr Unit kUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40},
                             {"K", 10},   {"M", 20},   {"G", 30},   {"T", 40}};
  std::string_view digits = text;
  int shift = 0;
  for (const Unit& unit : kUnits) {
    if (digits.size() > unit.suffix.size() && digits.ends_with(unit.suffix)) {
      digits.remove_suffix(unit.suffix.size());
      shift = unit.shift;
      break;
    }
  }
  const std::int64_t max = std::numeric_limits<std::int64_t>::max() >> shift;
  std::int64_t value = 0;
  const std::errc code = convert(digits, value);
  if (code != std::errc{} || value < 1 || value > max) {
    fail(std::string(option), fmt::format("'{}' is no size; it must be a whole number of bytes above 0, KiB, MiB, GiB "
                                          "or TiB behind it, below 8388608TiB",
                                          text));
  }
  return value << shift;
}

}  // namespace pkv::cli

// Strict numbers from the command line: the whole text, inside its limits, or a Failure that says so.
// Not here: options (options.h).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace pkv::cli {

/// Closed range of whole numbers.
struct IntLimits {
  std::int64_t min = 0;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};

/// Range of finite numbers: min itself is allowed unless open.
struct RealLimits {
  enum class Low { kClosed, kOpen };
  enum class High { kClosed, kOpen };
  double min = 0.0;
  double max = 1.0;
  Low low = Low::kClosed;
  High high = High::kClosed;
};

/// Decimal digits with an optional minus; nothing else. Fails with option, text and limits.
std::int64_t parse_int(std::string_view option, std::string_view text, IntLimits limits);
double parse_real(std::string_view option, std::string_view text, const RealLimits& limits);
/// "6000,8x8192": lengths separated by commas, COUNTxLENGTH repeats one. At most `max_count` lengths.
std::vector<std::int32_t> parse_lengths(std::string_view option, std::string_view text, std::int64_t max_count);
/// Bytes with an optional KiB, MiB, GiB (or K, M, G): "6GiB".
std::int64_t parse_bytes(std::string_view option, std::string_view text);
/// "a,b,c"; empty parts fail.
std::vector<std::string> split_list(std::string_view option, std::string_view text);

}  // namespace pkv::cli

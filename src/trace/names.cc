// Edit distance between short names, and user text made fit for one line of a message.
// Not here: which names there are (each enum's own file).
#include "trace/names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace pkv::trace_internal {
namespace {

/// Names longer than this are compared by their beginning: the distance costs the product of lengths.
constexpr std::size_t kMaxComparedChars = 64;

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string_view nearest_name(std::string_view name, std::span<const std::string_view> known) {
  const std::string_view compared = name.substr(0, kMaxComparedChars);
  return *std::min_element(known.begin(), known.end(), [&](std::string_view a, std::string_view b) {
    return edit_distance(compared, a) < edit_distance(compared, b);
  });
}

Error unknown_name(std::string_view what, std::string_view name, std::span<const std::string_view> known) {
  return {.code = ErrorCode::kInvalidArgument,
          .message = fmt::format("unknown {} \"{}\"; did you mean \"{}\"? known: {}", what, printable(name),
                                 nearest_name(name, known), fmt::join(known, ", ")),
          .where = {}};
}

std::string printable(std::string_view text, std::size_t max_chars) {
  std::string shown(text.substr(0, max_chars));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  if (text.size() > max_chars) {
    shown += "...";
  }
  return shown;
}

}  // namespace pkv::trace_internal

// Edit distance and the sentence made from it.
// Not here: which words there are.
#include "names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <utility>

namespace pkv::cli {
namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

// Words longer than this are no typing errors; it also bounds the quadratic time.
constexpr std::size_t kLongestWord = 64;
constexpr std::size_t kMostSuggestions = 3;

std::size_t tolerance(std::string_view word) { return std::max<std::size_t>(1, word.size() / 3); }

// A word that begins a name, or contains it, is near whatever the distance: --req for --requests.
bool is_part(std::string_view word, std::string_view name) {
  constexpr std::size_t kShortestPart = 3;
  return (word.size() >= kShortestPart && name.find(word) != std::string_view::npos) ||
         (name.size() >= kShortestPart && word.find(name) != std::string_view::npos);
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  const std::size_t width = b.size() + 1;
  std::vector<std::size_t> before(width), previous(width), current(width);
  for (std::size_t j = 0; j < width; ++j) previous[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j < width; ++j) {
      const bool equal = lower(a[i - 1]) == lower(b[j - 1]);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (equal ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]);
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before.swap(previous);
    previous.swap(current);
  }
  return previous[b.size()];
}

std::vector<std::string> nearest_names(std::string_view word, std::span<const std::string> names) {
  std::vector<std::pair<std::size_t, std::string>> near;
  if (word.empty() || word.size() > kLongestWord) return {};
  for (const std::string& name : names) {
    const std::size_t distance = edit_distance(word, name);
    if (distance <= tolerance(word) || is_part(word, name)) near.emplace_back(distance, name);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> result;
  for (std::size_t i = 0; i < std::min(near.size(), kMostSuggestions); ++i) result.push_back(near[i].second);
  return result;
}

std::string unknown_name(std::string_view kind, std::string_view word, std::span<const std::string> names,
                         NameList list) {
  std::string text = fmt::format("unknown {} '{}'", kind, word);
  const std::vector<std::string> near = nearest_names(word, names);
  if (!near.empty()) text += fmt::format(" (did you mean '{}'?)", fmt::join(near, "' or '"));
  if (list == NameList::kShown) text += fmt::format("; known: {}", fmt::join(names, ", "));
  return text;
}

}  // namespace pkv::cli

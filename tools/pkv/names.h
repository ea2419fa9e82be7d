// Nearest names: what a user may have meant by an unknown word.
// Not here: which words there are.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pkv::cli {

/// Insertions, deletions, replacements and swaps of neighbours from `a` to `b`, letter case ignored.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// Up to three of `names` that are near to `word`, the nearest first; empty when none is.
std::vector<std::string> nearest_names(std::string_view word, std::span<const std::string> names);

/// Whether all names follow the nearest ones.
enum class NameList { kShown, kHidden };

/// "unknown KIND 'WORD' (did you mean 'A' or 'B'?); known: A, B, C".
std::string unknown_name(std::string_view kind, std::string_view word, std::span<const std::string> names,
                         NameList list = NameList::kShown);

}  // namespace pkv::cli

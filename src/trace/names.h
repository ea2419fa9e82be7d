// Names that users type: lookup with the nearest known name in the error.
// Not here: which names there are (each enum's own file).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

/// The entry of `known` with the smallest edit distance to `name`; the first of equals.
std::string_view nearest_name(std::string_view name, std::span<const std::string_view> known);

/// kInvalidArgument: `unknown WHAT "name"; did you mean "..."? known: a, b, c`.
Error unknown_name(std::string_view what, std::string_view name, std::span<const std::string_view> known);

/// User text for an error message: control and non-ASCII bytes as '?', cut after `max_chars`.
std::string printable(std::string_view text, std::size_t max_chars = 40);

}  // namespace pkv::trace_internal

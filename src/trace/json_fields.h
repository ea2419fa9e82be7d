// Numbers out of JSON objects, checked as the numbers of any other format.
// Not here: which fields a format has (the read_*.cc of each format).
#pragma once

#include <cstdint>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/json_value.h"
#include "trace/trace.h"

namespace pkv::trace_internal {

/// The member `field` as a number. Errors: kInvalidArgument (missing, not a number) at file and line.
Result<double> json_number(const JsonValue& object, std::string_view field, std::string_view file);
/// As parse_tokens. Errors: also those of json_number.
Result<std::int32_t> json_tokens(const JsonValue& object, std::string_view field, std::string_view file);
/// As check_arrival. Errors: also those of json_number.
Result<double> json_arrival(const JsonValue& object, std::string_view field, ArrivalUnit unit, std::string_view file);

}  // namespace pkv::trace_internal

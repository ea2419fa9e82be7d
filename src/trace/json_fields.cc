// Numbers out of JSON objects, checked as the numbers of any other format.
// Not here: which fields a format has (the read_*.cc of each format).
#include "trace/json_fields.h"

#include <fmt/format.h>

#include "trace/trace_builder.h"

namespace pkv::trace_internal {

Result<double> json_number(const JsonValue& object, std::string_view field, std::string_view file) {
  const JsonValue* value = object.find(field);
  if (value == nullptr) {
    return field_error({.file = file, .line = object.line, .field = field}, "is missing, expected a number");
  }
  if (value->kind != JsonKind::kNumber) {
    return field_error({.file = file, .line = value->line, .field = field},
                       fmt::format("is {}, expected a number", json_kind_name(value->kind)));
  }
  return value->number;
}

Result<std::int32_t> json_tokens(const JsonValue& object, std::string_view field, std::string_view file) {
  const Result<double> value = json_number(object, field, file);
  PKV_RETURN_IF_ERROR(value);
  return check_tokens(value.value(), fmt::format("{}", value.value()),
                      {.file = file, .line = object.find(field)->line, .field = field});
}

Result<double> json_arrival(const JsonValue& object, std::string_view field, ArrivalUnit unit, std::string_view file) {
  const Result<double> value = json_number(object, field, file);
  PKV_RETURN_IF_ERROR(value);
  return check_arrival(value.value(), unit, {.file = file, .line = object.find(field)->line, .field = field});
}

}  // namespace pkv::trace_internal

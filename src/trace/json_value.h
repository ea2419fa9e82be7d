// JSON text to small trees that know their line numbers; fields that nobody asked for are never stored.
// Not here: what a field means (the read_*.cc of each format).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

enum class JsonKind : std::uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

/// "a number", "an array", ...
std::string_view json_kind_name(JsonKind kind);

struct JsonMember;

struct JsonValue {
  JsonKind kind = JsonKind::kNull;
  /// Where it begins, from 1 in the file.
  std::int64_t line = 0;
  double number = 0.0;
  std::string text;
  std::vector<JsonValue> elements;
  std::vector<JsonMember> members;

  /// Null pointer when an object has no such member.
  [[nodiscard]] const JsonValue* find(std::string_view name) const;
};

struct JsonMember {
  std::string name;
  JsonValue value;
};

struct JsonInput {
  std::string_view text;
  /// For places in errors.
  std::string_view file;
  std::int64_t first_line = 1;
  /// Members to keep, at any depth.
  std::function<bool(std::string_view)> wanted;
};

/// The whole text as one value. Errors: kIo (syntax, invalid UTF-8, nesting above 64: file, line, and what
/// was expected), kInvalidArgument (a wanted member appears twice).
Result<JsonValue> parse_json(const JsonInput& input);

/// Hands over the objects of the root array, or of the array "requests" of the root object, one by one
/// without keeping them. Errors: as parse_json, those of on_record, and kInvalidArgument for another shape.
Status for_each_json_record(const JsonInput& input, const std::function<Status(const JsonValue&)>& on_record);

}  // namespace pkv::trace_internal

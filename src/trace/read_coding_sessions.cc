// Coding-agent sessions: one session a line with its model calls, those of sub-agents nested.
// Not here: prefix sharing (hash_ids are passed over), think times.
#include <fmt/format.h>

#include <cmath>

#include "trace/formats.h"
#include "trace/json_fields.h"

namespace pkv::trace_internal {
namespace {

bool is_wanted(std::string_view name) {
  return name == "requests" || name == "t" || name == "in" || name == "out" || name == "type";
}

class SessionReader {
 public:
  SessionReader(std::string_view file, const TraceReadOptions& options, TraceBuilder& builder)
      : file_(file), session_gap_s_(options.session_gap_s), builder_(builder) {}

  Status add_session(const JsonValue& session) {
    const double start = static_cast<double>(num_sessions_++) * session_gap_s_;
    return add_calls(session, start);
  }

  void add_notes() {
    builder_.add_note(
        fmt::format("{} sessions have no common clock: session k starts at k * {} s", num_sessions_, session_gap_s_));
    if (num_subagent_calls_ > 0) {
      builder_.add_note(fmt::format("{} calls of sub-agents included", num_subagent_calls_));
    }
  }

 private:
  /// Recursion is bounded by the nesting limit of the JSON reader.
  Status add_calls(const JsonValue& holder, double start) {
    const JsonValue* calls = holder.find("requests");
    if (calls == nullptr || calls->kind != JsonKind::kArray) {
      return field_error({.file = file_, .line = holder.line, .field = "requests"},
                         calls == nullptr
                             ? std::string("is missing, expected an array of calls")
                             : fmt::format("is {}, expected an array of calls", json_kind_name(calls->kind)));
    }
    for (std::size_t i = 0; i < calls->elements.size(); ++i) {
      if (Status status = add_entry(calls->elements[i], start); !status.ok()) {
        Error error = status.error();
        error.message = fmt::format("call {}: {}", i, error.message);
        return error;
      }
    }
    return {};
  }

  Status add_entry(const JsonValue& entry, double start) {
    if (entry.kind != JsonKind::kObject) {
      return field_error({.file = file_, .line = entry.line, .field = "requests"},
                         fmt::format("is {}, expected an object", json_kind_name(entry.kind)));
    }
    const auto t = json_arrival(entry, "t", ArrivalUnit::kSeconds, file_);
    PKV_RETURN_IF_ERROR(t);
    const JsonValue* type = entry.find("type");
    if (type != nullptr && type->text == "subagent") {
      ++depth_;
      Status status = add_calls(entry, start + t.value());
      --depth_;
      return status;
    }
    return add_call(entry, start + t.value());
  }

  Status add_call(const JsonValue& call, double arrival) {
    const auto prompt = json_tokens(call, "in", file_);
    PKV_RETURN_IF_ERROR(prompt);
    const auto output = json_tokens(call, "out", file_);
    PKV_RETURN_IF_ERROR(output);
    num_subagent_calls_ += depth_ > 0 ? 1 : 0;
    return builder_.add({.arrival = arrival, .prompt_len = prompt.value(), .decode_len = output.value()}, file_,
                        call.line);
  }

  std::string_view file_;
  double session_gap_s_;
  TraceBuilder& builder_;
  std::int64_t num_sessions_ = 0;
  std::int64_t num_subagent_calls_ = 0;
  int depth_ = 0;
};

}  // namespace

Status read_coding_sessions(TextInput& input, const TraceReadOptions& options, TraceBuilder& builder) {
  SessionReader reader(input.name(), options, builder);
  PKV_RETURN_IF_ERROR(
      for_each_json_line(input, is_wanted, [&](const JsonValue& session) { return reader.add_session(session); }));
  builder.expect_any_order();
  reader.add_notes();
  return {};
}

}  // namespace pkv::trace_internal

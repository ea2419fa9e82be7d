// A SAX handler that builds trees bottom-up on an explicit stack: depth is bounded, nothing recurses.
// Not here: what a field means (the read_*.cc of each format).
#include "trace/json_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>
#include <utility>

#include "trace/names.h"
#include "trace/text_input.h"

namespace pkv::trace_internal {
namespace {

constexpr std::size_t kMaxDepth = 64;
/// Members up to which names are compared one by one; those of a request are fewer.
constexpr std::size_t kSmallObject = 16;
constexpr std::string_view kRecordsMember = "requests";
constexpr std::string_view kRecordsShape = "an array of objects, or an object with an array \"requests\" of objects";

/// Counts the lines of what the lexer has taken. A line feed counts when the lexer goes beyond it: a
/// number is known to end only once the byte after it was looked at.
struct LineCounter {
  std::int64_t line = 1;
  bool after_line_feed = false;
};

class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  CountingIterator(const char* at, LineCounter* counter) : at_(at), counter_(counter) {}

  char operator*() const { return *at_; }
  CountingIterator& operator++() {
    counter_->line += counter_->after_line_feed ? 1 : 0;
    counter_->after_line_feed = *at_ == '\n';
    ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  LineCounter* counter_;
};

/// nlohmann's "[json.exception.parse_error.101] parse error at line 1, column 3: WHAT" without what we
/// say ourselves: the place.
std::string syntax_message(std::string_view what) {
  constexpr std::string_view kPlaceMark = "column ";
  if (const std::size_t tag = what.find("] "); tag != std::string_view::npos) {
    what.remove_prefix(tag + 2);
  }
  const std::size_t column = what.find(kPlaceMark);
  const std::size_t end = column == std::string_view::npos ? column : what.find(": ", column);
  if (end != std::string_view::npos) {
    const std::string_view number = what.substr(column + kPlaceMark.size(), end - column - kPlaceMark.size());
    return fmt::format("broken JSON at column {}: {}", printable(number), printable(what.substr(end + 2), 300));
  }
  return fmt::format("broken JSON: {}", printable(what, 300));
}

class TreeBuilder : public nlohmann::json::json_sax_t {
 public:
  using RecordSink = std::function<Status(const JsonValue&)>;

  TreeBuilder(const JsonInput& input, const RecordSink* on_record) : input_(input), on_record_(on_record) {}

  [[nodiscard]] LineCounter* counter() { return &counter_; }
  /// The root when the whole text was taken.
  Result<JsonValue> result() && {
    if (error_) {
      return *std::move(error_);
    }
    if (on_record_ != nullptr && !saw_records_) {
      return shape_error(root_.line, fmt::format("expected {}", kRecordsShape));
    }
    return std::move(root_);
  }

  bool null() override { return scalar(JsonKind::kNull, 0.0, {}); }
  bool boolean(bool value) override { return scalar(JsonKind::kBool, value ? 1.0 : 0.0, {}); }
  bool number_integer(number_integer_t value) override {
    return scalar(JsonKind::kNumber, static_cast<double>(value), {});
  }
  bool number_unsigned(number_unsigned_t value) override {
    return scalar(JsonKind::kNumber, static_cast<double>(value), {});
  }
  bool number_float(number_float_t value, const string_t& /*token*/) override {
    return scalar(JsonKind::kNumber, value, {});
  }
  bool string(string_t& value) override { return scalar(JsonKind::kString, 0.0, std::move(value)); }
  bool binary(binary_t& /*value*/) override { return scalar(JsonKind::kNull, 0.0, {}); }

  bool start_object(std::size_t /*size*/) override { return start(JsonKind::kObject); }
  bool start_array(std::size_t /*size*/) override { return start(JsonKind::kArray); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }

  bool key(string_t& name) override {
    if (skipped_depth_ > 0) {
      return true;
    }
    Open& object = open_.back();
    skip_next_ = !input_.wanted(name);
    if (!skip_next_ && !object.take_name(name)) {
      error_ = Error{.code = ErrorCode::kInvalidArgument,
                     .message = "appears twice in one object",
                     .where = format_place(input_.file, line(), printable(name))};
      return false;
    }
    object.member = std::move(name);
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::json::exception& exception) override {
    error_ = Error{.code = ErrorCode::kIo,
                   .message = syntax_message(exception.what()),
                   .where = format_place(input_.file, line())};
    return false;
  }

 private:
  struct Open {
    JsonValue value;
    std::string member;                     // name of the member that comes next, for objects
    std::unordered_set<std::string> names;  // of a large object

    /// False when a member has the name already. A look through a few members is faster than a set.
    bool take_name(const std::string& name) {
      if (value.members.size() < kSmallObject) {
        return value.find(name) == nullptr;
      }
      if (names.empty()) {
        for (const JsonMember& earlier : value.members) {
          names.insert(earlier.name);
        }
      }
      return names.insert(name).second;
    }
  };

  [[nodiscard]] std::int64_t line() const { return input_.first_line + counter_.line - 1; }

  Error shape_error(std::int64_t at_line, std::string message) const {
    return {.code = ErrorCode::kInvalidArgument,
            .message = std::move(message),
            .where = format_place(input_.file, std::max(at_line, input_.first_line))};
  }

  bool scalar(JsonKind kind, double number, std::string text) {
    if (skipped_depth_ > 0 || std::exchange(skip_next_, false)) {
      return true;
    }
    JsonValue value;
    value.kind = kind;
    value.line = line();
    value.number = number;
    value.text = std::move(text);
    return attach(std::move(value));
  }

  bool start(JsonKind kind) {
    if (skipped_depth_ > 0 || std::exchange(skip_next_, false)) {
      ++skipped_depth_;
      return true;
    }
    if (open_.size() == kMaxDepth) {
      error_ = Error{.code = ErrorCode::kIo,
                     .message = fmt::format("JSON is nested deeper than the limit of {}", kMaxDepth),
                     .where = format_place(input_.file, line())};
      return false;
    }
    Open opened;
    opened.value.kind = kind;
    opened.value.line = line();
    open_.push_back(std::move(opened));
    saw_records_ = saw_records_ || holds_records();
    return true;
  }

  bool end() {
    if (skipped_depth_ > 0) {
      --skipped_depth_;
      return true;
    }
    JsonValue value = std::move(open_.back().value);
    open_.pop_back();
    return attach(std::move(value));
  }

  /// Whether the innermost open value is the array whose elements are handed over one by one.
  [[nodiscard]] bool holds_records() const {
    if (on_record_ == nullptr || open_.empty() || open_.back().value.kind != JsonKind::kArray) {
      return false;
    }
    return open_.size() == 1 ||
           (open_.size() == 2 && open_[0].value.kind == JsonKind::kObject && open_[0].member == kRecordsMember);
  }

  bool attach(JsonValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return true;
    }
    if (holds_records()) {
      return hand_over(value);
    }
    Open& parent = open_.back();
    if (parent.value.kind == JsonKind::kArray) {
      parent.value.elements.push_back(std::move(value));
    } else {
      parent.value.members.push_back({.name = std::move(parent.member), .value = std::move(value)});
    }
    return true;
  }

  bool hand_over(const JsonValue& record) {
    if (record.kind != JsonKind::kObject) {
      error_ =
          shape_error(record.line, fmt::format("a request is {}, expected an object", json_kind_name(record.kind)));
      return false;
    }
    if (Status status = (*on_record_)(record); !status.ok()) {
      error_ = status.error();
      return false;
    }
    return true;
  }

  const JsonInput& input_;
  const RecordSink* on_record_;  // set: records mode
  LineCounter counter_;
  std::vector<Open> open_;
  JsonValue root_;
  std::optional<Error> error_;
  std::int64_t skipped_depth_ = 0;  // open containers inside an unwanted member
  bool skip_next_ = false;          // the next value belongs to an unwanted member
  bool saw_records_ = false;
};

Result<JsonValue> run(const JsonInput& input, const TreeBuilder::RecordSink* on_record) {
  TreeBuilder builder(input, on_record);
  const char* begin = input.text.data();
  // A false answer means that the builder holds the error.
  static_cast<void>(nlohmann::json::sax_parse(CountingIterator(begin, builder.counter()),
                                              CountingIterator(begin + input.text.size(), builder.counter()),
                                              &builder));
  return std::move(builder).result();
}

}  // namespace

std::string_view json_kind_name(JsonKind kind) {
  switch (kind) {
    case JsonKind::kNull: return "null";
    case JsonKind::kBool: return "true or false";
    case JsonKind::kNumber: return "a number";
    case JsonKind::kString: return "a string";
    case JsonKind::kArray: return "an array";
    case JsonKind::kObject: return "an object";
  }
  return "a value";
}

const JsonValue* JsonValue::find(std::string_view name) const {
  const auto found =
      std::find_if(members.begin(), members.end(), [&](const JsonMember& member) { return member.name == name; });
  return found == members.end() ? nullptr : &found->value;
}

Result<JsonValue> parse_json(const JsonInput& input) { return run(input, nullptr); }

Status for_each_json_record(const JsonInput& input, const std::function<Status(const JsonValue&)>& on_record) {
  const Result<JsonValue> root = run(input, &on_record);
  PKV_RETURN_IF_ERROR(root);
  return {};
}

}  // namespace pkv::trace_internal

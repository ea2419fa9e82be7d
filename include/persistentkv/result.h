// Result<T>: a value or an Error. The only way the library reports failure.
// Not here: exceptions, printing, process exit. Bindings and tools turn an Error into those.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace pkv {

enum class ErrorCode : std::uint8_t {
  kInvalidArgument,    // a value that can never be right (negative length, NaN scale)
  kOutOfRange,         // a value beyond a limit of this input (page id, table width)
  kUnsupported,        // well formed, but this backend or build lacks it
  kResourceExhausted,  // pages, memory or workspace
  kIo,                 // a file that cannot be read or parsed
  kMismatch,           // a verification failed
  kCancelled,          // the caller asked to stop
};

/// "invalid_argument", "out_of_range", ... Stable: scripts may match on it.
std::string_view error_code_name(ErrorCode code);

/// What went wrong. `message` names the value and the limit, `where` the place
/// ("seq_lens[3]", "trace.csv:17, field decode_len").
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
  std::string where;

  /// One line: "where: message".
  [[nodiscard]] std::string to_string() const;
};

/// A T or an Error. Ask ok() before value() or error(); the wrong one aborts (programmer error).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  [[nodiscard]] T& value() & { return ok() ? std::get<0>(state_) : (std::abort(), std::get<0>(state_)); }
  [[nodiscard]] const T& value() const& { return ok() ? std::get<0>(state_) : (std::abort(), std::get<0>(state_)); }
  /// By value, so that a loop over a part of a temporary result does not outlive it.
  [[nodiscard]] T value() && {
    return ok() ? std::get<0>(std::move(state_)) : (std::abort(), std::get<0>(std::move(state_)));
  }
  [[nodiscard]] const Error& error() const { return !ok() ? std::get<1>(state_) : (std::abort(), std::get<1>(state_)); }

  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const { return error_.has_value() ? *error_ : (std::abort(), *error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace pkv

/// Returns the error of a Status or Result expression to the caller, if it is one.
#define PKV_RETURN_IF_ERROR(expression)                         \
  do {                                                          \
    if (auto&& pkv_status_ = (expression); !pkv_status_.ok()) { \
      return pkv_status_.error();                               \
    }                                                           \
  } while (false)

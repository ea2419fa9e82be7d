// Failure: how a command ends early, from an option's callback to the one line on standard error.
// Not here: what makes a value bad (numbers.h, the library).
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "persistentkv/result.h"

namespace pkv::cli {

/// Exit codes of pkv, part of its contract.
enum ExitCode : int {
  kExitOk = 0,
  kExitVerificationFailed = 1,
  kExitBadInput = 2,
  kExitInterrupted = 130,
};

/// Thrown inside tools/pkv only: CLI11 calls back in the middle of parsing, where no value can be returned.
struct Failure {
  Error error;
};

/// Ends the command: `where: message`, code kInvalidArgument.
[[noreturn]] inline void fail(std::string where, std::string message) {
  throw Failure{{.code = ErrorCode::kInvalidArgument, .message = std::move(message), .where = std::move(where)}};
}

/// The value, or the end of the command.
template <typename T>
T unwrap(Result<T> result) {
  if (!result.ok()) {
    throw Failure{result.error()};
  }
  return std::move(result).value();
}
inline void unwrap(const Status& status) {
  if (!status.ok()) {
    throw Failure{status.error()};
  }
}
/// The same where the library does not know which option the value came from.
template <typename T>
T unwrap_at(std::string_view option, Result<T> result) {
  if (!result.ok()) {
    Error error = result.error();
    error.where = error.where.empty() ? std::string(option) : std::string(option) + ", " + error.where;
    throw Failure{std::move(error)};
  }
  return std::move(result).value();
}

/// What std::bad_alloc is to a user.
Error out_of_memory();

int exit_code_of(const Error& error);
/// "pkv: error: where: message", one line whatever the message holds.
std::string error_line(const Error& error);

}  // namespace pkv::cli

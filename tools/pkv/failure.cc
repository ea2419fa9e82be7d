// Failure as an exit code and as one printable line.
// Not here: printing it (main.cc).
#include "failure.h"

#include <fmt/format.h>

namespace pkv::cli {

Error out_of_memory() {
  return {ErrorCode::kResourceExhausted, "the system has no more of it for this process", "memory"};
}

int exit_code_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kMismatch: return kExitVerificationFailed;
    case ErrorCode::kCancelled: return kExitInterrupted;
    default: return kExitBadInput;
  }
}

std::string error_line(const Error& error) {
  std::string line = "pkv: error: ";
  for (const char c : error.to_string()) {
    // Control characters of a hostile file name or cell must not reach the terminal.
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace pkv::cli

// Names of error codes and the one-line form of an Error.
#include "persistentkv/result.h"

namespace pkv {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid_argument";
    case ErrorCode::kOutOfRange: return "out_of_range";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kResourceExhausted: return "resource_exhausted";
    case ErrorCode::kIo: return "io";
    case ErrorCode::kMismatch: return "mismatch";
    case ErrorCode::kCancelled: return "cancelled";
  }
  return "unknown";
}

std::string Error::to_string() const { return where.empty() ? message : where + ": " + message; }

}  // namespace pkv

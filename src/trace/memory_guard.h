// Turns an allocation that fails into an error value, at the entries of src/trace.
// Not here: budgets, which are compared before anything is allocated (replay/memory.h).
#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

/// What `make` answers; when memory ends in it, kResourceExhausted with `asked_for()`, a message that
/// says for what, at `where`.
template <typename Make, typename AskedFor>
std::invoke_result_t<Make> or_exhausted(const Make& make, const AskedFor& asked_for, std::string_view where) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // more elements than a container can count
  }
  return Error{.code = ErrorCode::kResourceExhausted, .message = asked_for(), .where = std::string(where)};
}

}  // namespace pkv::trace_internal

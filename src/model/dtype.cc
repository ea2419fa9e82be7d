// Names of element types.
#include "persistentkv/dtype.h"

#include <fmt/format.h>

#include <string>

namespace pkv {

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
  }
  return "unknown";
}

Result<DType> parse_dtype(std::string_view name) {
  if (name == "f32" || name == "fp32" || name == "float32") {
    return DType::kF32;
  }
  if (name == "f16" || name == "fp16" || name == "float16") {
    return DType::kF16;
  }
  if (name == "bf16" || name == "bfloat16") {
    return DType::kBF16;
  }
  return Error{ErrorCode::kInvalidArgument, fmt::format("unknown type '{}'; known: f32, f16, bf16", name), "dtype"};
}

}  // namespace pkv

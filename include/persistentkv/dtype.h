// Element types of queries, K,V pages and outputs.
// Not here: conversions (src/base/half.h), kernels.
#pragma once

#include <cstdint>
#include <string_view>

#include "persistentkv/result.h"

namespace pkv {

/// Storage type of one element. Sizes are asked for, never assumed: one-byte types come later.
enum class DType : std::uint8_t { kF32, kF16, kBF16 };

/// Bytes of one element.
constexpr std::int64_t dtype_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

/// "f32", "f16", "bf16".
std::string_view dtype_name(DType dtype);

/// The inverse of dtype_name; "fp32", "fp16", "float32", "float16", "bfloat16" are accepted too.
/// Errors: kInvalidArgument that lists the names.
Result<DType> parse_dtype(std::string_view name);

}  // namespace pkv

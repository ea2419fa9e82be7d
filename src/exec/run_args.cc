// The checks that every backend makes before it runs a plan.
#include <fmt/format.h>

#include "persistentkv/backend.h"

namespace pkv {
namespace {

Error invalid(std::string where, std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(where)};
}

Error unsupported(std::string_view backend_name, std::string where, std::string message) {
  return {ErrorCode::kUnsupported, fmt::format("{} (backend {})", message, backend_name), std::move(where)};
}

Status validate_tensor(std::string_view name, const void* data, std::int64_t row_stride, std::int64_t head_stride,
                       const AttentionShape& shape) {
  if (data == nullptr) {
    return invalid(std::string(name), "data is null");
  }
  if (head_stride < shape.head_dim) {
    return invalid(fmt::format("{}.head_stride", name),
                   fmt::format("{} is below head_dim = {}", head_stride, shape.head_dim));
  }
  std::int64_t row_elements = 0;
  std::int64_t all_rows = 0;
  if (__builtin_mul_overflow(head_stride, std::int64_t{shape.num_q_heads - 1}, &row_elements) ||
      __builtin_add_overflow(row_elements, std::int64_t{shape.head_dim}, &row_elements) ||
      __builtin_mul_overflow(row_stride, std::int64_t{kMaxRows} * 4, &all_rows)) {  // 4 bytes an element at most
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("row {} and head {} do not fit into 63-bit addresses", row_stride, head_stride),
                 fmt::format("{} strides", name)};
  }
  if (row_stride < row_elements) {
    return invalid(fmt::format("{}.row_stride", name),
                   fmt::format("{} is below {} elements of one row", row_stride, row_elements));
  }
  return {};
}

Status validate_dtype_support(std::string_view name, DType dtype, const Capabilities& capabilities,
                              std::string_view backend_name) {
  const bool supported = dtype == DType::kF32   ? capabilities.f32
                         : dtype == DType::kF16 ? capabilities.f16
                                                : capabilities.bf16;
  if (!supported) {
    return unsupported(backend_name, std::string(name), fmt::format("type {} is not supported", dtype_name(dtype)));
  }
  return {};
}

Status validate_optional_spans(const RunArgs& args, const AttentionShape& shape) {
  const std::size_t num_lse =
      static_cast<std::size_t>(args.batch.num_rows()) * static_cast<std::size_t>(shape.num_q_heads);
  if (!args.lse.empty() && args.lse.size() < num_lse) {
    return invalid("lse", fmt::format("has {} entries; {} rows of {} query heads need {}", args.lse.size(),
                                      args.batch.num_rows(), shape.num_q_heads, num_lse));
  }
  const std::size_t num_sinks = shape.sinks == Sinks::kPerQueryHead ? static_cast<std::size_t>(shape.num_q_heads) : 0;
  if (args.sinks.size() != num_sinks) {
    return invalid("sinks", fmt::format("has {} entries; the shape asks for {}", args.sinks.size(), num_sinks));
  }
  return {};
}

}  // namespace

QueryView dense_queries(const void* data, DType dtype, const AttentionShape& shape) {
  return {.data = data,
          .dtype = dtype,
          .row_stride = std::int64_t{shape.num_q_heads} * shape.head_dim,
          .head_stride = shape.head_dim};
}

OutputView dense_outputs(void* data, DType dtype, const AttentionShape& shape) {
  return {.data = data,
          .dtype = dtype,
          .row_stride = std::int64_t{shape.num_q_heads} * shape.head_dim,
          .head_stride = shape.head_dim};
}

Status validate_shape_support(const AttentionShape& shape, const Capabilities& capabilities,
                              std::string_view backend_name) {
  PKV_RETURN_IF_ERROR(validate(shape));
  if (shape.head_dim > capabilities.max_head_dim) {
    return unsupported(backend_name, "head_dim",
                       fmt::format("{} is above the limit of {}", shape.head_dim, capabilities.max_head_dim));
  }
  if (shape.group_size() > capabilities.max_group_size) {
    return unsupported(backend_name, "group_size",
                       fmt::format("{} is above the limit of {}", shape.group_size(), capabilities.max_group_size));
  }
  if (shape.logit_soft_cap.has_value() && !capabilities.soft_cap) {
    return unsupported(backend_name, "logit_soft_cap",
                       fmt::format("{}: soft caps are not supported", *shape.logit_soft_cap));
  }
  if (shape.sliding_window_tokens.has_value() && !capabilities.sliding_window) {
    return unsupported(backend_name, "sliding_window_tokens",
                       fmt::format("{}: sliding windows are not supported", *shape.sliding_window_tokens));
  }
  if (shape.sinks == Sinks::kPerQueryHead && !capabilities.sinks) {
    return unsupported(backend_name, "sinks", "attention sinks are not supported");
  }
  return {};
}

Status validate_run(const Plan& plan, const RunArgs& args, const Capabilities& capabilities,
                    std::string_view backend_name) {
  const AttentionShape& shape = args.batch.shape();
  if (!plan.matches(args.batch)) {
    return invalid("plan", "was made for other lengths, another shape or another page size than this batch");
  }
  PKV_RETURN_IF_ERROR(validate_shape_support(shape, capabilities, backend_name));
  PKV_RETURN_IF_ERROR(validate(args.kv, shape));
  if (args.kv.layout.page_size != args.batch.page_size()) {
    return invalid("kv.layout.page_size",
                   fmt::format("{} differs from the batch's {}", args.kv.layout.page_size, args.batch.page_size()));
  }
  if (args.kv.num_pages < args.batch.num_pages()) {
    return Error{
        ErrorCode::kOutOfRange,
        fmt::format("{} pages, but the block table was checked against {}", args.kv.num_pages, args.batch.num_pages()),
        "kv.num_pages"};
  }
  PKV_RETURN_IF_ERROR(validate_dtype_support("kv", args.kv.dtype, capabilities, backend_name));
  PKV_RETURN_IF_ERROR(validate_dtype_support("q", args.q.dtype, capabilities, backend_name));
  PKV_RETURN_IF_ERROR(validate_dtype_support("out", args.out.dtype, capabilities, backend_name));
  if (args.batch.num_rows() > 0) {
    PKV_RETURN_IF_ERROR(validate_tensor("q", args.q.data, args.q.row_stride, args.q.head_stride, shape));
    PKV_RETURN_IF_ERROR(validate_tensor("out", args.out.data, args.out.row_stride, args.out.head_stride, shape));
  }
  return validate_optional_spans(args, shape);
}

}  // namespace pkv

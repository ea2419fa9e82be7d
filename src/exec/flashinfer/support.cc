// The limits of FlashInfer's kernels as error values, and the table of instances.
#include "exec/flashinfer/support.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace pkv::fi {
namespace {

struct Instance {
  DType type;
  std::int32_t head_dim;
  Kernels core;
  Kernels tensor;
};

const Instance kInstances[] = {
#define PKV_FLASHINFER_INSTANCE(type, dim) \
  {DType::type, dim, core_kernels<DType::type, dim>(), tensor_kernels<DType::type, dim>()},
#include "exec/flashinfer/instances.inc"
#undef PKV_FLASHINFER_INSTANCE
};

// DISPATCH_GQA_GROUP_SIZE of flashinfer/utils.cuh.
constexpr std::array kCoreGroupSizes = {1, 2, 3, 4, 6, 8, 16};

constexpr std::int64_t kVectorBytes = 16;
constexpr std::int64_t kMaxSigned = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxUnsigned = std::numeric_limits<std::uint32_t>::max();

Error unsupported(std::string where, std::string message) {
  return {ErrorCode::kUnsupported, std::move(message), std::move(where)};
}

Status check_shape(Route route, const AttentionShape& shape) {
  if (shape.sinks != Sinks::kNone) {
    return unsupported("sinks", fmt::format("attention sinks are not supported by {}", route_name(route)));
  }
  const auto has_group = [&] {
    return std::ranges::find(kCoreGroupSizes, shape.group_size()) != kCoreGroupSizes.end();
  };
  if (route == Route::kFlashInferCore && !has_group()) {
    return unsupported(
        "group_size", fmt::format("{} is not supported by {}; it has {}, flashinfer-tensor has all", shape.group_size(),
                                  route_name(route), fmt::join(kCoreGroupSizes, ", ")));
  }
  return {};
}

Status check_types(const RunArgs& layer) {
  const DType type = layer.kv.dtype;
  const auto same = [&](std::string_view name, DType other) -> Status {
    if (other == type) {
      return {};
    }
    return unsupported(std::string(name), fmt::format("type {} is not supported by FlashInfer's routes with {} K,V; "
                                                      "queries and outputs have the type of K,V",
                                                      dtype_name(other), dtype_name(type)));
  };
  PKV_RETURN_IF_ERROR(same("q", layer.q.dtype));
  return same("out", layer.out.dtype);
}

Error no_instance(Route route, const RunArgs& layer) {
  std::string known;
  for (const Instance& instance : kInstances) {
    known += fmt::format("{}{} {}", known.empty() ? "" : ", ", dtype_name(instance.type), instance.head_dim);
  }
  return unsupported("head_dim",
                     fmt::format("{} with {} K,V is not supported by {}; it has {}", layer.batch.shape().head_dim,
                                 dtype_name(layer.kv.dtype), route_name(route), known));
}

Status check_vector(std::string_view name, const void* data, std::initializer_list<std::int64_t> strides, DType type) {
  const auto aligned = [&](std::int64_t stride) { return stride * dtype_bytes(type) % kVectorBytes == 0; };
  if (reinterpret_cast<std::uintptr_t>(data) % kVectorBytes != 0 || !std::ranges::all_of(strides, aligned)) {
    return unsupported(std::string(name), fmt::format("every vector must start at a multiple of {} bytes in "
                                                      "FlashInfer's routes; data {}, strides {}",
                                                      kVectorBytes, data, fmt::join(strides, ", ")));
  }
  return {};
}

Status check_limit(std::string_view where, std::int64_t value, std::int64_t limit) {
  if (value > limit) {
    return unsupported(std::string(where),
                       fmt::format("{} is above {}, the limit of FlashInfer's 32-bit offsets", value, limit));
  }
  return {};
}

Status check_kv(const PagedKv& kv) {
  const PageStrides& k = kv.layout.k_strides;
  if (k != kv.layout.v_strides) {
    // The CUDA-core kernel reads V by K's strides; the tensor-core kernel has instances for unequal ones, which its
    // decode wrapper does not use.
    return unsupported("kv.layout.v_strides", "differ from those of K; FlashInfer's routes need equal strides");
  }
  PKV_RETURN_IF_ERROR(check_vector("kv.k", kv.k, {k.page, k.kv_head, k.slot}, kv.dtype));
  PKV_RETURN_IF_ERROR(check_vector("kv.v", kv.v, {k.page, k.kv_head, k.slot}, kv.dtype));
  return check_limit("kv.layout.k_strides", std::max({k.page, k.kv_head, k.slot}), kMaxUnsigned);
}

Status check_queries(const QueryView& q, std::int64_t num_rows) {
  PKV_RETURN_IF_ERROR(check_vector("q", q.data, {q.row_stride, q.head_stride}, q.dtype));
  PKV_RETURN_IF_ERROR(check_limit("q.row_stride", q.row_stride, kMaxSigned));
  PKV_RETURN_IF_ERROR(check_limit("q.head_stride", q.head_stride, kMaxSigned));
  return check_limit("q elements", num_rows * q.row_stride, kMaxUnsigned);
}

Status check_outputs(const OutputView& out, const AttentionShape& shape, std::int64_t num_rows) {
  const std::int64_t row = std::int64_t{shape.num_q_heads} * shape.head_dim;
  if (out.head_stride != shape.head_dim || out.row_stride != row) {
    return unsupported("out strides",
                       fmt::format("row {} and head {}; FlashInfer's routes write dense outputs: {} and {}",
                                   out.row_stride, out.head_stride, row, shape.head_dim));
  }
  PKV_RETURN_IF_ERROR(check_vector("out", out.data, {row}, out.dtype));
  return check_limit("out elements", num_rows * row, kMaxUnsigned);
}

}  // namespace

Result<Kernels> find_kernels(Route route, const RunArgs& layer) {
  if (!is_external(route)) {
    return unsupported(
        "route", fmt::format("{} is not one of FlashInfer's: flashinfer-core, flashinfer-tensor", route_name(route)));
  }
  PKV_RETURN_IF_ERROR(check_shape(route, layer.batch.shape()));
  PKV_RETURN_IF_ERROR(check_types(layer));
  for (const Instance& instance : kInstances) {
    if (instance.type == layer.kv.dtype && instance.head_dim == layer.batch.shape().head_dim) {
      return route == Route::kFlashInferCore ? instance.core : instance.tensor;
    }
  }
  return no_instance(route, layer);
}

Status check_tensors(const RunArgs& layer) {
  PKV_RETURN_IF_ERROR(check_kv(layer.kv));
  PKV_RETURN_IF_ERROR(check_queries(layer.q, layer.batch.num_rows()));
  return check_outputs(layer.out, layer.batch.shape(), layer.batch.num_rows());
}

}  // namespace pkv::fi

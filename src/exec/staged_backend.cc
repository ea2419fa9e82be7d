// Tensors are copied from their first to their last element, so that nothing outside the caller's is read.
// Not here: the run itself (the inner backend).
#include "exec/staged_backend.h"

#include <algorithm>

#include "persistentkv/plan.h"

namespace pkv {
namespace {

/// Bytes of [num_rows][num_q_heads][head_dim] with these strides, from the first element to the last.
template <typename View>
std::int64_t strided_bytes(const View& view, std::int64_t num_rows, const AttentionShape& shape) {
  if (num_rows == 0) {
    return 0;
  }
  const std::int64_t elements =
      (num_rows - 1) * view.row_stride + (shape.num_q_heads - 1) * view.head_stride + shape.head_dim;
  return elements * dtype_bytes(view.dtype);
}

/// The same of all pages.
std::int64_t paged_bytes(const PagedKv& kv, const PageStrides& strides, const AttentionShape& shape) {
  if (kv.num_pages == 0) {
    return 0;
  }
  const std::int64_t elements = (kv.num_pages - 1) * strides.page + (shape.num_kv_heads - 1) * strides.kv_head +
                                (kv.layout.page_size - 1) * strides.slot + shape.head_dim;
  return elements * dtype_bytes(kv.dtype);
}

/// Bytes of host memory, to see whether two tensors are woven into one another.
struct Extent {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;

  static Extent of(const void* base, std::int64_t bytes) {
    const auto* begin = static_cast<const std::byte*>(base);
    return {.begin = begin, .end = begin + bytes};
  }
  [[nodiscard]] std::int64_t size() const { return end - begin; }
  [[nodiscard]] bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

}  // namespace

StagedBackend::StagedBackend(Backend& inner, DeviceMemory& memory)
    : inner_(inner), k_(memory), v_(memory), q_(memory), out_(memory), lse_(memory), sinks_(memory) {}

Result<std::unique_ptr<StagedBackend>> StagedBackend::make(Backend& inner) {
  DeviceMemory* memory = inner.device_memory();
  if (memory == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "its tensors lie in host memory already: there is nothing to copy",
                 std::string("staged ") + std::string(inner.name())};
  }
  return std::unique_ptr<StagedBackend>(new StagedBackend(inner, *memory));
}

Status StagedBackend::stage_kv(PagedKv& kv, const AttentionShape& shape) {
  const Extent k = Extent::of(kv.k, paged_bytes(kv, kv.layout.k_strides, shape));
  const Extent v = Extent::of(kv.v, paged_bytes(kv, kv.layout.v_strides, shape));
  if (!k.overlaps(v)) {
    PKV_RETURN_IF_ERROR(k_.upload(k.begin, k.size()));
    PKV_RETURN_IF_ERROR(v_.upload(v.begin, v.size()));
    kv.k = k_.data();
    kv.v = v_.data();
    return {};
  }
  const Extent both{.begin = std::min(k.begin, v.begin), .end = std::max(k.end, v.end)};
  PKV_RETURN_IF_ERROR(k_.upload(both.begin, both.size()));
  kv.k = k_.as<std::byte>() + (k.begin - both.begin);
  kv.v = k_.as<std::byte>() + (v.begin - both.begin);
  return {};
}

Result<RunArgs> StagedBackend::stage(const RunArgs& args) {
  const AttentionShape& shape = args.batch.shape();
  RunArgs staged = args;
  PKV_RETURN_IF_ERROR(stage_kv(staged.kv, shape));
  PKV_RETURN_IF_ERROR(q_.upload(args.q.data, strided_bytes(args.q, args.batch.num_rows(), shape)));
  PKV_RETURN_IF_ERROR(out_.upload(args.out.data, strided_bytes(args.out, args.batch.num_rows(), shape)));
  PKV_RETURN_IF_ERROR(lse_.upload(args.lse.data(), static_cast<std::int64_t>(args.lse.size_bytes())));
  PKV_RETURN_IF_ERROR(sinks_.upload(args.sinks.data(), static_cast<std::int64_t>(args.sinks.size_bytes())));
  staged.q.data = q_.data();
  staged.out.data = out_.data();
  staged.lse = {lse_.as<float>(), args.lse.size()};
  staged.sinks = {sinks_.as<const float>(), args.sinks.size()};
  return staged;
}

Result<RunTimes> StagedBackend::run(const Plan& plan, const RunArgs& args) {
  PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));  // sizes are computed from these
  const Result<RunArgs> staged = stage(args);
  if (!staged.ok()) {
    return staged.error();
  }
  Result<RunTimes> times = inner_.run(plan, *staged);
  if (!times.ok()) {
    return times;
  }
  PKV_RETURN_IF_ERROR(out_.download(args.out.data, strided_bytes(args.out, args.batch.num_rows(), args.batch.shape())));
  PKV_RETURN_IF_ERROR(lse_.download(args.lse.data(), static_cast<std::int64_t>(args.lse.size_bytes())));
  return times;
}

}  // namespace pkv

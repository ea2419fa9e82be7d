// Parameters, the choice of a kernel, cudaLaunchKernelEx.
#include "exec/cuda/launch.h"

#include <algorithm>

#include "base/math.h"
#include "exec/cuda/runtime.h"

namespace pkv::cuda {
namespace {

constexpr std::int64_t kCopyBytes = 16;  // of one asynchronous copy

ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::kF32: return ElementType::kF32;
    case DType::kF16: return ElementType::kF16;
    case DType::kBF16: return ElementType::kBF16;
  }
  return ElementType::kF32;
}

bool is_multiple(const void* pointer, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(bytes) == 0;
}

ByteStrides byte_strides(const PageStrides& strides, std::int64_t element_bytes) {
  return {.page = strides.page * element_bytes,
          .kv_head = strides.kv_head * element_bytes,
          .slot = strides.slot * element_bytes};
}

bool vectors_aligned(const void* base, const ByteStrides& strides) {
  return is_multiple(base, kCopyBytes) && strides.page % kCopyBytes == 0 && strides.kv_head % kCopyBytes == 0 &&
         strides.slot % kCopyBytes == 0;
}

bool suits_tensor_cores(const RunArgs& args) {
  if (args.kv.dtype == DType::kF32 || args.q.dtype != args.kv.dtype) {
    return false;
  }
  const bool pairs = is_multiple(args.q.data, 4) && args.q.row_stride % 2 == 0 && args.q.head_stride % 2 == 0;
  const std::int64_t bytes = dtype_bytes(args.kv.dtype);
  return pairs && vectors_aligned(args.kv.k, byte_strides(args.kv.layout.k_strides, bytes)) &&
         vectors_aligned(args.kv.v, byte_strides(args.kv.layout.v_strides, bytes));
}

/// Whether every `elements` neighbours of a head of the queries or outputs lie on a multiple of their bytes.
template <class View>
bool in_vectors(const View& view, std::int64_t elements) {
  return is_multiple(view.data, elements * dtype_bytes(view.dtype)) && view.row_stride % elements == 0 &&
         view.head_stride % elements == 0;
}

}  // namespace

const KernelEntry& choose_kernel(const RunArgs& args, KernelWidth width, const CudaDevice& device) {
  const AttentionShape& shape = args.batch.shape();
  const ElementType type = element_type(args.kv.dtype);
  if (suits_tensor_cores(args)) {
    const KernelEntry* found =
        find_mma_kernel(type, shape.head_dim, shape.group_size(), width, device.shared_bytes_per_block);
    if (found != nullptr) {
      return *found;
    }
  }
  return simple_kernel(type);
}

const MergeEntry& choose_merge(std::int64_t num_ranges, std::int32_t max_splits, const AttentionShape& shape,
                               std::int32_t num_sms) {
  const auto rounds = [&](const MergeEntry& merge) {
    const std::int64_t waves = ceil_div<std::int64_t>(merge_blocks(merge, num_ranges, shape),
                                                      std::int64_t{num_sms} * merge.kernel.blocks_per_sm);
    return waves + ceil_div(max_splits, merge.splits_at_once);
  };
  return *std::ranges::min_element(merge_kernels(), {}, rounds);
}

std::int64_t merge_blocks(const MergeEntry& merge, std::int64_t num_ranges, const AttentionShape& shape) {
  return ceil_div<std::int64_t>(num_ranges * shape.num_q_heads * ceil_div(shape.head_dim, merge.unit_dims),
                                merge.units_per_block);
}

LayerParams layer_params(const RunArgs& args) {
  const AttentionShape& shape = args.batch.shape();
  const std::int64_t bytes = dtype_bytes(args.kv.dtype);
  LayerParams params;
  params.q = args.q.data;
  params.k = args.kv.k;
  params.v = args.kv.v;
  params.out = args.out.data;
  params.lse = args.lse.empty() ? nullptr : args.lse.data();
  params.sinks = args.sinks.empty() ? nullptr : args.sinks.data();
  params.q_row_stride = args.q.row_stride;
  params.q_head_stride = args.q.head_stride;
  params.q_in_vectors = in_vectors(args.q, 8);
  params.out_row_stride = args.out.row_stride;
  params.out_head_stride = args.out.head_stride;
  params.out_in_vectors = in_vectors(args.out, 4);
  params.k_strides = byte_strides(args.kv.layout.k_strides, bytes);
  params.v_strides = byte_strides(args.kv.layout.v_strides, bytes);
  params.page_size = args.kv.layout.page_size;
  params.page_magic =
      static_cast<std::uint32_t>((std::uint64_t{1} << 32) / static_cast<std::uint64_t>(params.page_size) + 1);
  params.num_q_heads = shape.num_q_heads;
  params.num_kv_heads = shape.num_kv_heads;
  params.group_size = shape.group_size();
  params.head_dim = shape.head_dim;
  params.merge_parts = merge_parts(shape.head_dim);
  params.scale = shape.scale();
  params.soft_cap = shape.logit_soft_cap.value_or(0.0F);
  params.q_type = element_type(args.q.dtype);
  params.out_type = element_type(args.out.dtype);
  return params;
}

Status launch(const KernelEntry& kernel, std::int64_t blocks, const void* params, Entry entry, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(kernel.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(kernel.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = entry == Entry::kDependent ? 1 : 0;
  void* arguments[] = {const_cast<void*>(params)};
  return check(cudaLaunchKernelExC(&config, kernel.function, arguments), kernel.name);
}

Status prepare(const KernelEntry& kernel) {
  PKV_RETURN_IF_ERROR(
      check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes),
            kernel.name));
  if (kernel.shared_bytes > 0) {
    PKV_RETURN_IF_ERROR(check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                                   cudaSharedmemCarveoutMaxShared),
                              kernel.name));
  }
  return {};
}

}  // namespace pkv::cuda

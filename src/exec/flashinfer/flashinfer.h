// The flashinfer routes: FlashInfer's own planner and kernels as an ExternalDecode.
// Not here: FlashInfer's types and headers (core.cuh, tensor.cuh), the backend that calls this.
#pragma once

#include <memory>

#include "exec/cuda/external_decode.h"
#include "persistentkv/result.h"

namespace pkv {

/// FlashInfer's paged batch decode on a stream (a cudaStream_t) of the current device; the device must be current
/// in every later call, since FlashInfer asks the runtime for it. Destroy it before the stream, when the stream is
/// idle.
///
/// Serves f16 and bf16 K,V with queries and outputs of the same type, head_dim 64, 128 and 256, any layout in which
/// K and V have the same strides, soft caps, sliding windows and empty rows. Group sizes: 1, 2, 3, 4, 6, 8, 16
/// (flashinfer-core), all (flashinfer-tensor). Outputs are dense. Sinks: none. All else is kUnsupported.
/// Wanting an LSE costs one more small launch: FlashInfer's is base 2.
/// Errors: kUnsupported with CUDA's message.
Result<std::unique_ptr<ExternalDecode>> make_flashinfer(void* stream);

}  // namespace pkv

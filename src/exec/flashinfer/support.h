// Which steps FlashInfer's kernels serve, and the kernels that do.
// Not here: running them (flashinfer.cc).
#pragma once

#include "exec/flashinfer/kernels.h"
#include "persistentkv/backend.h"
#include "persistentkv/plan.h"

namespace pkv::fi {

/// Kernels of a route for a step that they serve.
/// Errors: kUnsupported that names the field, its value and what there is.
Result<Kernels> find_kernels(Route route, const RunArgs& layer);

/// What run() must find as plan() left it, and what FlashInfer's kernels assume of tensors without a check of their
/// own: dense outputs, K and V of the same strides, vectors of 16 bytes, offsets of 32 bits.
/// Errors: kUnsupported that names the field.
Status check_tensors(const RunArgs& layer);

}  // namespace pkv::fi

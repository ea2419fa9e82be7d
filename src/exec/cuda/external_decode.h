// ExternalDecode: a decode step that another project's kernels plan and run on the backend's stream.
// Not here: which projects there are (src/exec/flashinfer), our own kernels.
#pragma once

#include "persistentkv/backend.h"
#include "persistentkv/plan.h"

namespace pkv {

class ExternalDecode {
 public:
  virtual ~ExternalDecode() = default;
  /// Grows the workspace. The only call that allocates. Errors: kResourceExhausted.
  virtual Status reserve(const Plan& plan) = 0;
  /// Host scheduling and its copies, on the stream, for all layers of the step; `layer` is any of them.
  /// Errors: kUnsupported naming what the project's kernels lack (group size, type, layout, sinks, ...).
  virtual Status plan(Route route, const RunArgs& layer) = 0;
  /// Enqueues one layer of the planned step; returns at once.
  virtual Status run(const RunArgs& layer) = 0;
};

}  // namespace pkv

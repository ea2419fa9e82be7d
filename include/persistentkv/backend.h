// Backend: runs any plan on one device. Caller's tensors in, caller's tensors out.
// Not here: planning, policy, timing statistics.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "persistentkv/batch.h"
#include "persistentkv/gpu_machine.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"

namespace pkv {

/// Queries [num_rows][num_q_heads][head_dim]; strides in elements, head_dim contiguous.
struct QueryView {
  const void* data = nullptr;
  DType dtype = DType::kF16;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
};

/// Outputs [num_rows][num_q_heads][head_dim]; strides in elements, head_dim contiguous.
struct OutputView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
};

/// Dense views of contiguous tensors.
QueryView dense_queries(const void* data, DType dtype, const AttentionShape& shape);
OutputView dense_outputs(void* data, DType dtype, const AttentionShape& shape);

/// The tensors of one layer of one step. The caller owns all memory.
struct RunArgs {
  BatchState batch;
  QueryView q;
  PagedKv kv;
  OutputView out;
  /// [num_rows][num_q_heads], natural logarithm; empty: not wanted.
  std::span<float> lse = {};
  /// [num_q_heads]; exactly when shape.sinks is kPerQueryHead.
  std::span<const float> sinks = {};
};

/// What a run took by the backend's own clock. dispatch is what was spent neither in decode nor in
/// merge work: forking, joining and the idle tail of workers, on the longest path.
struct RunTimes {
  std::int64_t total_ns = 0;
  std::int64_t decode_ns = 0;
  std::int64_t merge_ns = 0;
  std::int64_t dispatch_ns = 0;
};

/// What a backend can run. A shape outside it is an error that names the field and this limit.
struct Capabilities {
  std::int32_t max_head_dim = 0;
  std::int32_t max_group_size = 0;
  bool soft_cap = false;
  bool sliding_window = false;
  bool sinks = false;
  bool f32 = false, f16 = false, bf16 = false;
};

/// Memory of a device, for callers without an allocator of their own (replay, tests, measurements).
/// Copies are complete when they return.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// At least 256-byte aligned. Errors: kResourceExhausted with the bytes asked for and those available.
  virtual Result<void*> allocate(std::int64_t bytes) = 0;
  /// Null is allowed. Requires a pointer from allocate().
  virtual void release(void* memory) = 0;
  virtual Status upload(void* device, const void* host, std::int64_t bytes) = 0;
  virtual Status download(void* host, const void* device, std::int64_t bytes) = 0;
  [[nodiscard]] virtual std::int64_t available_bytes() const = 0;
  /// Last-level cache: what is measured reads more than four times as much.
  [[nodiscard]] virtual std::int64_t cache_bytes() const = 0;
};

/// One pass that reads all pages of a batch and uses none of it.
struct PageRead {
  std::int64_t bytes = 0;
  std::int64_t elapsed_ns = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Device, ISA and kernel in one line, for reports.
  [[nodiscard]] virtual std::string describe() const = 0;
  [[nodiscard]] virtual Capabilities capabilities() const = 0;
  /// Workers (CPU) or SMs (GPU) that a plan should keep busy.
  [[nodiscard]] virtual std::int32_t num_workers() const = 0;
  /// What gpu_rule needs to know; means nothing on a CPU.
  [[nodiscard]] virtual GpuMachine gpu_machine() const { return num_workers(); }
  /// Where the tensors of run() lie (q, K, V, out, lse, sinks); null: in host memory. Lengths and the
  /// block table of a BatchState are host memory for every backend.
  virtual DeviceMemory* device_memory() { return nullptr; }
  /// Whether a route of another project (is_external) runs here.
  [[nodiscard]] virtual bool supports(Route route) const { return !is_external(route); }

  /// Makes the workspace large enough for a plan. The only call that allocates.
  /// Errors: kResourceExhausted with the needed bytes; kUnsupported for a shape the backend lacks.
  virtual Status reserve(const Plan& plan) = 0;

  /// Executes the plan and waits for it. No allocation, no planning, no printing. One plan serves
  /// all layers of a step. Not thread-safe: one run at a time a backend.
  /// Errors: kInvalidArgument (tensors that do not fit the plan), kUnsupported,
  /// kResourceExhausted (reserve was not called for this plan).
  virtual Result<RunTimes> run(const Plan& plan, const RunArgs& args) = 0;
};

/// The checks that every backend makes before it runs: plan against batch, tensors against shape,
/// shape against capabilities. Errors as Backend::run.
Status validate_run(const Plan& plan, const RunArgs& args, const Capabilities& capabilities,
                    std::string_view backend_name);
/// The shape part of it.
Status validate_shape_support(const AttentionShape& shape, const Capabilities& capabilities,
                              std::string_view backend_name);

}  // namespace pkv

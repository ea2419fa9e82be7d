// The CUDA backend: plans run as kernels on a caller's stream, step by step or from a captured graph.
// Not here: kernels, CUDA's own types (src/exec/cuda); a stream is passed as the pointer that it is.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/batch.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"

namespace pkv {

/// Whether this library was built with CUDA. Loading it needs no driver either way.
bool cuda_built();

/// Facts of one GPU, read from its driver.
struct CudaDevice {
  std::int32_t ordinal = 0;
  std::string name;
  std::int32_t compute_major = 0;
  std::int32_t compute_minor = 0;
  std::int32_t num_sms = 0;
  std::int64_t memory_bytes = 0;
  /// What streaming reads reach: 0.955 of the memory's clock and width; 0: the driver does not say.
  double read_bytes_per_us = 0.0;
  std::int64_t l2_bytes = 0;
  /// Shared memory that one block may have, after opting in.
  std::int64_t shared_bytes_per_block = 0;
  /// Versions as CUDA counts them: 13000 is 13.0.
  std::int32_t driver_version = 0;
  std::int32_t runtime_version = 0;
};

/// The GPUs of this machine. Errors: kUnsupported with the reason: not built with CUDA, no driver, no GPU.
Result<std::vector<CudaDevice>> cuda_devices();

struct CudaOptions {
  std::int32_t device = 0;
  /// A cudaStream_t of the caller's, kept alive by the caller; the backend makes its own when null.
  void* stream = nullptr;
  /// GpuMachine::back_to_back of gpu_machine(), and what kernels are chosen for; without effect below compute
  /// capability 9.0, where launches do not overlap. For gpu_rule: a Policy prices launches as if they stood alone.
  bool back_to_back = false;
};

/// What a captured graph can hold; later steps must stay within it.
struct CudaGraphBounds {
  std::int32_t max_rows = 0;
  std::int32_t max_tasks = 0;
  std::int32_t max_merges = 0;         // merge ranges: rows that are split or empty
  std::int32_t max_partial_slots = 0;  // (row, KV head, split) states
  std::int64_t max_page_ids = 0;       // of all rows together
  /// Splits of one row at most.
  std::int32_t max_splits = 0;

  /// Bounds that hold this plan and batch, with `slack` times the tasks, slots, merges and page ids.
  static CudaGraphBounds around(const Plan& plan, const BatchState& batch, double slack = 1.0);
};

/// All layers of a step as one CUDA graph. The task list lies in device memory, so that a graph captured
/// once replays steps of other lengths and rows under its bounds.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  /// Puts another step's tasks and page ids into the graph: one asynchronous copy on the backend's stream.
  /// Errors: kOutOfRange naming the bound; kInvalidArgument for another shape, page size or merge mode.
  virtual Status update(const Plan& plan, const BatchState& batch) = 0;
  /// Replays all layers; asynchronous.
  virtual Status launch() = 0;
};

/// A Backend whose tensors lie in device memory: q, K, V, out, lse and sinks of RunArgs are device
/// pointers; lengths and block tables are host memory. Not thread-safe.
/// Kernels: tensor cores for 16-bit K,V with queries of the same type, head_dim up to 256 and group sizes
/// up to 32, if every K and V vector starts at a multiple of 16 bytes; a simple exact kernel for all else.
/// run() = load_step, enqueue, wait; RunTimes by events around the kernels: total_ns is the device time of
/// all launches, decode_ns the same (launches overlap, so they are not told apart), merge_ns 0.
class CudaBackend : public Backend {
 public:
  /// Errors: kUnsupported (no CUDA, no driver, a GPU below compute capability 8.0), kOutOfRange (device).
  static Result<std::unique_ptr<CudaBackend>> create(const CudaOptions& options = {});

  [[nodiscard]] virtual const CudaDevice& device() const = 0;
  /// The stream that everything is enqueued on, a cudaStream_t.
  [[nodiscard]] virtual void* stream() const = 0;
  /// Enqueues on another stream of the caller's from now on; null is the legacy default stream. The caller
  /// orders the two streams.
  virtual void set_stream(void* stream) = 0;
  /// Name of the decode kernel that a layer of this plan runs: "mma f16 d128 m1x1 w8", "simple f32".
  [[nodiscard]] virtual std::string kernel_name(const Plan& plan, const RunArgs& args) const = 0;

  /// Copies the tasks and page ids of a step to the device: one asynchronous copy from pinned memory.
  /// Once a step, before its layers. Requires reserve(plan). Waits only when the four copies before this
  /// one are still not done. Errors: as Backend::run; kResourceExhausted without reserve.
  virtual Status load_step(const Plan& plan, const BatchState& batch) = 0;
  /// Enqueues one layer of the loaded step; returns at once. The plan must be the loaded one.
  /// Contract of programmatic launch: page ids and tasks are read before the kernel ahead of this one on
  /// the stream has finished, K, V and q after.
  virtual Status enqueue(const Plan& plan, const RunArgs& args) = 0;
  /// Waits for the stream. Errors: kUnsupported with CUDA's message if a kernel failed.
  virtual Status synchronize() = 0;

  /// Captures the layers of a step. The plan has one decode launch and at most one merge launch (not
  /// bucket). All layers share the shape, types and layout. The graph must not outlive the backend.
  virtual Result<std::unique_ptr<CudaGraph>> capture(const Plan& plan, const BatchState& batch,
                                                     const CudaGraphBounds& bounds,
                                                     std::span<const RunArgs> layers) = 0;

  /// Reads every page of the batch's rows whole, by the fastest walk found: the denominator of speeds.
  virtual Result<PageRead> read_pages(const BatchState& batch, const PagedKv& kv) = 0;
};

}  // namespace pkv

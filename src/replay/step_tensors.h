// StepTensors: queries, outputs and sinks of the step in progress, where the backend and where the oracle reads them.
// Not here: K and V (kv_pool.h), execution (session.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "exec/device_tensor.h"
#include "persistentkv/backend.h"
#include "replay/options.h"
#include "replay/oracle.h"
#include "replay/random_data.h"

namespace pkv {

class StepTensors {
 public:
  /// `device` is null for a backend whose tensors lie in host memory. All arguments outlive it.
  StepTensors(const RunOptions& options, const RandomBlock& query_block, DeviceMemory* device);

  /// FP32 in host memory, the type of the queries on a device.
  static DType output_dtype(DType query_dtype, const DeviceMemory* device);
  /// Bytes on a device for the largest step.
  static std::int64_t device_bytes(const RunOptions& options, std::int64_t max_rows);

  /// Fills the queries of a step and puts them where the backend reads them. Errors: those of DeviceMemory.
  Status prepare(std::int64_t num_rows, std::uint64_t stream);
  /// Fills all outputs with NaN: what a route forgets to write must not keep another route's values.
  Status poison_outputs();
  /// Outputs in host memory, valid until the next call of this object.
  Result<StoredOutputs> fetch_outputs();

  /// Arguments for the backend, without K and V.
  [[nodiscard]] RunArgs run_args(const BatchState& batch);
  /// Arguments for the oracle, without K and V: tensors in host memory.
  [[nodiscard]] RunArgs oracle_args(const BatchState& batch);

 private:
  struct OnDevice {
    explicit OnDevice(DeviceMemory& memory) : queries(memory), outputs(memory), sinks(memory) {}
    DeviceTensor queries, outputs, sinks;
  };

  const RunOptions& options_;
  const RandomBlock& query_block_;
  DType output_dtype_;
  std::vector<float> sinks_;
  std::vector<std::uint8_t> queries_;
  std::vector<std::uint8_t> outputs_;
  std::optional<OnDevice> device_;
};

}  // namespace pkv

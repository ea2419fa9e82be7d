// Host memory is filled and compared; a device has copies of it.
// Not here: what is random about the data (random_data.h).
#include "replay/step_tensors.h"

#include <algorithm>

#include "base/random.h"
#include "replay/memory.h"

namespace pkv {
namespace {

constexpr std::uint8_t kNanByte = 0xFF;  // all bits set are NaN in fp32, fp16 and bf16 alike

std::vector<float> random_sinks(const RunOptions& options) {
  std::vector<float> sinks;
  if (options.shape.sinks == Sinks::kPerQueryHead) {
    SplitMix64 random(options.data_seed + 1);
    sinks.resize(static_cast<std::size_t>(options.shape.num_q_heads));
    std::generate(sinks.begin(), sinks.end(), [&] { return random.normal(); });
  }
  return sinks;
}

std::int64_t bytes_of(const std::vector<float>& values) {
  return static_cast<std::int64_t>(values.size() * sizeof(float));
}

}  // namespace

StepTensors::StepTensors(const RunOptions& options, const RandomBlock& query_block, DeviceMemory* device)
    : options_(options),
      query_block_(query_block),
      output_dtype_(output_dtype(query_block.dtype(), device)),
      sinks_(random_sinks(options)) {
  if (device != nullptr) {
    device_.emplace(*device);
  }
}

DType StepTensors::output_dtype(DType query_dtype, const DeviceMemory* device) {
  return device == nullptr ? DType::kF32 : query_dtype;
}

std::int64_t StepTensors::device_bytes(const RunOptions& options, std::int64_t max_rows) {
  const AttentionShape& shape = options.shape;
  const std::int64_t row_bytes =
      std::int64_t{shape.num_q_heads} * shape.head_dim * dtype_bytes(options.query_dtype.value_or(options.kv_dtype));
  const std::int64_t sink_bytes = shape.sinks == Sinks::kPerQueryHead ? std::int64_t{4} * shape.num_q_heads : 0;
  return saturating_add(saturating_mul(max_rows, 2 * row_bytes), sink_bytes);
}

Status StepTensors::prepare(std::int64_t num_rows, std::uint64_t stream) {
  const std::int64_t elements = num_rows * options_.shape.num_q_heads * options_.shape.head_dim;
  const DType dtype = query_block_.dtype();
  queries_.resize(static_cast<std::size_t>(elements * dtype_bytes(dtype)));
  outputs_.resize(static_cast<std::size_t>(elements * dtype_bytes(output_dtype_)));
  query_block_.fill(queries_.data(), elements, stream);
  if (!device_) {
    return {};
  }
  PKV_RETURN_IF_ERROR(device_->queries.upload(queries_.data(), static_cast<std::int64_t>(queries_.size())));
  PKV_RETURN_IF_ERROR(device_->outputs.grow(static_cast<std::int64_t>(outputs_.size())));
  return device_->sinks.upload(sinks_.data(), bytes_of(sinks_));
}

Status StepTensors::poison_outputs() {
  std::fill(outputs_.begin(), outputs_.end(), kNanByte);
  return device_ ? device_->outputs.upload(outputs_.data(), static_cast<std::int64_t>(outputs_.size())) : Status{};
}

Result<StoredOutputs> StepTensors::fetch_outputs() {
  if (device_) {
    PKV_RETURN_IF_ERROR(device_->outputs.download(outputs_.data(), static_cast<std::int64_t>(outputs_.size())));
  }
  return StoredOutputs{.data = outputs_.data(), .dtype = output_dtype_};
}

RunArgs StepTensors::oracle_args(const BatchState& batch) {
  RunArgs args;
  args.batch = batch;
  args.q = dense_queries(queries_.data(), query_block_.dtype(), options_.shape);
  args.out = dense_outputs(outputs_.data(), output_dtype_, options_.shape);
  args.sinks = sinks_;
  return args;
}

RunArgs StepTensors::run_args(const BatchState& batch) {
  RunArgs args = oracle_args(batch);
  if (device_) {
    args.q.data = device_->queries.data();
    args.out.data = device_->outputs.data();
    args.sinks = {device_->sinks.as<const float>(), sinks_.size()};
  }
  return args;
}

}  // namespace pkv

// The implementation behind CudaBackend: workspace, launches, graphs.
// Not here: kernels, packing of a step, CUDA's calls as error values.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exec/cuda/external_decode.h"
#include "exec/cuda/launch.h"
#include "exec/cuda/runtime.h"
#include "exec/cuda/step_memory.h"
#include "persistentkv/cuda.h"

namespace pkv::cuda {

/// What create() returns; measuring programs reach it by dynamic_cast.
class Backend final : public CudaBackend {
 public:
  static Result<std::unique_ptr<Backend>> create(const CudaOptions& options);
  ~Backend() override;

  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] std::string describe() const override;
  [[nodiscard]] Capabilities capabilities() const override;
  [[nodiscard]] std::int32_t num_workers() const override { return device_.num_sms; }
  [[nodiscard]] GpuMachine gpu_machine() const override;
  DeviceMemory* device_memory() override { return &memory_; }
  [[nodiscard]] bool supports(Route route) const override { return !is_external(route) || external_ != nullptr; }
  Status reserve(const Plan& plan) override;
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override;

  [[nodiscard]] const CudaDevice& device() const override { return device_; }
  [[nodiscard]] void* stream() const override { return stream_; }
  void set_stream(void* stream) override { stream_ = static_cast<cudaStream_t>(stream); }
  [[nodiscard]] std::string kernel_name(const Plan& plan, const RunArgs& args) const override {
    return choose_kernel(args, width_of(plan), device_).name;
  }
  Status load_step(const Plan& plan, const BatchState& batch) override;
  Status enqueue(const Plan& plan, const RunArgs& args) override;
  Status synchronize() override;
  Result<std::unique_ptr<CudaGraph>> capture(const Plan& plan, const BatchState& batch, const CudaGraphBounds& bounds,
                                             std::span<const RunArgs> layers) override;
  Result<PageRead> read_pages(const BatchState& batch, const PagedKv& kv) override;

  /// For measurements: overrides the choice of how decode kernels enter.
  void set_decode_entry(DecodeEntry entry) { decode_entry_ = entry; }
  /// Likewise of the kernel's width.
  void set_width(std::optional<KernelWidth> width) { width_ = width; }

 private:
  friend class StepGraph;
  Backend(CudaDevice device, bool back_to_back)
      : device_(std::move(device)), memory_(device_.ordinal, device_.l2_bytes), back_to_back_(back_to_back) {}
  Status open(void* stream);
  /// Ahead of a kernel's first launch, and not in a capture.
  Status prepare(const KernelEntry& kernel);
  [[nodiscard]] KernelWidth width_of(const Plan& plan) const;
  [[nodiscard]] bool can_depend() const { return device_.compute_major >= 9; }
  [[nodiscard]] Entry decode_entry() const;
  [[nodiscard]] std::int32_t early_blocks(const KernelEntry& kernel) const;
  [[nodiscard]] Entry merge_entry() const { return can_depend() ? Entry::kDependent : Entry::kAfter; }
  Status enqueue_launches(const Plan& plan, const RunArgs& args, LayerParams params);
  [[nodiscard]] bool is_loaded(const Plan& plan) const;

  CudaDevice device_;
  CudaMemory memory_;
  bool back_to_back_ = false;
  cudaStream_t own_stream_ = nullptr;
  cudaStream_t stream_ = nullptr;
  Event begin_;
  Event end_;
  StepMemory step_;
  DeviceBuffer probe_ids_;
  std::vector<const void*> prepared_;  // kernels
  std::optional<KernelWidth> width_;
  DecodeEntry decode_entry_ = DecodeEntry::kChosen;
  // What is loaded: a plan is told by its task list, which moves with it.
  const Task* loaded_tasks_ = nullptr;
  StepCapacity loaded_capacity_;
  KernelWidth loaded_width_ = KernelWidth::kWide;
  std::unique_ptr<ExternalDecode> external_;
  bool external_planned_ = false;
};

}  // namespace pkv::cuda

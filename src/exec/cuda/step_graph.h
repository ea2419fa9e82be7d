// StepGraph: all layers of a step as a CUDA graph whose task list is data.
// Not here: kernels, the backend's own step memory.
#pragma once

#include <memory>
#include <span>

#include "cost/kernel_width.h"
#include "exec/cuda/step_memory.h"
#include "persistentkv/cuda.h"

namespace pkv::cuda {

class Backend;

class StepGraph final : public CudaGraph {
 public:
  static Result<std::unique_ptr<StepGraph>> capture(Backend& backend, const Plan& plan, const BatchState& batch,
                                                    const CudaGraphBounds& bounds, std::span<const RunArgs> layers);
  ~StepGraph() override;
  Status update(const Plan& plan, const BatchState& batch) override;
  Status launch() override;

 private:
  StepGraph(Backend& backend, const CudaGraphBounds& bounds) : backend_(backend), bounds_(bounds) {}
  [[nodiscard]] StepSizes sizes() const;
  Status check_bounds(const Plan& plan, const BatchState& batch) const;
  Status record(std::span<const RunArgs> layers);
  Status enqueue_layer(const RunArgs& layer) const;

  Backend& backend_;
  CudaGraphBounds bounds_;
  AttentionShape shape_;
  std::int32_t page_size_ = 0;
  MergeMode merge_ = MergeMode::kSeparate;
  KernelWidth width_ = KernelWidth::kWide;  // of the captured plan
  std::int64_t num_merges_ = 0;             // of the captured plan
  StepMemory step_;
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace pkv::cuda

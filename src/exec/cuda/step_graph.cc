// Capture with the grids of the bounds; blocks beyond a step's list find nothing to do and leave.
#include "exec/cuda/step_graph.h"

#include <fmt/format.h>

#include <algorithm>

#include "exec/cuda/cuda_backend.h"

namespace pkv::cuda {
namespace {

Status check_bound(std::string_view name, std::int64_t value, std::int64_t bound) {
  if (value <= bound) {
    return {};
  }
  return Error{ErrorCode::kOutOfRange, fmt::format("{} is above the captured bound of {}", value, bound),
               fmt::format("graph {}", name)};
}

}  // namespace

StepSizes StepGraph::sizes() const {
  const bool fused = merge_ == MergeMode::kFused;
  return {.capacity = {.tasks = bounds_.max_tasks, .merges = bounds_.max_merges, .page_ids = bounds_.max_page_ids},
          .partial_slots = bounds_.max_partial_slots,
          .finish_counters = fused ? std::int64_t{bounds_.max_rows} * shape_.num_kv_heads : 0};
}

Status StepGraph::check_bounds(const Plan& plan, const BatchState& batch) const {
  if (plan.shape() != shape_ || plan.page_size() != page_size_ || plan.merge_mode() != merge_) {
    return Error{ErrorCode::kInvalidArgument, "has another shape, page size or merge mode than the captured plan",
                 "graph plan"};
  }
  if (!plan.matches(batch)) {
    return Error{ErrorCode::kInvalidArgument, "was made for other lengths than this batch", "graph plan"};
  }
  const auto count = [&](LaunchKind kind) { return std::ranges::count(plan.launches(), kind, &Launch::kind); };
  if (is_external(plan.route()) || count(LaunchKind::kDecode) > 1 || count(LaunchKind::kMerge) > 1) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("route {} with {} launches; a graph holds one decode and one merge launch of ours",
                             route_name(plan.route()), plan.launches().size()),
                 "graph plan"};
  }
  const StepSizes needed = StepSizes::of(plan);
  PKV_RETURN_IF_ERROR(check_bound("rows", batch.num_rows(), bounds_.max_rows));
  PKV_RETURN_IF_ERROR(check_bound("tasks", needed.capacity.tasks, bounds_.max_tasks));
  PKV_RETURN_IF_ERROR(check_bound("merge ranges", needed.capacity.merges, bounds_.max_merges));
  PKV_RETURN_IF_ERROR(check_bound("partial slots", needed.partial_slots, bounds_.max_partial_slots));
  PKV_RETURN_IF_ERROR(check_bound("splits", plan.max_splits(), bounds_.max_splits));
  return check_bound("page ids", needed.capacity.page_ids, bounds_.max_page_ids);
}

Status StepGraph::enqueue_layer(const RunArgs& layer) const {
  LayerParams params = layer_params(layer);
  step_.fill(params, sizes().capacity, merge_, bounds_.max_partial_slots, shape_);
  if (bounds_.max_tasks > 0) {
    const KernelEntry& kernel = choose_kernel(layer, width_, backend_.device_);
    params.early_blocks = backend_.early_blocks(kernel);
    PKV_RETURN_IF_ERROR(cuda::launch(kernel, bounds_.max_tasks, &params, backend_.decode_entry(), backend_.stream_));
  }
  if (merge_ == MergeMode::kSeparate && bounds_.max_merges > 0) {
    params.num_merges = bounds_.max_merges;
    // For as many ranges as the captured plan has: the bound is one a row, of which most may be empty.
    const MergeEntry& merge = choose_merge(num_merges_, bounds_.max_splits, shape_, backend_.device_.num_sms);
    PKV_RETURN_IF_ERROR(cuda::launch(merge.kernel, merge_blocks(merge, bounds_.max_merges, shape_), &params,
                                     backend_.merge_entry(), backend_.stream_));
  }
  return {};
}

Status StepGraph::record(std::span<const RunArgs> layers) {
  for (const RunArgs& layer : layers) {  // kernels are prepared before the capture, not in it
    PKV_RETURN_IF_ERROR(backend_.prepare(choose_kernel(layer, width_, backend_.device_)));
  }
  const cudaStream_t stream = backend_.stream_;
  PKV_RETURN_IF_ERROR(
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"));
  Status status;
  for (std::size_t i = 0; i < layers.size() && status.ok(); ++i) {
    status = enqueue_layer(layers[i]);
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);  // also after an error: the stream must be usable
  if (status.ok()) {
    status = check(ended, "cudaStreamEndCapture");
  }
  if (status.ok()) {
    status = check(cudaGraphInstantiate(&exec_, graph, 0), "cudaGraphInstantiate");
  }
  if (graph != nullptr) {
    cudaGraphDestroy(graph);
  }
  return status;
}

Result<std::unique_ptr<StepGraph>> StepGraph::capture(Backend& backend, const Plan& plan, const BatchState& batch,
                                                      const CudaGraphBounds& bounds, std::span<const RunArgs> layers) {
  std::unique_ptr<StepGraph> graph(new StepGraph(backend, bounds));
  graph->shape_ = plan.shape();
  graph->page_size_ = plan.page_size();
  graph->merge_ = plan.merge_mode();
  graph->width_ = backend.width_of(plan);
  graph->num_merges_ = static_cast<std::int64_t>(plan.merges().size());
  PKV_RETURN_IF_ERROR(graph->check_bounds(plan, batch));
  for (const RunArgs& layer : layers) {
    PKV_RETURN_IF_ERROR(validate_run(plan, layer, backend.capabilities(), backend.name()));
  }
  PKV_RETURN_IF_ERROR(graph->step_.reserve(graph->sizes(), graph->shape_));
  PKV_RETURN_IF_ERROR(graph->record(layers));
  PKV_RETURN_IF_ERROR(graph->update(plan, batch));
  return graph;
}

StepGraph::~StepGraph() {
  if (exec_ != nullptr) {
    cudaStreamSynchronize(backend_.stream_);
    cudaGraphExecDestroy(exec_);
  }
}

Status StepGraph::update(const Plan& plan, const BatchState& batch) {
  PKV_RETURN_IF_ERROR(check_bounds(plan, batch));
  return step_.load(plan, batch, sizes().capacity, backend_.stream_);
}

Status StepGraph::launch() { return check(cudaGraphLaunch(exec_, backend_.stream_), "cudaGraphLaunch"); }

}  // namespace pkv::cuda

// Plans become launches on a stream.
#include "exec/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <new>

#include "cost/gpu_kernels.h"
#include "exec/cuda/step_graph.h"
#ifdef PKV_HAVE_FLASHINFER
#include "exec/flashinfer/flashinfer.h"
#endif

namespace pkv {
namespace cuda {
namespace {

constexpr std::int32_t kMaxGroup = 64;
constexpr std::int32_t kMinComputeMajor = 8;  // cp.async, bf16 matrices

Error not_loaded() { return {ErrorCode::kInvalidArgument, "load_step() was not called for this plan", "plan"}; }

}  // namespace

Result<std::unique_ptr<Backend>> Backend::create(const CudaOptions& options) {
  const auto devices = cuda_devices();
  if (!devices.ok()) {
    return devices.error();
  }
  const auto count = static_cast<std::int32_t>(devices->size());
  if (options.device < 0 || options.device >= count) {
    return Error{ErrorCode::kOutOfRange, fmt::format("{} is outside 0 to {}", options.device, count - 1), "device"};
  }
  const CudaDevice& device = (*devices)[static_cast<std::size_t>(options.device)];
  if (device.compute_major < kMinComputeMajor) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{} has compute capability {}.{}; 8.0 is the least that is supported", device.name,
                             device.compute_major, device.compute_minor),
                 "device"};
  }
  std::unique_ptr<Backend> backend(new Backend(device, options.back_to_back));
  PKV_RETURN_IF_ERROR(backend->open(options.stream));
  return backend;
}

Status Backend::open(void* stream) {
  PKV_RETURN_IF_ERROR(check(cudaSetDevice(device_.ordinal), "cudaSetDevice"));
  if (stream == nullptr) {
    PKV_RETURN_IF_ERROR(check(cudaStreamCreateWithFlags(&own_stream_, cudaStreamNonBlocking), "cudaStreamCreate"));
  }
  stream_ = stream == nullptr ? own_stream_ : static_cast<cudaStream_t>(stream);
  PKV_RETURN_IF_ERROR(begin_.make(cudaEventDefault));
  PKV_RETURN_IF_ERROR(end_.make(cudaEventDefault));
#ifdef PKV_HAVE_FLASHINFER
  auto external = make_flashinfer(stream_);
  if (!external.ok()) {
    return external.error();
  }
  external_ = *std::move(external);
#endif
  return {};
}

Backend::~Backend() {
  if (own_stream_ != nullptr) {
    cudaStreamSynchronize(own_stream_);
    cudaStreamDestroy(own_stream_);
  }
}

std::string Backend::describe() const {
  return fmt::format("cuda: {}, {} SMs, compute capability {}.{}, CUDA {}.{}, driver for {}.{}{}", device_.name,
                     device_.num_sms, device_.compute_major, device_.compute_minor, device_.runtime_version / 1000,
                     device_.runtime_version % 1000 / 10, device_.driver_version / 1000,
                     device_.driver_version % 1000 / 10, external_ == nullptr ? "" : ", with FlashInfer");
}

Capabilities Backend::capabilities() const {
  return {.max_head_dim = kMaxHeadDim,
          .max_group_size = kMaxGroup,
          .soft_cap = true,
          .sliding_window = true,
          .sinks = true,
          .f32 = true,
          .f16 = true,
          .bf16 = true};
}

GpuMachine Backend::gpu_machine() const {
  GpuMachine machine(device_.num_sms, device_.read_bytes_per_us);
  machine.back_to_back = back_to_back_ && can_depend();
  return machine;
}

Status Backend::reserve(const Plan& plan) {
  PKV_RETURN_IF_ERROR(validate_shape_support(plan.shape(), capabilities(), name()));
  PKV_RETURN_IF_ERROR(check(cudaSetDevice(device_.ordinal), "cudaSetDevice"));
  if (is_external(plan.route())) {
    if (external_ == nullptr) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("route {} needs a build with FlashInfer's headers (scripts/get-flashinfer)",
                               route_name(plan.route())),
                   "route"};
    }
    return external_->reserve(plan);
  }
  if (plan.merge_mode() == MergeMode::kFused && plan.kv_heads_per_task() != 1) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("fused merges take 1 KV head a task on a GPU, not {}", plan.kv_heads_per_task()), "merge"};
  }
  return step_.reserve(StepSizes::of(plan), plan.shape());
}

Status Backend::prepare(const KernelEntry& kernel) {
  if (std::ranges::find(prepared_, kernel.function) == prepared_.end()) {
    PKV_RETURN_IF_ERROR(cuda::prepare(kernel));
    prepared_.push_back(kernel.function);
  }
  return {};
}

KernelWidth Backend::width_of(const Plan& plan) const {
  if (width_.has_value()) {
    return *width_;
  }
  return is_loaded(plan) ? loaded_width_ : width_for(plan, gpu_machine());
}

bool Backend::is_loaded(const Plan& plan) const {
  return plan.tasks().data() == loaded_tasks_ &&
         loaded_capacity_.tasks == static_cast<std::int32_t>(plan.tasks().size());
}

Status Backend::load_step(const Plan& plan, const BatchState& batch) {
  if (!plan.matches(batch)) {
    return Error{ErrorCode::kInvalidArgument,
                 "was made for other lengths, another shape or another page size than this batch", "plan"};
  }
  if (is_external(plan.route())) {
    external_planned_ = false;  // planned with the first layer, whose types it depends on
    return {};
  }
  const StepSizes sizes = StepSizes::of(plan);
  if (!step_.fits(sizes, plan.shape())) {
    return Error{ErrorCode::kResourceExhausted, "reserve() was not called for a plan as large as this", "workspace"};
  }
  PKV_RETURN_IF_ERROR(step_.load(plan, batch, sizes.capacity, stream_));
  loaded_tasks_ = plan.tasks().data();
  loaded_capacity_ = sizes.capacity;
  loaded_width_ = width_for(plan, gpu_machine());
  return {};
}

// A dependent entry saves the start of a kernel, about a microsecond.
Entry Backend::decode_entry() const {
  if (!can_depend() || decode_entry_ == DecodeEntry::kAfter) {
    return Entry::kAfter;
  }
  return Entry::kDependent;
}

// As many as the GPU holds at once.
std::int32_t Backend::early_blocks(const KernelEntry& kernel) const {
  return decode_entry() == Entry::kDependent ? device_.num_sms * kernel.blocks_per_sm : 0;
}

Status Backend::enqueue_launches(const Plan& plan, const RunArgs& args, LayerParams params) {
  const KernelEntry& kernel = choose_kernel(args, width_of(plan), device_);
  const DeviceTask* tasks = params.tasks;
  const DeviceMerge* merges = params.merges;
  for (const Launch& launch : plan.launches()) {
    const std::int64_t count = launch.end - launch.begin;
    if (launch.kind == LaunchKind::kDecode) {
      params.tasks = tasks + launch.begin;
      params.early_blocks = early_blocks(kernel);
      PKV_RETURN_IF_ERROR(prepare(kernel));
      PKV_RETURN_IF_ERROR(cuda::launch(kernel, count, &params, decode_entry(), stream_));
    } else {
      params.merges = merges + launch.begin;
      params.num_merges = static_cast<std::int32_t>(count);
      const MergeEntry& merge = choose_merge(count, plan.max_splits(), plan.shape(), device_.num_sms);
      PKV_RETURN_IF_ERROR(
          cuda::launch(merge.kernel, merge_blocks(merge, count, plan.shape()), &params, merge_entry(), stream_));
    }
  }
  return {};
}

Status Backend::enqueue(const Plan& plan, const RunArgs& args) {
  PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
  if (is_external(plan.route())) {
    if (external_ == nullptr) {
      return not_loaded();
    }
    if (!external_planned_) {
      PKV_RETURN_IF_ERROR(external_->plan(plan.route(), args));
      external_planned_ = true;
    }
    return external_->run(args);
  }
  if (!is_loaded(plan)) {
    return not_loaded();
  }
  LayerParams params = layer_params(args);
  step_.fill(params, loaded_capacity_, plan.merge_mode(), plan.counters().num_partial_slots, plan.shape());
  Status status = enqueue_launches(plan, args, params);
  if (!status.ok()) {
    static_cast<void>(step_.clear_partials(stream_));  // else the next merge would take what nobody has merged
  }
  return status;
}

Status Backend::synchronize() { return check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

Result<RunTimes> Backend::run(const Plan& plan, const RunArgs& args) {
  PKV_RETURN_IF_ERROR(load_step(plan, args.batch));
  if (is_external(plan.route()) && external_ != nullptr) {
    PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
    PKV_RETURN_IF_ERROR(external_->plan(plan.route(), args));  // ahead of the clock, as our own copy is
    external_planned_ = true;
  }
  PKV_RETURN_IF_ERROR(check(cudaEventRecord(begin_.get(), stream_), "cudaEventRecord"));
  PKV_RETURN_IF_ERROR(enqueue(plan, args));
  PKV_RETURN_IF_ERROR(check(cudaEventRecord(end_.get(), stream_), "cudaEventRecord"));
  PKV_RETURN_IF_ERROR(check(cudaEventSynchronize(end_.get()), "decode and merge kernels"));
  float milliseconds = 0.0F;
  PKV_RETURN_IF_ERROR(check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime"));
  const std::int64_t total_ns = std::llround(static_cast<double>(milliseconds) * 1e6);
  return RunTimes{.total_ns = total_ns, .decode_ns = total_ns, .merge_ns = 0, .dispatch_ns = 0};
}

Result<std::unique_ptr<CudaGraph>> Backend::capture(const Plan& plan, const BatchState& batch,
                                                    const CudaGraphBounds& bounds, std::span<const RunArgs> layers) {
  auto graph = StepGraph::capture(*this, plan, batch, bounds, layers);
  if (!graph.ok()) {
    return graph.error();
  }
  return std::unique_ptr<CudaGraph>(*std::move(graph));
}

Result<PageRead> Backend::read_pages(const BatchState& batch, const PagedKv& kv) {
  const AttentionShape& shape = batch.shape();
  const std::int64_t element_bytes = dtype_bytes(kv.dtype);
  const std::int64_t page_bytes =
      std::int64_t{shape.num_kv_heads} * kv.layout.page_size * shape.head_dim * element_bytes;
  if (page_bytes % 16 != 0 || kv.layout.k_strides.page * element_bytes < page_bytes ||
      kv.layout.k_strides.page * element_bytes % 16 != 0) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("pages of {} bytes every {} bytes: whole pages in 16-byte words only", page_bytes,
                             kv.layout.k_strides.page * element_bytes),
                 "page read"};
  }
  std::vector<std::int32_t> ids;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange tokens = batch.attended(row);
    const auto table = batch.block_table().row(row);
    for (std::int32_t page = tokens.begin / kv.layout.page_size; page * kv.layout.page_size < tokens.end; ++page) {
      ids.push_back(table[static_cast<std::size_t>(page)]);
    }
  }
  const auto id_bytes = static_cast<std::int64_t>(ids.size() * sizeof(std::int32_t));
  PKV_RETURN_IF_ERROR(probe_ids_.reserve(id_bytes + 256, "page ids of the probe"));
  auto* sink = reinterpret_cast<std::uint32_t*>(probe_ids_.data());
  if (ids.empty()) {
    return PageRead{};
  }
  PKV_RETURN_IF_ERROR(memory_.upload(probe_ids_.data() + 256, ids.data(), id_bytes));
  const PageReadParams params = {.page_ids = reinterpret_cast<const std::int32_t*>(probe_ids_.data() + 256),
                                 .num_page_ids = static_cast<std::int64_t>(ids.size()),
                                 .k = kv.k,
                                 .v = kv.v,
                                 .k_page_bytes = kv.layout.k_strides.page * element_bytes,
                                 .v_page_bytes = kv.layout.v_strides.page * element_bytes,
                                 .read_bytes = static_cast<std::int32_t>(page_bytes),
                                 .sink = sink};
  const std::int64_t blocks = std::min<std::int64_t>(std::int64_t{device_.num_sms} * 8, (params.num_page_ids + 3) / 4);
  PKV_RETURN_IF_ERROR(check(cudaEventRecord(begin_.get(), stream_), "cudaEventRecord"));
  PKV_RETURN_IF_ERROR(cuda::launch(page_read_kernel(), blocks, &params, Entry::kAfter, stream_));
  PKV_RETURN_IF_ERROR(check(cudaEventRecord(end_.get(), stream_), "cudaEventRecord"));
  PKV_RETURN_IF_ERROR(check(cudaEventSynchronize(end_.get()), "page read kernel"));
  float milliseconds = 0.0F;
  PKV_RETURN_IF_ERROR(check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime"));
  return PageRead{.bytes = 2 * page_bytes * params.num_page_ids,
                  .elapsed_ns = std::llround(static_cast<double>(milliseconds) * 1e6)};
}

}  // namespace cuda

Result<std::unique_ptr<CudaBackend>> CudaBackend::create(const CudaOptions& options) {
  try {
    auto backend = cuda::Backend::create(options);
    if (!backend.ok()) {
      return backend.error();
    }
    return std::unique_ptr<CudaBackend>(*std::move(backend));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, "no memory for the backend", "cuda backend"};
  }
}

}  // namespace pkv

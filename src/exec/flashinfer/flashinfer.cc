// A step through FlashInfer: the page table into its form, its plan, its kernels.
#include "exec/flashinfer/flashinfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "exec/flashinfer/kernels.h"
#include "exec/flashinfer/memory.h"
#include "exec/flashinfer/support.h"

namespace pkv {
namespace {

using fi::Buffer;
using fi::check_cuda;
using fi::Where;

// What FlashInfer's documentation asks for. Partial states take some 40 MiB at most on 132 SMs.
constexpr std::size_t kFloatBytes = std::size_t{256} << 20;
// As its Python package; a step of many rows needs more, up to five lists of 4 bytes a task.
constexpr std::size_t kMinIntBytes = std::size_t{8} << 20;
constexpr std::size_t kIntBytesPerRow = 32;
// Host memory of a step must stay as it is until it has been copied, while the next step is planned.
constexpr std::size_t kNumSlots = 2;

// Integers of a step's tables, in the order of one copy.
struct TableSizes {
  std::size_t num_rows = 0;
  std::size_t num_page_ids = 0;

  [[nodiscard]] std::size_t bytes() const { return (3 * num_rows + 2 + num_page_ids) * sizeof(std::int32_t); }
  [[nodiscard]] fi::Tables in(void* memory) const {
    auto* first = static_cast<std::int32_t*>(memory);
    return {.kv_indptr = first,
            .last_page_len = first + num_rows + 1,
            .qo_indptr = first + 2 * num_rows + 1,
            .kv_indices = first + 3 * num_rows + 2};
  }
};

std::int64_t pages_of(std::int64_t tokens, std::int32_t page_size) { return (tokens + page_size - 1) / page_size; }

// Logical pages of a row that FlashInfer is given: from the page of the first attended token on. Entries before it are
// not validated (batch.h), and the CUDA-core kernel would read them: its window only masks. Masks count from the end
// of a row, so that leading pages may be left out; serving engines do the same.
TokenRange pages_given(const AttentionShape& shape, std::int32_t seq_len, std::int32_t page_size) {
  return {.begin = shape.attended(seq_len).begin / page_size,
          .end = static_cast<std::int32_t>(pages_of(seq_len, page_size))};
}

TableSizes table_sizes(const AttentionShape& shape, std::span<const std::int32_t> seq_lens, std::int32_t page_size) {
  TableSizes sizes{.num_rows = seq_lens.size()};
  for (const std::int32_t seq_len : seq_lens) {
    sizes.num_page_ids += static_cast<std::size_t>(pages_given(shape, seq_len, page_size).size());
  }
  return sizes;
}

// An empty row has no pages; FlashInfer then takes its length as 0 and ignores last_page_len.
void write_tables(const BatchState& batch, const fi::Tables& tables) {
  tables.kv_indptr[0] = 0;
  tables.qo_indptr[0] = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int32_t seq_len = batch.seq_lens()[static_cast<std::size_t>(row)];
    const TokenRange pages = pages_given(batch.shape(), seq_len, batch.page_size());
    const auto ids = batch.block_table().row(row).subspan(static_cast<std::size_t>(pages.begin),
                                                          static_cast<std::size_t>(pages.size()));
    std::ranges::copy(ids, tables.kv_indices + tables.kv_indptr[row]);
    tables.kv_indptr[row + 1] = tables.kv_indptr[row] + pages.size();
    tables.last_page_len[row] = seq_len == 0 ? 1 : seq_len - (pages.end - 1) * batch.page_size();
    tables.qo_indptr[row + 1] = row + 1;
  }
}

fi::Step step_of(const BatchState& batch) {
  const AttentionShape& shape = batch.shape();
  return {.num_rows = batch.num_rows(),
          .num_q_heads = shape.num_q_heads,
          .num_kv_heads = shape.num_kv_heads,
          .page_size = batch.page_size(),
          .window_left = shape.sliding_window_tokens.value_or(0) - 1,
          .variant = {.sliding_window = shape.sliding_window_tokens.has_value(),
                      .soft_cap = shape.logit_soft_cap.has_value()}};
}

fi::Layer layer_of(const RunArgs& args, bool programmatic_launch) {
  const AttentionShape& shape = args.batch.shape();
  const PageStrides& strides = args.kv.layout.k_strides;
  return {.q = args.q.data,
          .k = args.kv.k,
          .v = args.kv.v,
          .out = args.out.data,
          .lse = args.lse.empty() ? nullptr : args.lse.data(),
          .q_row_stride = static_cast<std::int32_t>(args.q.row_stride),
          .q_head_stride = static_cast<std::int32_t>(args.q.head_stride),
          .page_stride = strides.page,
          .kv_head_stride = strides.kv_head,
          .slot_stride = strides.slot,
          .scale = shape.scale(),
          .soft_cap = shape.logit_soft_cap.value_or(0.0F),
          .programmatic_launch = programmatic_launch};
}

class FlashInfer final : public ExternalDecode {
 public:
  explicit FlashInfer(cudaStream_t stream) : stream_(stream) {}

  Status start() {
    int device = 0;
    int major = 0;
    PKV_RETURN_IF_ERROR(check_cuda(cudaGetDevice(&device), "cudaGetDevice"));
    PKV_RETURN_IF_ERROR(
        check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability"));
    programmatic_launch_ = major >= 9;
    for (Slot& slot : slots_) {
      PKV_RETURN_IF_ERROR(slot.copied.make());
    }
    return {};
  }

  Status reserve(const Plan& plan) override {
    const TableSizes sizes = table_sizes(plan.shape(), plan.seq_lens(), plan.page_size());
    const std::size_t int_bytes = kMinIntBytes + kIntBytesPerRow * sizes.num_rows;
    if (holds(sizes.bytes(), int_bytes)) {
      return {};
    }
    planned_.reset();
    PKV_RETURN_IF_ERROR(check_cuda(cudaStreamSynchronize(stream_), "FlashInfer reserve"));
    PKV_RETURN_IF_ERROR(floats_.grow(kFloatBytes));
    PKV_RETURN_IF_ERROR(ints_.grow(int_bytes));
    PKV_RETURN_IF_ERROR(tables_.grow(sizes.bytes()));
    for (Slot& slot : slots_) {
      PKV_RETURN_IF_ERROR(slot.ints.grow(ints_.size()));
      PKV_RETURN_IF_ERROR(slot.tables.grow(tables_.size()));
    }
    return {};
  }

  // FlashInfer's planner allocates vectors of its own: the one place here where host memory is taken after reserve().
  Status plan(Route route, const RunArgs& layer) override {
    planned_.reset();
    const Result<fi::Kernels> kernels = fi::find_kernels(route, layer);
    PKV_RETURN_IF_ERROR(kernels);
    PKV_RETURN_IF_ERROR(fi::check_tensors(layer));
    const BatchState& batch = layer.batch;
    const TableSizes sizes = table_sizes(batch.shape(), batch.seq_lens(), batch.page_size());
    PKV_RETURN_IF_ERROR(check_sizes(sizes, batch));
    Planned planned{.kernels = *kernels,
                    .step = step_of(batch),
                    .shape = batch.shape(),
                    .kv_type = layer.kv.dtype,
                    .tables = sizes.in(tables_.data())};
    // FlashInfer's prefill planner divides by the number of rows.
    if (batch.num_rows() > 0) {
      PKV_RETURN_IF_ERROR(schedule(batch, sizes, planned));
    }
    planned_ = planned;
    return {};
  }

  Status run(const RunArgs& layer) override {
    PKV_RETURN_IF_ERROR(check_planned(layer));
    if (layer.batch.num_rows() == 0) {
      return {};
    }
    PKV_RETURN_IF_ERROR(fi::check_tensors(layer));
    const fi::Layer arguments = layer_of(layer, programmatic_launch_);
    PKV_RETURN_IF_ERROR(planned_->kernels.run(planned_->step, planned_->plan, planned_->tables,
                                              workspace(slots_[slot_]), arguments, stream_));
    if (arguments.lse == nullptr) {
      return {};
    }
    const std::int64_t count = std::int64_t{planned_->step.num_rows} * planned_->step.num_q_heads;
    return check_cuda(fi::to_natural_log(arguments.lse, count, stream_), "FlashInfer LSE");
  }

 private:
  struct Slot {
    Buffer<Where::kPinned> ints;
    Buffer<Where::kPinned> tables;
    fi::Event copied;
  };
  struct Planned {
    fi::Kernels kernels;
    fi::Step step;
    AttentionShape shape;
    DType kv_type = DType::kF16;
    fi::Tables tables;  // device
    fi::StepPlan plan = {};
  };

  [[nodiscard]] bool holds(std::size_t table_bytes, std::size_t int_bytes) const {
    const Slot& last = slots_.back();  // grown last: what it holds, all hold
    return last.tables.size() >= table_bytes && last.ints.size() >= int_bytes;
  }

  [[nodiscard]] fi::Workspace workspace(const Slot& slot) const {
    return {.floats = floats_.data(),
            .float_bytes = floats_.size(),
            .ints = ints_.data(),
            .pinned_ints = slot.ints.data(),
            .int_bytes = ints_.size()};
  }

  [[nodiscard]] Status check_sizes(const TableSizes& sizes, const BatchState& batch) const {
    // Kernels number the tokens of all rows, page tails included, with 32 bits.
    const std::int64_t tokens = static_cast<std::int64_t>(sizes.num_page_ids) * batch.page_size();
    if (tokens > std::numeric_limits<std::int32_t>::max()) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("{} pages of {} tokens in one step; FlashInfer's routes have {} tokens at most",
                               sizes.num_page_ids, batch.page_size(), std::numeric_limits<std::int32_t>::max()),
                   "seq_lens"};
    }
    if (!holds(sizes.bytes(), kMinIntBytes + kIntBytesPerRow * sizes.num_rows)) {
      return Error{ErrorCode::kResourceExhausted,
                   fmt::format("the page table needs {} bytes, {} are reserved: call reserve first", sizes.bytes(),
                               slots_.back().tables.size()),
                   "FlashInfer workspace"};
    }
    return {};
  }

  // One copy of the tables, then FlashInfer's plan with its own copy. Earlier layers on the stream still read the
  // device's memory, but a copy waits for them, also for those that were launched programmatically.
  Status schedule(const BatchState& batch, const TableSizes& sizes, Planned& planned) {
    slot_ = (slot_ + 1) % kNumSlots;
    Slot& slot = slots_[slot_];
    PKV_RETURN_IF_ERROR(slot.copied.wait());
    const fi::Tables host = sizes.in(slot.tables.data());
    write_tables(batch, host);
    PKV_RETURN_IF_ERROR(
        check_cuda(cudaMemcpyAsync(tables_.data(), slot.tables.data(), sizes.bytes(), cudaMemcpyHostToDevice, stream_),
                   "FlashInfer page table"));
    const auto plan = planned.kernels.plan(planned.step, host, workspace(slot), stream_);
    PKV_RETURN_IF_ERROR(slot.copied.record(stream_));  // also after a failed plan: the first copy is on its way
    PKV_RETURN_IF_ERROR(plan);
    planned.plan = *plan;
    return {};
  }

  [[nodiscard]] Status check_planned(const RunArgs& layer) const {
    const auto differs = [](const char* where) {
      return Error{ErrorCode::kInvalidArgument, "differs from the step that was planned for FlashInfer", where};
    };
    if (!planned_.has_value()) {
      return Error{ErrorCode::kInvalidArgument, "no step is planned for FlashInfer: call plan first", "run"};
    }
    if (layer.batch.shape() != planned_->shape) {
      return differs("shape");
    }
    if (layer.batch.num_rows() != planned_->step.num_rows) {
      return differs("num_rows");
    }
    if (layer.batch.page_size() != planned_->step.page_size) {
      return differs("page_size");
    }
    if (layer.kv.dtype != planned_->kv_type || layer.q.dtype != planned_->kv_type ||
        layer.out.dtype != planned_->kv_type) {
      return differs("type of q, K,V or out");
    }
    return {};
  }

  cudaStream_t stream_;
  // FlashInfer's Python package launches programmatically (PDL) by default from compute capability 9.0 on, which its
  // documentation does not say; so do we. Tables are read before the kernel ahead has finished, which plan() allows.
  bool programmatic_launch_ = false;
  Buffer<Where::kDevice> floats_;
  Buffer<Where::kDevice> ints_;
  Buffer<Where::kDevice> tables_;
  std::array<Slot, kNumSlots> slots_;
  std::size_t slot_ = 0;
  std::optional<Planned> planned_;
};

}  // namespace

Result<std::unique_ptr<ExternalDecode>> make_flashinfer(void* stream) {
  auto made = std::make_unique<FlashInfer>(static_cast<cudaStream_t>(stream));
  PKV_RETURN_IF_ERROR(made->start());
  return std::unique_ptr<ExternalDecode>(std::move(made));
}

}  // namespace pkv

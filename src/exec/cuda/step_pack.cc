// Packing a plan and its page ids. One pass over tasks, one over page ids.
#include "exec/cuda/step_pack.h"

#include <algorithm>
#include <cstring>

namespace pkv::cuda {
namespace {

struct PageRange {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

PageRange attended_pages(const TokenRange& tokens, std::int32_t page_size) {
  if (tokens.size() <= 0) {
    return {};
  }
  return {.begin = tokens.begin / page_size, .end = (tokens.end - 1) / page_size + 1};
}

}  // namespace

StepCapacity StepCapacity::of(const Plan& plan) {
  StepCapacity capacity = {.tasks = static_cast<std::int32_t>(plan.tasks().size()),
                           .merges = static_cast<std::int32_t>(plan.merges().size())};
  for (const std::int32_t seq_len : plan.seq_lens()) {
    const PageRange pages = attended_pages(plan.shape().attended(seq_len), plan.page_size());
    capacity.page_ids += pages.end - pages.begin;
  }
  return capacity;
}

std::int64_t StepPacker::pack_page_ids(const BatchState& batch, std::int32_t* to) {
  page_id_offsets_.resize(static_cast<std::size_t>(batch.num_rows()));
  std::int64_t count = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const PageRange pages = attended_pages(batch.attended(row), batch.page_size());
    page_id_offsets_[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(count - pages.begin);
    const auto ids = batch.block_table().row(row);
    const auto num = static_cast<std::size_t>(pages.end - pages.begin);
    if (num > 0) {
      std::memcpy(to + count, ids.data() + pages.begin, num * sizeof(std::int32_t));
    }
    count += pages.end - pages.begin;
  }
  return count;
}

void StepPacker::pack_tasks(const Plan& plan, std::int32_t capacity, DeviceTask* to) const {
  const auto offsets = plan.split_offsets();
  for (const Task& task : plan.tasks()) {
    const auto row = static_cast<std::size_t>(task.row);
    *to++ = {.row = task.row,
             .page_id_offset = page_id_offsets_[row],
             .token_begin = task.token_begin,
             .token_end = task.token_end,
             .partial_slot = task.partial_slot,
             .slot_stride = task.slot_stride,
             .first_slot = offsets[row] + task.kv_head_begin * task.slot_stride,
             .kv_head_begin = task.kv_head_begin,
             .kv_head_end = task.kv_head_end};
  }
  std::fill_n(to, capacity - static_cast<std::int32_t>(plan.tasks().size()), DeviceTask{});
}

std::int64_t StepPacker::pack(const Plan& plan, const BatchState& batch, const StepCapacity& capacity, std::byte* to) {
  const std::int64_t num_ids = pack_page_ids(batch, reinterpret_cast<std::int32_t*>(to + capacity.page_ids_offset()));
  pack_tasks(plan, capacity.tasks, reinterpret_cast<DeviceTask*>(to));
  const bool all_split = plan.kv_heads_per_task() == 1 &&
                         plan.counters().num_partial_slots == static_cast<std::int32_t>(plan.tasks().size());
  auto* merges = reinterpret_cast<DeviceMerge*>(to + capacity.merges_offset());
  for (const MergeRange& range : plan.merges()) {
    *merges++ = {.row = range.row,
                 .slot_begin = range.slot_begin,
                 .num_splits = range.num_splits,
                 .all_split = all_split ? 1 : 0};
  }
  std::fill_n(merges, capacity.merges - static_cast<std::int32_t>(plan.merges().size()), DeviceMerge{});
  return capacity.page_ids_offset() + num_ids * 4;
}

}  // namespace pkv::cuda

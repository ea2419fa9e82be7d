// TaskQueues: what is off the path of a worker that finds work on its own node.
#include "exec/cpu/task_queues.h"

#include <fmt/format.h>

#include <utility>

namespace pkv {

bool TaskQueues::covers(std::int64_t num_items) const {
  return queues_.size() == 1 ||
         static_cast<std::int64_t>(order_.size()) >= num_items * static_cast<std::int64_t>(sizeof(std::int32_t));
}

Status TaskQueues::reserve(std::int64_t num_items) {
  if (covers(num_items)) {
    return {};
  }
  order_ = AlignedBuffer();
  Result<AlignedBuffer> larger = AlignedBuffer::allocate(static_cast<std::size_t>(num_items) * sizeof(std::int32_t));
  if (!larger.ok()) {
    return Error{ErrorCode::kResourceExhausted, fmt::format("no memory for the order of {} tasks", num_items),
                 "workspace"};
  }
  order_ = *std::move(larger);
  return {};
}

void TaskQueues::begin(std::int64_t begin, std::int64_t end) {
  for (Queue& queue : queues_) {
    queue.next.store(0, std::memory_order_relaxed);
    queue.end = 0;
  }
  queues_[0].next.store(begin, std::memory_order_relaxed);
  queues_[0].end = end;
  ordered_ = false;
}

std::int64_t TaskQueues::draw_from_others(std::int32_t node) {
  for (std::int32_t i = 1; i < num_nodes(); ++i) {
    const std::int64_t item = draw_from(queues_[static_cast<std::size_t>((node + i) % num_nodes())]);
    if (item != kNone) {
      return item;
    }
  }
  return kNone;
}

}  // namespace pkv

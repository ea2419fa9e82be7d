// TaskQueues: the items of one launch, in a queue for every NUMA node; a worker empties the queue of its own first.
// Not here: what an item is, who works (worker_pool.h), where memory lies (placement.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "exec/cpu/worker_pool.h"
#include "persistentkv/result.h"

namespace pkv {

/// Items are indices [begin, end), drawn in ascending order inside a queue: who lists the longest task first
/// keeps that order on every node. With one queue a draw is one atomic addition.
class TaskQueues {
 public:
  static constexpr std::int64_t kNone = -1;

  /// Requires num_nodes >= 1.
  explicit TaskQueues(std::int32_t num_nodes) : queues_(static_cast<std::size_t>(num_nodes)) {}

  [[nodiscard]] std::int32_t num_nodes() const { return static_cast<std::int32_t>(queues_.size()); }

  /// For launches of at most so many items that are told apart by node. Errors: kResourceExhausted.
  Status reserve(std::int64_t num_items);
  [[nodiscard]] bool covers(std::int64_t num_items) const;

  /// Fills the first queue; every worker draws from it. While nobody draws.
  void begin(std::int64_t begin, std::int64_t end);

  /// Fills the queues: item i goes to node_of(i), in [0, num_nodes). While nobody draws; linear in the items.
  /// Requires covers(end - begin).
  template <typename NodeOf>
  void begin(std::int64_t begin, std::int64_t end, const NodeOf& node_of) {
    if (queues_.size() == 1) {
      this->begin(begin, end);
      return;
    }
    for (Queue& queue : queues_) {
      queue.end = 0;
    }
    for (std::int64_t item = begin; item < end; ++item) {
      ++queues_[static_cast<std::size_t>(node_of(item))].end;
    }
    std::int64_t first = 0;
    for (Queue& queue : queues_) {  // .end is where the next item goes, until the queue is full
      queue.next.store(first, std::memory_order_relaxed);
      first += std::exchange(queue.end, first);
    }
    auto* order = order_.as<std::int32_t>();
    for (std::int64_t item = begin; item < end; ++item) {
      order[queues_[static_cast<std::size_t>(node_of(item))].end++] = static_cast<std::int32_t>(item);
    }
    ordered_ = true;
  }

  /// An item that nobody has drawn, from the worker's own node while there is one, or kNone when all are drawn.
  std::int64_t draw(std::int32_t node) {
    if (const std::int64_t item = draw_from(queues_[static_cast<std::size_t>(node)]); item != kNone) {
      return item;
    }
    return queues_.size() == 1 ? kNone : draw_from_others(node);
  }

 private:
  struct alignas(kFalseSharingBytes) Queue {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  std::int64_t draw_from(Queue& queue) const {
    const std::int64_t place = queue.next.fetch_add(1, std::memory_order_relaxed);
    if (place >= queue.end) {
      return kNone;
    }
    return ordered_ ? order_.as<std::int32_t>()[place] : place;
  }
  std::int64_t draw_from_others(std::int32_t node);

  std::vector<Queue> queues_;
  AlignedBuffer order_;  // items by queue, if ordered_
  bool ordered_ = false;
};

}  // namespace pkv

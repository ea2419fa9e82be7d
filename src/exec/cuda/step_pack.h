// A step as the device reads it: tasks, merge ranges and page ids in one block of bytes, copied at once.
// Not here: memory and copies (step_memory.h). Host code without CUDA, tested everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "exec/cuda/params.h"
#include "persistentkv/batch.h"
#include "persistentkv/plan.h"

namespace pkv::cuda {

/// How much a block can hold.
struct StepCapacity {
  std::int32_t tasks = 0;
  std::int32_t merges = 0;
  std::int64_t page_ids = 0;

  [[nodiscard]] std::int64_t merges_offset() const { return std::int64_t{tasks} * sizeof(DeviceTask); }
  [[nodiscard]] std::int64_t page_ids_offset() const {
    return merges_offset() + std::int64_t{merges} * sizeof(DeviceMerge);
  }
  [[nodiscard]] std::int64_t bytes() const { return page_ids_offset() + page_ids * 4; }

  /// Exactly what a plan needs; page ids of the attended tokens only.
  static StepCapacity of(const Plan& plan);
};

class StepPacker {
 public:
  /// Fills `to` (capacity.bytes() long) and returns how many bytes of it are in use. Tasks and merges
  /// beyond the plan's say that there is nothing to do. Requires that the plan fits and matches the batch.
  /// Allocates only when there are more rows than ever before.
  std::int64_t pack(const Plan& plan, const BatchState& batch, const StepCapacity& capacity, std::byte* to);

 private:
  std::int64_t pack_page_ids(const BatchState& batch, std::int32_t* to);
  void pack_tasks(const Plan& plan, std::int32_t capacity, DeviceTask* to) const;
  std::vector<std::int32_t> page_id_offsets_;  // by row
};

}  // namespace pkv::cuda

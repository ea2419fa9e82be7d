// StepPacker: what a kernel finds on the device is the plan and the page ids of the tokens that it attends to.
// Not here: copies, kernels.
#include "exec/cuda/step_pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "support/random_step.h"

namespace pkv::cuda {
namespace {

using ::testing::ElementsAre;

constexpr std::byte kGarbage{0xA5};
constexpr std::int32_t kAbsurd = std::numeric_limits<std::int32_t>::max();

/// A packed block, read back by the offsets of its capacity.
class Packed {
 public:
  Packed(const Plan& plan, const BatchState& batch, const StepCapacity& capacity)
      : capacity_(capacity), bytes_(static_cast<std::size_t>(capacity.bytes()) + 64, kGarbage) {
    used_ = StepPacker().pack(plan, batch, capacity, bytes_.data());
  }

  [[nodiscard]] std::int64_t used() const { return used_; }
  [[nodiscard]] std::vector<DeviceTask> tasks() const { return read<DeviceTask>(0, capacity_.tasks); }
  [[nodiscard]] std::vector<DeviceMerge> merges() const {
    return read<DeviceMerge>(capacity_.merges_offset(), capacity_.merges);
  }
  [[nodiscard]] std::vector<std::int32_t> page_ids() const {
    return read<std::int32_t>(capacity_.page_ids_offset(), (used_ - capacity_.page_ids_offset()) / 4);
  }
  [[nodiscard]] bool nothing_beyond_used() const {
    return std::all_of(bytes_.begin() + used_, bytes_.end(), [](std::byte value) { return value == kGarbage; });
  }

 private:
  template <typename T>
  [[nodiscard]] std::vector<T> read(std::int64_t offset, std::int64_t count) const {
    std::vector<T> values(static_cast<std::size_t>(count));
    std::memcpy(static_cast<void*>(values.data()), bytes_.data() + offset, values.size() * sizeof(T));
    return values;
  }

  StepCapacity capacity_;
  std::vector<std::byte> bytes_;
  std::int64_t used_ = 0;
};

/// Rows of 100, 0 and 40 tokens in pages of 16, ids 10, 11, ...; dense tables have three absurd ids a row more.
class StepPackTest : public ::testing::Test {
 protected:
  BatchState csr_batch(std::optional<std::int32_t> window = {}) {
    ids_ = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
    indptr_ = {0, 7, 7, 10};
    return make(BlockTable::csr(indptr_, ids_).value(), window);
  }
  BatchState dense_batch() {
    ids_.assign(3 * 10, kAbsurd);
    for (std::int32_t i = 0; i < 7; ++i) ids_[static_cast<std::size_t>(i)] = 10 + i;
    for (std::int32_t i = 0; i < 3; ++i) ids_[static_cast<std::size_t>(20 + i)] = 17 + i;
    for (std::size_t i = 7; i < 30; i += 2) ids_[i] = ids_[i] == kAbsurd ? -7 : ids_[i];
    return make(BlockTable::dense(ids_, 3, 10).value(), {});
  }

 private:
  BatchState make(const BlockTable& table, std::optional<std::int32_t> window) {
    lens_ = {100, 0, 40};
    return BatchState::make(
               {.shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64, .sliding_window_tokens = window},
                .page_size = 16,
                .seq_lens = lens_,
                .block_table = table,
                .num_pages = 100})
        .value();
  }
  std::vector<std::int32_t> lens_, ids_, indptr_;
};

constexpr PlanOptions kThreeSplits{.route = Route::kWorkqueue, .splits = 3};

TEST_F(StepPackTest, Tasks_AreThePlansWithOffsetsAndFirstSlots) {
  const BatchState batch = csr_batch();
  const Plan plan = make_plan(batch, kThreeSplits).value();
  const Packed packed(plan, batch, StepCapacity::of(plan));
  const std::vector<DeviceTask> tasks = packed.tasks();
  ASSERT_EQ(tasks.size(), plan.tasks().size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const Task& task = plan.tasks()[i];
    EXPECT_EQ(tasks[i].row, task.row);
    EXPECT_EQ(tasks[i].token_begin, task.token_begin);
    EXPECT_EQ(tasks[i].token_end, task.token_end);
    EXPECT_EQ(tasks[i].partial_slot, task.partial_slot);
    EXPECT_EQ(tasks[i].slot_stride, task.slot_stride);
    EXPECT_EQ(tasks[i].kv_head_begin, task.kv_head_begin);
    EXPECT_EQ(tasks[i].kv_head_end, task.kv_head_end);
    EXPECT_EQ(tasks[i].page_id_offset, task.row == 0 ? 0 : 7);
  }
  EXPECT_THAT(packed.page_ids(), ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18, 19));
}

// A fused merge begins at first_slot: split 0 of the task's KV head, whichever split the task is.
TEST_F(StepPackTest, FirstSlot_IsThatOfSplitZero) {
  const BatchState batch = csr_batch();
  for (const std::int32_t heads : {1, 2}) {
    const Plan plan = make_plan(batch, {.route = Route::kPadded, .splits = 3, .kv_heads_per_task = heads}).value();
    std::size_t i = 0;
    for (const DeviceTask& task : Packed(plan, batch, StepCapacity::of(plan)).tasks()) {
      EXPECT_EQ(task.first_slot, 6 * task.row + 3 * task.kv_head_begin);
      const std::int32_t split = task.partial_slot - task.first_slot;
      EXPECT_GE(split, 0) << i;
      EXPECT_LT(split, 3) << i++;
    }
  }
}

TEST_F(StepPackTest, Merges_AreThePlans) {
  const BatchState batch = csr_batch();
  const Plan plan = make_plan(batch, kThreeSplits).value();
  const std::vector<DeviceMerge> merges = Packed(plan, batch, StepCapacity::of(plan)).merges();
  ASSERT_EQ(merges.size(), 3U);  // both split rows, and the empty one
  for (std::size_t i = 0; i < merges.size(); ++i) {
    EXPECT_EQ(merges[i].row, plan.merges()[i].row);
    EXPECT_EQ(merges[i].slot_begin, plan.merges()[i].slot_begin);
    EXPECT_EQ(merges[i].num_splits, plan.merges()[i].num_splits);
  }
}

// A window of 40 tokens: row 0 attends to [60, 100), pages 3 to 6; row 2 to [0, 40), pages 0 to 2.
TEST_F(StepPackTest, PagesBeforeTheWindow_AreNotCopiedAndOffsetsGoBelowZero) {
  const BatchState batch = csr_batch(40);
  const Plan plan = make_plan(batch, {.route = Route::kRow}).value();
  const Packed packed(plan, batch, StepCapacity::of(plan));
  EXPECT_THAT(packed.page_ids(), ElementsAre(13, 14, 15, 16, 17, 18, 19));
  for (const DeviceTask& task : packed.tasks()) {
    EXPECT_EQ(task.page_id_offset, task.row == 0 ? -3 : 4);
  }
  // The page of a token is ids[offset + token / page size].
  EXPECT_EQ(packed.page_ids()[static_cast<std::size_t>(-3 + 60 / 16)], 13);
}

TEST_F(StepPackTest, DenseTableWiderThanNeeded_ItsTailIsNeverCopied) {
  const BatchState batch = dense_batch();
  const Plan plan = make_plan(batch, kThreeSplits).value();
  EXPECT_EQ(StepCapacity::of(plan).page_ids, 10);
  const Packed packed(plan, batch, StepCapacity::of(plan));
  EXPECT_THAT(packed.page_ids(), ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18, 19));
  EXPECT_TRUE(packed.nothing_beyond_used());
}

TEST_F(StepPackTest, CapacityBeyondThePlan_HoldsTasksAndMergesOfNoRow) {
  const BatchState batch = csr_batch();
  const Plan plan = make_plan(batch, kThreeSplits).value();
  StepCapacity capacity = StepCapacity::of(plan);
  capacity.tasks += 5;
  capacity.merges += 2;
  capacity.page_ids += 9;
  const Packed packed(plan, batch, capacity);
  for (std::size_t i = plan.tasks().size(); i < packed.tasks().size(); ++i) {
    EXPECT_EQ(packed.tasks()[i].row, -1);
    EXPECT_EQ(packed.tasks()[i].token_begin, packed.tasks()[i].token_end);
  }
  for (std::size_t i = plan.merges().size(); i < packed.merges().size(); ++i) {
    EXPECT_EQ(packed.merges()[i].row, -1);
    EXPECT_EQ(packed.merges()[i].num_splits, 0);
  }
  EXPECT_EQ(packed.used(), capacity.bytes() - 9 * 4);  // only page ids in use travel
  EXPECT_TRUE(packed.nothing_beyond_used());
}

TEST_F(StepPackTest, Capacity_IsWhatThePlanNeeds) {
  const BatchState batch = csr_batch();
  const Plan plan = make_plan(batch, kThreeSplits).value();
  const StepCapacity capacity = StepCapacity::of(plan);
  EXPECT_EQ(capacity.tasks, plan.counters().num_tasks);
  EXPECT_EQ(capacity.merges, 3);
  EXPECT_EQ(capacity.page_ids, 10);
  EXPECT_EQ(capacity.merges_offset() % 16, 0);  // kernels load 16 bytes at a time
  EXPECT_EQ(capacity.page_ids_offset() % 16, 0);
  EXPECT_EQ(capacity.bytes(), capacity.tasks * 32 + 3 * 16 + 10 * 4);
  EXPECT_EQ(StepCapacity::of(Plan()).bytes(), 0);
}

TEST(StepPackRandom, EveryTokenOfATask_FindsItsPage) {
  SplitMix64 random(5);
  StepPacker packer;  // one for all: its memory is reused
  for (int i = 0; i < 200; ++i) {
    pkv::testing::Step step = pkv::testing::random_step(random);
    for (std::size_t p = 0; p < step.indices.size(); ++p) step.indices[p] = static_cast<std::int32_t>(p);
    const BatchState batch = BatchState::make({.shape = step.shape,
                                               .page_size = step.page_size,
                                               .seq_lens = step.seq_lens,
                                               .block_table = BlockTable::csr(step.indptr, step.indices).value(),
                                               .num_pages = static_cast<std::int64_t>(step.indices.size()) + 1})
                                 .value();
    const Plan plan = make_plan(batch, {.route = Route::kSplit, .num_workers = 40}).value();
    const StepCapacity capacity = StepCapacity::of(plan);
    std::vector<std::byte> bytes(static_cast<std::size_t>(capacity.bytes()), kGarbage);
    ASSERT_EQ(packer.pack(plan, batch, capacity, bytes.data()), capacity.bytes());
    const auto* tasks = reinterpret_cast<const DeviceTask*>(bytes.data());
    const auto* ids = reinterpret_cast<const std::int32_t*>(bytes.data() + capacity.page_ids_offset());
    for (std::int32_t t = 0; t < capacity.tasks; ++t) {
      for (const std::int32_t token : {tasks[t].token_begin, tasks[t].token_end - 1}) {
        const std::int64_t at = std::int64_t{tasks[t].page_id_offset} + token / step.page_size;
        ASSERT_GE(at, 0);
        ASSERT_LT(at, capacity.page_ids);
        ASSERT_EQ(ids[at], step.indptr[static_cast<std::size_t>(tasks[t].row)] + token / step.page_size);
      }
    }
  }
}

}  // namespace
}  // namespace pkv::cuda

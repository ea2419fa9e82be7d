// BatchState: one decode step's rows, validated once at the boundary.
// Not here: K,V data, queries, schedules.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "persistentkv/block_table.h"
#include "persistentkv/result.h"
#include "persistentkv/shape.h"

namespace pkv {

inline constexpr std::int32_t kMaxRows = 1 << 20;

/// What a BatchState is made from. All spans stay the caller's.
struct BatchInputs {
  AttentionShape shape = {};
  std::int32_t page_size = 16;
  /// Tokens in the cache by row, the newest one included; [num_rows]. 0 is an empty row.
  std::span<const std::int32_t> seq_lens = {};
  BlockTable block_table = {};
  /// Physical pages there are; page ids must be below it.
  std::int64_t num_pages = 0;
};

/// A validated view: whoever holds one may index without checks. Cheap to copy; the memory behind
/// seq_lens and the block table stays the caller's and must not change while the view is in use.
class BatchState {
 public:
  BatchState() = default;

  /// Checks the shape, the page size, the lengths, that every row has pages enough, and every page
  /// id that the attended tokens use (entries outside the sliding window are never read).
  /// Cost: one pass over the used page ids. Errors: kInvalidArgument, kOutOfRange, naming row and
  /// position.
  static Result<BatchState> make(const BatchInputs& inputs);

  [[nodiscard]] const AttentionShape& shape() const { return inputs_.shape; }
  [[nodiscard]] std::int32_t page_size() const { return inputs_.page_size; }
  [[nodiscard]] std::int32_t num_rows() const { return static_cast<std::int32_t>(inputs_.seq_lens.size()); }
  [[nodiscard]] std::span<const std::int32_t> seq_lens() const { return inputs_.seq_lens; }
  [[nodiscard]] const BlockTable& block_table() const { return inputs_.block_table; }
  [[nodiscard]] std::int64_t num_pages() const { return inputs_.num_pages; }
  /// Token positions that a row attends to.
  [[nodiscard]] TokenRange attended(std::int32_t row) const {
    return inputs_.shape.attended(inputs_.seq_lens[static_cast<std::size_t>(row)]);
  }
  /// Attended tokens over all rows.
  [[nodiscard]] std::int64_t attended_tokens() const { return attended_tokens_; }

 private:
  explicit BatchState(const BatchInputs& inputs) : inputs_(inputs) {}
  BatchInputs inputs_;
  std::int64_t attended_tokens_ = 0;
};

/// FlashInfer's form of lengths: (pages - 1) * page_size + last_page_len, 0 for a row without pages.
/// kv_indptr [num_rows + 1], last_page_len [num_rows] in 1 to page_size.
/// Errors: kInvalidArgument, kOutOfRange naming the row.
Result<std::vector<std::int32_t>> seq_lens_from_last_page_len(std::span<const std::int32_t> kv_indptr,
                                                              std::span<const std::int32_t> last_page_len,
                                                              std::int32_t page_size);

}  // namespace pkv

// BlockTable: a view of which physical pages hold a row's logical pages.
// Not here: validation against lengths and the pool (batch.h).
#pragma once

#include <cstdint>
#include <span>

#include "persistentkv/result.h"

namespace pkv {

/// Logical page p of row r is the physical page row(r)[p]. Two forms, both read in place:
/// - CSR (FlashInfer, SGLang): kv_indptr [num_rows + 1], kv_indices [kv_indptr[num_rows]]
/// - dense (vLLM): block_table [num_rows][max_pages_per_row]; entries past a row's pages are never read
/// The caller owns the memory and keeps it alive and unchanged while the view is in use.
class BlockTable {
 public:
  BlockTable() = default;

  /// Errors: kInvalidArgument if kv_indptr is empty, does not start at 0 or decreases;
  /// kOutOfRange if it ends past kv_indices.
  static Result<BlockTable> csr(std::span<const std::int32_t> kv_indptr, std::span<const std::int32_t> kv_indices);

  /// Errors: kInvalidArgument for negative sizes; kOutOfRange if the span is shorter than
  /// num_rows * max_pages_per_row.
  static Result<BlockTable> dense(std::span<const std::int32_t> block_table, std::int32_t num_rows,
                                  std::int32_t max_pages_per_row);

  [[nodiscard]] std::int32_t num_rows() const { return num_rows_; }

  /// Physical page ids of a row, by logical page. Requires 0 <= row < num_rows().
  [[nodiscard]] std::span<const std::int32_t> row(std::int32_t row) const {
    if (indptr_ != nullptr) {
      return {indices_ + indptr_[row], static_cast<std::size_t>(indptr_[row + 1] - indptr_[row])};
    }
    return {indices_ + static_cast<std::int64_t>(row) * width_, static_cast<std::size_t>(width_)};
  }

 private:
  const std::int32_t* indptr_ = nullptr;   // CSR only
  const std::int32_t* indices_ = nullptr;  // page ids
  std::int32_t num_rows_ = 0;
  std::int32_t width_ = 0;  // dense only
};

}  // namespace pkv

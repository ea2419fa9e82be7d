// Structural checks of block tables.
#include "persistentkv/block_table.h"

#include <fmt/format.h>

#include <limits>

namespace pkv {

Result<BlockTable> BlockTable::csr(std::span<const std::int32_t> kv_indptr, std::span<const std::int32_t> kv_indices) {
  if (kv_indptr.empty()) {
    return Error{ErrorCode::kInvalidArgument, "has 0 entries; at least 1 is needed (num_rows + 1)", "kv_indptr"};
  }
  if (kv_indptr.size() - 1 > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return Error{ErrorCode::kOutOfRange, fmt::format("has {} entries; the limit is 2^31", kv_indptr.size()),
                 "kv_indptr"};
  }
  if (kv_indptr[0] != 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("is {}; it must be 0", kv_indptr[0]), "kv_indptr[0]"};
  }
  for (std::size_t i = 1; i < kv_indptr.size(); ++i) {
    if (kv_indptr[i] < kv_indptr[i - 1]) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{} is below {}, the entry before it", kv_indptr[i], kv_indptr[i - 1]),
                   fmt::format("kv_indptr[{}]", i)};
    }
  }
  if (static_cast<std::size_t>(kv_indptr.back()) > kv_indices.size()) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} is past the {} entries of kv_indices", kv_indptr.back(), kv_indices.size()),
                 fmt::format("kv_indptr[{}]", kv_indptr.size() - 1)};
  }
  BlockTable table;
  table.indptr_ = kv_indptr.data();
  table.indices_ = kv_indices.data();
  table.num_rows_ = static_cast<std::int32_t>(kv_indptr.size() - 1);
  return table;
}

Result<BlockTable> BlockTable::dense(std::span<const std::int32_t> block_table, std::int32_t num_rows,
                                     std::int32_t max_pages_per_row) {
  if (num_rows < 0 || max_pages_per_row < 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("num_rows {} and max_pages_per_row {} must not be negative", num_rows, max_pages_per_row),
                 "block_table"};
  }
  const std::int64_t needed = std::int64_t{num_rows} * max_pages_per_row;
  if (needed > static_cast<std::int64_t>(block_table.size())) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("has {} entries; {} rows of {} pages need {}", block_table.size(), num_rows,
                             max_pages_per_row, needed),
                 "block_table"};
  }
  BlockTable table;
  table.indices_ = block_table.data();
  table.num_rows_ = num_rows;
  table.width_ = max_pages_per_row;
  return table;
}

}  // namespace pkv

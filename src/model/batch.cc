// Validation of a decode step at the boundary.
#include "persistentkv/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/math.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

Status validate_sizes(const BatchInputs& inputs) {
  PKV_RETURN_IF_ERROR(validate(inputs.shape));
  if (inputs.page_size < 1 || inputs.page_size > kMaxPageSize) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 1 to {}", inputs.page_size, kMaxPageSize),
                 "page_size"};
  }
  if (inputs.num_pages < 0 || inputs.num_pages > std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kOutOfRange, fmt::format("{} is outside 0 to 2147483647", inputs.num_pages), "num_pages"};
  }
  if (inputs.seq_lens.size() > static_cast<std::size_t>(kMaxRows)) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} rows are above the limit of {}", inputs.seq_lens.size(), kMaxRows), "seq_lens"};
  }
  if (static_cast<std::size_t>(inputs.block_table.num_rows()) != inputs.seq_lens.size()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("has {} rows, seq_lens has {}", inputs.block_table.num_rows(), inputs.seq_lens.size()),
                 "block_table"};
  }
  return {};
}

// The greatest id as unsigned, so that a negative id is the greatest of all: one vectorised pass.
std::uint32_t max_unsigned(std::span<const std::int32_t> ids) {
  std::uint32_t greatest = 0;
  for (const std::int32_t id : ids) {
    greatest = std::max(greatest, static_cast<std::uint32_t>(id));
  }
  return greatest;
}

Error bad_page_id(std::span<const std::int32_t> pages, std::int32_t row, std::int32_t first, std::int64_t num_pages) {
  std::size_t i = static_cast<std::size_t>(first);
  while (static_cast<std::uint32_t>(pages[i]) < num_pages) {
    ++i;
  }
  return {ErrorCode::kOutOfRange, fmt::format("page id {} is outside 0 to {}", pages[i], num_pages - 1),
          fmt::format("block_table row {}, position {}", row, i)};
}

Status validate_row(const BatchInputs& inputs, std::int32_t row, TokenRange attended) {
  const std::span<const std::int32_t> pages = inputs.block_table.row(row);
  const std::int32_t page_begin = attended.begin / inputs.page_size;
  const std::int32_t page_end = ceil_div(attended.end, inputs.page_size);
  if (static_cast<std::size_t>(page_end) > pages.size()) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("has {} pages; {} tokens at page size {} need {}", pages.size(), attended.end,
                             inputs.page_size, page_end),
                 fmt::format("block_table row {}", row)};
  }
  const auto used =
      pages.subspan(static_cast<std::size_t>(page_begin), static_cast<std::size_t>(page_end - page_begin));
  if (!used.empty() && max_unsigned(used) >= inputs.num_pages) {
    return bad_page_id(pages, row, page_begin, inputs.num_pages);
  }
  return {};
}

}  // namespace

Result<BatchState> BatchState::make(const BatchInputs& inputs) {
  PKV_RETURN_IF_ERROR(validate_sizes(inputs));
  BatchState batch(inputs);
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int32_t seq_len = inputs.seq_lens[static_cast<std::size_t>(row)];
    if (seq_len < 0) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("{} is negative", seq_len),
                   fmt::format("seq_lens[{}]", row)};
    }
    const TokenRange attended = inputs.shape.attended(seq_len);
    PKV_RETURN_IF_ERROR(validate_row(inputs, row, attended));
    batch.attended_tokens_ += attended.size();
  }
  return batch;
}

Result<std::vector<std::int32_t>> seq_lens_from_last_page_len(std::span<const std::int32_t> kv_indptr,
                                                              std::span<const std::int32_t> last_page_len,
                                                              std::int32_t page_size) {
  if (page_size < 1 || page_size > kMaxPageSize) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 1 to {}", page_size, kMaxPageSize),
                 "page_size"};
  }
  if (kv_indptr.size() != last_page_len.size() + 1) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("has {} entries; {} rows need {}", kv_indptr.size(), last_page_len.size(),
                             last_page_len.size() + 1),
                 "kv_indptr"};
  }
  std::vector<std::int32_t> seq_lens(last_page_len.size());
  for (std::size_t row = 0; row < seq_lens.size(); ++row) {
    const std::int64_t pages = std::int64_t{kv_indptr[row + 1]} - kv_indptr[row];
    if (pages < 0) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("{} is below {}, the entry before it", kv_indptr[row + 1], kv_indptr[row]),
                   fmt::format("kv_indptr[{}]", row + 1)};
    }
    if (pages == 0) {
      continue;  // an empty row; its last_page_len means nothing
    }
    if (last_page_len[row] < 1 || last_page_len[row] > page_size) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 1 to {}", last_page_len[row], page_size),
                   fmt::format("last_page_len[{}]", row)};
    }
    const std::int64_t seq_len = (pages - 1) * page_size + last_page_len[row];
    if (seq_len > std::numeric_limits<std::int32_t>::max()) {
      return Error{ErrorCode::kOutOfRange, fmt::format("{} tokens are above the limit of 2147483647", seq_len),
                   fmt::format("kv_indptr[{}]", row + 1)};
    }
    seq_lens[row] = static_cast<std::int32_t>(seq_len);
  }
  return seq_lens;
}

}  // namespace pkv

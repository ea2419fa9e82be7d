// A step of mixed lengths for benchmarks on the host. Not here: K, V, execution.
#pragma once

#include <cstdint>
#include <vector>

#include "base/math.h"
#include "base/random.h"
#include "persistentkv/batch.h"

namespace pkv {

/// Rows of 1,000 to 16,000 tokens over random pages.
struct MixedStep {
  explicit MixedStep(std::int64_t rows) {
    SplitMix64 random(1);
    indptr.push_back(0);
    for (std::int64_t row = 0; row < rows; ++row) {
      seq_lens.push_back(static_cast<std::int32_t>(1000 + random.below(15000)));
      indptr.push_back(indptr.back() + ceil_div(seq_lens.back(), 16));
    }
    for (std::int32_t i = 0; i < indptr.back(); ++i) {
      indices.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(indptr.back()))));
    }
  }
  Result<BatchState> batch() const {
    return BatchState::make({.page_size = 16,
                             .seq_lens = seq_lens,
                             .block_table = BlockTable::csr(indptr, indices).value(),
                             .num_pages = indptr.back()});
  }
  std::vector<std::int32_t> seq_lens, indptr, indices;
};

}  // namespace pkv

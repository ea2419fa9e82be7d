// Random batches without K and V, for properties of plans.
// Not here: batches that can be run (paged_case.h), options of plans.
#pragma once

#include <cstdint>
#include <vector>

#include "base/math.h"
#include "base/random.h"
#include "persistentkv/batch.h"

namespace pkv::testing {

/// A batch and its memory; all pages are page 0.
struct Step {
  AttentionShape shape;
  std::int32_t page_size = 16;
  std::vector<std::int32_t> seq_lens;
  std::vector<std::int32_t> indptr;
  std::vector<std::int32_t> indices;

  /// After the lengths and the page size.
  void make_table() {
    indptr = {0};
    for (const std::int32_t seq_len : seq_lens) {
      indptr.push_back(indptr.back() + ceil_div(seq_len, page_size));
    }
    indices.assign(static_cast<std::size_t>(indptr.back()), 0);
  }

  [[nodiscard]] BatchState batch() const {
    return BatchState::make({.shape = shape,
                             .page_size = page_size,
                             .seq_lens = seq_lens,
                             .block_table = BlockTable::csr(indptr, indices).value(),
                             .num_pages = 1})
        .value();
  }
};

inline std::int32_t random_seq_len(SplitMix64& random, std::int32_t page_size) {
  switch (random.below(8)) {
    case 0: return 0;
    case 1: return 1;
    case 2:
      return page_size * static_cast<std::int32_t>(1 + random.below(4)) + static_cast<std::int32_t>(random.below(3)) -
             1;
    case 3: return 1 + static_cast<std::int32_t>(random.below(20000));
    default: return 1 + static_cast<std::int32_t>(random.below(700));
  }
}

/// Lengths of all kinds, windows, rows up to 512.
inline Step random_step(SplitMix64& random) {
  Step step;
  const std::int32_t kv_heads[] = {1, 2, 3, 5, 8, 32};
  step.shape.num_kv_heads = kv_heads[random.below(6)];
  step.shape.num_q_heads = step.shape.num_kv_heads * static_cast<std::int32_t>(1 + random.below(9));
  if (random.below(3) == 0) {
    step.shape.sliding_window_tokens = 1 + static_cast<std::int32_t>(random.below(2000));
  }
  step.page_size = static_cast<std::int32_t>(1 + random.below(256));
  const std::uint64_t max_rows = random.below(10) == 0 ? 512 : 12;
  step.seq_lens.resize(1 + random.below(max_rows));
  for (std::int32_t& seq_len : step.seq_lens) {
    seq_len = random_seq_len(random, step.page_size);
  }
  step.make_table();
  return step;
}

}  // namespace pkv::testing

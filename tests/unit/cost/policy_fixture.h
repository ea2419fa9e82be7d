// Batches without K and V for prices and policies, from lengths.
// Not here: random ones (support/random_step.h).
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "persistentkv/decision.h"
#include "support/random_step.h"

namespace pkv {

inline testing::Step step_of(std::vector<std::int32_t> seq_lens, const AttentionShape& shape = {}) {
  testing::Step step;
  step.shape = shape;
  step.seq_lens = std::move(seq_lens);
  step.make_table();
  return step;
}

inline DeviceProfile shipped(std::string_view name) { return shipped_profile(name).value(); }

inline PriceModel model_of(const DeviceProfile& profile, const AttentionShape& shape = {}) {
  return PriceModel::make(profile, {.shape = shape}).value();
}

inline Policy policy_of(const DeviceProfile& profile, const PolicyOptions& options = {},
                        const AttentionShape& shape = {}) {
  return Policy::make(profile, {.shape = shape}, options).value();
}

}  // namespace pkv

// The rule that divides a step on a GPU. Host arithmetic over lengths: a few nanoseconds a row.
// Not here: prices (roofline.cc), kernels.
//
// What an H100 showed (docs/performance.md): a block that reads 128 KB ahead on every second SM already
// reaches the limit, so one wave of nearly equal tasks ends level, whether it fills all SMs or half of them.
// A second wave of few tasks does not: then four waves of smaller ones are better. With more units than SMs
// no row needs splitting but the very long.
#include <algorithm>

#include "base/math.h"
#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

constexpr std::int64_t kMinChunkTokens = 128;    // a tile a warp
constexpr std::int64_t kWaveChunkTokens = 2048;  // of a step in waves: the last tasks level out
constexpr std::int64_t kUnitChunkTokens = 4096;  // of a step with more units than SMs
constexpr std::int64_t kWaves = 4;
// A task may be this much longer than an even share of the step: half of the SMs still reach the limit.
constexpr std::int64_t kLongestShare = 2;

struct StepSize {
  std::int64_t longest = 0;  // tokens of a row
  std::int64_t rows = 0;     // that attend to anything
  std::int64_t tokens = 0;   // of all units: (row, KV head)
};

StepSize measure(const BatchState& batch) {
  StepSize size;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int64_t tokens = batch.attended(row).size();
    size.longest = std::max(size.longest, tokens);
    size.rows += tokens > 0 ? 1 : 0;
  }
  size.tokens = batch.attended_tokens() * batch.shape().num_kv_heads;
  return size;
}

std::int64_t count_tasks(const BatchState& batch, std::int64_t chunk) {
  std::int64_t tasks = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    tasks += ceil_div<std::int64_t>(batch.attended(row).size(), chunk);
  }
  return tasks * batch.shape().num_kv_heads;
}

/// The smallest chunk by which all tasks run at once, or 0 if a task would then be too long.
std::int64_t one_wave_chunk(const BatchState& batch, const StepSize& size, std::int32_t num_sms) {
  const std::int64_t share = ceil_div<std::int64_t>(size.tokens, num_sms);
  const std::int64_t most = std::max(kMinChunkTokens, (kLongestShare * share * 11) / 10);
  for (std::int64_t chunk = std::max(share, kMinChunkTokens); chunk <= most;
       chunk += std::max<std::int64_t>(1, chunk / 16)) {
    if (count_tasks(batch, chunk) <= num_sms) {
      return chunk;
    }
  }
  return 0;
}

std::int64_t choose_chunk(const BatchState& batch, const StepSize& size, std::int32_t num_sms) {
  const std::int64_t units = size.rows * batch.shape().num_kv_heads;
  if (units > num_sms) {
    return kUnitChunkTokens;
  }
  const std::int64_t wave = one_wave_chunk(batch, size, num_sms);
  if (wave > 0) {
    return wave;
  }
  return std::clamp(ceil_div<std::int64_t>(size.tokens, kWaves * num_sms), kMinChunkTokens, kWaveChunkTokens);
}

}  // namespace

PlanOptions gpu_rule(const BatchState& batch, DType /*kv_dtype*/, std::int32_t num_sms) {
  const StepSize size = measure(batch);
  PlanOptions options = {.route = Route::kSplit, .num_workers = num_sms, .tile_tokens = 64};
  if (size.rows > 0) {
    const std::int64_t chunk = choose_chunk(batch, size, num_sms);
    options.splits = static_cast<std::int32_t>(ceil_div(size.longest, chunk));
  }
  return options;
}

}  // namespace pkv

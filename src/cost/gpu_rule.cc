// The rule that divides a step on a GPU. Host arithmetic over lengths: a few nanoseconds a row.
// Not here: prices (roofline.cc), kernels.
//
// What an H100 showed (docs/performance.md): rows of one length end level in one wave of equal tasks. Rows of
// many lengths do not; there four tasks an SM, drawn longest first, are better than one or two (B4 bimodal:
// 111 us in chunks of 1024 tokens, 116 of 2048, 118 of 4096). With more units than SMs no row needs
// splitting but the very long.
#include <algorithm>

#include "base/math.h"
#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

constexpr std::int64_t kMinChunkTokens = 128;    // a tile a warp
constexpr std::int64_t kWaveChunkTokens = 2048;  // of a step in waves: the last tasks level out
constexpr std::int64_t kShortChunkTokens = 1024;
constexpr std::int64_t kLevelChunkTokens = 8192;  // above, SMs drift apart within one task
constexpr std::int64_t kUnitChunkTokens = 4096;   // of a step with more units than SMs
constexpr std::int64_t kWaves = 4;

struct StepSize {
  std::int64_t longest = 0;   // tokens of a row
  std::int64_t shortest = 0;  // of those that attend to anything
  std::int64_t rows = 0;      // that attend to anything
  std::int64_t tokens = 0;    // of all units: (row, KV head)
};

StepSize measure(const BatchState& batch) {
  StepSize size;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int64_t tokens = batch.attended(row).size();
    size.longest = std::max(size.longest, tokens);
    size.shortest = tokens > 0 && (size.rows == 0 || tokens < size.shortest) ? tokens : size.shortest;
    size.rows += tokens > 0 ? 1 : 0;
  }
  size.tokens = batch.attended_tokens() * batch.shape().num_kv_heads;
  return size;
}

/// The chunk by which rows of one length run in one wave of nearly even tasks; 0 if there is none. On about
/// half of the SMs whole rows do: nothing is left to merge.
std::int64_t one_wave_chunk(const StepSize& size, std::int64_t units, std::int32_t num_sms) {
  if (size.longest - size.shortest > size.longest / 16) {
    return 0;
  }
  const bool half_is_busy = 2 * units + num_sms / 16 >= num_sms;
  const std::int64_t splits = half_is_busy ? 1 : num_sms / units;
  const std::int64_t chunk = std::max(kMinChunkTokens, ceil_div(size.longest, splits));
  return chunk <= kLevelChunkTokens ? chunk : 0;
}

std::int64_t choose_chunk(const BatchState& batch, const StepSize& size, std::int32_t num_sms) {
  const std::int64_t units = size.rows * batch.shape().num_kv_heads;
  if (units > num_sms) {
    return kUnitChunkTokens;
  }
  const std::int64_t wave = one_wave_chunk(size, units, num_sms);
  if (wave > 0) {
    return wave;
  }
  const std::int64_t share = ceil_div<std::int64_t>(size.tokens, num_sms);
  // Of a small step an even share of it at once: tasks below kShortChunkTokens cost more than they level.
  const std::int64_t least = std::clamp(share, kMinChunkTokens, kShortChunkTokens);
  return std::clamp(ceil_div(share, kWaves), least, kWaveChunkTokens);
}

}  // namespace

PlanOptions gpu_rule(const BatchState& batch, std::int32_t num_sms) {
  const StepSize size = measure(batch);
  PlanOptions options = {.route = Route::kSplit, .num_workers = num_sms, .tile_tokens = 64};
  if (size.rows > 0) {
    const std::int64_t chunk = choose_chunk(batch, size, num_sms);
    options.splits = static_cast<std::int32_t>(ceil_div(size.longest, chunk));
  }
  return options;
}

}  // namespace pkv

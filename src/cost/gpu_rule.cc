// The rule that divides a step on a GPU. Host arithmetic over lengths: a few nanoseconds a row.
// Not here: prices (roofline.cc), kernels.
//
// A block reads 64 KB ahead, and an H100 reaches its limit with one such block on about half of its SMs;
// more blocks than the SMs hold at once level the ends out.
#include <algorithm>

#include "base/math.h"
#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

// Tokens of a task at most and at least: at most so that the last tasks level out, at least so that the
// start of a block and its share of the merge stay small beside its reading.
constexpr std::int64_t kMaxChunkTokens = 2048;
constexpr std::int64_t kMinChunkTokens = 64;
constexpr std::int64_t kBlocksPerSm = 3;

}  // namespace

PlanOptions gpu_rule(const BatchState& batch, DType /*kv_dtype*/, std::int32_t num_sms) {
  const std::int64_t heads = batch.shape().num_kv_heads;
  std::int64_t longest = 0;
  std::int64_t rows = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int64_t tokens = batch.attended(row).size();
    longest = std::max(longest, tokens);
    rows += tokens > 0 ? 1 : 0;
  }
  PlanOptions options = {.route = Route::kSplit, .num_workers = num_sms, .tile_tokens = 64};
  if (rows == 0) {
    return options;
  }
  const std::int64_t units = rows * heads;
  const std::int64_t unit_tokens = batch.attended_tokens() * heads;
  // Few rows: one wave of blocks, all of a length. Many: as many chunks as level the ends.
  const std::int64_t wanted = units <= num_sms / 4 ? num_sms : std::int64_t{num_sms} * kBlocksPerSm;
  const std::int64_t chunk =
      std::clamp(ceil_div(unit_tokens, wanted), kMinChunkTokens, kMaxChunkTokens);
  options.splits = static_cast<std::int32_t>(std::max<std::int64_t>(1, ceil_div(longest, chunk)));
  return options;
}

}  // namespace pkv

// The rule that divides a step on a GPU: a few chunk lengths are priced with every kernel of the shape's class, and the
// cheapest is kept. Host arithmetic over lengths, a few nanoseconds a row and chunk.
// Not here: prices (gpu_kernels.cc), the paper's formula (roofline.cc).
#include <algorithm>
#include <limits>
#include <vector>

#include "base/math.h"
#include "cost/gpu_kernels.h"
#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

constexpr std::int32_t kTileTokens = 64;
constexpr std::int64_t kMinChunkTokens = 128;     // a tile a warp of a wide kernel
constexpr std::int64_t kMaxChunkTokens = 8192;    // above, only what fills the blocks once, and whole rows
constexpr std::int64_t kMaxBetweenTokens = 1024;  // chunks between powers of two are tried up to here
constexpr std::int64_t kMaxTasksPerSm = 64;       // of cut rows
constexpr std::int64_t kMaxSplits = 1 << 16;

class Search {
 public:
  Search(const BatchState& batch, std::int32_t num_sms)
      : shape_(batch.shape()), kernels_(gpu_kernel_class(batch.shape())), num_sms_(num_sms) {
    lens_.reserve(static_cast<std::size_t>(batch.num_rows()));
    for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
      const std::int64_t tokens = batch.attended(row).size();
      if (tokens > 0) {
        lens_.push_back(tokens);
        longest_ = std::max(longest_, tokens);
        tokens_ += tokens * shape_.num_kv_heads;
      }
    }
  }

  /// Splits of the longest row; 1 without rows.
  std::int32_t splits() {
    if (lens_.empty()) {
      return 1;
    }
    consider(longest_);
    try_even_waves();
    const std::int64_t least =
        std::max({kMinChunkTokens, tokens_ / (kMaxTasksPerSm * num_sms_), longest_ / kMaxSplits});
    for (std::int64_t chunk = kMinChunkTokens; chunk < longest_ && chunk <= std::max(kMaxChunkTokens, 2 * least);
         chunk *= 2) {
      if (chunk >= least) consider(chunk);
      const std::int64_t between = chunk + chunk / 2;
      if (between <= kMaxBetweenTokens && between >= least && between < longest_) consider(between);
    }
    return best_splits_;
  }

 private:
  /// As many splits as fill the blocks of each kernel once.
  void try_even_waves() {
    const auto units = static_cast<std::int64_t>(lens_.size()) * shape_.num_kv_heads;
    for (const GpuKernelCost& kernel : kernels_.widths) {
      const std::int64_t splits = std::int64_t{num_sms_} * kernel.blocks_per_sm / units;
      if (splits > 1) {
        const std::int64_t chunk = ceil_div(longest_, splits);
        if (chunk >= kMinChunkTokens) consider(chunk);
      }
    }
  }

  /// As make_plan cuts it.
  void consider(std::int64_t chunk) {
    const std::int64_t splits = ceil_div(longest_, chunk);
    const std::int64_t tiles = ceil_div<std::int64_t>(longest_, kTileTokens);
    const std::int64_t chunk_tiles = ceil_div(tiles, splits);
    TaskSizes sizes(std::min(longest_, chunk_tiles * kTileTokens));
    for (const std::int64_t tokens : lens_) {
      const std::int64_t row_splits = ceil_div(ceil_div<std::int64_t>(tokens, kTileTokens), chunk_tiles);
      sizes.add(ceil_div(tokens, row_splits), row_splits * shape_.num_kv_heads);
      sizes.add_slots(row_splits > 1 ? row_splits * shape_.num_kv_heads : 0);
    }
    const double price = cheapest_width(shape_, kernels_, sizes, num_sms_).price_us;
    if (price < best_price_) {
      best_price_ = price;
      best_splits_ = static_cast<std::int32_t>(splits);
    }
  }

  const AttentionShape& shape_;
  const GpuKernelClass& kernels_;
  const std::int32_t num_sms_;
  std::vector<std::int64_t> lens_;  // of rows that attend to anything
  std::int64_t longest_ = 0;
  std::int64_t tokens_ = 0;  // of all (row, KV head)
  double best_price_ = std::numeric_limits<double>::infinity();
  std::int32_t best_splits_ = 1;
};

}  // namespace

PlanOptions gpu_rule(const BatchState& batch, std::int32_t num_sms) {
  PlanOptions options = {.route = Route::kSplit, .num_workers = num_sms, .tile_tokens = kTileTokens};
  options.splits = Search(batch, num_sms).splits();
  return options;
}

}  // namespace pkv

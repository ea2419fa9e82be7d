// The rule that divides a step on a CPU: how many KV heads a task walks together, and how long tasks are.
// Not here: prices of whole plans (roofline.cc), kernels.
//
// A task reads K, then V, of all its heads of a tile: with one head of an HND page of 16 tokens 8 KB in chunks of
// 4 KB, with all 8 heads 64 KB in chunks of 32 KB. The more it reads in one go, the better memory is used; but
// tasks of more heads need more splits for the same number of tasks, and every split leaves a state to merge.
// Both are priced; ReadCurve holds the machine's part.
// Lengths of tasks: kTasksPerWorker level the end of a long step to 1/16 of a worker's share and less; a short
// step is cut into one task a worker, as starting and merging cost more than they level.
#include <algorithm>
#include <limits>

#include "base/math.h"
#include "persistentkv/decision.h"

namespace pkv {
namespace {

constexpr std::int32_t kTileTokens = 32;  // of the CPU kernels
constexpr std::int64_t kTasksPerWorker = 16;
constexpr std::int64_t kMinTilesPerTask = 16;
// A task's own cost and the rate of merging, of one worker: 1 us to load queries and leave states of 32 query
// heads, states of the L2 at 20 bytes a ns (2 cores, Zen 4).
constexpr double kTaskNs = 1000.0;
constexpr double kMergeBytesPerNs = 20.0;
// Chunks below 1 / kChunksInTile of a tile slow it down: NHD pages of one token read at 0.66 of the probe by one
// head (256 bytes), 0.82 by two, all of it by eight.
constexpr std::int64_t kChunksInTile = 8;
// K and V of a tile: half of the L2 of a Zen 4 core, as the next tile is prefetched meanwhile. 32 heads of 96 floats
// (768 KiB) read at 0.74 and 0.67 of the probe, 16 of them at 0.80 and 0.72 (NHD, pages of 4, 2 cores of an Emerald
// Rapids server with an L2 of 2 MiB).
constexpr std::int64_t kMostTileBytes = 512 * 1024;

struct StepSize {
  std::int64_t tiles = 0;
  std::int64_t longest = 0;  // tiles of a row
  std::int64_t rows = 0;     // that attend to anything
};

StepSize measure(const BatchState& batch) {
  StepSize size;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange tokens = batch.attended(row);
    const std::int64_t tiles = ceil_div(tokens.end, kTileTokens) - tokens.begin / kTileTokens;
    size.tiles += tokens.size() > 0 ? tiles : 0;
    size.longest = std::max(size.longest, tiles);
    size.rows += tokens.size() > 0 ? 1 : 0;
  }
  return size;
}

/// Splits of the longest row where a task walks `heads` KV heads.
std::int64_t choose_splits(const StepSize& size, std::int64_t head_runs, std::int64_t num_workers) {
  const std::int64_t units = size.tiles * head_runs;
  const std::int64_t tasks = std::clamp<std::int64_t>(units / (num_workers * kMinTilesPerTask), 1, kTasksPerWorker);
  const std::int64_t tiles_per_task = std::max<std::int64_t>(1, ceil_div(units, num_workers * tasks));
  return std::max<std::int64_t>(1, ceil_div(size.longest, tiles_per_task));
}

/// Bytes that lie together where `heads` KV heads of a page are walked.
std::int64_t chunk_bytes(const PageStrides& strides, const BatchState& batch, DType dtype, std::int64_t heads) {
  const std::int64_t row_bytes = std::int64_t{batch.shape().head_dim} * dtype_bytes(dtype);
  const std::int64_t slots = batch.page_size();
  const std::int64_t all_heads = batch.shape().num_kv_heads;
  if (strides.slot == batch.shape().head_dim) {  // HND
    return strides.kv_head == strides.slot * slots ? heads * slots * row_bytes : slots * row_bytes;
  }
  if (strides.kv_head != batch.shape().head_dim) {
    return row_bytes;
  }
  const bool whole = heads == all_heads && strides.slot == strides.kv_head * all_heads;  // NHD
  return whole ? heads * slots * row_bytes : heads * row_bytes;
}

/// Bytes of K and V of a tile of `heads` KV heads.
std::int64_t tile_bytes(const BatchState& batch, DType dtype, std::int64_t heads) {
  return 2 * heads * kTileTokens * batch.shape().head_dim * dtype_bytes(dtype);
}

/// What ReadCurve is asked about: bytes of K (or V) that a task reads in one go.
std::int64_t bytes_in_one_go(const BatchState& batch, DType dtype, std::int64_t heads, std::int64_t chunk) {
  return std::min(tile_bytes(batch, dtype, heads) / 2, kChunksInTile * chunk);
}

double price(const BatchState& batch, const StepSize& size, std::int64_t in_one_go, std::int64_t splits,
             std::int64_t head_runs, std::int64_t num_workers, double kv_bytes_of_step, const ReadCurve& curve) {
  const double rows_split = splits > 1 ? static_cast<double>(size.tiles) / static_cast<double>(size.longest) : 0.0;
  const double slots = rows_split * static_cast<double>(splits * batch.shape().num_q_heads);
  const double merge_bytes = 2.0 * 4.0 * slots * (batch.shape().head_dim + 2);
  const double tasks = std::max(static_cast<double>(size.rows), rows_split * static_cast<double>(splits)) *
                       static_cast<double>(head_runs);
  const auto workers = static_cast<double>(num_workers);
  const double idle = std::max(1.0, workers / tasks);  // fewer tasks than workers
  return kv_bytes_of_step / curve.bytes_per_ns(in_one_go) * idle + merge_bytes / (kMergeBytesPerNs * workers) +
         tasks * kTaskNs / (workers * static_cast<double>(head_runs));
}

}  // namespace

double ReadCurve::bytes_per_ns(std::int64_t bytes) const {
  const auto* above = std::find_if(points.begin(), points.end(), [&](const Point& p) { return p.bytes >= bytes; });
  if (above == points.begin() || above == points.end()) {
    return (above == points.end() ? points.back() : points.front()).bytes_per_ns;
  }
  const Point& low = *(above - 1);
  const double share = static_cast<double>(bytes - low.bytes) / static_cast<double>(above->bytes - low.bytes);
  return low.bytes_per_ns + share * (above->bytes_per_ns - low.bytes_per_ns);
}

ReadCurve ReadCurve::of(const DeviceProfile& profile) {
  ReadCurve curve;
  const double most = curve.points.back().bytes_per_ns;
  for (Point& point : curve.points) {
    const double share = std::min(profile.chunk_share(point.bytes / 2), point.bytes_per_ns / most);
    point.bytes_per_ns = profile.bandwidth.back().bytes_per_ns * share;
  }
  return curve;
}

PlanOptions cpu_rule(const BatchState& batch, const KvLayout& layout, DType kv_dtype, std::int32_t num_workers,
                     const ReadCurve& curve) {
  const std::int32_t all_heads = batch.shape().num_kv_heads;
  PlanOptions best = {.route = Route::kPages,
                      .num_workers = num_workers,
                      .tile_tokens = kTileTokens,
                      .kv_heads_per_task = all_heads,
                      .merge = MergeMode::kFused};
  const StepSize size = measure(batch);
  if (size.rows == 0) {
    return best;
  }
  const auto bytes = static_cast<double>(kv_bytes(batch.attended_tokens(), batch.shape(), kv_dtype));
  double best_price = std::numeric_limits<double>::infinity();
  // From all heads down by halves: the first wins a tie.
  for (std::int32_t heads = all_heads; heads >= 1; heads = heads == 1 ? 0 : ceil_div(heads, 2)) {
    if (heads > 1 && tile_bytes(batch, kv_dtype, heads) > kMostTileBytes) {
      continue;
    }
    const std::int64_t head_runs = ceil_div(all_heads, heads);
    const std::int64_t splits = choose_splits(size, head_runs, num_workers);
    const std::int64_t chunk = std::min(chunk_bytes(layout.k_strides, batch, kv_dtype, heads),
                                        chunk_bytes(layout.v_strides, batch, kv_dtype, heads));
    const double found = price(batch, size, bytes_in_one_go(batch, kv_dtype, heads, chunk), splits, head_runs,
                               num_workers, bytes, curve);
    if (found < best_price) {
      best_price = found;
      best.kv_heads_per_task = heads;
      best.splits = static_cast<std::int32_t>(splits);
    }
  }
  return best;
}

}  // namespace pkv

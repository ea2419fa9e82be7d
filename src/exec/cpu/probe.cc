// Read probes: which memory is read in which order by which worker.
// Not here: the reading loops (stream_inl.h).
#include "exec/cpu/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "base/clock.h"
#include "base/math.h"
#include "base/random.h"

namespace pkv {
namespace {

constexpr std::int64_t kStepBytes = 256;  // of read_streams
constexpr std::int64_t kStreams = 4;
constexpr std::int64_t kBufferQuantum = 65536;
// Work is popped in pieces of this size: small enough to level workers, large enough to hide the pop.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;

/// Sums what workers return over pieces [0, num_pieces), popped from one counter, under the clock.
/// read(piece) -> checksum.
template <typename Read>
ProbeResult read_pieces(WorkerPool& pool, std::int32_t workers, std::int64_t num_pieces, const Read& read) {
  std::atomic<std::int64_t> next{0};
  std::atomic<std::uint32_t> checksum{0};
  const std::int64_t begin_ns = now_ns();
  pool.run([&](std::int32_t worker) {
    if (worker >= workers) {
      return;
    }
    std::uint32_t sum = 0;
    for (std::int64_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < num_pieces;) {
      sum += read(piece);
    }
    checksum.fetch_add(sum, std::memory_order_relaxed);
  });
  return {.ns = now_ns() - begin_ns, .bytes = 0, .checksum = checksum.load(std::memory_order_relaxed)};
}

/// Where a page's bytes lie: `count` runs of `bytes`, a stride apart; nested once for gaps on two axes.
struct PageRuns {
  std::int64_t bytes = 0;
  std::int64_t inner_count = 1, inner_stride = 0;  // bytes
  std::int64_t outer_count = 1, outer_stride = 0;

  [[nodiscard]] std::int64_t total_bytes() const { return bytes * inner_count * outer_count; }
};

PageRuns page_runs(const PageStrides& strides, std::int64_t page_size, const AttentionShape& shape, DType dtype) {
  const std::int64_t element = dtype_bytes(dtype);
  struct Axis {
    std::int64_t count, stride;
  };
  Axis inner = {page_size, strides.slot * element};
  Axis outer = {shape.num_kv_heads, strides.kv_head * element};
  if (inner.stride > outer.stride) {
    std::swap(inner, outer);
  }
  PageRuns runs = {.bytes = shape.head_dim * element,
                   .inner_count = inner.count,
                   .inner_stride = inner.stride,
                   .outer_count = outer.count,
                   .outer_stride = outer.stride};
  const auto fuse = [&runs](std::int64_t& count, std::int64_t stride) {
    if (stride == runs.bytes || count == 1) {
      runs.bytes *= count;
      count = 1;
    }
  };
  fuse(runs.inner_count, runs.inner_stride);
  if (runs.inner_count == 1) {
    fuse(runs.outer_count, runs.outer_stride);
  }
  return runs;
}

/// Physical pages that the batch's attended tokens touch, row by row.
std::vector<std::int32_t> attended_pages(const BatchState& batch) {
  std::vector<std::int32_t> pages;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange tokens = batch.attended(row);
    if (tokens.size() == 0) {
      continue;
    }
    const std::span<const std::int32_t> table = batch.block_table().row(row);
    const auto first = table.begin() + tokens.begin / batch.page_size();
    const auto last = table.begin() + ceil_div(tokens.end, batch.page_size());
    pages.insert(pages.end(), first, last);
  }
  return pages;
}

/// The K and V runs of a list of pages, as the workers walk them.
class PageWalk {
 public:
  PageWalk(const KernelTable& kernels, const PagedKv& kv, const AttentionShape& shape, std::vector<std::int32_t> pages)
      : kernels_(kernels),
        kv_(kv),
        k_runs_(page_runs(kv.layout.k_strides, kv.layout.page_size, shape, kv.dtype)),
        v_runs_(page_runs(kv.layout.v_strides, kv.layout.page_size, shape, kv.dtype)),
        pages_(std::move(pages)),
        pages_per_piece_(std::max<std::int64_t>(kPieceBytes / bytes_of_page() / 2 * 2, 2)) {}

  [[nodiscard]] std::int64_t bytes_of_page() const { return k_runs_.total_bytes() + v_runs_.total_bytes(); }
  [[nodiscard]] std::int64_t total_bytes() const { return bytes_of_page() * num_pages(); }
  [[nodiscard]] std::int64_t num_pieces() const { return ceil_div(num_pages(), pages_per_piece_); }

  [[nodiscard]] std::uint32_t read_piece(std::int64_t piece) const {
    const std::int64_t begin = piece * pages_per_piece_;
    const std::int64_t end = std::min(begin + pages_per_piece_, num_pages());
    std::uint32_t sum = 0;
    std::int64_t i = begin;
    for (; i + 2 <= end; i += 2) {
      sum += read_pair(i, std::min(i + 2, num_pages() - 2));
    }
    return i < end ? sum + read_page(i) : sum;
  }

 private:
  [[nodiscard]] std::int64_t num_pages() const { return static_cast<std::int64_t>(pages_.size()); }
  [[nodiscard]] const std::byte* k_page(std::int64_t i) const {
    return static_cast<const std::byte*>(kv_.k) +
           pages_[static_cast<std::size_t>(i)] * kv_.layout.k_strides.page * dtype_bytes(kv_.dtype);
  }
  [[nodiscard]] const std::byte* v_page(std::int64_t i) const {
    return static_cast<const std::byte*>(kv_.v) +
           pages_[static_cast<std::size_t>(i)] * kv_.layout.v_strides.page * dtype_bytes(kv_.dtype);
  }

  /// Pages i and i + 1, prefetching those from `next` on.
  [[nodiscard]] std::uint32_t read_pair(std::int64_t i, std::int64_t next) const {
    const bool dense = k_runs_.bytes == k_runs_.total_bytes() && v_runs_.bytes == k_runs_.bytes;
    if (!dense || k_runs_.bytes % kStepBytes != 0) {
      return read_page(i) + read_page(i + 1);
    }
    return kernels_.read_streams({.current = {k_page(i), v_page(i), k_page(i + 1), v_page(i + 1)},
                                  .next = {k_page(next), v_page(next), k_page(next + 1), v_page(next + 1)}},
                                 k_runs_.bytes);
  }

  [[nodiscard]] std::uint32_t read_page(std::int64_t i) const {
    return read_runs(k_page(i), k_runs_) + read_runs(v_page(i), v_runs_);
  }
  [[nodiscard]] std::uint32_t read_runs(const std::byte* page, const PageRuns& runs) const {
    std::uint32_t sum = 0;
    for (std::int64_t outer = 0; outer < runs.outer_count; ++outer) {
      for (std::int64_t inner = 0; inner < runs.inner_count; ++inner) {
        sum += kernels_.read_bytes(page + outer * runs.outer_stride + inner * runs.inner_stride, runs.bytes);
      }
    }
    return sum;
  }

  const KernelTable& kernels_;
  const PagedKv& kv_;
  const PageRuns k_runs_;
  const PageRuns v_runs_;
  const std::vector<std::int32_t> pages_;
  const std::int64_t pages_per_piece_;
};

Status validate_pattern(const WorkerPool& pool, const AlignedBuffer& buffer, const ReadPattern& pattern) {
  const std::int32_t workers = pattern.workers.value_or(pool.num_workers());
  if (workers < 1 || workers > pool.num_workers()) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not in 1 to {}", workers, pool.num_workers()),
                 "workers"};
  }
  const auto bytes = static_cast<std::int64_t>(buffer.size());
  if (bytes == 0 || bytes % kBufferQuantum != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} bytes are no positive multiple of {}", bytes, kBufferQuantum), "buffer"};
  }
  const std::int64_t chunk = pattern.chunk_bytes.value_or(kBufferQuantum);
  if (chunk <= 0 || chunk % (kStreams * kStepBytes) != 0 || bytes % chunk != 0) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("{} is no multiple of {} that divides the buffer's {} bytes", chunk, kStreams * kStepBytes, bytes),
        "chunk_bytes"};
  }
  return {};
}

/// Where the chunks of a buffer begin, in order or shuffled by a fixed seed.
std::vector<std::int64_t> chunk_offsets(std::int64_t bytes, std::int64_t chunk_bytes, const ReadPattern& pattern) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(bytes / chunk_bytes));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    offsets[i] = static_cast<std::int64_t>(i) * chunk_bytes;
  }
  if (pattern.chunk_bytes) {
    SplitMix64 random(offsets.size());
    for (std::size_t i = offsets.size(); i > 1; --i) {
      std::swap(offsets[i - 1], offsets[random.below(i)]);
    }
  }
  return offsets;
}

/// A chunk as four streams of a quarter each: a sequential stream would leave the prefetches to one page.
ReadStreams quarters(const std::byte* current, const std::byte* next, std::int64_t chunk_bytes) {
  ReadStreams streams = {};
  for (std::int64_t s = 0; s < kStreams; ++s) {
    streams.current[s] = current + s * (chunk_bytes / kStreams);
    streams.next[s] = next + s * (chunk_bytes / kStreams);
  }
  return streams;
}

}  // namespace

Result<AlignedBuffer> make_probe_buffer(WorkerPool& pool, std::int64_t bytes) {
  if (bytes <= 0 || bytes % kBufferQuantum != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} bytes are no positive multiple of {}", bytes, kBufferQuantum), "buffer"};
  }
  Result<AlignedBuffer> buffer = AlignedBuffer::allocate(static_cast<std::size_t>(bytes));
  if (!buffer.ok()) {
    return buffer;
  }
  auto* words = buffer->as<std::uint64_t>();
  const std::int64_t share = ceil_div<std::int64_t>(bytes / 8, pool.num_workers());
  pool.run([&](std::int32_t worker) {
    SplitMix64 random(static_cast<std::uint64_t>(worker));
    const std::int64_t end = std::min(bytes / 8, (worker + 1) * share);
    for (std::int64_t i = worker * share; i < end; ++i) {
      words[i] = random();
    }
  });
  return buffer;
}

Result<ProbeResult> read_probe(WorkerPool& pool, const KernelTable& kernels, const AlignedBuffer& buffer,
                               const ReadPattern& pattern) {
  PKV_RETURN_IF_ERROR(validate_pattern(pool, buffer, pattern));
  const auto bytes = static_cast<std::int64_t>(buffer.size());
  const std::int64_t chunk_bytes = pattern.chunk_bytes.value_or(kBufferQuantum);
  const std::vector<std::int64_t> offsets = chunk_offsets(bytes, chunk_bytes, pattern);
  const auto num_chunks = static_cast<std::int64_t>(offsets.size());
  const std::int64_t chunks_per_piece = std::max<std::int64_t>(kPieceBytes / chunk_bytes, 1);
  const auto* data = buffer.as<const std::byte>();
  const auto chunk = [&](std::int64_t i) { return data + offsets[static_cast<std::size_t>(i)]; };
  ProbeResult result = read_pieces(pool, pattern.workers.value_or(pool.num_workers()),
                                   ceil_div(num_chunks, chunks_per_piece), [&](std::int64_t piece) {
                                     std::uint32_t sum = 0;
                                     const std::int64_t end = std::min((piece + 1) * chunks_per_piece, num_chunks);
                                     for (std::int64_t i = piece * chunks_per_piece; i < end; ++i) {
                                       sum += kernels.read_streams(
                                           quarters(chunk(i), chunk(std::min(i + 1, num_chunks - 1)), chunk_bytes),
                                           chunk_bytes / kStreams);
                                     }
                                     return sum;
                                   });
  result.bytes = bytes;
  return result;
}

Result<ProbeResult> paged_read_probe(WorkerPool& pool, const KernelTable& kernels, const BatchState& batch,
                                     const PagedKv& kv) {
  PKV_RETURN_IF_ERROR(validate(kv, batch.shape()));
  if (kv.num_pages < batch.num_pages()) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} pages, but the block table was checked against {}", kv.num_pages, batch.num_pages()),
                 "kv.num_pages"};
  }
  const PageWalk walk(kernels, kv, batch.shape(), attended_pages(batch));
  ProbeResult result = read_pieces(pool, pool.num_workers(), walk.num_pieces(),
                                   [&](std::int64_t piece) { return walk.read_piece(piece); });
  result.bytes = walk.total_bytes();
  return result;
}

}  // namespace pkv

// Read probes: which memory is read in which order by which worker.
// Not here: the reading loops (probe_kernels.cc).
#include "exec/cpu/probe.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "base/clock.h"
#include "base/math.h"
#include "base/random.h"

namespace pkv {
namespace {

constexpr std::int64_t kBufferQuantum = 65536;
// Work is popped in pieces of at most this size: small enough to level workers, large enough to hide the pop.
constexpr std::int64_t kMostPieceBytes = std::int64_t{1} << 20;
constexpr std::int64_t kPiecesPerWorker = 16;
// A longer run is cut into units of at most this size, so that the streams stay side by side.
constexpr std::int64_t kMostUnitBytes = 32768;

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

/// Units of equal size in the order in which they are read, `streams` of them side by side.
class UnitWalk {
 public:
  UnitWalk(const ProbeKernels& kernels, const ReadMethod& method, std::int64_t unit_bytes, std::int64_t num_units)
      : kernels_(kernels), method_(method), unit_bytes_(unit_bytes), num_units_(num_units) {
    blocks_.resize(static_cast<std::size_t>(num_units / method.streams));
  }

  void set(std::int64_t unit, const std::byte* at) {
    const std::int64_t block = unit / method_.streams;
    if (block == static_cast<std::int64_t>(blocks_.size())) {
      rest_.push_back({.streams = {at}});
    } else {
      blocks_[static_cast<std::size_t>(block)].streams[unit % method_.streams] = at;
    }
  }

  ProbeResult read(WorkerPool& pool, std::int32_t workers) const {
    const auto num_blocks = static_cast<std::int64_t>(blocks_.size());
    const std::int64_t block_bytes = unit_bytes_ * method_.streams;
    const std::int64_t piece_bytes =
        std::min(kMostPieceBytes, ceil_div(num_blocks * block_bytes, kPiecesPerWorker * workers));
    const std::int64_t blocks_per_piece = std::max<std::int64_t>(piece_bytes / block_bytes, 1);
    const auto read_main = kernels_.reader(method_.streams, method_.prefetch);
    const auto read_rest = kernels_.reader(1, ReadPrefetch::kNone);
    const std::int64_t num_pieces = std::max<std::int64_t>(ceil_div(num_blocks, blocks_per_piece), 1);
    ProbeResult result = read_pieces(pool, workers, num_pieces, [&](std::int64_t piece) {
      const std::int64_t begin = piece * blocks_per_piece;
      const std::uint32_t sum = read_main({.walk = blocks_,
                                           .begin = begin,
                                           .end = std::min(begin + blocks_per_piece, num_blocks),
                                           .unit_bytes = unit_bytes_,
                                           .ahead = ceil_div(method_.ahead_bytes, unit_bytes_)});
      return piece != 0 ? sum
                        : sum + read_rest({.walk = rest_,
                                           .begin = 0,
                                           .end = static_cast<std::int64_t>(rest_.size()),
                                           .unit_bytes = unit_bytes_,
                                           .ahead = 1});
    });
    result.bytes = num_units_ * unit_bytes_;
    return result;
  }

 private:
  const ProbeKernels& kernels_;
  const ReadMethod method_;
  const std::int64_t unit_bytes_;
  const std::int64_t num_units_;
  std::vector<ReadBlock> blocks_;
  std::vector<ReadBlock> rest_;  // fewer than `streams`: read one after the other
};

/// The largest unit that cuts runs of `bytes` evenly; 0 if there is none.
std::int64_t unit_of(std::int64_t bytes) {
  if (bytes % kReadStepBytes != 0) {
    return 0;
  }
  std::int64_t parts = ceil_div(bytes, kMostUnitBytes);
  while (bytes % (parts * kReadStepBytes) != 0) {
    ++parts;
  }
  return bytes / parts;
}

Status validate_method(const ReadMethod& method) {
  if (method.streams != 1 && method.streams != 2 && method.streams != 4) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not 1, 2 or 4", method.streams), "streams"};
  }
  if (method.ahead_bytes <= 0) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not positive", method.ahead_bytes), "ahead_bytes"};
  }
  return {};
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
        pages_(std::move(pages)) {}

  ProbeResult read(WorkerPool& pool, const ReadMethod& method) const {
    const bool dense = k_runs_.bytes == k_runs_.total_bytes() && v_runs_.bytes == k_runs_.bytes;
    const std::int64_t unit_bytes = dense ? unit_of(k_runs_.bytes) : 0;
    return unit_bytes == 0 ? read_by_rows(pool, method) : read_by_units(pool, method, unit_bytes);
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

  /// K and V of two pages side by side: unit 0 of all four, then unit 1, ...; a last odd page alone.
  ProbeResult read_by_units(WorkerPool& pool, const ReadMethod& method, std::int64_t unit_bytes) const {
    const std::int64_t parts = k_runs_.bytes / unit_bytes;
    UnitWalk walk(probe_kernels(kernels_.isa), method, unit_bytes, 2 * parts * num_pages());
    std::int64_t unit = 0;
    for (std::int64_t i = 0; i < num_pages(); i += 2) {
      for (std::int64_t part = 0; part < parts; ++part) {
        for (std::int64_t page = i; page < std::min(i + 2, num_pages()); ++page) {
          walk.set(unit++, k_page(page) + part * unit_bytes);
          walk.set(unit++, v_page(page) + part * unit_bytes);
        }
      }
    }
    return walk.read(pool, pool.num_workers());
  }

  ProbeResult read_by_rows(WorkerPool& pool, const ReadMethod& method) const {
    const std::int64_t row_bytes = std::min(k_runs_.bytes, v_runs_.bytes);  // the shorter divides the longer
    std::vector<const std::byte*> rows;
    for (std::int64_t i = 0; i < num_pages(); ++i) {
      add_rows(rows, k_page(i), k_runs_, row_bytes);
      add_rows(rows, v_page(i), v_runs_, row_bytes);
    }
    const auto num_rows = static_cast<std::int64_t>(rows.size());
    const std::int64_t piece_bytes =
        std::min(kMostPieceBytes, ceil_div(num_rows * row_bytes, kPiecesPerWorker * pool.num_workers()));
    const std::int64_t rows_per_piece = std::max<std::int64_t>(piece_bytes / row_bytes, 1);
    const ProbeKernels& probe = probe_kernels(kernels_.isa);
    ProbeResult result =
        read_pieces(pool, pool.num_workers(), ceil_div(num_rows, rows_per_piece), [&](std::int64_t piece) {
          const std::int64_t begin = piece * rows_per_piece;
          return probe.read_rows({.walk = rows,
                                  .begin = begin,
                                  .end = std::min(begin + rows_per_piece, num_rows),
                                  .row_bytes = row_bytes,
                                  .ahead = ceil_div(method.ahead_bytes, row_bytes)});
        });
    result.bytes = num_rows * row_bytes;
    return result;
  }
  static void add_rows(std::vector<const std::byte*>& rows, const std::byte* page, const PageRuns& runs,
                       std::int64_t row_bytes) {
    for (std::int64_t outer = 0; outer < runs.outer_count; ++outer) {
      for (std::int64_t inner = 0; inner < runs.inner_count; ++inner) {
        const std::byte* run = page + outer * runs.outer_stride + inner * runs.inner_stride;
        for (std::int64_t at = 0; at < runs.bytes; at += row_bytes) {
          rows.push_back(run + at);
        }
      }
    }
  }

  const KernelTable& kernels_;
  const PagedKv& kv_;
  const PageRuns k_runs_;
  const PageRuns v_runs_;
  const std::vector<std::int32_t> pages_;
};

Status validate_workers(const WorkerPool& pool, std::int32_t workers) {
  if (workers < 1 || workers > pool.num_workers()) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not in 1 to {}", workers, pool.num_workers()),
                 "workers"};
  }
  return {};
}

Status validate_pattern(const WorkerPool& pool, const AlignedBuffer& buffer, const ReadPattern& pattern) {
  PKV_RETURN_IF_ERROR(validate_workers(pool, pattern.workers.value_or(pool.num_workers())));
  PKV_RETURN_IF_ERROR(validate_method(pattern.method));
  const auto bytes = static_cast<std::int64_t>(buffer.size());
  if (bytes == 0 || bytes % kBufferQuantum != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} bytes are no positive multiple of {}", bytes, kBufferQuantum), "buffer"};
  }
  const std::int64_t chunk = pattern.chunk_bytes.value_or(kBufferQuantum);
  if (chunk <= 0 || chunk % kReadStepBytes != 0 || bytes % chunk != 0) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("{} is no multiple of {} that divides the buffer's {} bytes", chunk, kReadStepBytes, bytes),
        "chunk_bytes"};
  }
  return {};
}

/// Where the chunks of a buffer begin, in random order by a fixed seed.
std::vector<std::int64_t> shuffled_chunks(std::int64_t bytes, std::int64_t chunk_bytes) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(bytes / chunk_bytes));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    offsets[i] = static_cast<std::int64_t>(i) * chunk_bytes;
  }
  SplitMix64 random(offsets.size());
  for (std::size_t i = offsets.size(); i > 1; --i) {
    std::swap(offsets[i - 1], offsets[random.below(i)]);
  }
  return offsets;
}

/// Chunks at random, `streams` of them side by side.
UnitWalk random_walk(const ProbeKernels& kernels, const AlignedBuffer& buffer, std::int64_t chunk_bytes,
                     const ReadMethod& method) {
  const auto bytes = static_cast<std::int64_t>(buffer.size());
  const std::vector<std::int64_t> chunks = shuffled_chunks(bytes, chunk_bytes);
  const std::int64_t unit_bytes = unit_of(chunk_bytes);
  UnitWalk walk(kernels, method, unit_bytes, bytes / unit_bytes);
  const auto* data = buffer.as<const std::byte>();
  std::int64_t unit = 0;
  for (std::size_t i = 0; i < chunks.size(); i += static_cast<std::size_t>(method.streams)) {
    const std::size_t end = std::min(i + static_cast<std::size_t>(method.streams), chunks.size());
    for (std::int64_t at = 0; at < chunk_bytes; at += unit_bytes) {
      for (std::size_t c = i; c < end; ++c) {
        walk.set(unit++, data + chunks[c] + at);
      }
    }
  }
  return walk;
}

/// Memory in order; the streams are the parts of every 64 KiB, so that each stays in its own memory page of 4 KiB.
UnitWalk sequential_walk(const ProbeKernels& kernels, const AlignedBuffer& buffer, const ReadMethod& method) {
  const auto bytes = static_cast<std::int64_t>(buffer.size());
  const std::int64_t unit_bytes = kBufferQuantum / method.streams;
  UnitWalk walk(kernels, method, unit_bytes, bytes / unit_bytes);
  for (std::int64_t unit = 0; unit < bytes / unit_bytes; ++unit) {
    walk.set(unit, buffer.as<const std::byte>() + unit * unit_bytes);
  }
  return walk;
}

}  // namespace

Result<AlignedBuffer> make_probe_buffer(WorkerPool& pool, std::int64_t bytes, MemoryPages pages) {
  if (bytes <= 0 || bytes % kBufferQuantum != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} bytes are no positive multiple of {}", bytes, kBufferQuantum), "buffer"};
  }
  Result<AlignedBuffer> buffer = AlignedBuffer::allocate(static_cast<std::size_t>(bytes));
  if (!buffer.ok()) {
    return buffer;
  }
  if (pages == MemoryPages::kSmall) {
    madvise(buffer->data(), buffer->size(), MADV_NOHUGEPAGE);  // before the first touch
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
  const ProbeKernels& probe = probe_kernels(kernels.isa);
  const UnitWalk walk = pattern.chunk_bytes ? random_walk(probe, buffer, *pattern.chunk_bytes, pattern.method)
                                            : sequential_walk(probe, buffer, pattern.method);
  return walk.read(pool, pattern.workers.value_or(pool.num_workers()));
}

Result<ProbeResult> paged_read_probe(WorkerPool& pool, const KernelTable& kernels, const BatchState& batch,
                                     const PagedKv& kv, const ReadMethod& method) {
  PKV_RETURN_IF_ERROR(validate(kv, batch.shape()));
  PKV_RETURN_IF_ERROR(validate_method(method));
  if (kv.num_pages < batch.num_pages()) {
    return Error{ErrorCode::kOutOfRange,
                 fmt::format("{} pages, but the block table was checked against {}", kv.num_pages, batch.num_pages()),
                 "kv.num_pages"};
  }
  return PageWalk(kernels, kv, batch.shape(), attended_pages(batch)).read(pool, method);
}

std::int64_t fork_join_probe_ns(WorkerPool& pool) {
  const std::int64_t begin_ns = now_ns();
  pool.run([](std::int32_t) {});
  return now_ns() - begin_ns;
}

Result<ExpResult> exp_probe(WorkerPool& pool, const KernelTable& kernels, std::int32_t workers) {
  PKV_RETURN_IF_ERROR(validate_workers(pool, workers));
  constexpr std::int64_t kValues = 2048;  // with the results 16 KiB: half of the smallest L1
  constexpr std::int64_t kRounds = 64;
  const ProbeKernels& probe = probe_kernels(kernels.isa);
  const std::int64_t stride = 2 * kValues + 64;
  Result<AlignedBuffer> memory =
      AlignedBuffer::allocate(static_cast<std::size_t>(pool.num_workers() * stride) * sizeof(float));
  if (!memory.ok()) {
    return memory.error();
  }
  std::atomic<std::int64_t> slowest_ns{0};
  pool.run([&](std::int32_t worker) {
    if (worker >= workers) {
      return;
    }
    float* values = memory->as<float>() + worker * stride;
    for (std::int64_t i = 0; i < kValues; ++i) {
      values[i] = -static_cast<float>(i) / 64.0F;
    }
    const std::int64_t begin_ns = now_ns();
    for (std::int64_t round = 0; round < kRounds; ++round) {
      probe.exp(values, values + kValues, kValues);
    }
    const std::int64_t ns = now_ns() - begin_ns;
    std::int64_t seen = slowest_ns.load();
    while (seen < ns && !slowest_ns.compare_exchange_weak(seen, ns)) {
    }
  });
  return ExpResult{.ns = slowest_ns.load(), .count = workers * kRounds * kValues};
}

}  // namespace pkv

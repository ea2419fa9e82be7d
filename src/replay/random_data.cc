// Chunk i of a tensor is the block from offset (i * stride) mod span on: all offsets differ until the
// span is used up (4.18 million chunks, 128 GiB of 16-bit values).
#include "replay/random_data.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>

#include "base/half.h"
#include "base/math.h"
#include "base/random.h"

namespace pkv {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;
constexpr std::int64_t kChunkElements = std::int64_t{1} << 14;
constexpr std::uint64_t kOffsetSpan = kBlockElements - kChunkElements;
// About span / golden ratio, so that neighbouring chunks lie far apart.
constexpr std::uint64_t kOffsetStride = 2582083;
static_assert(std::gcd(kOffsetSpan, kOffsetStride) == 1);

}  // namespace

RandomBlock::RandomBlock(DType dtype, std::uint64_t seed)
    : dtype_(dtype), block_(static_cast<std::size_t>(block_bytes(dtype))) {
  SplitMix64 random(seed);
  for (std::int64_t i = 0; i < kBlockElements; ++i) {
    store_element(block_.data(), dtype_, i, random.normal());
  }
}

std::int64_t RandomBlock::block_bytes(DType dtype) { return kBlockElements * dtype_bytes(dtype); }

std::int64_t RandomBlock::num_chunks(std::int64_t num_elements) { return ceil_div(num_elements, kChunkElements); }

void RandomBlock::fill_one(void* data, std::int64_t num_elements, std::int64_t chunk, std::uint64_t offset_idx) const {
  const std::int64_t element_bytes = dtype_bytes(dtype_);
  const std::int64_t begin = chunk * kChunkElements;
  const std::int64_t count = std::min(kChunkElements, num_elements - begin);
  const auto offset = static_cast<std::int64_t>(offset_idx % kOffsetSpan * kOffsetStride % kOffsetSpan);
  std::memcpy(static_cast<std::uint8_t*>(data) + begin * element_bytes, block_.data() + offset * element_bytes,
              static_cast<std::size_t>(count * element_bytes));
}

void RandomBlock::fill_chunks(void* data, std::int64_t num_elements, std::int64_t chunk_begin,
                              std::int64_t chunk_end) const {
  for (std::int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
    fill_one(data, num_elements, chunk, static_cast<std::uint64_t>(chunk));
  }
}

void RandomBlock::fill(void* data, std::int64_t num_elements, std::uint64_t stream) const {
  const std::uint64_t base = SplitMix64(stream)();
  for (std::int64_t chunk = 0; chunk < num_chunks(num_elements); ++chunk) {
    fill_one(data, num_elements, chunk, (base >> 1) + static_cast<std::uint64_t>(chunk));
  }
}

Status RandomBlock::fill(void* data, std::int64_t num_elements, Crew& crew,
                         const std::function<bool()>& cancelled) const {
  // Runs of chunks of about a huge page, so that first touch of a memory page is one thread's.
  constexpr std::int64_t kRun = 64;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> stop{cancelled()};
  const std::int64_t end = num_chunks(num_elements);
  const Status status = crew.run_on_all(
      [&](int) {
        for (std::int64_t begin = next.fetch_add(kRun); begin < end && !stop; begin = next.fetch_add(kRun)) {
          fill_chunks(data, num_elements, begin, std::min(begin + kRun, end));
        }
      },
      [&] { stop = stop || cancelled(); });
  if (status.ok() && stop) {
    return Error{ErrorCode::kCancelled, "stopped by the caller", "filling of K and V"};
  }
  return status;
}

}  // namespace pkv

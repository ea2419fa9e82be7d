// The list of what a tile prefetches: everything once, in the order that was asked for, nothing past its end.
// Not here: kernels that follow it (tile_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/math.h"

#define PKV_TILE_NAMESPACE tile_pairs_for_tests
#define PKV_TILE_BEGIN
#define PKV_TILE_END
#define PKV_TILE_ATTR
#define PKV_TILE_INLINE inline
namespace pkv {
namespace PKV_TILE_NAMESPACE {
inline constexpr int kPairBytes = 128;
}  // namespace PKV_TILE_NAMESPACE
}  // namespace pkv
#include "exec/cpu/tile_pairs_inl.h"

namespace pkv {
namespace {

using tile_pairs_for_tests::kPairBytes;
using tile_pairs_for_tests::PairListOf;
using Pieces = tile_pairs_for_tests::Run;  // Run is a name of the fixture

/// What a list says, as offsets into `memory`.
struct Listed {
  std::vector<std::int64_t> offsets;
  bool overran = false;
};

class PairLists : public ::testing::Test {
 protected:
  /// The pairs of `run`, of a tile of tile_bytes bytes, listed with vectors of kAddresses.
  template <int kAddresses>
  Listed list(const Pieces& run, std::int64_t tile_bytes, std::int32_t streams, std::int64_t capacity) {
    std::vector<const std::byte*> entries(static_cast<std::size_t>(capacity) + kGuard, nullptr);
    PairListOf<kAddresses> pairs(entries.data(), tile_bytes, streams);
    pairs.append(run);
    pairs.finish(0);
    Listed listed;
    for (std::size_t i = 0; i < entries.size() && entries[i] != nullptr; ++i) {
      listed.offsets.push_back(entries[i] - memory_.data());
    }
    const auto end = static_cast<std::ptrdiff_t>(listed.offsets.size());
    listed.overran =
        listed.offsets.size() > static_cast<std::size_t>(capacity) ||
        std::any_of(entries.begin() + end, entries.end(), [](const auto* entry) { return entry != nullptr; });
    return listed;
  }
  Listed list(int addresses, const Pieces& run, std::int64_t tile_bytes, std::int32_t streams, std::int64_t capacity) {
    return addresses == 8 ? list<8>(run, tile_bytes, streams, capacity) : list<4>(run, tile_bytes, streams, capacity);
  }

  static constexpr std::size_t kGuard = 64;
  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 21);
};

TEST_F(PairLists, EveryPair_IsListedOnce) {
  constexpr std::int64_t kStride = 1 << 16;
  for (const int addresses : {4, 8}) {
    for (const std::int32_t streams : {1, 2, 4, 8}) {
      for (const std::int64_t bytes : {64, 128, 192, 256, 384, 640, 2048, 3968, 4096, 4224, 4480, 8192, 32768}) {
        for (std::int32_t count = 1; count <= 19; ++count) {
          const Pieces run = {.begin = memory_.data(), .bytes = bytes, .count = count, .stride = kStride};
          const std::int64_t pairs = count * ceil_div<std::int64_t>(bytes, kPairBytes);
          Listed listed = list(addresses, run, 8 * bytes, streams, pairs);  // pieces are not cut
          std::vector<std::int64_t> expected;
          for (std::int32_t i = 0; i < count; ++i) {
            for (std::int64_t at = 0; at < bytes; at += kPairBytes) {
              expected.push_back(i * kStride + at);
            }
          }
          std::sort(listed.offsets.begin(), listed.offsets.end());
          ASSERT_EQ(listed.offsets, expected) << count << " pieces of " << bytes << ", " << streams << " streams";
          ASSERT_FALSE(listed.overran);
        }
      }
    }
  }
}

TEST_F(PairLists, WhatLiesTogether_IsCutAndCovered) {
  for (const int addresses : {4, 8}) {
    for (const std::int32_t streams : {1, 2, 4, 8}) {
      for (const std::int64_t bytes : {1024, 9600, 12288, 40960, 98304}) {
        const Pieces run = {.begin = memory_.data(), .bytes = bytes};
        Listed listed = list(addresses, run, bytes, streams, bytes / kPairBytes + 8);  // a piece may end a pair later
        ASSERT_FALSE(listed.overran);
        std::sort(listed.offsets.begin(), listed.offsets.end());
        for (std::int64_t at = 0; at < bytes; at += kPairBytes) {
          ASSERT_EQ(std::count(listed.offsets.begin(), listed.offsets.end(), at), 1) << at << " of " << bytes;
        }
      }
    }
  }
}

/// The pieces of the first pairs listed: 8 pieces of `bytes`, a pair of each in turn as far as streams go.
TEST_F(PairLists, LongPieces_GoSideBySide) {
  constexpr std::int64_t kStride = 1 << 16;
  for (const int addresses : {4, 8}) {
    for (const std::int32_t streams : {1, 2, 4, 8}) {
      const std::int64_t bytes = 4096;
      const Pieces run = {.begin = memory_.data(), .bytes = bytes, .count = 8, .stride = kStride};
      const Listed listed = list(addresses, run, 8 * bytes, streams, 8 * bytes / kPairBytes);
      for (std::size_t i = 0; i < listed.offsets.size(); ++i) {
        const auto n = static_cast<std::int64_t>(i);
        const std::int64_t group_pairs = streams * (bytes / kPairBytes);
        const std::int64_t piece = n / group_pairs * streams + n % streams;
        ASSERT_EQ(listed.offsets[i], piece * kStride + n % group_pairs / streams * kPairBytes) << i << ", " << streams;
      }
    }
  }
}

TEST_F(PairLists, ShortPieces_GoEightSideBySide) {
  constexpr std::int64_t kStride = 1 << 16;
  for (const std::int32_t streams : {1, 2, 4, 8}) {
    const Pieces run = {.begin = memory_.data(), .bytes = 2048, .count = 8, .stride = kStride};
    const Listed listed = list(8, run, 1 << 16, streams, 128);
    for (std::size_t i = 0; i < listed.offsets.size(); ++i) {
      const auto n = static_cast<std::int64_t>(i);
      ASSERT_EQ(listed.offsets[i], n % 8 * kStride + n / 8 * kPairBytes);
    }
  }
}

}  // namespace
}  // namespace pkv

// The read probe's inner loops: memory into registers, summed, nothing else.
// Not here: which memory (probe.cc).
#if defined(PKV_STREAM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PKV_STREAM_INL_H_
#undef PKV_STREAM_INL_H_
#else
#define PKV_STREAM_INL_H_
#endif

#include <cstring>

#include "exec/cpu/kernels.h"
#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

using U32 = hn::ScalableTag<std::uint32_t>;
using VU = hn::Vec<U32>;
inline constexpr std::int64_t kStepBytes = 256;

HWY_INLINE VU add_step(U32 d, VU sum, const std::byte* from) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(from);
  HWY_UNROLL(16)
  for (std::int64_t i = 0; i < kStepBytes / 4; i += kLanes) {
    sum = hn::Add(sum, hn::LoadU(d, words + i));
  }
  return sum;
}

/// Sum of all lanes, modulo 2^32. Highway's own sum is a signed one on AVX-512, where overflow is an error.
HWY_INLINE std::uint32_t sum_of_lanes(U32 d, VU v) {
  HWY_ALIGN std::uint32_t lanes[kLanes];
  hn::Store(v, d, lanes);
  std::uint32_t sum = 0;
  for (const std::uint32_t lane : lanes) {
    sum += lane;
  }
  return sum;
}

HWY_INLINE void prefetch_step(const std::byte* from) {
  HWY_UNROLL(4)
  for (std::int64_t i = 0; i < kStepBytes; i += 64) {
    __builtin_prefetch(from + i, 0, 2);  // into L2
  }
}

inline std::uint32_t read_streams(const ReadStreams& streams, std::int64_t bytes) {
  const U32 d;
  VU sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (std::int64_t offset = 0; offset < bytes; offset += kStepBytes) {
    HWY_UNROLL(4)
    for (int s = 0; s < 4; ++s) {
      prefetch_step(streams.next[s] + offset);
      sums[s] = add_step(d, sums[s], streams.current[s] + offset);
    }
  }
  return sum_of_lanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

inline std::uint32_t read_bytes(const std::byte* data, std::int64_t bytes) {
  const U32 d;
  VU sum = hn::Zero(d);
  std::int64_t offset = 0;
  for (; offset + kStepBytes <= bytes; offset += kStepBytes) {
    sum = add_step(d, sum, data + offset);
  }
  std::uint32_t total = sum_of_lanes(d, sum);
  for (; offset < bytes; offset += 4) {
    std::uint32_t word;
    std::memcpy(&word, data + offset, sizeof(word));
    total += word;
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#endif  // PKV_STREAM_INL_H_

// Conversions to and from 16-bit types, checked over every bit pattern and against the definition.
#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "base/random.h"

namespace pkv {
namespace {

bool is_f16_nan(std::uint16_t h) { return (h & 0x7FFFU) > 0x7C00U; }

// The value of an f16 by its definition: sign, 5 exponent bits, 10 fraction bits.
double f16_by_definition(std::uint16_t h) {
  const int exponent = (h >> 10) & 0x1F;
  const int fraction = h & 0x3FF;
  const double sign = (h & 0x8000U) != 0 ? -1.0 : 1.0;
  if (exponent == 0x1F) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(HalfF16, EveryPattern_WidensToItsDefinition) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const auto bits = static_cast<std::uint16_t>(h);
    const double expected = f16_by_definition(bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(bits))) << h;
    } else {
      EXPECT_EQ(static_cast<double>(f16_to_f32(bits)), expected) << h;
      EXPECT_EQ(std::signbit(f16_to_f32(bits)), std::signbit(expected)) << h;
    }
  }
}

TEST(HalfF16, EveryPattern_RoundTrips) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const auto bits = static_cast<std::uint16_t>(h);
    const std::uint16_t back = f32_to_f16(f16_to_f32(bits));
    if (is_f16_nan(bits)) {
      EXPECT_TRUE(is_f16_nan(back)) << h;
    } else {
      EXPECT_EQ(back, bits) << h;
    }
  }
}

TEST(HalfF16, BetweenNeighbours_RoundsToNearestEven) {
  for (std::uint32_t h = 0; h < 0x7BFF; ++h) {  // positive finite pairs (h, h + 1)
    const float low = f16_to_f32(static_cast<std::uint16_t>(h));
    const float high = f16_to_f32(static_cast<std::uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;  // exact in FP32
    EXPECT_EQ(f32_to_f16(middle), h % 2 == 0 ? h : h + 1) << h;
    EXPECT_EQ(f32_to_f16(std::nextafterf(middle, low)), h) << h;
    EXPECT_EQ(f32_to_f16(std::nextafterf(middle, high)), h + 1) << h;
    EXPECT_EQ(f32_to_f16(-std::nextafterf(middle, high)), 0x8000U | (h + 1)) << h;
  }
}

TEST(HalfF16, AboveRange_RoundsToInfinity) {
  EXPECT_EQ(f32_to_f16(65504.0F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65519.99F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(-1e30F), 0xFC00);
}

TEST(HalfBf16, EveryPattern_RoundTrips) {
  for (std::uint32_t b = 0; b < 65536; ++b) {
    const auto bits = static_cast<std::uint16_t>(b);
    const float value = bf16_to_f32(bits);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value)))) << b;
    } else {
      EXPECT_EQ(f32_to_bf16(value), bits) << b;
    }
  }
}

TEST(HalfBf16, RandomFloats_RoundToNearest) {
  SplitMix64 random(7);
  for (int i = 0; i < 100000; ++i) {
    const float value = random.normal() + 8.0F;  // normal() is exactly 0 at times, which has no lower neighbour
    const std::uint16_t rounded = f32_to_bf16(value);
    const float error = std::abs(bf16_to_f32(rounded) - value);
    EXPECT_LE(error, std::abs(bf16_to_f32(static_cast<std::uint16_t>(rounded + 1)) - value));
    EXPECT_LE(error, std::abs(bf16_to_f32(static_cast<std::uint16_t>(rounded - 1)) - value));
  }
}

TEST(LoadElement, EachType_StoresAndLoads) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::uint32_t storage[4] = {};
    store_element(storage, dtype, 2, 1.5F);
    EXPECT_EQ(load_element(storage, dtype, 2), 1.5F);
    EXPECT_EQ(load_element(storage, dtype, 1), 0.0F);
  }
}

}  // namespace
}  // namespace pkv

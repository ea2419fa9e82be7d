// exp and tanh of the kernels against double, within the errors that vector_math_inl.h states.
#include <hwy/detect_compiler_arch.h>
#if HWY_ARCH_X86
#define HWY_BROKEN_EMU128 0
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_COMPILE_ALL_ATTAINABLE
#else
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#endif

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "unit/exec_cpu/vector_math_test.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include "exec/cpu/vector_math_inl.h"

HWY_BEFORE_NAMESPACE();
namespace pkv {
namespace HWY_NAMESPACE {

struct VectorMath {
  static constexpr std::int32_t lanes = kLanes;
  static void exp(const float* x, float* y) {
    const F32 d;
    hn::StoreU(exp_nonpositive(d, hn::LoadU(d, x)), d, y);
  }
  static void tanh(const float* x, float* y) {
    const F32 d;
    hn::StoreU(tanh_f32(d, hn::LoadU(d, x)), d, y);
  }
  /// y[i] = sum of lanes of v[i].
  static void sums(const float* v, float* y) {
    const F32 d;
    VF vectors[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      vectors[i] = hn::LoadU(d, v + i * kLanes);
    }
    hn::StoreU(transpose_sums(d, vectors), d, y);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace pkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pkv {
namespace {

struct Functions {
  std::int32_t lanes;
  void (*exp)(const float*, float*);
  void (*tanh)(const float*, float*);
  void (*sums)(const float*, float*);
};

template <class Math>
Functions functions_of() {
  return {Math::lanes, &Math::exp, &Math::tanh, &Math::sums};
}

std::vector<Functions> all_targets() {
  std::vector<Functions> all;
#if HWY_TARGETS & HWY_AVX3
  if ((hwy::SupportedTargets() & HWY_AVX3) != 0) {
    all.push_back(functions_of<N_AVX3::VectorMath>());
  }
#endif
#if HWY_TARGETS & HWY_AVX2
  if ((hwy::SupportedTargets() & HWY_AVX2) != 0) {
    all.push_back(functions_of<N_AVX2::VectorMath>());
  }
#endif
#if HWY_TARGETS & HWY_EMU128
  all.push_back(functions_of<N_EMU128::VectorMath>());
#endif
#if HWY_TARGETS & HWY_NEON
  all.push_back(functions_of<N_NEON::VectorMath>());
#endif
  return all;
}

double apply(std::int32_t lanes, void (*function)(const float*, float*), float x) {
  std::vector<float> in(static_cast<std::size_t>(lanes), x), out(in.size());
  function(in.data(), out.data());
  return out.back();
}

TEST(VectorMath, Exp_StaysWithinItsStatedError) {
  for (const Functions& math : all_targets()) {
    for (double x = -86.9; x <= 0.0; x += 1.37e-3) {
      const auto rounded = static_cast<float>(x);
      const double expected = std::exp(static_cast<double>(rounded));
      ASSERT_NEAR(apply(math.lanes, math.exp, rounded), expected, 2e-7 * expected) << rounded;
    }
  }
}

TEST(VectorMath, ExpAtItsEnds_IsExact) {
  for (const Functions& math : all_targets()) {
    EXPECT_EQ(apply(math.lanes, math.exp, 0.0F), 1.0);
    for (const float x : {-87.1F, -1e3F, -1e5F, -3e38F, -std::numeric_limits<float>::infinity()}) {
      EXPECT_EQ(apply(math.lanes, math.exp, x), 0.0) << x;
    }
  }
}

TEST(VectorMath, Tanh_StaysWithinItsStatedError) {
  for (const Functions& math : all_targets()) {
    for (double x = -12.0; x <= 12.0; x += 7.3e-4) {
      const auto rounded = static_cast<float>(x);
      const double expected = std::tanh(static_cast<double>(rounded));
      ASSERT_NEAR(apply(math.lanes, math.tanh, rounded), expected, 5e-7 * std::abs(expected)) << rounded;
    }
    EXPECT_EQ(apply(math.lanes, math.tanh, 0.0F), 0.0);
    EXPECT_EQ(apply(math.lanes, math.tanh, 1e30F), 1.0);
    EXPECT_EQ(apply(math.lanes, math.tanh, -1e30F), -1.0);
  }
}

TEST(VectorMath, TransposeSums_PutsEachSumInItsLane) {
  for (const Functions& math : all_targets()) {
    std::vector<float> v(static_cast<std::size_t>(math.lanes * math.lanes)), sums(static_cast<std::size_t>(math.lanes));
    for (std::size_t i = 0; i < v.size(); ++i) {
      v[i] = static_cast<float>(i * i % 101);  // integers: sums are exact
    }
    math.sums(v.data(), sums.data());
    for (std::int32_t i = 0; i < math.lanes; ++i) {
      float expected = 0.0F;
      for (std::int32_t j = 0; j < math.lanes; ++j) {
        expected += v[static_cast<std::size_t>(i * math.lanes + j)];
      }
      EXPECT_EQ(sums[static_cast<std::size_t>(i)], expected) << math.lanes << " lanes, sum " << i;
    }
  }
}

}  // namespace
}  // namespace pkv
#endif  // HWY_ONCE

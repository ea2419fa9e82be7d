// Small integer arithmetic. Not here: anything floating.
#pragma once

namespace pkv {

/// Smallest q with q * b >= a. Requires a >= 0, b > 0.
template <typename T>
constexpr T ceil_div(T a, T b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// Smallest multiple of b that is at least a.
template <typename T>
constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace pkv

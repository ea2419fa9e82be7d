// Random bits for test data and replays: fast, seeded, the same everywhere.
// Not here: the paper's traces, whose rule names std::mt19937 (src/trace).
#pragma once

#include <cstdint>

namespace pkv {

/// SplitMix64 (Steele, Lea, Flood 2014): any seed is good, streams of nearby seeds differ.
class SplitMix64 {
 public:
  using result_type = std::uint64_t;

  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

  std::uint64_t operator()() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, bound); the modulo's bias is below 2^-32 for the bounds used here.
  std::uint64_t below(std::uint64_t bound) { return (*this)() % bound; }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }
  /// Approximately normal, mean 0, variance 1, within +-6: four 16-bit uniforms summed.
  float normal() {
    const std::uint64_t bits = (*this)();
    const auto sum =
        static_cast<float>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48));
    return (sum - 131070.0F) * (1.0F / 37837.2F);  // sqrt(4 * (65536^2 - 1) / 12)
  }

  static constexpr std::uint64_t min() { return 0; }
  static constexpr std::uint64_t max() { return ~0ULL; }

 private:
  std::uint64_t state_;
};

}  // namespace pkv

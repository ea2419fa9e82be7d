// Sizes of the GEMMs of one layer: what the MLP proxies of all backends compute.
// Not here: the GEMMs (mlp_proxy.cc, mlp_cublas.cc).
#pragma once

#include <array>
#include <cstdint>

#include "persistentkv/shape.h"
#include "replay/options.h"

namespace pkv {

/// [rows][in] x [in][out].
struct GemmSize {
  std::int64_t in = 0;
  std::int64_t out = 0;
};

inline constexpr std::size_t kNumGemms = 7;
using GemmSizes = std::array<GemmSize, kNumGemms>;

/// Q, K, V, O projections and gate, up, down.
GemmSizes layer_gemms(const AttentionShape& shape, const MlpProxy& sizes);

std::int64_t largest_in(const GemmSizes& sizes);
std::int64_t largest_out(const GemmSizes& sizes);
/// Elements of the largest weight matrix.
std::int64_t largest_weight(const GemmSizes& sizes);
/// Elements of all weights, and of one input and one output activation of `max_rows` that all GEMMs share.
std::int64_t layer_elements(const GemmSizes& sizes, std::int64_t max_rows);

}  // namespace pkv

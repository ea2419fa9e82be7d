// The attention-plus-MLP timing proxy: the GEMMs of one layer around the attention, by oneDNN.
// Not here: attention; norms, activations and residuals, which move little memory.
#pragma once

#include <cstdint>
#include <memory>

#include "persistentkv/result.h"
#include "persistentkv/shape.h"
#include "replay/crew.h"
#include "replay/options.h"

namespace pkv {

/// For `rows` tokens: Q, K, V, O projections and gate, up, down of a gated MLP, seven GEMMs
/// [rows][in] x [in][out] with random weights. bf16 where the CPU has AVX-512, else fp32.
/// They run on oneDNN's own threads: a timing of its own, never inside an attention step.
class MlpLayer {
 public:
  /// Allocates and fills the weights. Runs on the crew's first thread, whose affinity is not pinned.
  /// Errors: kResourceExhausted, kUnsupported with oneDNN's message.
  static Result<std::unique_ptr<MlpLayer>> make(const AttentionShape& shape, const MlpProxy& sizes, std::uint64_t seed,
                                                Crew& crew);
  /// Bytes of weights, and of the copy made while they are laid out.
  static std::int64_t needed_bytes(const AttentionShape& shape, const MlpProxy& sizes);

  virtual ~MlpLayer() = default;
  /// Nanoseconds of all GEMMs for `num_rows` tokens; primitives are made on the first call of a row
  /// count, outside the timing. Returns when oneDNN's threads have stopped spinning.
  virtual Result<std::int64_t> run(std::int32_t num_rows) = 0;
};

}  // namespace pkv

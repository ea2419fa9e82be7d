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
  struct Setting {
    /// Tokens of the largest call.
    std::int64_t max_rows = 1;
    std::uint64_t seed = 1;
  };
  /// Allocates and fills weights and activations. Runs on the crew's first thread, whose affinity is not
  /// pinned. Errors: kResourceExhausted, kUnsupported with oneDNN's message.
  static Result<std::unique_ptr<MlpLayer>> make(const AttentionShape& shape, const MlpProxy& sizes,
                                                const Setting& setting, Crew& crew);
  /// Bytes of weights, of the copy made while they are laid out, and of one input and one output
  /// activation that all GEMMs share.
  static std::int64_t needed_bytes(const AttentionShape& shape, const MlpProxy& sizes, std::int64_t max_rows);

  virtual ~MlpLayer() = default;
  /// Nanoseconds of all GEMMs for `num_rows` tokens; primitives are made on the first call of a row
  /// count, outside the timing. Returns when oneDNN's threads have stopped spinning.
  /// Errors: kOutOfRange above max_rows; those of make.
  virtual Result<std::int64_t> run(std::int32_t num_rows) = 0;
};

}  // namespace pkv

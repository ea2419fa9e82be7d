// Random tensors, fast: gigabytes a second a core, seeded, the same for any number of threads.
// Not here: what the data is for.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "persistentkv/dtype.h"
#include "replay/crew.h"

namespace pkv {

/// A block of normal values (mean 0, variance 1) of one type. Tensors are dealt from it in chunks, each
/// from another offset, so that any two pages of a pool differ at every position although only the block
/// costs random numbers: reading a wrong page, head, slot or element shows.
class RandomBlock {
 public:
  RandomBlock(DType dtype, std::uint64_t seed);

  /// Chunks [chunk_begin, chunk_end) of a tensor of `num_elements`.
  void fill_chunks(void* data, std::int64_t num_elements, std::int64_t chunk_begin, std::int64_t chunk_end) const;
  /// The whole tensor; `stream` chooses other data from the same block.
  void fill(void* data, std::int64_t num_elements, std::uint64_t stream) const;
  /// Every chunk, by all threads of the crew. Errors: kCancelled when `cancelled` said true meanwhile;
  /// those of Crew::run_on_all.
  Status fill(void* data, std::int64_t num_elements, Crew& crew, const std::function<bool()>& cancelled) const;

  static std::int64_t num_chunks(std::int64_t num_elements);
  [[nodiscard]] DType dtype() const { return dtype_; }
  static std::int64_t block_bytes(DType dtype);

 private:
  void fill_one(void* data, std::int64_t num_elements, std::int64_t chunk, std::uint64_t offset_idx) const;

  DType dtype_;
  std::vector<std::uint8_t> block_;
};

}  // namespace pkv

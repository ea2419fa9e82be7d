// One random case of `pkv verify`: what is drawn, and the tensors built from it.
// Not here: running it, comparing it (verify.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "persistentkv/backend.h"
#include "persistentkv/plan.h"
#include "replay/random_data.h"

namespace pkv {

/// Everything drawn for a case, before any tensor exists.
struct CaseSpec {
  AttentionShape shape;
  KvOrder order = KvOrder::kHND;
  KvPacking packing = KvPacking::kSeparate;
  std::int32_t page_size = 16;
  /// Elements left unused after each slot, and after each page.
  std::int64_t slot_gap = 0;
  std::int64_t page_gap = 0;
  /// The same for query and output heads.
  std::int64_t head_gap = 0;
  DType kv_dtype = DType::kF16;
  DType query_dtype = DType::kF16;
  DType out_dtype = DType::kF32;
  std::vector<std::int32_t> seq_lens;
  bool dense_table = false;
  /// Rows share the full pages of a common prefix this long.
  std::int32_t shared_prefix_pages = 0;
  bool wants_lse = true;
  /// One a route.
  std::vector<PlanOptions> plans;

  [[nodiscard]] std::string describe() const;
};

/// The case of (seed, index). `max_head_dim` is the least of the backends under test.
CaseSpec draw_case(SplitMix64& random, std::int32_t max_head_dim);

/// Blocks of random values of each type, made once.
struct RandomBlocks {
  explicit RandomBlocks(std::uint64_t seed)
      : f32(DType::kF32, seed), f16(DType::kF16, seed), bf16(DType::kBF16, seed) {}
  [[nodiscard]] const RandomBlock& of(DType dtype) const {
    return dtype == DType::kF32 ? f32 : dtype == DType::kF16 ? f16 : bf16;
  }
  RandomBlock f32, f16, bf16;
};

/// Tensors of one case; the memory is reused from case to case. What must not be read holds NaN: page
/// tails, pages of no row, tokens before the window, gaps between strides. Table entries that must not
/// be read hold absurd ids.
class CaseTensors {
 public:
  explicit CaseTensors(const RandomBlocks& blocks) : blocks_(blocks) {}

  /// Errors: those of BlockTable and BatchState, which a valid case never has.
  Result<RunArgs> build(const CaseSpec& spec, SplitMix64& random);
  /// Fills the output and the LSE with NaN.
  void poison_outputs();
  /// Output of (row, q_head, element).
  [[nodiscard]] float output(std::int32_t row, std::int32_t q_head, std::int32_t element) const;
  /// Whether the gaps between output heads still hold what poison_outputs left there.
  [[nodiscard]] bool output_gaps_untouched() const;
  [[nodiscard]] std::span<const float> lse() const { return lse_; }
  /// The written bytes, to compare two runs bit by bit.
  [[nodiscard]] const std::vector<std::uint8_t>& output_bytes() const { return out_; }

 private:
  void make_layout();
  void deal_pages(SplitMix64& random);
  void make_table(SplitMix64& random);
  void fill_kv(SplitMix64& random);
  void fill_token(std::int32_t page, std::int32_t slot, SplitMix64& random);
  void fill_queries(SplitMix64& random);
  Result<RunArgs> make_args();

  const RandomBlocks& blocks_;
  CaseSpec spec_;
  KvLayout layout_;
  std::int64_t num_pages_ = 0;
  std::int64_t v_base_ = 0;                       // elements from K to V in kv_
  std::vector<std::vector<std::int32_t>> pages_;  // by row
  std::vector<std::int32_t> indptr_;
  std::vector<std::int32_t> table_;
  std::int32_t table_width_ = 0;
  std::vector<std::uint8_t> kv_;
  std::vector<std::uint8_t> queries_;
  std::vector<std::uint8_t> out_;
  std::vector<float> lse_;
  std::vector<float> sinks_;
};

}  // namespace pkv

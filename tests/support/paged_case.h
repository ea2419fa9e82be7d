// A random paged batch whose every unused element is NaN, a run of it, and the comparison with the oracle.
// Not here: which cases are worth running (decode_suite.cc, backend tests), backends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "persistentkv/backend.h"
#include "persistentkv/plan.h"
#include "persistentkv/reference.h"

namespace pkv::testing {

enum class TableForm : std::uint8_t { kCsr, kDense };

struct CaseSpec {
  AttentionShape shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64};
  std::vector<std::int32_t> lens = {70};
  std::int32_t page_size = 16;
  KvOrder order = KvOrder::kHND;
  KvPacking packing = KvPacking::kSeparate;
  DType kv_dtype = DType::kF16;
  DType q_dtype = DType::kF32;
  DType out_dtype = DType::kF32;
  TableForm table = TableForm::kCsr;
  /// Standard deviation of the queries: large ones make logits of thousands.
  float q_scale = 1.0F;
  /// Elements between the rows and heads of q and out beyond the dense ones.
  std::int64_t padding = 0;
  std::uint64_t seed = 1;

  [[nodiscard]] std::string to_string() const;
};

/// What a backend may add to the rounding of FP32 arithmetic.
struct Tolerance {
  /// Relative error of a softmax weight.
  double weights = 0.0;
};

/// Output and LSE of a run, as float.
struct CaseOutput {
  std::vector<float> out;  // [num_rows][num_q_heads][head_dim]
  std::vector<float> lse;  // [num_rows][num_q_heads]
};

class PagedCase {
 public:
  explicit PagedCase(const CaseSpec& spec);

  [[nodiscard]] const CaseSpec& spec() const { return spec_; }
  [[nodiscard]] const BatchState& batch() const { return *batch_; }
  [[nodiscard]] const PagedKv& kv() const { return kv_; }
  /// Says that the pages lie on NUMA nodes (see PagedKv).
  void set_pages_per_node(std::int64_t pages_per_node) { kv_.pages_per_node = pages_per_node; }

  [[nodiscard]] RunArgs args(void* out, float* lse) const;

  /// Plans, reserves and runs. A failure to do so is a test failure.
  CaseOutput run(Backend& backend, const PlanOptions& options) const;

  /// Memory for out, large enough for any type, with NaN of every type in it.
  [[nodiscard]] std::vector<std::uint32_t> poisoned_out() const {
    return std::vector<std::uint32_t>(q_elements(), 0x7FC07FC0U);
  }

  /// The output heads out of memory that is laid out as args() says.
  [[nodiscard]] CaseOutput gather(const std::vector<std::uint32_t>& raw, std::vector<float> lse) const;

  /// Expects the run to agree with the oracle.
  void expect_correct(Backend& backend, const PlanOptions& options, const Tolerance& tolerance = {});

  /// Expects what was computed elsewhere to agree with the oracle, which is computed once a case.
  void expect_agreement(const CaseOutput& output, const Tolerance& tolerance = {});

  [[nodiscard]] std::size_t num_heads() const {
    return spec_.lens.size() * static_cast<std::size_t>(spec_.shape.num_q_heads);
  }

 private:
  [[nodiscard]] std::size_t q_elements() const {
    const std::int64_t head = spec_.shape.head_dim + spec_.padding;
    return spec_.lens.size() * static_cast<std::size_t>(head * spec_.shape.num_q_heads + spec_.padding);
  }

  static void compare(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
                      double relative, const char* what);

  /// Rows own random pages with holes between; what a row does not attend to has an absurd id.
  void make_tables();

  void make_kv();

  void write_token(std::int32_t row, std::int32_t token);

  void write_vector(void* base, const PageStrides& strides, std::int64_t page, std::int32_t head, std::int32_t slot);

  void make_queries();

  CaseSpec spec_;
  SplitMix64 random_;
  std::int64_t num_pages_ = 0;
  std::vector<std::int32_t> indptr_ = {0}, indices_;
  std::optional<BatchState> batch_;
  std::vector<std::uint32_t> k_, v_, q_;  // raw storage, four bytes an element
  std::vector<float> sinks_;
  PagedKv kv_;
  std::optional<ReferenceOutput> oracle_;
};

}  // namespace pkv::testing

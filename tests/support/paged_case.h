// A random paged batch whose every unused element is NaN, a run of it, and the comparison with the oracle.
// Not here: which cases are worth running (decode_suite.cc, backend tests), backends.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/math.h"
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

  [[nodiscard]] std::string to_string() const {
    std::string text = fmt::format("Hq {} Hkv {} d {} page {} {} {} kv {} q {} out {} seed {} lens", shape.num_q_heads,
                                   shape.num_kv_heads, shape.head_dim, page_size, kv_order_name(order),
                                   packing == KvPacking::kPacked ? "packed" : "separate", dtype_name(kv_dtype),
                                   dtype_name(q_dtype), dtype_name(out_dtype), seed);
    for (const std::int32_t len : lens) {
      text += fmt::format(" {}", len);
    }
    return text;
  }
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
  explicit PagedCase(const CaseSpec& spec) : spec_(spec), random_(spec.seed) {
    make_tables();
    make_kv();
    make_queries();
  }

  [[nodiscard]] const CaseSpec& spec() const { return spec_; }
  [[nodiscard]] const BatchState& batch() const { return *batch_; }
  [[nodiscard]] const PagedKv& kv() const { return kv_; }
  /// Says that the pages lie on NUMA nodes (see PagedKv).
  void set_pages_per_node(std::int64_t pages_per_node) { kv_.pages_per_node = pages_per_node; }

  [[nodiscard]] RunArgs args(void* out, float* lse) const {
    const AttentionShape& shape = spec_.shape;
    const std::int64_t head_stride = shape.head_dim + spec_.padding;
    const std::int64_t row_stride = head_stride * shape.num_q_heads + spec_.padding;
    return {.batch = *batch_,
            .q = {.data = q_.data(), .dtype = spec_.q_dtype, .row_stride = row_stride, .head_stride = head_stride},
            .kv = kv_,
            .out = {.data = out, .dtype = spec_.out_dtype, .row_stride = row_stride, .head_stride = head_stride},
            .lse = lse == nullptr ? std::span<float>() : std::span<float>(lse, num_heads()),
            .sinks = sinks_};
  }

  /// Plans, reserves and runs. A failure to do so is a test failure.
  CaseOutput run(Backend& backend, const PlanOptions& options) const {
    Result<Plan> plan = make_plan(*batch_, options);
    EXPECT_TRUE(plan.ok());
    const Status reserved = backend.reserve(*plan);
    EXPECT_TRUE(reserved.ok()) << (reserved.ok() ? "" : reserved.error().to_string());
    std::vector<std::uint32_t> raw = poisoned_out();
    std::vector<float> lse(num_heads(), std::nanf(""));
    const Result<RunTimes> times = backend.run(*plan, args(raw.data(), lse.data()));
    EXPECT_TRUE(times.ok()) << (times.ok() ? "" : times.error().to_string());
    return gather(raw, std::move(lse));
  }

  /// Memory for out, large enough for any type, with NaN of every type in it.
  [[nodiscard]] std::vector<std::uint32_t> poisoned_out() const {
    return std::vector<std::uint32_t>(q_elements(), 0x7FC07FC0U);
  }

  /// The output heads out of memory that is laid out as args() says.
  [[nodiscard]] CaseOutput gather(const std::vector<std::uint32_t>& raw, std::vector<float> lse) const {
    CaseOutput output = {.out = {}, .lse = std::move(lse)};
    const RunArgs layout = args(nullptr, nullptr);
    for (std::int32_t row = 0; row < batch_->num_rows(); ++row) {
      for (std::int32_t head = 0; head < spec_.shape.num_q_heads; ++head) {
        const std::int64_t first = row * layout.out.row_stride + head * layout.out.head_stride;
        for (std::int32_t i = 0; i < spec_.shape.head_dim; ++i) {
          output.out.push_back(load_element(raw.data(), spec_.out_dtype, first + i));
        }
      }
    }
    return output;
  }

  /// Expects the run to agree with the oracle.
  void expect_correct(Backend& backend, const PlanOptions& options, const Tolerance& tolerance = {}) {
    SCOPED_TRACE(fmt::format("{} route {} splits {} heads a task {} merge {}", spec_.to_string(),
                             route_name(options.route), options.splits.value_or(0),
                             options.kv_heads_per_task.value_or(0), merge_mode_name(options.merge)));
    expect_agreement(run(backend, options), tolerance);
  }

  /// Expects what was computed elsewhere to agree with the oracle, which is computed once a case.
  void expect_agreement(const CaseOutput& output, const Tolerance& tolerance = {}) {
    if (!oracle_) {
      Result<ReferenceOutput> reference = reference_attention(args(q_.data(), nullptr));  // out is not touched
      ASSERT_TRUE(reference.ok()) << reference.error().to_string();
      oracle_ = *std::move(reference);
    }
    // FP32 arithmetic, then half a unit in the last place of the output type. Logits of thousands carry
    // their own FP32 rounding into the weights. Values lie within +-6.
    const double rounding = spec_.out_dtype == DType::kF32 ? 0.0 : spec_.out_dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
    const double logit_error = 2e-6 * std::max(1.0F, spec_.q_scale);
    compare(output.out, oracle_->out, 1e-5 + 2 * logit_error + 6 * tolerance.weights, rounding, "out");
    compare(output.lse, oracle_->lse, 1e-5 + logit_error + tolerance.weights, 0x1p-22, "lse");
  }

  [[nodiscard]] std::size_t num_heads() const {
    return spec_.lens.size() * static_cast<std::size_t>(spec_.shape.num_q_heads);
  }

 private:
  [[nodiscard]] std::size_t q_elements() const {
    const std::int64_t head = spec_.shape.head_dim + spec_.padding;
    return spec_.lens.size() * static_cast<std::size_t>(head * spec_.shape.num_q_heads + spec_.padding);
  }

  static void compare(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
                      double relative, const char* what) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      if (std::isinf(expected[i])) {
        ASSERT_EQ(actual[i], static_cast<float>(expected[i])) << what << " " << i;
      } else {
        ASSERT_NEAR(actual[i], expected[i], absolute + relative * std::abs(expected[i])) << what << " " << i;
      }
    }
  }

  /// Rows own random pages with holes between; what a row does not attend to has an absurd id.
  void make_tables() {
    std::vector<std::int32_t> pages_of_row;
    for (const std::int32_t len : spec_.lens) {
      pages_of_row.push_back(ceil_div(len, spec_.page_size));
    }
    const std::int32_t used = std::accumulate(pages_of_row.begin(), pages_of_row.end(), 0);
    num_pages_ = used + used / 2 + 2;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(num_pages_));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::size_t j = random_.below(i + 1);
      ids[i] = ids[j];
      ids[j] = static_cast<std::int32_t>(i);
    }
    const std::int32_t width = *std::max_element(pages_of_row.begin(), pages_of_row.end()) + 3;
    std::size_t next = 0;
    for (std::size_t row = 0; row < spec_.lens.size(); ++row) {
      const std::int32_t first_attended = spec_.shape.attended(spec_.lens[row]).begin / spec_.page_size;
      for (std::int32_t p = 0; p < (spec_.table == TableForm::kCsr ? pages_of_row[row] : width); ++p) {
        const bool attended = p >= first_attended && p < pages_of_row[row];
        indices_.push_back(attended ? ids[next++] : p % 2 == 0 ? -7 : std::numeric_limits<std::int32_t>::max());
      }
      indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
    }
    const auto rows = static_cast<std::int32_t>(spec_.lens.size());
    Result<BlockTable> table =
        spec_.table == TableForm::kCsr ? BlockTable::csr(indptr_, indices_) : BlockTable::dense(indices_, rows, width);
    ASSERT_TRUE(table.ok()) << table.error().to_string();
    Result<BatchState> batch = BatchState::make({.shape = spec_.shape,
                                                 .page_size = spec_.page_size,
                                                 .seq_lens = spec_.lens,
                                                 .block_table = *table,
                                                 .num_pages = num_pages_});
    ASSERT_TRUE(batch.ok()) << batch.error().to_string();
    batch_ = *std::move(batch);
  }

  void make_kv() {
    const Result<KvLayout> layout = KvLayout::make(spec_.order, spec_.packing, spec_.page_size, spec_.shape);
    ASSERT_TRUE(layout.ok());
    const std::size_t elements = static_cast<std::size_t>(num_pages_ * layout->page_elements());
    k_.assign(elements, 0xFFFFFFFFU);  // NaN in every type, and never too small: four bytes an element
    v_.assign(spec_.packing == KvPacking::kPacked ? 0 : elements, 0xFFFFFFFFU);
    kv_ =
        spec_.packing == KvPacking::kPacked
            ? PagedKv::packed(k_.data(), spec_.kv_dtype, *layout, num_pages_)
            : PagedKv{
                  .k = k_.data(), .v = v_.data(), .dtype = spec_.kv_dtype, .layout = *layout, .num_pages = num_pages_};
    for (std::int32_t row = 0; row < batch_->num_rows(); ++row) {
      const TokenRange tokens = batch_->attended(row);
      for (std::int32_t token = tokens.begin; token < tokens.end; ++token) {
        write_token(row, token);
      }
    }
  }

  void write_token(std::int32_t row, std::int32_t token) {
    const std::int64_t page = batch_->block_table().row(row)[static_cast<std::size_t>(token / spec_.page_size)];
    for (std::int32_t head = 0; head < spec_.shape.num_kv_heads; ++head) {
      write_vector(const_cast<void*>(kv_.k), kv_.layout.k_strides, page, head, token % spec_.page_size);
      write_vector(const_cast<void*>(kv_.v), kv_.layout.v_strides, page, head, token % spec_.page_size);
    }
  }

  void write_vector(void* base, const PageStrides& strides, std::int64_t page, std::int32_t head, std::int32_t slot) {
    const std::int64_t first = page * strides.page + head * strides.kv_head + slot * strides.slot;
    for (std::int32_t i = 0; i < spec_.shape.head_dim; ++i) {
      store_element(base, spec_.kv_dtype, first + i, random_.normal());
    }
  }

  void make_queries() {
    q_.assign(q_elements(), 0xFFFFFFFFU);
    const RunArgs layout = args(nullptr, nullptr);
    for (std::int32_t row = 0; row < batch_->num_rows(); ++row) {
      for (std::int32_t head = 0; head < spec_.shape.num_q_heads; ++head) {
        for (std::int32_t i = 0; i < spec_.shape.head_dim; ++i) {
          store_element(q_.data(), spec_.q_dtype, row * layout.q.row_stride + head * layout.q.head_stride + i,
                        spec_.q_scale * random_.normal());
        }
      }
    }
    if (spec_.shape.sinks == Sinks::kPerQueryHead) {
      for (std::int32_t head = 0; head < spec_.shape.num_q_heads; ++head) {
        sinks_.push_back(3.0F * random_.normal());
      }
    }
  }

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

// Making the case of paged_case.h, and the comparison: what takes most of the time of tests that decode.
// Not here: which cases are worth running (decode_suite.cc, backend tests), backends.
#include "support/paged_case.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "base/math.h"

namespace pkv::testing {

std::string CaseSpec::to_string() const {
  std::string text = fmt::format("Hq {} Hkv {} d {} page {} {} {} kv {} q {} out {} seed {} lens", shape.num_q_heads,
                                 shape.num_kv_heads, shape.head_dim, page_size, kv_order_name(order),
                                 packing == KvPacking::kPacked ? "packed" : "separate", dtype_name(kv_dtype),
                                 dtype_name(q_dtype), dtype_name(out_dtype), seed);
  for (const std::int32_t len : lens) {
    text += fmt::format(" {}", len);
  }
  return text;
}

PagedCase::PagedCase(const CaseSpec& spec) : spec_(spec), random_(spec.seed) {
  make_tables();
  make_kv();
  make_queries();
}

RunArgs PagedCase::args(void* out, float* lse) const {
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

CaseOutput PagedCase::run(Backend& backend, const PlanOptions& options) const {
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

CaseOutput PagedCase::gather(const std::vector<std::uint32_t>& raw, std::vector<float> lse) const {
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

void PagedCase::expect_correct(Backend& backend, const PlanOptions& options, const Tolerance& tolerance) {
  SCOPED_TRACE(fmt::format("{} route {} splits {} heads a task {} merge {}", spec_.to_string(),
                           route_name(options.route), options.splits.value_or(0), options.kv_heads_per_task.value_or(0),
                           merge_mode_name(options.merge)));
  expect_agreement(run(backend, options), tolerance);
}

void PagedCase::expect_agreement(const CaseOutput& output, const Tolerance& tolerance) {
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

void PagedCase::compare(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
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

void PagedCase::make_tables() {
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

void PagedCase::make_kv() {
  const Result<KvLayout> layout = KvLayout::make(spec_.order, spec_.packing, spec_.page_size, spec_.shape);
  ASSERT_TRUE(layout.ok());
  const std::size_t elements = static_cast<std::size_t>(num_pages_ * layout->page_elements());
  k_.assign(elements, 0xFFFFFFFFU);  // NaN in every type, and never too small: four bytes an element
  v_.assign(spec_.packing == KvPacking::kPacked ? 0 : elements, 0xFFFFFFFFU);
  kv_ = spec_.packing == KvPacking::kPacked
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

void PagedCase::write_token(std::int32_t row, std::int32_t token) {
  const std::int64_t page = batch_->block_table().row(row)[static_cast<std::size_t>(token / spec_.page_size)];
  for (std::int32_t head = 0; head < spec_.shape.num_kv_heads; ++head) {
    write_vector(const_cast<void*>(kv_.k), kv_.layout.k_strides, page, head, token % spec_.page_size);
    write_vector(const_cast<void*>(kv_.v), kv_.layout.v_strides, page, head, token % spec_.page_size);
  }
}

void PagedCase::write_vector(void* base, const PageStrides& strides, std::int64_t page, std::int32_t head,
                             std::int32_t slot) {
  const std::int64_t first = page * strides.page + head * strides.kv_head + slot * strides.slot;
  for (std::int32_t i = 0; i < spec_.shape.head_dim; ++i) {
    store_element(base, spec_.kv_dtype, first + i, random_.normal());
  }
}

void PagedCase::make_queries() {
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

}  // namespace pkv::testing

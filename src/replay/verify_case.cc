// Drawing a case, and building its tensors with poison around what may be read.
#include "replay/verify_case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "base/math.h"

namespace pkv {
namespace {

// Multiply-adds of one case in float64, K and V together: about 1 ms of the oracle.
constexpr std::int64_t kCaseWork = 1 << 20;
constexpr std::int32_t kMaxRowsOfCase = 12;
constexpr std::int32_t kMaxTokensOfRow = 3000;
constexpr std::uint8_t kPoison = 0xFF;  // NaN in fp32, fp16 and bf16 alike
constexpr std::int32_t kAbsurdIds[] = {-1, -7, std::numeric_limits<std::int32_t>::max(),
                                       std::numeric_limits<std::int32_t>::min(), 1 << 30};

bool one_in(SplitMix64& random, std::uint64_t n) { return random.below(n) == 0; }

/// Uniform in [low, high].
std::int32_t between(SplitMix64& random, std::int32_t low, std::int32_t high) {
  return low + static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(high - low + 1)));
}

template <typename T, std::size_t N>
T pick(SplitMix64& random, const T (&values)[N]) {
  return values[random.below(N)];
}

std::int32_t draw_group_size(SplitMix64& random) {
  const std::uint64_t kind = random.below(10);
  if (kind < 7) {
    return between(random, 1, 8);
  }
  return kind < 8 ? 16 : between(random, 9, kMaxGroupSize);
}

std::int32_t draw_head_dim(SplitMix64& random, std::int32_t max_head_dim) {
  constexpr std::int32_t kCommon[] = {64, 128, 128, 256, 32, 80, 96};
  const std::int32_t head_dim = one_in(random, 3)
                                    ? kHeadDimMultiple * between(random, 1, max_head_dim / kHeadDimMultiple)
                                    : pick(random, kCommon);
  return std::min(head_dim, max_head_dim);
}

std::int32_t draw_page_size(SplitMix64& random) {
  constexpr std::int32_t kCommon[] = {16, 16, 16, 32, 64, 8, 1, 128, 256};
  return one_in(random, 3) ? between(random, 1, kMaxPageSize) : pick(random, kCommon);
}

AttentionShape draw_shape(SplitMix64& random, std::int32_t max_head_dim) {
  AttentionShape shape;
  const std::int32_t group_size = draw_group_size(random);
  shape.num_kv_heads = group_size > 16 ? between(random, 1, 2) : between(random, 1, 8);
  shape.num_q_heads = shape.num_kv_heads * group_size;
  shape.head_dim = draw_head_dim(random, max_head_dim);
  if (one_in(random, 4)) {
    const double largest = one_in(random, 4) ? 100.0 : 1.5;
    const double factor = (random.uniform() * 2.0 - 1.0) * largest;
    shape.softmax_scale = static_cast<float>(factor) * shape.scale();
  }
  constexpr float kCaps[] = {1.0F, 5.0F, 30.0F, 50.0F};
  if (one_in(random, 4)) {
    shape.logit_soft_cap = pick(random, kCaps);
  }
  if (one_in(random, 4)) {
    shape.sinks = Sinks::kPerQueryHead;
  }
  return shape;
}

std::int32_t draw_length(SplitMix64& random, std::int32_t page_size, std::int32_t longest) {
  const std::int32_t edges[] = {0, 1, page_size - 1, page_size, page_size + 1, 31, 32, 33};
  const std::int32_t length = one_in(random, 4) ? pick(random, edges) : between(random, 0, longest);
  return std::min(length, longest);
}

std::vector<std::int32_t> draw_lengths(SplitMix64& random, const AttentionShape& shape, std::int32_t page_size) {
  std::int64_t tokens = kCaseWork / (2 * std::int64_t{shape.num_q_heads} * shape.head_dim);
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(between(random, 1, kMaxRowsOfCase)));
  for (std::int32_t& length : lengths) {
    const auto longest = static_cast<std::int32_t>(std::clamp<std::int64_t>(tokens, 1, kMaxTokensOfRow));
    length = draw_length(random, page_size, longest);
    tokens -= length;
  }
  for (std::size_t i = lengths.size(); i > 1; --i) {  // the first rows would always be the longest
    std::swap(lengths[i - 1], lengths[random.below(i)]);
  }
  return lengths;
}

std::vector<PlanOptions> draw_plans(SplitMix64& random, const AttentionShape& shape) {
  constexpr std::int32_t kTiles[] = {32, 32, 32, 16, 64, 1, 48};
  std::vector<PlanOptions> plans;
  for (const Route route : kAllRoutes) {
    PlanOptions options;
    options.route = route;
    options.num_workers = between(random, 1, 9);
    options.tile_tokens = pick(random, kTiles);
    if (route != Route::kRow && !one_in(random, 3)) {
      options.splits = one_in(random, 3) ? between(random, 1, 64) : between(random, 1, 8);
    }
    if (one_in(random, 3)) {
      options.kv_heads_per_task = between(random, 1, shape.num_kv_heads);
    }
    plans.push_back(options);
  }
  return plans;
}

std::string optional_text(const char* name, bool present, double value) {
  return present ? fmt::format(" {}={:g}", name, value) : std::string{};
}

}  // namespace

std::string CaseSpec::describe() const {
  std::string text =
      fmt::format("q_heads={} kv_heads={} head_dim={}", shape.num_q_heads, shape.num_kv_heads, shape.head_dim);
  text += optional_text("scale", shape.softmax_scale.has_value(), shape.softmax_scale.value_or(0.0F));
  text += optional_text("soft_cap", shape.logit_soft_cap.has_value(), shape.logit_soft_cap.value_or(0.0F));
  text += optional_text("window", shape.sliding_window_tokens.has_value(), shape.sliding_window_tokens.value_or(0));
  text += shape.sinks == Sinks::kPerQueryHead ? " sinks" : "";
  text += fmt::format(" {} {} page_size={} slot_gap={} page_gap={} head_gap={}", kv_order_name(order),
                      packing == KvPacking::kPacked ? "packed" : "separate", page_size, slot_gap, page_gap, head_gap);
  text +=
      fmt::format(" kv={} q={} out={} table={} shared_pages={} lens={}", dtype_name(kv_dtype), dtype_name(query_dtype),
                  dtype_name(out_dtype), dense_table ? "dense" : "csr", shared_prefix_pages, fmt::join(seq_lens, ","));
  return text;
}

CaseSpec draw_case(SplitMix64& random, std::int32_t max_head_dim) {
  constexpr DType kTypes[] = {DType::kF16, DType::kBF16, DType::kF32};
  CaseSpec spec;
  spec.shape = draw_shape(random, max_head_dim);
  spec.order = one_in(random, 2) ? KvOrder::kHND : KvOrder::kNHD;
  spec.packing = one_in(random, 3) ? KvPacking::kPacked : KvPacking::kSeparate;
  spec.page_size = draw_page_size(random);
  spec.slot_gap = one_in(random, 8) ? between(random, 1, 24) : 0;
  spec.page_gap = one_in(random, 8) ? between(random, 1, 100) : 0;
  spec.head_gap = one_in(random, 8) ? between(random, 1, 24) : 0;
  spec.kv_dtype = pick(random, kTypes);
  spec.query_dtype = one_in(random, 4) ? pick(random, kTypes) : spec.kv_dtype;
  spec.out_dtype = one_in(random, 2) ? DType::kF32 : pick(random, kTypes);
  spec.seq_lens = draw_lengths(random, spec.shape, spec.page_size);
  if (one_in(random, 4)) {
    const std::int32_t longest = *std::max_element(spec.seq_lens.begin(), spec.seq_lens.end());
    spec.shape.sliding_window_tokens = between(random, 1, std::max(1, longest));
  }
  spec.dense_table = one_in(random, 2);
  spec.shared_prefix_pages = one_in(random, 6) ? between(random, 1, 8) : 0;
  spec.wants_lse = !one_in(random, 8);
  spec.plans = draw_plans(random, spec.shape);
  return spec;
}

Result<RunArgs> CaseTensors::build(const CaseSpec& spec, SplitMix64& random) {
  spec_ = spec;
  make_layout();
  deal_pages(random);
  make_table(random);
  fill_kv(random);
  fill_queries(random);
  return make_args();
}

void CaseTensors::make_layout() {
  const std::int64_t slot_elements = spec_.shape.head_dim + spec_.slot_gap;
  const std::int64_t heads = spec_.shape.num_kv_heads;
  PageStrides strides;
  if (spec_.order == KvOrder::kHND) {
    strides.slot = slot_elements;
    strides.kv_head = slot_elements * spec_.page_size;
  } else {
    strides.kv_head = slot_elements;
    strides.slot = slot_elements * heads;
  }
  const std::int64_t half_page = slot_elements * spec_.page_size * heads + spec_.page_gap;
  const bool packed = spec_.packing == KvPacking::kPacked;
  strides.page = packed ? 2 * half_page : half_page;
  layout_ = {
      .page_size = spec_.page_size, .k_strides = strides, .v_strides = strides, .v_offset = packed ? half_page : 0};
}

void CaseTensors::deal_pages(SplitMix64& random) {
  const auto pages_of = [&](std::int32_t tokens) { return ceil_div(tokens, spec_.page_size); };
  std::int64_t used = 0;
  for (const std::int32_t length : spec_.seq_lens) {
    used += pages_of(length);
  }
  num_pages_ = used + between(random, 1, 5);
  std::vector<std::int32_t> deal(static_cast<std::size_t>(num_pages_));
  std::iota(deal.begin(), deal.end(), 0);
  for (std::size_t i = deal.size(); i > 1; --i) {
    std::swap(deal[i - 1], deal[random.below(i)]);
  }
  pages_.assign(spec_.seq_lens.size(), {});
  for (std::size_t row = 0; row < pages_.size(); ++row) {
    // Only full pages of both rows may be shared: a tail is one row's poison and another's data.
    const std::int32_t full = std::min(spec_.seq_lens[row], spec_.seq_lens[0]) / spec_.page_size;
    const std::int32_t shared = row == 0 ? 0 : std::min(full, spec_.shared_prefix_pages);
    for (std::int32_t p = 0; p < pages_of(spec_.seq_lens[row]); ++p) {
      pages_[row].push_back(p < shared ? pages_[0][static_cast<std::size_t>(p)] : deal.back());
      if (p >= shared) {
        deal.pop_back();
      }
    }
  }
}

void CaseTensors::make_table(SplitMix64& random) {
  const auto width = [&] {
    std::size_t most = 0;
    for (const auto& row : pages_) {
      most = std::max(most, row.size());
    }
    return most + random.below(4);
  }();
  table_width_ = static_cast<std::int32_t>(width);
  indptr_.assign(1, 0);
  table_.clear();
  for (std::size_t row = 0; row < pages_.size(); ++row) {
    // Pages wholly before the window are never read, and neither are entries after the last page.
    const auto first = static_cast<std::size_t>(spec_.shape.attended(spec_.seq_lens[row]).begin / spec_.page_size);
    const std::size_t entries = spec_.dense_table ? width : pages_[row].size() + random.below(3);
    for (std::size_t p = 0; p < entries; ++p) {
      const bool used = p >= first && p < pages_[row].size();
      table_.push_back(used ? pages_[row][p] : pick(random, kAbsurdIds));
    }
    indptr_.push_back(static_cast<std::int32_t>(table_.size()));
  }
}

void CaseTensors::fill_kv(SplitMix64& random) {
  const std::int64_t tensor_elements = num_pages_ * layout_.k_strides.page;
  const bool packed = spec_.packing == KvPacking::kPacked;
  v_base_ = packed ? layout_.v_offset : tensor_elements;
  const std::int64_t elements = packed ? tensor_elements : 2 * tensor_elements;
  kv_.assign(static_cast<std::size_t>(elements * dtype_bytes(spec_.kv_dtype)), kPoison);
  for (std::size_t row = 0; row < pages_.size(); ++row) {
    const TokenRange tokens = spec_.shape.attended(spec_.seq_lens[row]);
    for (std::int32_t token = tokens.begin; token < tokens.end; ++token) {
      fill_token(pages_[row][static_cast<std::size_t>(token / spec_.page_size)], token % spec_.page_size, random);
    }
  }
}

void CaseTensors::fill_token(std::int32_t page, std::int32_t slot, SplitMix64& random) {
  const std::int64_t element_bytes = dtype_bytes(spec_.kv_dtype);
  const PageStrides& strides = layout_.k_strides;
  for (std::int32_t head = 0; head < spec_.shape.num_kv_heads; ++head) {
    const std::int64_t first = page * strides.page + head * strides.kv_head + slot * strides.slot;
    for (const std::int64_t base : {std::int64_t{0}, v_base_}) {
      blocks_.of(spec_.kv_dtype).fill(kv_.data() + (base + first) * element_bytes, spec_.shape.head_dim, random());
    }
  }
}

void CaseTensors::fill_queries(SplitMix64& random) {
  const auto rows = static_cast<std::int64_t>(spec_.seq_lens.size());
  const std::int64_t heads = rows * spec_.shape.num_q_heads;
  const std::int64_t stride = spec_.shape.head_dim + spec_.head_gap;
  const std::int64_t element_bytes = dtype_bytes(spec_.query_dtype);
  queries_.assign(static_cast<std::size_t>(heads * stride * element_bytes), kPoison);
  for (std::int64_t head = 0; head < heads; ++head) {
    blocks_.of(spec_.query_dtype).fill(queries_.data() + head * stride * element_bytes, spec_.shape.head_dim, random());
  }
  out_.resize(static_cast<std::size_t>(heads * stride * dtype_bytes(spec_.out_dtype)));
  lse_.resize(spec_.wants_lse ? static_cast<std::size_t>(heads) : 0);
  sinks_.resize(spec_.shape.sinks == Sinks::kPerQueryHead ? static_cast<std::size_t>(spec_.shape.num_q_heads) : 0);
  std::generate(sinks_.begin(), sinks_.end(), [&] { return 3.0F * random.normal(); });
}

Result<RunArgs> CaseTensors::make_args() {
  const auto num_rows = static_cast<std::int32_t>(spec_.seq_lens.size());
  const auto table =
      spec_.dense_table ? BlockTable::dense(table_, num_rows, table_width_) : BlockTable::csr(indptr_, table_);
  if (!table.ok()) {
    return table.error();
  }
  const auto batch = BatchState::make({.shape = spec_.shape,
                                       .page_size = spec_.page_size,
                                       .seq_lens = spec_.seq_lens,
                                       .block_table = *table,
                                       .num_pages = num_pages_});
  if (!batch.ok()) {
    return batch.error();
  }
  const std::int64_t head_stride = spec_.shape.head_dim + spec_.head_gap;
  const std::int64_t row_stride = head_stride * spec_.shape.num_q_heads;
  RunArgs args;
  args.batch = *batch;
  args.q = {.data = queries_.data(), .dtype = spec_.query_dtype, .row_stride = row_stride, .head_stride = head_stride};
  args.kv = {.k = kv_.data(),
             .v = kv_.data() + v_base_ * dtype_bytes(spec_.kv_dtype),
             .dtype = spec_.kv_dtype,
             .layout = layout_,
             .num_pages = num_pages_};
  args.out = {.data = out_.data(), .dtype = spec_.out_dtype, .row_stride = row_stride, .head_stride = head_stride};
  args.lse = lse_;
  args.sinks = sinks_;
  return args;
}

void CaseTensors::poison_outputs() {
  std::fill(out_.begin(), out_.end(), kPoison);
  std::fill(lse_.begin(), lse_.end(), std::numeric_limits<float>::quiet_NaN());
}

float CaseTensors::output(std::int32_t row, std::int32_t q_head, std::int32_t element) const {
  const std::int64_t head = std::int64_t{row} * spec_.shape.num_q_heads + q_head;
  return load_element(out_.data(), spec_.out_dtype, head * (spec_.shape.head_dim + spec_.head_gap) + element);
}

bool CaseTensors::output_gaps_untouched() const {
  const std::int64_t element_bytes = dtype_bytes(spec_.out_dtype);
  const auto stride = (spec_.shape.head_dim + spec_.head_gap) * element_bytes;
  const auto gap = spec_.head_gap * element_bytes;
  for (auto end = stride; end <= static_cast<std::int64_t>(out_.size()); end += stride) {
    if (!std::all_of(out_.begin() + (end - gap), out_.begin() + end,
                     [](std::uint8_t byte) { return byte == kPoison; })) {
      return false;
    }
  }
  return true;
}

}  // namespace pkv

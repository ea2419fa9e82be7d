// Float64 attention and merge over paged inputs: the formulas of shape.h, one after the other.
// Not here: speed. Each K and V vector is widened once a KV head, nothing more.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/half.h"
#include "persistentkv/reference.h"

namespace pkv {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// The head_dim elements of one (page, kv_head, slot), in float64.
void load_vector(const void* base, const PagedKv& kv, const PageStrides& strides, std::int64_t page,
                 std::int32_t kv_head, std::int32_t slot, std::span<double> vector) {
  const std::int64_t first = page * strides.page + kv_head * strides.kv_head + slot * strides.slot;
  for (std::size_t i = 0; i < vector.size(); ++i) {
    vector[i] = load_element(base, kv.dtype, first + static_cast<std::int64_t>(i));
  }
}

// Visits the K or V vectors of one KV head over a token range: visit(token - tokens.begin, vector).
template <typename Visit>
void for_each_vector(const RunArgs& args, const void* base, const PageStrides& strides, std::int32_t row,
                     std::int32_t kv_head, TokenRange tokens, Visit visit) {
  const std::span<const std::int32_t> pages = args.batch.block_table().row(row);
  std::vector<double> vector(static_cast<std::size_t>(args.batch.shape().head_dim));
  for (std::int32_t token = tokens.begin; token < tokens.end; ++token) {
    const std::int32_t page = pages[static_cast<std::size_t>(token / args.batch.page_size())];
    load_vector(base, args.kv, strides, page, kv_head, token % args.batch.page_size(), vector);
    visit(static_cast<std::size_t>(token - tokens.begin), vector);
  }
}

std::vector<double> load_query(const RunArgs& args, std::int32_t row, std::int32_t q_head) {
  std::vector<double> query(static_cast<std::size_t>(args.batch.shape().head_dim));
  const std::int64_t first = row * args.q.row_stride + q_head * args.q.head_stride;
  for (std::size_t i = 0; i < query.size(); ++i) {
    query[i] = load_element(args.q.data, args.q.dtype, first + static_cast<std::int64_t>(i));
  }
  return query;
}

double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

void add_scaled(std::span<double> sum, double weight, std::span<const double> vector) {
  for (std::size_t i = 0; i < vector.size(); ++i) {
    sum[i] += weight * vector[i];
  }
}

double logit(const AttentionShape& shape, double product) {
  const double x = static_cast<double>(shape.scale()) * product;
  if (!shape.logit_soft_cap.has_value()) {
    return x;
  }
  const auto cap = static_cast<double>(*shape.logit_soft_cap);
  return cap * std::tanh(x / cap);
}

// States of the query heads [q_begin, q_end) of one KV head over a token range.
std::vector<ReferenceState> group_states(const RunArgs& args, std::int32_t row, std::int32_t kv_head,
                                         std::int32_t q_begin, std::int32_t q_end, TokenRange tokens) {
  const AttentionShape& shape = args.batch.shape();
  const auto num_heads = static_cast<std::size_t>(q_end - q_begin);
  const auto head_dim = static_cast<std::size_t>(shape.head_dim);
  std::vector<ReferenceState> states(num_heads, {kMinusInfinity, 0.0, std::vector<double>(head_dim, 0.0)});
  std::vector<std::vector<double>> queries;
  for (std::int32_t q_head = q_begin; q_head < q_end; ++q_head) {
    queries.push_back(load_query(args, row, q_head));
  }
  std::vector<std::vector<double>> x(num_heads, std::vector<double>(static_cast<std::size_t>(tokens.size())));
  for_each_vector(args, args.kv.k, args.kv.layout.k_strides, row, kv_head, tokens,
                  [&](std::size_t j, const std::vector<double>& k) {
                    for (std::size_t h = 0; h < num_heads; ++h) {
                      x[h][j] = logit(shape, dot(queries[h], k));
                      states[h].m = std::max(states[h].m, x[h][j]);
                    }
                  });
  for_each_vector(args, args.kv.v, args.kv.layout.v_strides, row, kv_head, tokens,
                  [&](std::size_t j, const std::vector<double>& v) {
                    for (std::size_t h = 0; h < num_heads; ++h) {
                      if (states[h].m == kMinusInfinity) {
                        continue;  // logits of -inf alone weigh nothing, as no tokens at all
                      }
                      const double weight = std::exp(x[h][j] - states[h].m);
                      states[h].l += weight;
                      add_scaled(states[h].acc, weight, v);
                    }
                  });
  return states;
}

// A sink is one more logit without a value vector.
void add_sink(ReferenceState& state, double sink) {
  const double m = std::max(state.m, sink);
  if (m == kMinusInfinity) {
    return;  // nothing attended, and a sink of no weight; exp(-inf - -inf) would be NaN
  }
  const double factor = state.m == kMinusInfinity ? 0.0 : std::exp(state.m - m);
  for (double& a : state.acc) {
    a *= factor;
  }
  state.l = state.l * factor + std::exp(sink - m);
  state.m = m;
}

}  // namespace

ReferenceState reference_state(const RunArgs& args, std::int32_t row, std::int32_t q_head, TokenRange tokens) {
  const std::int32_t kv_head = q_head / args.batch.shape().group_size();
  return std::move(group_states(args, row, kv_head, q_head, q_head + 1, tokens).front());
}

ReferenceState reference_merge(std::span<const ReferenceState> states) {
  ReferenceState merged{kMinusInfinity, 0.0, {}};
  for (const ReferenceState& state : states) {
    merged.m = std::max(merged.m, state.m);
    merged.acc.resize(state.acc.size(), 0.0);
  }
  for (const ReferenceState& state : states) {
    if (state.m == kMinusInfinity) {
      continue;  // neutral; exp(-inf - -inf) would be NaN
    }
    const double factor = std::exp(state.m - merged.m);
    merged.l += factor * state.l;
    for (std::size_t i = 0; i < state.acc.size(); ++i) {
      merged.acc[i] += factor * state.acc[i];
    }
  }
  return merged;
}

void reference_attention_heads(const RunArgs& args, std::int32_t row, std::int32_t kv_head, std::span<double> out,
                               std::span<double> lse) {
  const AttentionShape& shape = args.batch.shape();
  const auto head_dim = static_cast<std::size_t>(shape.head_dim);
  const std::int32_t q_begin = kv_head * shape.group_size();
  std::vector<ReferenceState> states =
      group_states(args, row, kv_head, q_begin, q_begin + shape.group_size(), args.batch.attended(row));
  for (std::size_t h = 0; h < states.size(); ++h) {
    if (shape.sinks == Sinks::kPerQueryHead) {
      add_sink(states[h], args.sinks[static_cast<std::size_t>(q_begin) + h]);
    }
    const bool empty = states[h].l == 0.0;
    lse[h] = empty ? kMinusInfinity : states[h].m + std::log(states[h].l);
    for (std::size_t i = 0; i < head_dim; ++i) {
      out[h * head_dim + i] = empty ? 0.0 : states[h].acc[i] / states[h].l;
    }
  }
}

void reference_attention_row(const RunArgs& args, std::int32_t row, std::span<double> out, std::span<double> lse) {
  const AttentionShape& shape = args.batch.shape();
  const auto group = static_cast<std::size_t>(shape.group_size());
  const std::size_t group_elements = group * static_cast<std::size_t>(shape.head_dim);
  for (std::int32_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    const auto i = static_cast<std::size_t>(kv_head);
    reference_attention_heads(args, row, kv_head, out.subspan(i * group_elements, group_elements),
                              lse.subspan(i * group, group));
  }
}

Result<ReferenceOutput> reference_attention(const RunArgs& args) {
  const AttentionShape& shape = args.batch.shape();
  PKV_RETURN_IF_ERROR(validate(args.kv, shape));
  const std::size_t num_sinks = shape.sinks == Sinks::kPerQueryHead ? static_cast<std::size_t>(shape.num_q_heads) : 0;
  if (args.sinks.size() != num_sinks) {
    return Error{
        ErrorCode::kInvalidArgument,
        "has " + std::to_string(args.sinks.size()) + " entries; the shape asks for " + std::to_string(num_sinks),
        "sinks"};
  }
  const auto rows = static_cast<std::size_t>(args.batch.num_rows());
  const auto heads = static_cast<std::size_t>(shape.num_q_heads);
  const std::size_t row_elements = heads * static_cast<std::size_t>(shape.head_dim);
  ReferenceOutput output{std::vector<double>(rows * row_elements), std::vector<double>(rows * heads)};
  for (std::size_t row = 0; row < rows; ++row) {
    reference_attention_row(args, static_cast<std::int32_t>(row),
                            std::span(output.out).subspan(row * row_elements, row_elements),
                            std::span(output.lse).subspan(row * heads, heads));
  }
  return output;
}

}  // namespace pkv

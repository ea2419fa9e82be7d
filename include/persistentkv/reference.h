// The oracle: float64 attention over paged inputs, and the merge. Written for reading, not for speed.
// Not here: SIMD, threads, schedules.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"

namespace pkv {

/// Output and LSE of some rows in float64.
struct ReferenceOutput {
  std::vector<double> out;  // [num_rows][num_q_heads][head_dim]
  std::vector<double> lse;  // [num_rows][num_q_heads]
};

/// Attention of every row; args.out and args.lse are not touched. Reads K and V of attended tokens
/// only. Errors: as validate of its parts.
Result<ReferenceOutput> reference_attention(const RunArgs& args);

/// One row: out [num_q_heads][head_dim], lse [num_q_heads]. Requires validated args.
void reference_attention_row(const RunArgs& args, std::int32_t row, std::span<double> out, std::span<double> lse);

/// The query heads of one KV head of one row: out [group_size][head_dim], lse [group_size]. The smallest
/// unit of work that reads each K and V vector once. Requires validated args.
void reference_attention_heads(const RunArgs& args, std::int32_t row, std::int32_t kv_head, std::span<double> out,
                               std::span<double> lse);

/// One split's state in float64.
struct ReferenceState {
  double m;
  double l;
  std::vector<double> acc;
};

/// State over a token range of one (row, query head). Requires validated args.
ReferenceState reference_state(const RunArgs& args, std::int32_t row, std::int32_t q_head, TokenRange tokens);

/// m = max m_s; l = sum exp(m_s - m) l_s; acc = sum exp(m_s - m) acc_s. Neutral states vanish.
ReferenceState reference_merge(std::span<const ReferenceState> states);

}  // namespace pkv

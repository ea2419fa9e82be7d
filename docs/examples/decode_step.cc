// One decode step of two requests over a paged cache: the example of docs/quickstart.md.
// Not here: traces, measurements.
#include <persistentkv/engine.h>

#include <cstdio>
#include <vector>

int main() {
  // 8 query heads share 2 KV heads of 64 elements; pages of 16 tokens, [page][kv_head][slot][d], FP32.
  const pkv::AttentionShape shape{.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64};
  const auto layout = pkv::KvLayout::make(pkv::KvOrder::kHND, pkv::KvPacking::kSeparate, 16, shape).value();

  // Row 0 has 40 tokens on pages 5, 0 and 3; row 1 has 7 tokens on page 1. Page 2 and 4 hold nothing.
  const std::vector<std::int32_t> seq_lens{40, 7}, kv_indptr{0, 3, 4}, kv_indices{5, 0, 3, 1};
  const std::int64_t num_pages = 6;
  std::vector<float> k(num_pages * layout.page_elements(), 0.5F), v(k.size(), 2.0F);
  std::vector<float> q(2 * 8 * 64, 1.0F), out(q.size()), lse(2 * 8);

  const auto table = pkv::BlockTable::csr(kv_indptr, kv_indices);
  const auto batch = pkv::BatchState::make({.shape = shape,
                                            .page_size = 16,
                                            .seq_lens = seq_lens,
                                            .block_table = *table,
                                            .num_pages = num_pages});
  auto engine = pkv::Engine::create({});  // the CPU backend, one worker a core
  if (!batch.ok() || !engine.ok()) {
    std::fprintf(stderr, "%s\n", (batch.ok() ? engine.error() : batch.error()).to_string().c_str());
    return 2;
  }

  // Decide once a step, then run once a layer.
  const auto decision = engine->decide(*batch, pkv::DType::kF32);
  const pkv::RunArgs args{
      .batch = *batch,
      .q = pkv::dense_queries(q.data(), pkv::DType::kF32, shape),
      .kv = {.k = k.data(), .v = v.data(), .dtype = pkv::DType::kF32, .layout = layout, .num_pages = num_pages},
      .out = pkv::dense_outputs(out.data(), pkv::DType::kF32, shape),
      .lse = lse};
  const auto record = engine->run(*decision, args);
  if (!record.ok()) {
    std::fprintf(stderr, "%s\n", record.error().to_string().c_str());
    return 2;
  }
  std::printf("%s\n", decision->reason().c_str());
  std::printf("out[0][0] = %.3f, lse = %.3f and %.3f\n", out[0], lse[0], lse[8]);
}

// The CUDA backend behind a C interface, so that Python harnesses time it beside their own engines.
// Not here: timing, tensors (bench/gpu/pkv_peer.py).
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "exec/cuda/cuda_backend.h"
#include "persistentkv/cuda.h"
#include "persistentkv/decision.h"

namespace {

using namespace pkv;

/// What a harness asks for; 0 and -1 leave the choice to the rule.
struct PeerCase {
  std::int32_t num_rows, num_q_heads, num_kv_heads, head_dim, page_size;
  std::int32_t dtype;  // 0 f16, 1 bf16, 2 f32
  std::int32_t nhd;
  std::int32_t chunk_tokens;  // of the split route
  std::int32_t route;         // a Route, with `splits`
  std::int32_t splits;
  std::int32_t fused;
  std::int32_t entry;  // a DecodeEntry
  std::int32_t width;  // 1 + KernelWidth
  std::int32_t tile_tokens;
  std::int64_t num_pages;
  const std::int32_t* seq_lens;
  const std::int32_t* kv_indptr;
  const std::int32_t* kv_indices;
};

class Peer {
 public:
  Status open() {
    auto backend = CudaBackend::create({.back_to_back = true});
    if (!backend.ok()) return backend.error();
    backend_ = std::move(*backend);
    return {};
  }

  Status plan(const PeerCase& peer_case, void* stream) {
    case_ = peer_case;
    backend_->set_stream(stream);
    dynamic_cast<cuda::Backend&>(*backend_).set_decode_entry(static_cast<cuda::DecodeEntry>(peer_case.entry));
    dynamic_cast<cuda::Backend&>(*backend_).set_width(
        peer_case.width == 0 ? std::nullopt : std::optional(static_cast<KernelWidth>(peer_case.width - 1)));
    AttentionShape shape;
    shape.num_q_heads = peer_case.num_q_heads;
    shape.num_kv_heads = peer_case.num_kv_heads;
    shape.head_dim = peer_case.head_dim;
    const auto rows = static_cast<std::size_t>(peer_case.num_rows);
    const auto table =
        BlockTable::csr(std::span(peer_case.kv_indptr, rows + 1),
                        std::span(peer_case.kv_indices, static_cast<std::size_t>(peer_case.kv_indptr[rows])));
    if (!table.ok()) return table.error();
    auto batch = BatchState::make({.shape = shape,
                                   .page_size = peer_case.page_size,
                                   .seq_lens = std::span(peer_case.seq_lens, rows),
                                   .block_table = *table,
                                   .num_pages = peer_case.num_pages});
    if (!batch.ok()) return batch.error();
    batch_ = *batch;
    auto plan = make_plan(batch_, options(), std::move(plan_));
    if (!plan.ok()) return plan.error();
    plan_ = std::move(*plan);
    if (Status status = backend_->reserve(plan_); !status.ok()) return status;
    return backend_->load_step(plan_, batch_);
  }

  Status run(const void* q, const void* k, const void* v, void* out, void* stream) {
    backend_->set_stream(stream);
    const AttentionShape& shape = batch_.shape();
    auto layout =
        KvLayout::make(case_.nhd != 0 ? KvOrder::kNHD : KvOrder::kHND, KvPacking::kSeparate, case_.page_size, shape);
    if (!layout.ok()) return layout.error();
    RunArgs args;
    args.batch = batch_;
    args.q = dense_queries(q, dtype(), shape);
    args.kv = {.k = k, .v = v, .dtype = dtype(), .layout = *layout, .num_pages = case_.num_pages};
    args.out = dense_outputs(out, dtype(), shape);
    kernel_ = backend_->kernel_name(plan_, args);
    return backend_->enqueue(plan_, args);
  }

  [[nodiscard]] std::string describe() const {
    const PlanCounters& counters = plan_.counters();
    char text[256];
    std::snprintf(text, sizeof text, "%s splits<=%d tasks=%d slots=%d launches=%d %s %s",
                  route_name(plan_.route()).data(), plan_.max_splits(), counters.num_tasks, counters.num_partial_slots,
                  counters.num_launches, merge_mode_name(plan_.merge_mode()).data(), kernel_.c_str());
    return text;
  }

  std::string error;

 private:
  [[nodiscard]] DType dtype() const {
    return case_.dtype == 0 ? DType::kF16 : case_.dtype == 1 ? DType::kBF16 : DType::kF32;
  }

  [[nodiscard]] PlanOptions options() const {
    PlanOptions options = gpu_rule(batch_, backend_->gpu_machine());
    if (case_.chunk_tokens > 0) {
      std::int32_t longest = 1;
      for (const std::int32_t len : batch_.seq_lens()) longest = std::max(longest, len);
      options.route = Route::kSplit;
      options.splits = (longest + case_.chunk_tokens - 1) / case_.chunk_tokens;
    }
    if (case_.route >= 0) {
      options.route = static_cast<Route>(case_.route);
      options.splits.reset();
      if (case_.splits > 0) options.splits = case_.splits;
    }
    if (case_.tile_tokens > 0) options.tile_tokens = case_.tile_tokens;
    if (case_.fused != 0) options.merge = MergeMode::kFused;
    options.num_workers = backend_->num_workers();
    return options;
  }

  std::unique_ptr<CudaBackend> backend_;
  PeerCase case_{};
  BatchState batch_;
  Plan plan_;
  std::string kernel_;
};

int report(Peer& peer, const Status& status) {
  peer.error = status.ok() ? "" : status.error().to_string();
  return status.ok() ? 0 : 1;
}

}  // namespace

extern "C" {

void* pkv_peer_open() {
  auto* peer = new Peer;
  report(*peer, peer->open());
  return peer;
}
void pkv_peer_close(void* peer) { delete static_cast<Peer*>(peer); }
const char* pkv_peer_error(void* peer) { return static_cast<Peer*>(peer)->error.c_str(); }
int pkv_peer_plan(void* peer, const PeerCase* peer_case, void* stream) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->plan(*peer_case, stream));
}
int pkv_peer_run(void* peer, const void* q, const void* k, const void* v, void* out, void* stream) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->run(q, k, v, out, stream));
}
void pkv_peer_describe(void* peer, char* text, int size) {
  std::snprintf(text, static_cast<std::size_t>(size), "%s", static_cast<Peer*>(peer)->describe().c_str());
}
}

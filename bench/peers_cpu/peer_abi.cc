// Our CPU engine, its read probe, the float64 oracle and the memory of all engines behind a C interface, so that
// a Python driver times them beside other projects' kernels in one process.
// Not here: timing (peers_cpu.py), peers.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/half.h"
#include "base/random.h"
#include "exec/cpu/cpu_backend.h"
#include "persistentkv/engine.h"
#include "persistentkv/reference.h"
#include "replay/cpu_probes.h"

namespace {

using namespace pkv;

constexpr DType kTypes[] = {DType::kF16, DType::kBF16, DType::kF32};

/// The shape of a step; `route` names a Route or is empty: the engine decides.
struct PeerCase {
  std::int32_t num_rows, num_q_heads, num_kv_heads, head_dim, page_size;
  std::int32_t dtype;  // index of kTypes
  std::int32_t nhd;
  std::int32_t splits;  // of a named route; 0: its own choice
  std::int64_t num_pages;
  const std::int32_t* seq_lens;   // [num_rows]
  const std::int32_t* kv_indptr;  // [num_rows + 1]
  const char* route;
};

/// The tensors of one step: queries in the type of K and V, outputs in f32, [num_rows][num_q_heads][head_dim].
struct StepTensors {
  const std::int32_t* kv_indices;
  const void* k;
  const void* v;
  const void* q;
  float* out;
};

/// One row of K or V to be written, wherever its tokens lie: token t of head h at
/// base + pages[t / page_size] * page_stride + h * head_stride + (t % page_size) * slot_stride, in elements.
struct FillRow {
  void* base;
  std::int32_t dtype;
  std::int32_t num_kv_heads, head_dim, group_size;
  std::int32_t seq_len, page_size;
  std::int32_t is_value;
  const std::int32_t* pages;
  std::int64_t page_stride, head_stride, slot_stride;
  std::uint64_t seed;  // of the row: the same values whatever the layout
  const float* q;      // [num_kv_heads * group_size][head_dim] of the row
};

class Peer {
 public:
  Status open(std::int32_t threads, const char* isa) {
    EngineOptions options;
    options.cpu.threads = threads;
    if (isa != nullptr && *isa != 0) {
      const Result<Isa> parsed = parse_isa(isa);
      if (!parsed.ok()) return parsed.error();
      options.cpu.isa = *parsed;
    }
    Result<Engine> engine = Engine::create(options);
    if (!engine.ok()) return engine.error();
    engine_ = std::make_unique<Engine>(std::move(*engine));
    return {};
  }

  Status set_case(const PeerCase& peer_case) {
    case_ = peer_case;
    seq_lens_.assign(case_.seq_lens, case_.seq_lens + case_.num_rows);
    indptr_.assign(case_.kv_indptr, case_.kv_indptr + case_.num_rows + 1);
    shape_ = {};
    shape_.num_q_heads = case_.num_q_heads;
    shape_.num_kv_heads = case_.num_kv_heads;
    shape_.head_dim = case_.head_dim;
    route_.reset();
    if (case_.route != nullptr && *case_.route != 0) {
      const Result<Route> route = parse_route(case_.route);
      if (!route.ok()) return route.error();
      route_ = *route;
    }
    const auto layout =
        KvLayout::make(case_.nhd != 0 ? KvOrder::kNHD : KvOrder::kHND, KvPacking::kSeparate, case_.page_size, shape_);
    if (!layout.ok()) return layout.error();
    layout_ = *layout;
    return {};
  }

  /// Validation, planning and the run: all that a step costs.
  Status step(const StepTensors& tensors) {
    const Result<BatchState> batch = make_batch(tensors);
    if (!batch.ok()) return batch.error();
    Result<Decision> decision =
        route_ ? engine_->plan(*batch, dtype(), plan_options()) : engine_->decide(*batch, dtype(), layout_);
    if (!decision.ok()) return decision.error();
    const Result<StepRecord> record = engine_->run(*decision, run_args(*batch, tensors));
    if (!record.ok()) return record.error();
    plan_ns_ = decision->plan_ns;
    description_ = std::string(route_name(decision->plan.route())) +
                   " splits<=" + std::to_string(decision->plan.max_splits()) +
                   " heads=" + std::to_string(decision->plan.kv_heads_per_task()) +
                   " tasks=" + std::to_string(decision->plan.counters().num_tasks);
    return {};
  }

  Status probe(const StepTensors& tensors, std::int64_t& ns, std::int64_t& bytes) {
    const Result<BatchState> batch = make_batch(tensors);
    if (!batch.ok()) return batch.error();
    auto& backend = dynamic_cast<CpuBackend&>(engine_->backend());
    const Result<ProbeResult> probe = backend.paged_read_probe(*batch, kv(tensors));
    if (!probe.ok()) return probe.error();
    ns = probe->ns;
    bytes = probe->bytes;
    return {};
  }

  Status oracle(const StepTensors& tensors, double* out) {
    const Result<BatchState> batch = make_batch(tensors);
    if (!batch.ok()) return batch.error();
    const RunArgs args = run_args(*batch, tensors);
    const std::int64_t row_elements = static_cast<std::int64_t>(case_.num_q_heads) * case_.head_dim;
    // Rows and heads are independent: all workers of the engine.
    auto& backend = dynamic_cast<CpuBackend&>(engine_->backend());
    std::atomic<std::int32_t> next{0};
    const std::int32_t group = shape_.group_size();
    const std::int32_t total = case_.num_rows * case_.num_kv_heads;
    backend.pool().run([&](std::int32_t) {
      std::vector<double> lse(static_cast<std::size_t>(group));
      for (std::int32_t i; (i = next.fetch_add(1)) < total;) {
        const std::int32_t row = i / case_.num_kv_heads, head = i % case_.num_kv_heads;
        double* to = out + row * row_elements + static_cast<std::int64_t>(head) * group * case_.head_dim;
        reference_attention_heads(args, row, head, std::span(to, static_cast<std::size_t>(group * case_.head_dim)),
                                  lse);
      }
    });
    return {};
  }

  [[nodiscard]] std::int64_t plan_ns() const { return plan_ns_; }
  [[nodiscard]] std::string describe() const { return description_ + ", " + engine_->backend().describe(); }

  std::string error;

 private:
  [[nodiscard]] DType dtype() const { return kTypes[case_.dtype]; }
  [[nodiscard]] PlanOptions plan_options() const {
    PlanOptions options = {.route = *route_};
    if (case_.splits > 0) options.splits = case_.splits;
    return options;
  }
  [[nodiscard]] PagedKv kv(const StepTensors& tensors) const {
    return {.k = tensors.k, .v = tensors.v, .dtype = dtype(), .layout = layout_, .num_pages = case_.num_pages};
  }
  Result<BatchState> make_batch(const StepTensors& tensors) const {
    const auto table =
        BlockTable::csr(indptr_, std::span(tensors.kv_indices, static_cast<std::size_t>(indptr_.back())));
    if (!table.ok()) return table.error();
    return BatchState::make({.shape = shape_,
                             .page_size = case_.page_size,
                             .seq_lens = seq_lens_,
                             .block_table = *table,
                             .num_pages = case_.num_pages});
  }
  [[nodiscard]] RunArgs run_args(const BatchState& batch, const StepTensors& tensors) const {
    return {.batch = batch,
            .q = dense_queries(tensors.q, dtype(), shape_),
            .kv = kv(tensors),
            .out = dense_outputs(tensors.out, DType::kF32, shape_)};
  }

  std::unique_ptr<Engine> engine_;
  PeerCase case_{};
  AttentionShape shape_;
  KvLayout layout_;
  std::optional<Route> route_;
  std::vector<std::int32_t> seq_lens_, indptr_;
  std::int64_t plan_ns_ = 0;
  std::string description_;
};

int report(Peer& peer, const Status& status) {
  peer.error = status.ok() ? "" : status.error().to_string();
  return status.ok() ? 0 : 1;
}

/// Normal values in a type, to be copied from at random places: a row of K or V is a piece of it.
const std::vector<std::byte>& value_table(DType dtype) {
  constexpr std::size_t kValues = std::size_t{1} << 18;
  static std::unordered_map<int, std::vector<std::byte>> tables;
  std::vector<std::byte>& table = tables[static_cast<int>(dtype)];
  if (table.empty()) {
    table.resize(kValues * static_cast<std::size_t>(dtype_bytes(dtype)));
    SplitMix64 random(11);
    for (std::size_t i = 0; i < kValues; ++i) {
      store_element(table.data(), dtype, static_cast<std::int64_t>(i), random.normal());
    }
  }
  return table;
}

/// Tokens whose keys are aligned with a query, one a query head of the group, so that they hold most of its weight:
/// a kernel that leaves out the first or the last token, or a piece between, cannot pass the check.
std::int32_t needle_token(const FillRow& row, std::int32_t i) {
  if (i == 0) return row.seq_len - 1;
  return i == 1 ? 0 : static_cast<std::int32_t>(static_cast<std::int64_t>(row.seq_len) * i / row.group_size);
}

void write_needle(const FillRow& row, std::int32_t head, std::int32_t i, std::byte* to) {
  const float* q = row.q + (static_cast<std::int64_t>(head) * row.group_size + i) * row.head_dim;
  double squares = 0.0;
  for (std::int32_t j = 0; j < row.head_dim; ++j) squares += static_cast<double>(q[j]) * q[j];
  const double factor =
      (std::log(static_cast<double>(row.seq_len)) + 1.0) * std::sqrt(static_cast<double>(row.head_dim)) / squares;
  for (std::int32_t j = 0; j < row.head_dim; ++j) {
    store_element(to, kTypes[row.dtype], j, static_cast<float>(factor * q[j]));
  }
}

void fill_row(const FillRow& row) {
  const DType dtype = kTypes[row.dtype];
  const std::int64_t element = dtype_bytes(dtype);
  const std::vector<std::byte>& table = value_table(dtype);
  const auto places = table.size() / static_cast<std::size_t>(element) - static_cast<std::size_t>(row.head_dim);
  const auto bytes = static_cast<std::size_t>(row.head_dim * element);
  auto* base = static_cast<std::byte*>(row.base);
  const auto at = [&](std::int32_t head, std::int32_t token) {
    return base + (row.pages[token / row.page_size] * row.page_stride + head * row.head_stride +
                   token % row.page_size * row.slot_stride) *
                      element;
  };
  for (std::int32_t head = 0; head < row.num_kv_heads; ++head) {
    // Two draws apart: seeds that follow each other must have nothing in common.
    SplitMix64 random(SplitMix64(row.seed * 2 + static_cast<std::uint64_t>(row.is_value))() ^
                      SplitMix64(0x5EED + static_cast<std::uint64_t>(head))());
    for (std::int32_t token = 0; token < row.seq_len; ++token) {
      std::memcpy(at(head, token), table.data() + (random() % places) * static_cast<std::size_t>(element), bytes);
    }
    for (std::int32_t i = 0; row.is_value == 0 && i < row.group_size; ++i) {
      write_needle(row, head, i, at(head, needle_token(row, i)));
    }
  }
}

struct Allocations {
  std::mutex mutex;
  std::unordered_map<void*, AlignedBuffer> buffers;
};
Allocations& allocations() {
  static Allocations all;
  return all;
}

}  // namespace

extern "C" {

/// An engine; pkv_peer_error says if it is none.
void* pkv_peer_open(int threads, const char* isa) {
  auto* peer = new Peer;
  report(*peer, peer->open(threads, isa));
  return peer;
}
void pkv_peer_close(void* peer) { delete static_cast<Peer*>(peer); }
const char* pkv_peer_error(void* peer) { return static_cast<Peer*>(peer)->error.c_str(); }
int pkv_peer_case(void* peer, const PeerCase* peer_case) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->set_case(*peer_case));
}
int pkv_peer_step(void* peer, const StepTensors* tensors) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->step(*tensors));
}
int pkv_peer_probe(void* peer, const StepTensors* tensors, std::int64_t* ns, std::int64_t* bytes) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->probe(*tensors, *ns, *bytes));
}
int pkv_peer_oracle(void* peer, const StepTensors* tensors, double* out) {
  return report(*static_cast<Peer*>(peer), static_cast<Peer*>(peer)->oracle(*tensors, out));
}
std::int64_t pkv_peer_plan_ns(void* peer) { return static_cast<Peer*>(peer)->plan_ns(); }
void pkv_peer_describe(void* peer, char* text, int size) {
  std::snprintf(text, static_cast<std::size_t>(size), "%s", static_cast<Peer*>(peer)->describe().c_str());
}
void pkv_peer_fill(const FillRow* row) { fill_row(*row); }

/// Zero bytes on huge pages (where the system gives them) or on 4 KiB pages; null if there are none.
void* pkv_peer_allocate(std::int64_t bytes, int huge) {
  Result<AlignedBuffer> buffer = AlignedBuffer::allocate(static_cast<std::size_t>(bytes));
  if (!buffer.ok()) return nullptr;
  if (huge == 0) madvise(buffer->data(), buffer->size(), MADV_NOHUGEPAGE);
  void* data = buffer->data();
  const std::lock_guard lock(allocations().mutex);
  allocations().buffers.emplace(data, std::move(*buffer));
  return data;
}
void pkv_peer_release(void* data) {
  const std::lock_guard lock(allocations().mutex);
  allocations().buffers.erase(data);
}
std::int64_t pkv_peer_huge_bytes(const void* data, std::int64_t bytes) { return huge_page_bytes(data, bytes); }
}

// ggml's FLASH_ATTN_EXT on K and V of the caller's, behind a C interface for a Python driver.
// Not here: timing, tensors (peers.py).
#include <ggml-cpu.h>
#include <ggml.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

/// One step: rows of K and V that lie where the caller says.
struct StepCase {
  std::int32_t num_rows, num_q_heads, num_kv_heads, head_dim;
  std::int32_t type;         // 0 f16, 1 bf16, 2 f32
  std::int32_t token_major;  // [token][head][d], as llama.cpp ships it; else [head][token][d]
  std::int32_t batched;      // one op for all rows (equal lengths, rows back to back), else one a row
  const std::int32_t* seq_lens;
  const void* const* k;  // [num_rows]
  const void* const* v;  // [num_rows]
  const float* q;        // [num_rows][num_q_heads][head_dim]
  float* out;            // [num_rows][num_q_heads][head_dim]
};

class Step {
 public:
  Step(const StepCase& step, ggml_threadpool* pool, int threads) {
    const int ops = step.batched != 0 ? 1 : step.num_rows;
    context_ = ggml_init({ggml_tensor_overhead() * (8 * static_cast<std::size_t>(ops) + 8) +
                              ggml_graph_overhead_custom(kMaxNodes, false),
                          nullptr, true});
    graph_ = ggml_new_graph_custom(context_, kMaxNodes, false);
    for (int row = 0; row < ops; ++row) {
      add_op(step, row, step.batched != 0 ? step.num_rows : 1);
    }
    plan_ = ggml_graph_plan(graph_, threads, pool);
    work_.resize(plan_.work_size + 64);
    plan_.work_data = work_.data();
  }
  ~Step() { ggml_free(context_); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  int run() { return ggml_graph_compute(graph_, &plan_) == GGML_STATUS_SUCCESS ? 0 : 1; }

 private:
  static constexpr std::size_t kMaxNodes = 1024;

  void add_op(const StepCase& step, int row, int rows) {
    const ggml_type type = step.type == 0 ? GGML_TYPE_F16 : step.type == 1 ? GGML_TYPE_BF16 : GGML_TYPE_F32;
    const std::int64_t d = step.head_dim, heads = step.num_kv_heads, len = step.seq_lens[row];
    const std::int64_t q_elements = static_cast<std::int64_t>(step.num_q_heads) * d;
    ggml_tensor* q = ggml_new_tensor_4d(context_, GGML_TYPE_F32, d, 1, step.num_q_heads, rows);
    q->data = const_cast<float*>(step.q + row * q_elements);
    const auto cache = [&](const void* data) {
      ggml_tensor* t = step.token_major != 0 ? ggml_new_tensor_4d(context_, type, d, heads, len, rows)
                                             : ggml_new_tensor_4d(context_, type, d, len, heads, rows);
      t->data = const_cast<void*>(data);
      return step.token_major != 0 ? ggml_permute(context_, t, 0, 2, 1, 3) : t;
    };
    ggml_tensor* k = cache(step.k[row]);
    ggml_tensor* v = cache(step.v[row]);
    // llama.cpp always has a mask; all tokens are attended here.
    ggml_tensor* mask = ggml_new_tensor_4d(context_, GGML_TYPE_F16, len, 1, 1, 1);
    masks_.emplace_back(static_cast<std::size_t>(len), 0);
    mask->data = masks_.back().data();
    ggml_tensor* out =
        ggml_flash_attn_ext(context_, q, k, v, mask, 1.0F / std::sqrt(static_cast<float>(d)), 0.0F, 0.0F);
    ggml_prec_set_acc(out, GGML_PREC_F32);
    out->data = step.out + row * q_elements;
    ggml_build_forward_expand(graph_, out);
  }

  ggml_context* context_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_cplan plan_ = {};
  std::vector<std::uint8_t> work_;
  std::vector<std::vector<std::uint16_t>> masks_;
};

struct Pool {
  ggml_threadpool* threads;
  int num_threads;
};

}  // namespace

extern "C" {

void* ggml_shim_open(int threads) {
  ggml_cpu_init();
  ggml_threadpool_params params = ggml_threadpool_params_default(threads);
  return new Pool{ggml_threadpool_new(&params), threads};
}
void ggml_shim_pause(void* pool) { ggml_threadpool_pause(static_cast<Pool*>(pool)->threads); }
void ggml_shim_resume(void* pool) { ggml_threadpool_resume(static_cast<Pool*>(pool)->threads); }
void* ggml_shim_step(void* pool, const StepCase* step) {
  auto* p = static_cast<Pool*>(pool);
  return new Step(*step, p->threads, p->num_threads);
}
int ggml_shim_run(void* step) { return static_cast<Step*>(step)->run(); }
void ggml_shim_free(void* step) { delete static_cast<Step*>(step); }
}

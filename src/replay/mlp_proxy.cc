// Seven oneDNN matmuls with weights in the layout that oneDNN chose for a typical batch.
#include "replay/mlp_proxy.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>

#include "base/clock.h"
#include "replay/memory.h"
#include "replay/random_data.h"

namespace pkv {
namespace {

using dnnl::matmul;
using dnnl::memory;

struct GemmSize {
  std::int64_t in = 0;
  std::int64_t out = 0;
};

constexpr std::size_t kNumGemms = 7;
using GemmSizes = std::array<GemmSize, kNumGemms>;

// Weights are laid out for this batch; other row counts use the same layout.
constexpr std::int64_t kTypicalRows = 8;
// libgomp's threads spin for about a millisecond after a parallel region and would disturb the
// attention that follows.
constexpr auto kSpinDown = std::chrono::milliseconds(3);

GemmSizes layer_gemms(const AttentionShape& shape, const MlpProxy& sizes) {
  const std::int64_t q_width = std::int64_t{shape.num_q_heads} * shape.head_dim;
  const std::int64_t kv_width = std::int64_t{shape.num_kv_heads} * shape.head_dim;
  const std::int64_t hidden = sizes.hidden;
  const std::int64_t inner = sizes.intermediate;
  return {{{hidden, q_width},
           {hidden, kv_width},
           {hidden, kv_width},
           {q_width, hidden},
           {hidden, inner},
           {hidden, inner},
           {inner, hidden}}};
}

bool has_bf16_kernels() {
  const auto isa = dnnl::get_effective_cpu_isa();
  return (static_cast<int>(isa) & static_cast<int>(dnnl::cpu_isa::avx512_core)) ==
         static_cast<int>(dnnl::cpu_isa::avx512_core);
}

matmul::primitive_desc make_desc(const dnnl::engine& engine, std::int64_t rows, const GemmSize& size,
                                 memory::data_type type, const memory::desc& weights) {
  const memory::desc src({rows, size.in}, type, memory::format_tag::ab);
  const memory::desc dst({rows, size.out}, type, memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
  return {engine, src, weights, dst};
#else
  return {matmul::desc(src, weights, dst), engine};
#endif
}

class OneDnnLayer final : public MlpLayer {
 public:
  OneDnnLayer(const GemmSizes& sizes, Crew& crew)
      : sizes_(sizes),
        crew_(crew),
        type_(has_bf16_kernels() ? memory::data_type::bf16 : memory::data_type::f32),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {}

  /// Fills and lays out the weights. Throws dnnl::error.
  void prepare(std::uint64_t seed) {
    const RandomBlock block(dtype(), seed);
    for (std::size_t i = 0; i < kNumGemms; ++i) {
      const GemmSize& size = sizes_[i];
      memory plain({{size.in, size.out}, type_, memory::format_tag::ab}, engine_);
      block.fill(plain.get_data_handle(), size.in * size.out, i);
      const memory::desc any({size.in, size.out}, type_, memory::format_tag::any);
      memory laid_out(make_desc(engine_, kTypicalRows, size, type_, any).weights_desc(), engine_);
      dnnl::reorder(plain, laid_out).execute(stream_, plain, laid_out);
      stream_.wait();
      weights_.push_back(laid_out);
    }
  }

  Result<std::int64_t> run(std::int32_t num_rows) override {
    std::int64_t elapsed_ns = 0;
    std::string failure;
    PKV_RETURN_IF_ERROR(crew_.run_on_one([&] {
      try {
        elapsed_ns = execute(num_rows);
      } catch (const dnnl::error& error) {
        failure = error.what();
      }
    }));
    if (!failure.empty()) {
      return Error{ErrorCode::kUnsupported, fmt::format("oneDNN: {} for {} rows", failure, num_rows), "mlp"};
    }
    return elapsed_ns;
  }

 private:
  struct Gemm {
    matmul primitive;
    memory src;
    memory dst;
  };

  [[nodiscard]] DType dtype() const { return type_ == memory::data_type::bf16 ? DType::kBF16 : DType::kF32; }

  std::vector<Gemm> make_gemms(std::int32_t num_rows) {
    const RandomBlock block(dtype(), static_cast<std::uint64_t>(num_rows));
    std::vector<Gemm> gemms;
    for (std::size_t i = 0; i < kNumGemms; ++i) {
      const auto desc = make_desc(engine_, num_rows, sizes_[i], type_, weights_[i].get_desc());
      Gemm gemm{matmul(desc), memory(desc.src_desc(), engine_), memory(desc.dst_desc(), engine_)};
      block.fill(gemm.src.get_data_handle(), num_rows * sizes_[i].in, i);
      gemms.push_back(std::move(gemm));
    }
    run_once(gemms);  // oneDNN allocates scratch memory on the first execution
    return gemms;
  }

  void run_once(std::vector<Gemm>& gemms) {
    for (std::size_t i = 0; i < gemms.size(); ++i) {
      gemms[i].primitive.execute(
          stream_, {{DNNL_ARG_SRC, gemms[i].src}, {DNNL_ARG_WEIGHTS, weights_[i]}, {DNNL_ARG_DST, gemms[i].dst}});
    }
    stream_.wait();
  }

  std::int64_t execute(std::int32_t num_rows) {
    auto found = by_rows_.find(num_rows);
    if (found == by_rows_.end()) {
      found = by_rows_.emplace(num_rows, make_gemms(num_rows)).first;
    }
    const std::int64_t begin_ns = now_ns();
    run_once(found->second);
    const std::int64_t elapsed_ns = now_ns() - begin_ns;
    std::this_thread::sleep_for(kSpinDown);
    return elapsed_ns;
  }

  GemmSizes sizes_;
  Crew& crew_;
  memory::data_type type_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<memory> weights_;
  std::map<std::int32_t, std::vector<Gemm>> by_rows_;
};

}  // namespace

std::int64_t MlpLayer::needed_bytes(const AttentionShape& shape, const MlpProxy& sizes) {
  std::int64_t elements = 0;
  std::int64_t largest = 0;
  for (const GemmSize& size : layer_gemms(shape, sizes)) {
    elements = saturating_add(elements, saturating_mul(size.in, size.out));
    largest = std::max(largest, saturating_mul(size.in, size.out));
  }
  return saturating_mul(saturating_add(elements, largest), has_bf16_kernels() ? 2 : 4);
}

Result<std::unique_ptr<MlpLayer>> MlpLayer::make(const AttentionShape& shape, const MlpProxy& sizes, std::uint64_t seed,
                                                 Crew& crew) {
  std::unique_ptr<OneDnnLayer> layer;
  std::string failure;
  PKV_RETURN_IF_ERROR(crew.run_on_one([&] {
    try {
      layer = std::make_unique<OneDnnLayer>(layer_gemms(shape, sizes), crew);
      layer->prepare(seed);
    } catch (const dnnl::error& error) {
      failure = error.what();
    }
  }));
  if (!failure.empty()) {
    return Error{ErrorCode::kUnsupported, "oneDNN: " + failure, "mlp"};
  }
  return std::unique_ptr<MlpLayer>(std::move(layer));
}

}  // namespace pkv

// Seven oneDNN matmuls with weights in the layout that oneDNN chose for a typical batch.
// Not here: the same on a GPU (mlp_cublas.cc).
#include "replay/mlp_proxy.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "replay/memory.h"
#include "replay/mlp_sizes.h"
#include "replay/random_data.h"

namespace pkv {
namespace {

using dnnl::matmul;
using dnnl::memory;

// Weights are laid out for this batch; other row counts use the same layout.
constexpr std::int64_t kTypicalRows = 8;
// libgomp's threads spin for about a millisecond after a parallel region and would disturb the
// attention that follows.
constexpr auto kSpinDown = std::chrono::milliseconds(3);
// Row counts whose primitives are kept: a trace near its max_active has few at a time.
constexpr std::size_t kKeptRowCounts = 16;

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
  OneDnnLayer(const GemmSizes& sizes, std::int64_t max_rows, Crew& crew)
      : sizes_(sizes),
        max_rows_(max_rows),
        crew_(crew),
        type_(has_bf16_kernels() ? memory::data_type::bf16 : memory::data_type::f32),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {}

  /// Fills activations, fills and lays out the weights. Throws dnnl::error.
  Status prepare(std::uint64_t seed) {
    const RandomBlock block(dtype(), seed);
    PKV_RETURN_IF_ERROR(allocate_activations(block));
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
    return {};
  }

  Result<std::int64_t> run(std::int32_t num_rows) override {
    if (num_rows < 1 || num_rows > max_rows_) {
      return Error{ErrorCode::kOutOfRange, fmt::format("{} rows, must be 1 to {}", num_rows, max_rows_), "mlp"};
    }
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

  Status allocate_activations(const RandomBlock& block) {
    const std::int64_t in = max_rows_ * largest_in(sizes_);
    auto src = AlignedBuffer::allocate(static_cast<std::size_t>(in * dtype_bytes(dtype())));
    if (!src.ok()) {
      return src.error();
    }
    auto dst =
        AlignedBuffer::allocate(static_cast<std::size_t>(max_rows_ * largest_out(sizes_) * dtype_bytes(dtype())));
    if (!dst.ok()) {
      return dst.error();
    }
    src_ = std::move(*src);
    dst_ = std::move(*dst);
    block.fill(src_.data(), in, kNumGemms);
    return {};
  }

  std::vector<Gemm> make_gemms(std::int32_t num_rows) {
    std::vector<Gemm> gemms;
    for (std::size_t i = 0; i < kNumGemms; ++i) {
      const auto desc = make_desc(engine_, num_rows, sizes_[i], type_, weights_[i].get_desc());
      gemms.push_back(
          {matmul(desc), memory(desc.src_desc(), engine_, src_.data()), memory(desc.dst_desc(), engine_, dst_.data())});
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
      if (by_rows_.size() == kKeptRowCounts) {
        by_rows_.clear();
      }
      found = by_rows_.emplace(num_rows, make_gemms(num_rows)).first;
    }
    const std::int64_t begin_ns = now_ns();
    run_once(found->second);
    const std::int64_t elapsed_ns = now_ns() - begin_ns;
    std::this_thread::sleep_for(kSpinDown);
    return elapsed_ns;
  }

  GemmSizes sizes_;
  std::int64_t max_rows_;
  Crew& crew_;
  memory::data_type type_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<memory> weights_;
  // Every GEMM reads the one and writes the other, whatever its row count.
  AlignedBuffer src_;
  AlignedBuffer dst_;
  std::map<std::int32_t, std::vector<Gemm>> by_rows_;
};

}  // namespace

std::int64_t MlpLayer::needed_bytes(const AttentionShape& shape, const MlpProxy& sizes, std::int64_t max_rows) {
  const GemmSizes gemms = layer_gemms(shape, sizes);
  return saturating_mul(saturating_add(layer_elements(gemms, max_rows), largest_weight(gemms)),
                        has_bf16_kernels() ? 2 : 4);
}

Result<std::unique_ptr<MlpLayer>> MlpLayer::make(const AttentionShape& shape, const MlpProxy& sizes,
                                                 const Setting& setting, Crew& crew) {
  std::unique_ptr<OneDnnLayer> layer;
  Status prepared;
  PKV_RETURN_IF_ERROR(crew.run_on_one([&] {
    try {
      layer = std::make_unique<OneDnnLayer>(layer_gemms(shape, sizes), setting.max_rows, crew);
      prepared = layer->prepare(setting.seed);
    } catch (const dnnl::error& error) {
      prepared = Error{ErrorCode::kUnsupported, std::string("oneDNN: ") + error.what(), "mlp"};
    }
  }));
  if (!prepared.ok()) {
    return prepared.error();
  }
  return std::unique_ptr<MlpLayer>(std::move(layer));
}

}  // namespace pkv

// Instruction sets: names, selection, and that the chosen one is what was compiled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

TEST(Isa, Names_RoundTrip) {
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    const Result<Isa> parsed = parse_isa(isa_name(isa));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(Isa, UnknownName_ListsTheNames) {
  const Result<Isa> parsed = parse_isa("sse9");
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(parsed.error().message, HasSubstr("'sse9'"));
  EXPECT_THAT(parsed.error().message, HasSubstr("portable, avx2, avx512, avx512bf16, amx"));
}

TEST(Isa, Portable_IsAlwaysSupportedAndFirst) {
  ASSERT_FALSE(supported_isas().empty());
  EXPECT_EQ(supported_isas().front(), Isa::kPortable);
}

TEST(Isa, Forced_RunsKernelsCompiledForIt) {
  for (const Isa isa : supported_isas()) {
    const Result<std::unique_ptr<CpuBackend>> backend = CpuBackend::create({.threads = 1, .isa = isa});
    ASSERT_TRUE(backend.ok());
    EXPECT_EQ((*backend)->isa(), isa);
    EXPECT_EQ((*backend)->kernels().vector_bytes, isa == Isa::kPortable ? 16 : isa == Isa::kAvx2 ? 32 : 64);
    EXPECT_THAT((*backend)->describe(), HasSubstr(std::string(isa_name(isa)) + " kernels"));
  }
}

TEST(Isa, DecodeKernel_FollowsIsaShapeAndTypes) {
  const AttentionShape fits = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 80};
  const AttentionShape small_group = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  const AttentionShape large_group = {.num_q_heads = 6, .num_kv_heads = 2, .head_dim = 64};
  const AttentionShape odd = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 72};
  const auto kernel = [](Isa isa, const AttentionShape& shape, DType kv, DType q) {
    return decode_kernel_name(decode_kernel(isa, shape, kv, q));
  };
#if defined(__x86_64__)
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(kernel(Isa::kAvx2, fits, dtype, dtype), "avx2-tile");
    EXPECT_EQ(kernel(Isa::kAvx2, odd, dtype, dtype), "general");
  }
  EXPECT_EQ(kernel(Isa::kAvx512, fits, DType::kF16, DType::kF16), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAvx512, fits, DType::kBF16, DType::kBF16), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAvx512Bf16, fits, DType::kBF16, DType::kBF16), "avx512bf16-tile");
  EXPECT_EQ(kernel(Isa::kAvx512Bf16, fits, DType::kBF16, DType::kF32), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAvx512Bf16, fits, DType::kF32, DType::kF32), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAmx, large_group, DType::kBF16, DType::kBF16), "amx-tile");
  EXPECT_EQ(kernel(Isa::kAmx, small_group, DType::kBF16, DType::kBF16), "avx512bf16-tile");
  EXPECT_EQ(kernel(Isa::kAmx, fits, DType::kBF16, DType::kBF16), "avx512bf16-tile");  // head_dim 80
  EXPECT_EQ(kernel(Isa::kAmx, large_group, DType::kBF16, DType::kF32), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAmx, large_group, DType::kF16, DType::kF16), "avx512-tile");
  EXPECT_EQ(kernel(Isa::kAmx, odd, DType::kBF16, DType::kBF16), "general");
#endif
  EXPECT_EQ(kernel(Isa::kAvx512, odd, DType::kF16, DType::kF16), "general");
  EXPECT_EQ(kernel(Isa::kPortable, fits, DType::kF16, DType::kF16), "general");
}

/// The kernel that ran a case, by the kernel's own word, on two workers.
RanKernel kernel_that_ran(Isa isa, DType dtype, std::int32_t head_dim, bool into_l1) {
  const testing::PagedCase paged({.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = head_dim},
                                  .lens = {300, 1, 77},
                                  .kv_dtype = dtype,
                                  .q_dtype = dtype});
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(isa, 2);
  EXPECT_TRUE(backend->set_tile_prefetch({.into_l1 = into_l1}).ok());
  EXPECT_FALSE(backend->ran_kernel().has_value());
  paged.run(*backend, {.route = Route::kPages, .num_workers = 2});
  EXPECT_TRUE(backend->ran_kernel().has_value());
  return backend->ran_kernel().value_or(RanKernel{});
}

/// What runs fp16 where head_dim is a multiple of 16.
RanKernel tile_kernel_of(Isa isa, bool into_l1) {
  switch (isa) {
    case Isa::kPortable: return {DecodeKernel::kGeneral, isa};
    case Isa::kAvx2: return {DecodeKernel::kAvx2Tile, isa};
    case Isa::kAvx512:
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return {DecodeKernel::kAvx512Tile, Isa::kAvx512, into_l1};
  }
  return {};
}

/// The same for bf16.
RanKernel bf16_kernel_of(Isa isa, bool into_l1) {
  switch (isa) {
    case Isa::kAvx512Bf16: return {DecodeKernel::kAvx512Bf16Tile, isa, into_l1};
    case Isa::kAmx: return {DecodeKernel::kAmxTile, isa};
    default: return tile_kernel_of(isa, into_l1);
  }
}

TEST(Isa, Forced_ReallyRan) {
  for (const Isa isa : supported_isas()) {
    for (const bool into_l1 : {false, true}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + (into_l1 ? ", into the L1" : ""));
      const RanKernel tile = tile_kernel_of(isa, into_l1);
      EXPECT_EQ(kernel_that_ran(isa, DType::kF16, 64, into_l1), tile);
      EXPECT_EQ(kernel_that_ran(isa, DType::kF32, 80, into_l1), tile);
      EXPECT_EQ(kernel_that_ran(isa, DType::kBF16, 64, into_l1), bf16_kernel_of(isa, into_l1));
      EXPECT_EQ(kernel_that_ran(isa, DType::kF16, 72, into_l1), (RanKernel{DecodeKernel::kGeneral, tile.isa}));
    }
  }
}

TEST(TilePrefetch, FollowsVendorAndFamily) {
  constexpr std::uint32_t kZen3 = 0x19, kZen5 = 0x1A;  // Zen 4 is of Zen 3's family
  EXPECT_EQ(tile_prefetch_of("GenuineIntel", 6), (TilePrefetch{.streams = 8, .into_l1 = false}));
  EXPECT_EQ(tile_prefetch_of("AuthenticAMD", kZen3), (TilePrefetch{.streams = 2, .into_l1 = false}));
  EXPECT_EQ(tile_prefetch_of("AuthenticAMD", kZen5), (TilePrefetch{.streams = 2, .into_l1 = true}));
  EXPECT_EQ(tile_prefetch_of("", 0), TilePrefetch{});
}

TEST(TilePrefetch, OtherStreams_AreRefused) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(Isa::kPortable, 1);
  const TilePrefetch before = backend->tile_prefetch();
  for (const std::int32_t streams : {-2, 0, 3, 16}) {
    const Status status = backend->set_tile_prefetch({.streams = streams});
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(backend->tile_prefetch(), before);
  }
}

TEST(Isa, Tables_HoldDifferentFunctions) {
  const std::vector<Isa> isas = supported_isas();
  for (std::size_t i = 1; i < isas.size(); ++i) {
    EXPECT_NE(find_kernels(isas[i])->decode, find_kernels(isas[i - 1])->decode);
    if (isas[i] != Isa::kAvx512Bf16 && isas[i] != Isa::kAmx) {  // they differ from AVX-512 in decode only
      EXPECT_NE(find_kernels(isas[i])->merge, find_kernels(isas[i - 1])->merge);
    }
  }
}

TEST(Isa, NotSet_TakesTheBest) {
  const Result<std::unique_ptr<CpuBackend>> backend = CpuBackend::create({.threads = 1});
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->isa(), supported_isas().back());
}

TEST(Isa, NotOfThisCpu_IsAnErrorWithTheList) {
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (find_kernels(isa) != nullptr) {
      continue;
    }
    const Result<std::unique_ptr<Backend>> backend = make_cpu_backend({.isa = isa});
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(backend.error().message, HasSubstr("portable"));
  }
}

}  // namespace
}  // namespace pkv

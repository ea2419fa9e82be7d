// Read probes: they read exactly the bytes that they report.
#include "exec/cpu/probe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv {
namespace {

using testing::CaseSpec;
using testing::PagedCase;

std::uint32_t word_at(const std::byte* from) {
  std::uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

/// Sum of the words of whole pages, one element row after the other.
std::uint32_t expected_checksum(const PagedCase& paged, std::int64_t& bytes) {
  const BatchState& batch = paged.batch();
  const PagedKv& kv = paged.kv();
  const std::int64_t element = dtype_bytes(kv.dtype);
  std::uint32_t sum = 0;
  bytes = 0;
  const auto add_rows = [&](const void* base, const PageStrides& strides, std::int64_t page) {
    for (std::int32_t head = 0; head < batch.shape().num_kv_heads; ++head) {
      for (std::int32_t slot = 0; slot < batch.page_size(); ++slot) {
        const std::byte* row = static_cast<const std::byte*>(base) +
                               (page * strides.page + head * strides.kv_head + slot * strides.slot) * element;
        for (std::int64_t i = 0; i < batch.shape().head_dim * element; i += 4) {
          sum += word_at(row + i);
          bytes += 4;
        }
      }
    }
  };
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange tokens = batch.attended(row);
    if (tokens.size() == 0) {
      continue;
    }
    for (std::int32_t p = tokens.begin / batch.page_size(); p <= (tokens.end - 1) / batch.page_size(); ++p) {
      const std::int32_t page = batch.block_table().row(row)[static_cast<std::size_t>(p)];
      add_rows(kv.k, kv.layout.k_strides, page);
      add_rows(kv.v, kv.layout.v_strides, page);
    }
  }
  return sum;
}

TEST(PagedReadProbe, EveryIsaAndLayout_ReadsWholePagesOnce) {
  for (const Isa isa : supported_isas()) {
    const std::unique_ptr<CpuBackend> backend = testing::make_backend(isa, 3);
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
        for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
          for (const std::int32_t page_size : {1, 3, 16}) {  // 1 and 3: pages of no whole steps
            CaseSpec spec;
            spec.shape = {.num_q_heads = 3, .num_kv_heads = 3, .head_dim = 40, .sliding_window_tokens = 150};
            spec.lens = {200, 0, 1, 33};
            spec.order = order;
            spec.packing = packing;
            spec.page_size = page_size;
            spec.kv_dtype = dtype;
            const PagedCase paged(spec);
            const Result<ProbeResult> probe = backend->paged_read_probe(paged.batch(), paged.kv());
            ASSERT_TRUE(probe.ok()) << probe.error().to_string();
            std::int64_t bytes = 0;
            EXPECT_EQ(probe->checksum, expected_checksum(paged, bytes)) << spec.to_string();
            EXPECT_EQ(probe->bytes, bytes);
            EXPECT_GT(probe->ns, 0);
          }
        }
      }
    }
  }
}

TEST(PagedReadProbe, StridesWithGaps_LeaveTheGapsOut) {
  // Pages of a larger tensor: heads, slots or both lie further apart than they need.
  const AttentionShape shape = {.num_q_heads = 2, .num_kv_heads = 2, .head_dim = 16};
  const std::vector<std::int32_t> lens = {9}, indptr = {0, 3}, indices = {2, 0, 1};
  std::vector<std::uint32_t> memory(1 << 14);
  SplitMix64 random(1);
  for (std::uint32_t& word : memory) {
    word = static_cast<std::uint32_t>(random());
  }
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(supported_isas().back());
  const Result<BatchState> batch = BatchState::make({.shape = shape,
                                                     .page_size = 4,
                                                     .seq_lens = lens,
                                                     .block_table = *BlockTable::csr(indptr, indices),
                                                     .num_pages = 3});
  ASSERT_TRUE(batch.ok());
  for (const PageStrides& strides :
       {PageStrides{.page = 256, .kv_head = 64, .slot = 16}, PageStrides{.page = 256, .kv_head = 100, .slot = 16},
        PageStrides{.page = 512, .kv_head = 120, .slot = 24}, PageStrides{.page = 512, .kv_head = 16, .slot = 48}}) {
    const PagedKv kv = {.k = memory.data(),
                        .v = memory.data() + (1 << 13),
                        .dtype = DType::kF32,
                        .layout = {.page_size = 4, .k_strides = strides, .v_strides = strides},
                        .num_pages = 3};
    std::uint32_t expected = 0;
    for (std::int64_t page = 0; page < 3; ++page) {
      for (std::int64_t i = 0; i < 2 * 4 * 16; ++i) {
        const std::int64_t at = page * strides.page + i / 64 * strides.kv_head + i / 16 % 4 * strides.slot + i % 16;
        expected += memory[static_cast<std::size_t>(at)] + memory[static_cast<std::size_t>(at + (1 << 13))];
      }
    }
    const Result<ProbeResult> probe = backend->paged_read_probe(*batch, kv);
    ASSERT_TRUE(probe.ok()) << probe.error().to_string();
    EXPECT_EQ(probe->checksum, expected);
    EXPECT_EQ(probe->bytes, 2 * 3 * 2 * 4 * 16 * 4);
  }
}

TEST(PagedReadProbe, FewerPagesThanTheBatchNames_IsAnError) {
  const PagedCase paged(CaseSpec{});
  PagedKv kv = paged.kv();
  kv.num_pages = 1;
  const Result<ProbeResult> probe = testing::make_backend(Isa::kPortable)->paged_read_probe(paged.batch(), kv);
  ASSERT_FALSE(probe.ok());
  EXPECT_EQ(probe.error().code, ErrorCode::kOutOfRange);
}

TEST(ReadProbe, EveryPattern_ReadsTheWholeBuffer) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(supported_isas().back());
  const Result<AlignedBuffer> buffer = make_probe_buffer(backend->pool(), 1 << 21);
  ASSERT_TRUE(buffer.ok());
  std::uint32_t expected = 0;
  for (std::size_t i = 0; i < buffer->size() / 4; ++i) {
    expected += buffer->as<std::uint32_t>()[i];
  }
  ASSERT_NE(expected, 0U);
  for (const std::int32_t workers : {1, 2}) {
    Result<ProbeResult> probe = backend->read_probe(*buffer, {.workers = workers});
    ASSERT_TRUE(probe.ok());
    EXPECT_EQ(probe->checksum, expected);
    EXPECT_EQ(probe->bytes, 1 << 21);
    EXPECT_GT(probe->gb_per_s(), 0.0);
    for (const std::int64_t chunk_bytes : kProbeChunkBytes) {
      probe = backend->read_probe(*buffer, {.chunk_bytes = chunk_bytes, .workers = workers});
      ASSERT_TRUE(probe.ok());
      EXPECT_EQ(probe->checksum, expected) << chunk_bytes;
    }
  }
}

std::vector<ReadMethod> all_methods() {
  std::vector<ReadMethod> methods;
  for (const std::int32_t streams : {1, 2, 4}) {
    for (const ReadPrefetch prefetch : {ReadPrefetch::kNone, ReadPrefetch::kL1, ReadPrefetch::kL2}) {
      for (const std::int64_t ahead_bytes : {1, 65536}) {
        methods.push_back({streams, prefetch, ahead_bytes});
      }
    }
  }
  return methods;
}

// 29 units of 64 KiB and 232 of 8 KiB leave a rest on 2 and 4 streams.
TEST(ReadProbe, EveryMethodAndIsa_ReadsTheWholeBuffer) {
  for (const Isa isa : supported_isas()) {
    const std::unique_ptr<CpuBackend> backend = testing::make_backend(isa);
    const Result<AlignedBuffer> buffer = make_probe_buffer(backend->pool(), 29 * 65536, MemoryPages::kSmall);
    ASSERT_TRUE(buffer.ok());
    std::uint32_t expected = 0;
    for (std::size_t i = 0; i < buffer->size() / 4; ++i) {
      expected += buffer->as<std::uint32_t>()[i];
    }
    for (const ReadMethod& method : all_methods()) {
      for (const std::optional<std::int64_t> chunk_bytes :
           {std::optional<std::int64_t>(), std::optional<std::int64_t>(8192), std::optional<std::int64_t>(65536)}) {
        const Result<ProbeResult> probe = backend->read_probe(*buffer, {.chunk_bytes = chunk_bytes, .method = method});
        ASSERT_TRUE(probe.ok()) << probe.error().to_string();
        EXPECT_EQ(probe->checksum, expected) << method.streams << " streams, " << chunk_bytes.value_or(0);
        EXPECT_EQ(probe->bytes, 29 * 65536);
      }
    }
  }
}

// K of a page has 2560 bytes, 30 KiB, and 60 KiB, which is cut into units; an odd page is read alone.
TEST(PagedReadProbe, EveryMethodAndPageSize_ReadsWholePagesOnce) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(supported_isas().back());
  for (const std::int32_t page_size : {4, 48, 96}) {
    const PagedCase paged(CaseSpec{.shape = {.num_q_heads = 4, .num_kv_heads = 4, .head_dim = 80},
                                   .lens = {3 * page_size, 1, 5 * page_size - 1},
                                   .page_size = page_size});
    std::int64_t bytes = 0;
    const std::uint32_t expected = expected_checksum(paged, bytes);
    for (const ReadMethod& method : all_methods()) {
      const Result<ProbeResult> probe =
          paged_read_probe(backend->pool(), backend->kernels(), paged.batch(), paged.kv(), method);
      ASSERT_TRUE(probe.ok()) << probe.error().to_string();
      EXPECT_EQ(probe->checksum, expected) << page_size << ", " << method.streams << " streams";
      EXPECT_EQ(probe->bytes, bytes);
    }
  }
}

TEST(ReadProbe, BadMethods_AreErrors) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(Isa::kPortable);
  const Result<AlignedBuffer> buffer = make_probe_buffer(backend->pool(), 1 << 16);
  ASSERT_TRUE(buffer.ok());
  const PagedCase paged(CaseSpec{});
  for (const ReadMethod& method :
       {ReadMethod{.streams = 0}, ReadMethod{.streams = 3}, ReadMethod{.streams = 8}, ReadMethod{.ahead_bytes = 0}}) {
    EXPECT_FALSE(backend->read_probe(*buffer, {.method = method}).ok());
    EXPECT_FALSE(paged_read_probe(backend->pool(), backend->kernels(), paged.batch(), paged.kv(), method).ok());
  }
}

TEST(ProbeKernels, EveryIsa_IsItsOwnAndHasTheExponential) {
  for (const Isa isa : supported_isas()) {
    const ProbeKernels& kernels = probe_kernels(isa);
    EXPECT_EQ(kernels.isa, isa == Isa::kAvx512Bf16 || isa == Isa::kAmx ? Isa::kAvx512 : isa);
    std::vector<float> x(128), y(128, -1.0F);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = -static_cast<float>(i) / 4.0F;
    }
    kernels.exp(x.data(), y.data(), 128);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(y[i], std::exp(x[i]), 1e-6 * std::exp(x[i]));
    }
  }
}

TEST(ExpAndForkJoinProbes, AllWorkers_TakeTime) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(supported_isas().back());
  EXPECT_GT(fork_join_probe_ns(backend->pool()), 0);
  for (const std::int32_t workers : {1, 2}) {
    const Result<ExpResult> result = exp_probe(backend->pool(), backend->kernels(), workers);
    ASSERT_TRUE(result.ok());
    EXPECT_GT(result->exp_per_ns(), 0.0);
    EXPECT_EQ(result->count % workers, 0);
  }
  EXPECT_FALSE(exp_probe(backend->pool(), backend->kernels(), 3).ok());
  EXPECT_FALSE(exp_probe(backend->pool(), backend->kernels(), 0).ok());
}

TEST(ReadProbe, BadPatterns_AreErrors) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(Isa::kPortable);
  const Result<AlignedBuffer> buffer = make_probe_buffer(backend->pool(), 1 << 17);
  ASSERT_TRUE(buffer.ok());
  for (const ReadPattern& pattern :
       {ReadPattern{.workers = 0}, ReadPattern{.workers = 3}, ReadPattern{.chunk_bytes = 0},
        ReadPattern{.chunk_bytes = -1024}, ReadPattern{.chunk_bytes = 100}, ReadPattern{.chunk_bytes = 3072}}) {
    const Result<ProbeResult> probe = backend->read_probe(*buffer, pattern);
    ASSERT_FALSE(probe.ok());
    EXPECT_EQ(probe.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_FALSE(make_probe_buffer(backend->pool(), 1000).ok());
  EXPECT_FALSE(backend->read_probe(AlignedBuffer(), {}).ok());
}

}  // namespace
}  // namespace pkv

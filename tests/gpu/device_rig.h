// Tensors of a PagedCase in device memory, at addresses that stay from step to step as a captured graph needs.
// Not here: cases (support/paged_case.h), what is expected of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "exec/device_tensor.h"
#include "exec/staged_backend.h"
#include "persistentkv/cuda.h"
#include "support/paged_case.h"

namespace pkv::testing {

/// Tensor cores take weights as a sum of two 16-bit numbers: 16 bits in bf16.
/// f16 in groups above 8 is weighed by 16 bits, all else by more.
inline constexpr Tolerance kTensorCores{.weights = 0x1p-14};
inline constexpr Tolerance kExactWeights{.weights = 0x1p-16};

inline std::unique_ptr<CudaBackend> make_cuda(const CudaOptions& options = {}) {
  Result<std::unique_ptr<CudaBackend>> backend = CudaBackend::create(options);
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().to_string());
  return backend.ok() ? *std::move(backend) : nullptr;
}

inline void expect_ok(const Status& status) { ASSERT_TRUE(status.ok()) << status.error().to_string(); }

/// Queries of the cache's type, FP32 out: what tensor cores take.
inline CaseSpec tensor_core_spec(DType dtype, std::vector<std::int32_t> lens, std::int32_t head_dim = 128,
                                 std::int32_t group_size = 4) {
  return {.shape = {.num_q_heads = 2 * group_size, .num_kv_heads = 2, .head_dim = head_dim},
          .lens = std::move(lens),
          .kv_dtype = dtype,
          .q_dtype = dtype};
}

class DeviceRig {
 public:
  /// Room for `largest` and all cases of its shape and types with no more rows and pages. K and V begin
  /// `kv_offset` elements behind an aligned address, queries `q_offset`.
  DeviceRig(CudaBackend& backend, const PagedCase& largest, std::int64_t kv_offset = 0, std::int64_t q_offset = 0)
      : memory_(*backend.device_memory()),
        kv_offset_(kv_offset * dtype_bytes(largest.spec().kv_dtype)),
        q_offset_(q_offset * dtype_bytes(largest.spec().q_dtype)) {
    EXPECT_EQ(largest.spec().packing, KvPacking::kSeparate);
    num_pages_ = largest.kv().num_pages;
    out_words_ = largest.poisoned_out().size();
    expect_ok(k_.grow(kv_bytes_of(largest) + kv_offset_));
    expect_ok(v_.grow(kv_bytes_of(largest) + kv_offset_));
    expect_ok(q_.grow(q_bytes_of(largest) + q_offset_));
    expect_ok(out_.grow(q_bytes_of(largest)));
    expect_ok(lse_.grow(static_cast<std::int64_t>(largest.num_heads() * sizeof(float))));
    if (!largest.args(nullptr, nullptr).sinks.empty()) {
      expect_ok(sinks_.grow(largest.spec().shape.num_q_heads * 4));
    }
    load(largest);
  }

  /// Copies a case's tensors there; out and lse become NaN.
  void load(const PagedCase& paged) {
    ASSERT_LE(paged.kv().num_pages, num_pages_);
    ASSERT_LE(paged.poisoned_out().size(), out_words_);
    const RunArgs host = paged.args(nullptr, nullptr);
    expect_ok(memory_.upload(k_.as<std::byte>() + kv_offset_, host.kv.k, kv_bytes_of(paged)));
    expect_ok(memory_.upload(v_.as<std::byte>() + kv_offset_, host.kv.v, kv_bytes_of(paged)));
    expect_ok(memory_.upload(q_.as<std::byte>() + q_offset_, host.q.data, q_bytes_of(paged)));
    expect_ok(sinks_.upload(host.sinks.data(), static_cast<std::int64_t>(host.sinks.size_bytes())));
    poison();
  }

  /// The queries of another case of the same shape and rows in place of this one's.
  void load_queries(const PagedCase& other) {
    expect_ok(memory_.upload(q_.as<std::byte>() + q_offset_, other.args(nullptr, nullptr).q.data, q_bytes_of(other)));
  }

  void poison() {
    const std::vector<std::uint32_t> nan(out_words_, 0x7FC07FC0U);
    expect_ok(memory_.upload(out_.data(), nan.data(), static_cast<std::int64_t>(nan.size() * 4)));
    const std::vector<float> lse(static_cast<std::size_t>(lse_.size() / 4), std::nanf(""));
    expect_ok(memory_.upload(lse_.data(), lse.data(), lse_.size()));
  }

  /// The case's arguments with device addresses.
  [[nodiscard]] RunArgs args(const PagedCase& paged) const {
    RunArgs args = paged.args(out_.data(), lse_.as<float>());
    args.q.data = q_.as<std::byte>() + q_offset_;
    args.kv.k = k_.as<std::byte>() + kv_offset_;
    args.kv.v = v_.as<std::byte>() + kv_offset_;
    args.sinks = {sinks_.as<const float>(), args.sinks.size()};
    return args;
  }

  /// What lies in out and lse. Does not wait for any stream but the legacy default.
  [[nodiscard]] CaseOutput read(const PagedCase& paged) const {
    std::vector<std::uint32_t> raw = paged.poisoned_out();
    std::vector<float> lse(paged.num_heads());
    expect_ok(memory_.download(raw.data(), out_.data(), static_cast<std::int64_t>(raw.size() * 4)));
    expect_ok(memory_.download(lse.data(), lse_.data(), static_cast<std::int64_t>(lse.size() * 4)));
    return paged.gather(raw, std::move(lse));
  }

 private:
  static std::int64_t kv_bytes_of(const PagedCase& paged) {
    return paged.kv().num_pages * paged.kv().layout.page_elements() * dtype_bytes(paged.kv().dtype);
  }
  /// Four bytes an element, whatever the type: as PagedCase has them.
  static std::int64_t q_bytes_of(const PagedCase& paged) {
    return static_cast<std::int64_t>(paged.poisoned_out().size()) * 4;
  }

  DeviceMemory& memory_;
  std::int64_t kv_offset_;  // bytes, as is the next
  std::int64_t q_offset_;
  std::int64_t num_pages_ = 0;
  std::size_t out_words_ = 0;
  DeviceTensor k_{memory_}, v_{memory_}, q_{memory_}, out_{memory_}, lse_{memory_}, sinks_{memory_};
};

/// Reserves, runs and reads back; a failure to do so is a test failure.
inline CaseOutput run_on(CudaBackend& backend, DeviceRig& rig, const PagedCase& paged, const Plan& plan) {
  rig.poison();
  expect_ok(backend.reserve(plan));
  const Result<RunTimes> times = backend.run(plan, rig.args(paged));
  EXPECT_TRUE(times.ok()) << (times.ok() ? "" : times.error().to_string());
  return rig.read(paged);
}

}  // namespace pkv::testing

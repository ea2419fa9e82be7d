// A device for tests: its addresses cannot be read by the host, and host addresses are refused by it.
// Not here: tests.
#pragma once

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/cuda.h"

namespace pkv::testing {

/// Addresses come from a mapping without access rights, contents lie elsewhere: the host crashes where it
/// reads a device address, and at() finds no contents behind a host address. New memory holds NaN.
class FakeDeviceMemory final : public DeviceMemory {
 public:
  ~FakeDeviceMemory() override {
    for (const auto& [begin, content] : contents_) {
      munmap(begin, content.size());
    }
  }

  Result<void*> allocate(std::int64_t bytes) override {
    if (bytes > available_bytes()) {
      return Error{ErrorCode::kResourceExhausted, fmt::format("{} bytes of {} available", bytes, available_bytes()),
                   "device memory"};
    }
    const auto size = static_cast<std::size_t>(bytes);
    void* address = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
      return Error{ErrorCode::kResourceExhausted, "no addresses", "fake device"};
    }
    contents_[static_cast<std::byte*>(address)] = std::vector<std::byte>(size, std::byte{0xFF});
    ++num_allocations;
    return address;
  }
  void release(void* memory) override {
    const auto found = contents_.find(static_cast<std::byte*>(memory));
    if (found != contents_.end()) {
      munmap(found->first, found->second.size());
      contents_.erase(found);
    }
  }
  Status upload(void* device, const void* host, std::int64_t bytes) override {
    std::byte* content = at(device, bytes);
    if (content == nullptr) {
      return outside("upload");
    }
    std::memcpy(content, host, static_cast<std::size_t>(bytes));
    uploaded_bytes += bytes;
    return {};
  }
  Status download(void* host, const void* device, std::int64_t bytes) override {
    const std::byte* content = at(device, bytes);
    if (content == nullptr) {
      return outside("download");
    }
    std::memcpy(host, content, static_cast<std::size_t>(bytes));
    return {};
  }
  [[nodiscard]] std::int64_t available_bytes() const override { return total_bytes - used_bytes(); }
  [[nodiscard]] std::int64_t cache_bytes() const override { return last_level_cache_bytes; }

  /// The contents behind a device address; null unless all `bytes` lie in one allocation.
  std::byte* at(const void* address, std::int64_t bytes) {
    const auto* begin = static_cast<const std::byte*>(address);
    for (auto& [base, content] : contents_) {
      if (begin >= base && begin + bytes <= base + content.size()) {
        return content.data() + (begin - base);
      }
    }
    return nullptr;
  }
  [[nodiscard]] std::int64_t used_bytes() const {
    std::int64_t used = 0;
    for (const auto& [base, content] : contents_) {
      used += static_cast<std::int64_t>(content.size());
    }
    return used;
  }

  std::int64_t total_bytes = std::int64_t{256} << 20;
  std::int64_t last_level_cache_bytes = std::int64_t{1} << 20;
  int num_allocations = 0;
  std::int64_t uploaded_bytes = 0;

 private:
  static Error outside(const char* what) {
    return {ErrorCode::kInvalidArgument, "no device memory of that size at this address", what};
  }
  std::map<std::byte*, std::vector<std::byte>> contents_;
};

/// Runs a host backend on the contents of device memory. A CudaBackend, so that whoever looks for one finds
/// the probe; streams and graphs are not supported.
class FakeDeviceBackend : public CudaBackend {
 public:
  explicit FakeDeviceBackend(Backend& inner) : inner_(inner) {}

  [[nodiscard]] std::string_view name() const override { return "fake"; }
  [[nodiscard]] std::string describe() const override { return "fake device of the tests"; }
  [[nodiscard]] Capabilities capabilities() const override { return inner_.capabilities(); }
  [[nodiscard]] std::int32_t num_workers() const override { return 12; }
  DeviceMemory* device_memory() override { return &memory; }
  [[nodiscard]] bool supports(Route route) const override { return runs_external || !is_external(route); }
  Status reserve(const Plan& plan) override { return inner_.reserve(plan); }

  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    PKV_RETURN_IF_ERROR(validate_run(plan, args, capabilities(), name()));
    const AttentionShape& shape = args.batch.shape();
    RunArgs host = args;
    PKV_RETURN_IF_ERROR(open_kv(host.kv, shape));
    PKV_RETURN_IF_ERROR(open(host.q.data, bytes_of(args.q, args), "q"));
    PKV_RETURN_IF_ERROR(open(host.out.data, bytes_of(args.out, args), "out"));
    const float* sinks = args.sinks.data();
    float* lse = args.lse.data();
    PKV_RETURN_IF_ERROR(open(sinks, static_cast<std::int64_t>(args.sinks.size_bytes()), "sinks"));
    PKV_RETURN_IF_ERROR(open(lse, static_cast<std::int64_t>(args.lse.size_bytes()), "lse"));
    host.sinks = {sinks, args.sinks.size()};
    host.lse = {lse, args.lse.size()};
    const Result<RunTimes> times = inner_.run(plan, host);
    if (!times.ok()) {
      return times;
    }
    return RunTimes{.total_ns = 1000, .decode_ns = 1000};
  }

  [[nodiscard]] const CudaDevice& device() const override { return device_; }
  [[nodiscard]] void* stream() const override { return nullptr; }
  void set_stream(void*) override {}
  [[nodiscard]] std::string kernel_name(const Plan&, const RunArgs&) const override { return "fake"; }
  Status load_step(const Plan&, const BatchState&) override { return unsupported(); }
  Status enqueue(const Plan&, const RunArgs&) override { return unsupported(); }
  Status synchronize() override { return unsupported(); }
  Result<std::unique_ptr<CudaGraph>> capture(const Plan&, const BatchState&, const CudaGraphBounds&,
                                             std::span<const RunArgs>) override {
    return unsupported();
  }
  Result<PageRead> read_pages(const BatchState& batch, const PagedKv& kv) override {
    PagedKv host = kv;
    PKV_RETURN_IF_ERROR(open_kv(host, batch.shape()));
    return PageRead{.bytes = kv_bytes(batch.attended_tokens(), batch.shape(), kv.dtype), .elapsed_ns = 500};
  }

  FakeDeviceMemory memory;
  bool runs_external = false;

 private:
  template <typename View>
  static std::int64_t bytes_of(const View& view, const RunArgs& args) {
    const AttentionShape& shape = args.batch.shape();
    const std::int64_t elements =
        (args.batch.num_rows() - 1) * view.row_stride + (shape.num_q_heads - 1) * view.head_stride + shape.head_dim;
    return args.batch.num_rows() == 0 ? 0 : elements * dtype_bytes(view.dtype);
  }
  /// From a device address to its contents.
  template <typename T>
  Status open(T*& address, std::int64_t bytes, const char* name) {
    if (bytes == 0) {
      return {};
    }
    std::byte* content = memory.at(address, bytes);
    if (content == nullptr) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("not {} bytes of device memory", bytes), name};
    }
    address = reinterpret_cast<T*>(content);
    return {};
  }
  Status open_kv(PagedKv& kv, const AttentionShape& shape) {
    const auto bytes = [&](const PageStrides& s) {
      const std::int64_t page = (shape.num_kv_heads - 1) * s.kv_head + (kv.layout.page_size - 1) * s.slot;
      return kv.num_pages == 0 ? 0 : ((kv.num_pages - 1) * s.page + page + shape.head_dim) * dtype_bytes(kv.dtype);
    };
    PKV_RETURN_IF_ERROR(open(kv.k, bytes(kv.layout.k_strides), "k"));
    return open(kv.v, bytes(kv.layout.v_strides), "v");
  }
  static Error unsupported() { return {ErrorCode::kUnsupported, "not by the fake device", "test"}; }

  Backend& inner_;
  CudaDevice device_;
};

}  // namespace pkv::testing

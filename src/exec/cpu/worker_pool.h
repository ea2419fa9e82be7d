// WorkerPool: persistent pinned workers and a fork-join that neither allocates nor calls the system.
// Not here: what is run, tasks, timing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "persistentkv/cpu.h"
#include "persistentkv/result.h"

namespace pkv {

inline constexpr std::int32_t kMaxWorkers = 1024;
/// Two lines: adjacent-line prefetchers pull lines in pairs.
inline constexpr std::size_t kFalseSharingBytes = 128;

struct WorkerPoolOptions {
  /// 1 to kMaxWorkers, the calling thread included.
  std::int32_t num_workers = 1;
  /// Hardware threads to pin to, one a worker, in order; empty, or fewer than the workers: no pinning.
  std::vector<std::int32_t> cpus = {};
  WaitMode wait = WaitMode::kSleep;
};

/// Worker 0 is the thread that calls run(). It is not pinned, unless it happens to be on the core of
/// another worker when run() begins: then it moves to the first core for the run, and its affinity is
/// restored before run() returns. Between runs the other workers spin (kSpin) or, after some
/// microseconds, sleep. With more workers than cores every wait yields the core.
class WorkerPool {
 public:
  /// Errors: kInvalidArgument (num_workers), kResourceExhausted (the system refuses a thread).
  static Result<std::unique_ptr<WorkerPool>> create(const WorkerPoolOptions& options);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  [[nodiscard]] std::int32_t num_workers() const { return num_workers_; }
  [[nodiscard]] bool pinned() const { return !cpus_.empty(); }

  /// Calls work(worker) once for each worker in [0, num_workers) at the same time and waits for all.
  /// One run at a time. Everything a worker wrote is visible to the caller afterwards.
  template <typename Work>
  void run(Work&& work) {
    run_erased(
        [](void* context, std::int32_t worker) { (*static_cast<std::remove_reference_t<Work>*>(context))(worker); },
        &work);
  }

  /// Inside run(), by every worker: waits until all have arrived. The last one calls last() before any
  /// goes on.
  template <typename Last>
  void barrier(Last&& last) {
    const std::uint32_t phase = barrier_phase_.load(std::memory_order_acquire);
    if (barrier_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_workers_) {
      barrier_arrived_.store(0, std::memory_order_relaxed);
      last();
      barrier_phase_.store(phase + 1, std::memory_order_release);
    } else {
      wait_for_phase_after(phase);
    }
  }

 private:
  using ErasedWork = void (*)(void* context, std::int32_t worker);

  explicit WorkerPool(const WorkerPoolOptions& options);
  Status start_threads();
  void worker_loop(std::int32_t worker);
  void run_erased(ErasedWork work, void* context);
  void wait_for_phase_after(std::uint32_t phase) const;
  /// Returns the first generation that differs from `seen`.
  std::uint32_t wait_for_generation_after(std::uint32_t seen) const;

  const std::int32_t num_workers_;
  const WaitMode wait_;
  std::vector<std::int32_t> cpus_;  // [num_workers], or empty: not pinned
  std::vector<std::thread> threads_;

  // Written by the caller before a generation starts.
  ErasedWork work_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;

  alignas(kFalseSharingBytes) std::atomic<std::uint32_t> generation_{0};
  alignas(kFalseSharingBytes) std::atomic<std::int32_t> running_{0};
  alignas(kFalseSharingBytes) std::atomic<std::int32_t> barrier_arrived_{0};
  alignas(kFalseSharingBytes) std::atomic<std::uint32_t> barrier_phase_{0};
};

}  // namespace pkv

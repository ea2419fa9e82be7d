// WorkerPool: threads, pinning and waiting.
// Not here: what is run.
#include "exec/cpu/worker_pool.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <system_error>

namespace pkv {
namespace {

// A pause is 10 to 40 ns: pauses until a wait starts to yield the core now and then, which costs a waiter
// that has its own core nothing, and lets others run where there are more workers than cores.
constexpr std::int32_t kPausesBeforeYield = 256;
// Yields until a sleeping pool's worker sleeps: 100 to 300 us with kPausesBetweenYields between them,
// longer than the pause between two layers of a step.
constexpr std::int32_t kYieldsBeforeSleep = 100;
constexpr std::int32_t kPausesBetweenYields = 64;

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

/// How a wait spends its time: pauses first, then yields between pauses.
class Spinner {
 public:
  void spin() {
    pause_briefly();
    if (++pauses_ >= kPausesBeforeYield) {
      pauses_ = kPausesBeforeYield - kPausesBetweenYields;
      ++yields_;
      sched_yield();
    }
  }
  [[nodiscard]] std::int32_t yields() const { return yields_; }

 private:
  std::int32_t pauses_ = 0;
  std::int32_t yields_ = 0;
};

bool pin_to(std::int32_t cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= CPU_SETSIZE) {
    return false;
  }
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/// Moves the calling thread off the cores of other workers for its lifetime; see WorkerPool.
class CallerPlacement {
 public:
  explicit CallerPlacement(const std::vector<std::int32_t>& cpus) {
    const bool on_other_worker =
        cpus.size() > 1 && std::find(cpus.begin() + 1, cpus.end(), sched_getcpu()) != cpus.end();
    if (on_other_worker && sched_getaffinity(0, sizeof(previous_), &previous_) == 0) {
      moved_ = pin_to(cpus[0]);
    }
  }
  ~CallerPlacement() {
    if (moved_) {
      sched_setaffinity(0, sizeof(previous_), &previous_);
    }
  }
  CallerPlacement(const CallerPlacement&) = delete;
  CallerPlacement& operator=(const CallerPlacement&) = delete;

 private:
  cpu_set_t previous_;
  bool moved_ = false;
};

}  // namespace

WorkerPool::WorkerPool(const WorkerPoolOptions& options) : num_workers_(options.num_workers), wait_(options.wait) {
  if (options.cpus.size() >= static_cast<std::size_t>(num_workers_)) {
    cpus_.assign(options.cpus.begin(), options.cpus.begin() + num_workers_);
  }
}

Result<std::unique_ptr<WorkerPool>> WorkerPool::create(const WorkerPoolOptions& options) {
  if (options.num_workers < 1 || options.num_workers > kMaxWorkers) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not in 1 to {}", options.num_workers, kMaxWorkers),
                 "threads"};
  }
  std::unique_ptr<WorkerPool> pool(new WorkerPool(options));
  PKV_RETURN_IF_ERROR(pool->start_threads());
  return pool;
}

Status WorkerPool::start_threads() {
  threads_.reserve(static_cast<std::size_t>(num_workers_ - 1));
  for (std::int32_t worker = 1; worker < num_workers_; ++worker) {
    try {
      threads_.emplace_back([this, worker] { worker_loop(worker); });
    } catch (const std::system_error& error) {
      return Error{ErrorCode::kResourceExhausted,
                   fmt::format("the system refused thread {} of {}: {}", worker + 1, num_workers_, error.what()),
                   "threads"};
    }
  }
  return {};
}

WorkerPool::~WorkerPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void WorkerPool::worker_loop(std::int32_t worker) {
  if (pinned()) {
    // A refusal (a cpuset that changed) costs speed, not correctness.
    static_cast<void>(pin_to(cpus_[static_cast<std::size_t>(worker)]));
  }
  for (std::uint32_t seen = 0;;) {
    seen = wait_for_generation_after(seen);
    if (stop_) {
      return;
    }
    work_(context_, worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

void WorkerPool::run_erased(ErasedWork work, void* context) {
  if (num_workers_ == 1) {
    work(context, 0);
    return;
  }
  const CallerPlacement placement(cpus_);
  work_ = work;
  context_ = context;
  running_.store(num_workers_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  if (wait_ == WaitMode::kSleep) {
    generation_.notify_all();  // a system call only if somebody sleeps
  }
  work(context, 0);
  for (Spinner spinner; running_.load(std::memory_order_acquire) != 0;) {
    spinner.spin();
  }
}

void WorkerPool::wait_for_phase_after(std::uint32_t phase) const {
  for (Spinner spinner; barrier_phase_.load(std::memory_order_acquire) == phase;) {
    spinner.spin();
  }
}

std::uint32_t WorkerPool::wait_for_generation_after(std::uint32_t seen) const {
  Spinner spinner;
  std::uint32_t current;
  while ((current = generation_.load(std::memory_order_acquire)) == seen) {
    spinner.spin();
    if (wait_ == WaitMode::kSleep && spinner.yields() >= kYieldsBeforeSleep) {
      generation_.wait(seen, std::memory_order_acquire);
    }
  }
  return current;
}

}  // namespace pkv

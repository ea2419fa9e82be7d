// Crew: a few threads for work outside the measured parts (filling, the oracle, the MLP proxy).
// Not here: attention, which runs on the backend's own workers.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "persistentkv/result.h"

namespace pkv {

/// The backend pins the calling thread, and threads inherit the affinity of their creator: a crew made
/// before the backend keeps the whole machine. Idle threads sleep.
class Crew {
 public:
  /// One thread a CPU that the calling thread may run on; fewer where the system refuses more of them.
  /// Errors: kResourceExhausted if it refuses the first.
  static Result<std::unique_ptr<Crew>> make();

  /// Starts a thread that runs `body`; throws std::system_error when refused, as std::thread does.
  using StartThread = std::function<std::thread(std::function<void()> body)>;
  static Result<std::unique_ptr<Crew>> make(const StartThread& start);

  /// Threads that make() asks for.
  static int wanted_size();

  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(threads_.size()); }

  using Job = std::function<void(int thread_idx)>;
  /// Runs job(i) once on every thread i and waits; calls `meanwhile` on the calling thread about every
  /// 20 ms until then. Errors: kResourceExhausted when a job threw, out of memory as a rule.
  Status run_on_all(const Job& job, const std::function<void()>& meanwhile);
  /// Runs the job on one thread and waits. Errors: as run_on_all.
  Status run_on_one(const std::function<void()>& job);

 private:
  Crew() = default;
  void serve(int thread_idx);

  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable work_done_;
  const Job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  int running_ = 0;
  std::exception_ptr failure_;  // the first one of this generation
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pkv

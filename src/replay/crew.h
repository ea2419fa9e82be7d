// Crew: a few threads for work outside the measured parts (filling, the oracle, the MLP proxy).
// Not here: attention, which runs on the backend's own workers.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace pkv {

/// The backend pins the calling thread, and threads inherit the affinity of their creator: a crew made
/// before the backend keeps the whole machine. Idle threads sleep.
class Crew {
 public:
  /// One thread a CPU that the calling thread may run on.
  Crew();
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(threads_.size()); }

  using Job = std::function<void(int thread_idx)>;
  /// Runs job(i) once on every thread i and waits; calls `meanwhile` on the calling thread about every
  /// 20 ms until then.
  void run_on_all(const Job& job, const std::function<void()>& meanwhile);
  /// Runs the job on one thread and waits.
  void run_on_one(const std::function<void()>& job);

 private:
  void serve(int thread_idx);

  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable work_done_;
  const Job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  int running_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pkv

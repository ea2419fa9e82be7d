// A generation counter and two condition variables; nothing here is timed.
#include "replay/crew.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace pkv {
namespace {

int allowed_cpus() {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) {
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  return std::max(1, CPU_COUNT(&mask));
}

constexpr auto kPollInterval = std::chrono::milliseconds(20);

}  // namespace

Crew::Crew() {
  const int count = allowed_cpus();
  threads_.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    threads_.emplace_back([this, i] { serve(i); });
  }
}

Crew::~Crew() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

void Crew::serve(int thread_idx) {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    work_ready_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) {
      return;
    }
    seen = generation_;
    const Job& job = *job_;
    lock.unlock();
    job(thread_idx);
    lock.lock();
    if (--running_ == 0) {
      work_done_.notify_all();
    }
  }
}

void Crew::run_on_all(const Job& job, const std::function<void()>& meanwhile) {
  std::unique_lock lock(mutex_);
  job_ = &job;
  running_ = size();
  ++generation_;
  work_ready_.notify_all();
  while (!work_done_.wait_for(lock, kPollInterval, [&] { return running_ == 0; })) {
    lock.unlock();
    meanwhile();
    lock.lock();
  }
}

void Crew::run_on_one(const std::function<void()>& job) {
  const Job on_first = [&](int thread_idx) {
    if (thread_idx == 0) {
      job();
    }
  };
  run_on_all(on_first, [] {});
}

}  // namespace pkv

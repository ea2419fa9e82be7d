// A generation counter and two condition variables; nothing here is timed.
#include "replay/crew.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string>
#include <system_error>
#include <utility>

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

/// What a job threw, as a value on the calling thread.
Status status_of(const std::exception_ptr& failure) {
  if (!failure) {
    return {};
  }
  try {
    std::rethrow_exception(failure);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, "out of memory", "helper thread"};
  } catch (const std::exception& exception) {
    return Error{ErrorCode::kResourceExhausted, exception.what(), "helper thread"};
  }
}

}  // namespace

int Crew::wanted_size() { return allowed_cpus(); }

Result<std::unique_ptr<Crew>> Crew::make() {
  return make([](std::function<void()> body) { return std::thread(std::move(body)); });
}

Result<std::unique_ptr<Crew>> Crew::make(const StartThread& start) {
  std::unique_ptr<Crew> crew(new Crew());
  const int count = wanted_size();
  crew->threads_.reserve(static_cast<std::size_t>(count));
  try {
    for (int i = 0; i < count; ++i) {
      crew->threads_.push_back(start([raw = crew.get(), i] { raw->serve(i); }));
    }
  } catch (const std::system_error& refused) {
    if (crew->threads_.empty()) {
      return Error{ErrorCode::kResourceExhausted,
                   std::string("the system refuses to start a thread: ") + refused.what(), "helper threads"};
    }
  }
  return crew;
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
    std::exception_ptr failure;
    try {
      job(thread_idx);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure && !failure_) {
      failure_ = failure;
    }
    if (--running_ == 0) {
      work_done_.notify_all();
    }
  }
}

Status Crew::run_on_all(const Job& job, const std::function<void()>& meanwhile) {
  std::unique_lock lock(mutex_);
  job_ = &job;
  running_ = size();
  failure_ = nullptr;
  ++generation_;
  work_ready_.notify_all();
  while (!work_done_.wait_for(lock, kPollInterval, [&] { return running_ == 0; })) {
    lock.unlock();
    meanwhile();
    lock.lock();
  }
  return status_of(std::exchange(failure_, nullptr));
}

Status Crew::run_on_one(const std::function<void()>& job) {
  const Job on_first = [&](int thread_idx) {
    if (thread_idx == 0) {
      job();
    }
  };
  return run_on_all(on_first, [] {});
}

}  // namespace pkv

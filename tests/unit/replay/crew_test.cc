// Helper threads: once a thread, refused threads, jobs that throw.
#include "replay/crew.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace pkv {
namespace {

Crew::StartThread refuse_after(int num_started) {
  return [num_started, started = 0](std::function<void()> body) mutable {
    if (started++ == num_started) {
      throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
    }
    return std::thread(std::move(body));
  };
}

TEST(Crew, RunOnAll_RunsOnceAThread) {
  const auto crew = Crew::make().value();
  const auto size = static_cast<std::size_t>(crew->size());
  std::vector<int> calls(size, 0);
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(crew->run_on_all([&](int thread_idx) { ++calls[static_cast<std::size_t>(thread_idx)]; }, [] {}).ok());
  }
  EXPECT_EQ(calls, std::vector<int>(size, 50));
}

TEST(Crew, LaterThreadRefused_GoesOnWithFewer) {
  if (Crew::wanted_size() < 2) {
    GTEST_SKIP() << "one CPU: there is no later thread";
  }
  const auto crew = Crew::make(refuse_after(1)).value();
  EXPECT_EQ(crew->size(), 1);
  int calls = 0;
  EXPECT_TRUE(crew->run_on_all([&](int) { ++calls; }, [] {}).ok());
  EXPECT_EQ(calls, 1);
}

TEST(Crew, FirstThreadRefused_IsAnError) {
  const auto crew = Crew::make(refuse_after(0));
  ASSERT_FALSE(crew.ok());
  EXPECT_EQ(crew.error().code, ErrorCode::kResourceExhausted);
}

TEST(Crew, JobThrows_IsAnErrorAndTheCrewLivesOn) {
  const auto crew = Crew::make().value();
  const Status no_memory = crew->run_on_all([](int) { throw std::bad_alloc(); }, [] {});
  ASSERT_FALSE(no_memory.ok());
  EXPECT_EQ(no_memory.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(no_memory.error().message, "out of memory");
  const Status other = crew->run_on_one([] { throw std::length_error("too long"); });
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().message, "too long");
  int calls = 0;
  EXPECT_TRUE(crew->run_on_one([&] { ++calls; }).ok());
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace pkv

// Drawing, and the one signal handler.
// Not here: what is measured (src/replay).
#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>

#include "base/clock.h"

namespace pkv::cli {
namespace {

constexpr std::int64_t kBarIntervalNs = 100'000'000;
constexpr std::int64_t kLineIntervalNs = 5'000'000'000;
constexpr std::int64_t kBarWidth = 30;
constexpr std::int64_t kEchoNs = 500'000'000;

// A signal handler can reach nothing but statics.
volatile std::sig_atomic_t num_guards = 0;
std::atomic<std::int64_t> first_interrupt_ns = 0;  // 0: none came
static_assert(std::atomic<std::int64_t>::is_always_lock_free);

void end_process(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // blocked until the handler returns
}

void on_interrupt(int signal) {
  const std::int64_t now = now_ns();
  const std::int64_t first = first_interrupt_ns;
  if (first != 0 && now - first < kEchoNs) return;
  if (first != 0 || num_guards == 0) {
    end_process(signal);
  } else {
    first_interrupt_ns = now;
  }
}

std::string_view phase_text(RunPhase phase) {
  switch (phase) {
    case RunPhase::kPreparing: return "preparing";
    case RunPhase::kWarmup: return "warming up";
    case RunPhase::kMeasuring: return "measuring";
    case RunPhase::kVerifying: return "verifying";
  }
  return "";
}

std::string bar(std::int64_t done, std::int64_t total) {
  const std::int64_t filled = total > 0 ? std::clamp<std::int64_t>(done * kBarWidth / total, 0, kBarWidth) : 0;
  return fmt::format("[{}{}] ", std::string(static_cast<std::size_t>(filled), '#'),
                     std::string(static_cast<std::size_t>(kBarWidth - filled), '.'));
}

}  // namespace

InterruptGuard::InterruptGuard() {
  num_guards = num_guards + 1;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

InterruptGuard::~InterruptGuard() { num_guards = num_guards - 1; }

bool InterruptGuard::interrupted() { return first_interrupt_ns != 0; }

ProgressObserver::ProgressObserver(std::string label)
    : label_(std::move(label)), terminal_(::isatty(STDERR_FILENO) == 1), last_shown_ns_(now_ns()) {}

ProgressObserver::~ProgressObserver() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressObserver::on_progress(const Progress& progress) {
  const std::int64_t now = now_ns();
  // On a terminal a new phase shows at once: filling memory takes seconds without another call.
  const bool new_phase = terminal_ && phase_ != progress.phase;
  if (!new_phase && now - last_shown_ns_ < (terminal_ ? kBarIntervalNs : kLineIntervalNs)) return;
  last_shown_ns_ = now;
  phase_ = progress.phase;
  std::string line = label_.empty() ? "" : label_ + ": ";
  if (terminal_ && progress.total) line += bar(progress.done, *progress.total);
  line += phase_text(progress.phase);
  if (progress.phase == RunPhase::kPreparing) return show(line);  // nothing to count yet
  line += fmt::format(" {}", progress.done);
  if (progress.total) line += fmt::format(" of {}", *progress.total);
  if (progress.num_rows > 0) line += fmt::format(", {} rows", progress.num_rows);
  show(line);
}

void ProgressObserver::show(const std::string& line) {
  if (terminal_) {
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
    drawn_ = true;
  } else {
    std::fprintf(stderr, "pkv: %s\n", line.c_str());
  }
  std::fflush(stderr);
}

}  // namespace pkv::cli

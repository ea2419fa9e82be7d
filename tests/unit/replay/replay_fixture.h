// A tiny trace and options that replay in milliseconds with the oracle as backend.
#pragma once

#include "replay/replay.h"
#include "trace/generators.h"

namespace pkv::testing {

inline Trace tiny_trace() {
  Trace trace;
  trace.name = "tiny";
  trace.format = "json";
  trace.requests = {{.arrival = 0, .prompt_len = 40, .decode_len = 6},
                    {.arrival = 0, .prompt_len = 5, .decode_len = 4}};
  return trace;
}

inline ReplayOptions tiny_options() {
  ReplayOptions options;
  options.run.shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  options.run.routes = {{.route = Route::kRow, .splits = {}},
                        {.route = Route::kBucket, .splits = 2},
                        {.route = Route::kWorkqueue, .splits = 3}};
  options.run.warmup_steps = 1;
  options.run.verify = VerifyMode::kEvery;
  options.run.memory_limit_bytes = std::int64_t{64} << 20;  // keeps the pool, and so the tests, small
  options.admission.max_active = 2;
  options.admission.page_size = 16;
  return options;
}

/// Stops after a number of steps; remembers the last progress.
class CountingObserver final : public RunObserver {
 public:
  explicit CountingObserver(std::int64_t stop_after = 1 << 30) : stop_after_(stop_after) {}
  void on_progress(const Progress& progress) override { last = progress; }
  [[nodiscard]] bool cancelled() const override { return last.done >= stop_after_; }
  Progress last;

 private:
  std::int64_t stop_after_;
};

}  // namespace pkv::testing

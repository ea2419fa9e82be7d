// The smallest user of the installed library: plans one step, starts an engine, and prints the plan.
// Not here: attention over real data (docs/quickstart.md).
#include <persistentkv/engine.h>

#include <cstdio>
#include <vector>

int main() {
  const std::vector<std::int32_t> lens{40, 8}, indptr{0, 3, 4}, pages{0, 1, 2, 3};
  const auto table = pkv::BlockTable::csr(indptr, pages);
  const auto batch = pkv::BatchState::make({.seq_lens = lens, .block_table = *table, .num_pages = 4});
  auto engine = pkv::Engine::create({});
  const auto decision = engine->plan(*batch, pkv::DType::kF16, {.route = pkv::Route::kWorkqueue, .splits = 2});
  const auto& counters = decision->plan.counters();
  std::printf("workqueue: %d tasks, %d merge launch\n", counters.num_tasks, counters.num_merge_launches);
}

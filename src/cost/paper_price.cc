// The paper's closed formula, kept for comparison (--policy paper).
// Not here: the makespan (price.cc), the paper's gates (policy.cc).
#include <algorithm>

#include "persistentkv/layout.h"
#include "persistentkv/price.h"

namespace pkv {

double paper_price_ns(const Plan& plan, DType kv_dtype, const DeviceProfile& profile) {
  const PaperConstants& paper = profile.paper;
  const PlanCounters& counters = plan.counters();
  const auto bytes = static_cast<double>(kv_bytes(counters.attended_tokens, plan.shape(), kv_dtype));
  const double tasks_per_worker = static_cast<double>(counters.num_nonempty_tasks) / profile.num_workers;
  const double starvation =
      counters.num_nonempty_tasks == 0 ? 1.0 : std::max(1.0, paper.min_tasks_per_worker / tasks_per_worker);
  return bytes / paper.read_bytes_per_ns * starvation + counters.num_launches * paper.launch_ns +
         static_cast<double>(counters.merge_state_bytes) / paper.read_bytes_per_ns;
}

}  // namespace pkv

// DeviceProfile: the facts of a machine that prices are made of, as data.
// Not here: prices (price.h), choices (decision.h), measuring a machine (pkv calibrate).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "persistentkv/dtype.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"

namespace pkv {

enum class DeviceKind : std::uint8_t { kCpu, kGpu };

/// "cpu", "gpu".
std::string_view device_kind_name(DeviceKind kind);

/// What `tasks` tasks in flight read together. Between points linear; below the first in proportion to the
/// tasks, above the last constant.
struct BandwidthPoint {
  std::int32_t tasks = 1;
  double bytes_per_ns = 0.0;
};

/// Share of that bandwidth which is left when K and V are read in contiguous pieces of `bytes`. Between points
/// linear in log(bytes), constant outside.
struct ChunkPoint {
  std::int64_t bytes = 0;
  double share = 1.0;
};

/// K and V that one task in flight can take from its cache: the arithmetic without the memory. Between group
/// sizes of one type linear in the logarithms; in inverse proportion to the group size outside.
struct ArithmeticPoint {
  DType dtype = DType::kF16;
  std::int32_t group_size = 1;
  std::int32_t head_dim = 128;
  double bytes_per_ns = 0.0;
};

/// A kernel of another project, whose planner is its own: one launch over (row, KV head) tasks, which are split
/// evenly only while there are fewer than wave_tasks of them.
struct ExternalKernel {
  Route route = Route::kFlashInferCore;
  /// All tasks together, and one alone.
  double bytes_per_ns = 0.0;
  double task_bytes_per_ns = 0.0;
  std::int32_t wave_tasks = 1;
  /// Launch, merge and whatever else does not depend on the bytes.
  double launch_ns = 0.0;
  /// Its planning on the host: a step, a page id.
  double plan_ns = 0.0;
  double plan_page_ns = 0.0;
};

/// The constants of the paper's closed formula, for `--policy paper`.
struct PaperConstants {
  /// beta: streaming read bandwidth.
  double read_bytes_per_ns = 10.0;
  /// Cmin: tasks a worker below which bandwidth is not reached.
  double min_tasks_per_worker = 1.0;
  /// lambda: a kernel launch or a fork-join of the pool.
  double launch_ns = 5000.0;
};

/// Where a profile was measured; all empty in the profiles that come with the library.
struct MachineIdentity {
  std::string machine;  // processor and its workers
  std::string isa;
  std::string driver;
  std::string version;  // of this library

  friend bool operator==(const MachineIdentity&, const MachineIdentity&) = default;
};

inline constexpr std::int32_t kProfileVersion = 1;

struct DeviceProfile {
  std::string name = "unmeasured";
  DeviceKind kind = DeviceKind::kCpu;
  /// Where the figures come from, one sentence.
  std::string source;
  MachineIdentity identity;
  /// Workers (CPU) or SMs (GPU), and tasks that each holds in flight (occupancy).
  std::int32_t num_workers = 1;
  std::int32_t tasks_per_worker = 1;
  /// Last-level cache.
  std::int64_t cache_bytes = 0;
  /// By tasks, ascending; bandwidth never falls and never grows more than in proportion to the tasks.
  std::vector<BandwidthPoint> bandwidth = {{1, 10.0}};
  /// By bytes, ascending; shares in (0, 1], never falling.
  std::vector<ChunkPoint> chunks = {{1, 1.0}};
  /// By type, then group size, ascending. A type that is not listed cannot be priced.
  std::vector<ArithmeticPoint> arithmetic = {
      {DType::kF32, 1, 128, 100.0}, {DType::kF16, 1, 128, 100.0}, {DType::kBF16, 1, 128, 100.0}};
  /// Memory time m and arithmetic time a take (m^p + a^p)^(1/p): 1 is one after the other, large is side by side.
  double overlap_exponent = 4.0;
  /// Start of a task on its worker.
  double task_ns = 0.0;
  /// A decode launch or fork-join; a merge launch.
  double launch_ns = 0.0;
  double merge_launch_ns = 0.0;
  /// Partial states written and read back, all workers together.
  double merge_bytes_per_ns = 10.0;
  /// Deciding and planning on the host: a step, a task, a page id that is checked.
  double plan_ns = 0.0;
  double plan_task_ns = 0.0;
  double plan_page_ns = 0.0;
  /// CPUs: by how much, a fraction, the ratio of two plans' prices may be wrong. The policy leaves the rule's plan
  /// only for one that is cheaper by more.
  double price_error = 0.0;
  PaperConstants paper;
  std::vector<ExternalKernel> external;
  /// Which of the library's tables of GPU kernels prices our own plans in place of bandwidth, tasks and launches
  /// above: "h100", or none. It has occupancy and costs by head dimension, group and kernel (src/cost/gpu_kernels.h).
  std::string kernels;

  /// Share of the bandwidth that pieces of so many bytes leave, by `chunks`.
  [[nodiscard]] double chunk_share(std::int64_t bytes) const;
};

/// What `kernels` may be, beside empty.
inline constexpr std::string_view kH100Kernels = "h100";

/// Checks every field against its limits. Errors: kInvalidArgument naming field, value and limit.
Status validate(const DeviceProfile& profile);

/// A profile from its JSON text; `place` ("FILE") begins the place of errors. Strict: an unknown, missing or
/// repeated field, a value outside its limits and another version are errors that name field and limit.
/// Errors: kInvalidArgument.
Result<DeviceProfile> parse_profile(std::string_view text, std::string_view place);

/// The JSON text that parse_profile reads. Ends with a newline.
std::string profile_json(const DeviceProfile& profile);

/// Names of the profiles that are part of the library: "cpu", "cpu96", "h100", "h200", "rtx3060".
std::span<const std::string_view> shipped_profile_names();
/// Errors: kInvalidArgument that lists the names.
Result<DeviceProfile> shipped_profile(std::string_view name);

}  // namespace pkv

// The replay of a plan's launches on a profile's slots, and its terms.
// Not here: the paper's formula (paper_price.cc), the search (policy.cc).
//
// Costs: a task is one addition with one or two slots, a heap step with more; a launch then sorts its slots once.
#include "persistentkv/price.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "base/math.h"
#include "cost/gpu_kernels.h"

namespace pkv {
namespace {

constexpr double kNsPerUs = 1e3;

/// Bandwidth of so many tasks in flight, by the profile's points.
double bandwidth_of(std::span<const BandwidthPoint> points, double tasks) {
  const BandwidthPoint& first = points.front();
  if (tasks <= first.tasks) {
    return first.bytes_per_ns * tasks / first.tasks;
  }
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (tasks <= points[i].tasks) {
      const double part = (tasks - points[i - 1].tasks) / (points[i].tasks - points[i - 1].tasks);
      return std::lerp(points[i - 1].bytes_per_ns, points[i].bytes_per_ns, part);
    }
  }
  return points.back().bytes_per_ns;
}

double distance(std::int32_t a, std::int32_t b) { return std::abs(std::log(static_cast<double>(a) / b)); }

/// The points of a type with the head dimension nearest to that of the shape, ascending by group size.
std::vector<ArithmeticPoint> points_of(const DeviceProfile& profile, DType dtype, std::int32_t head_dim) {
  double nearest = -1.0;
  for (const ArithmeticPoint& point : profile.arithmetic) {
    const double away = distance(point.head_dim, head_dim);
    if (point.dtype == dtype && (nearest < 0.0 || away < nearest)) {
      nearest = away;
    }
  }
  std::vector<ArithmeticPoint> points;
  for (const ArithmeticPoint& point : profile.arithmetic) {
    if (point.dtype == dtype && distance(point.head_dim, head_dim) == nearest) {
      points.push_back(point);
    }
  }
  std::ranges::sort(points, {}, &ArithmeticPoint::group_size);
  return points;
}

double arithmetic_rate(std::span<const ArithmeticPoint> points, std::int32_t group_size) {
  const auto extend = [&](const ArithmeticPoint& point) { return point.bytes_per_ns * point.group_size / group_size; };
  if (group_size <= points.front().group_size) {
    return extend(points.front());
  }
  for (std::size_t i = 1; i < points.size(); ++i) {
    const ArithmeticPoint& low = points[i - 1];
    const ArithmeticPoint& high = points[i];
    if (group_size <= high.group_size) {
      const double part = std::log(static_cast<double>(group_size) / low.group_size) /
                          std::log(static_cast<double>(high.group_size) / low.group_size);
      return std::exp(std::lerp(std::log(low.bytes_per_ns), std::log(high.bytes_per_ns), part));
    }
  }
  return extend(points.back());
}

/// Adds loads, in order, to whichever slot has least; `slots` holds at most num_slots of them.
class Slots {
 public:
  Slots(std::vector<double>& loads, std::int32_t num_slots)
      : loads_(loads), num_slots_(static_cast<std::size_t>(num_slots)) {
    loads_.clear();
  }
  void add(double load) {
    if (loads_.size() < num_slots_) {
      loads_.push_back(load);
      if (loads_.size() == num_slots_ && num_slots_ > 2) {
        std::make_heap(loads_.begin(), loads_.end(), std::greater<>());
      }
    } else if (num_slots_ <= 2) {
      *std::min_element(loads_.begin(), loads_.end()) += load;
    } else {
      replace_least(loads_.front() + load);
    }
  }

 private:
  /// One sift down instead of a pop and a push.
  void replace_least(double load) {
    std::size_t at = 0;
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= num_slots_) {
        break;
      }
      child += child + 1 < num_slots_ && loads_[child + 1] < loads_[child] ? 1 : 0;
      if (loads_[child] >= load) {
        break;
      }
      loads_[at] = loads_[child];
      at = child;
    }
    loads_[at] = load;
  }

  std::vector<double>& loads_;
  std::size_t num_slots_;
};

std::int64_t page_chunk_bytes(const PriceInputs& inputs, std::int32_t kv_heads_per_task) {
  const AttentionShape& shape = inputs.shape;
  const std::int64_t vector_bytes = std::int64_t{shape.head_dim} * dtype_bytes(inputs.kv_dtype);
  const bool whole_page = kv_heads_per_task >= shape.num_kv_heads;
  const std::int64_t slots = inputs.order == KvOrder::kHND || whole_page ? inputs.page_size : 1;
  return vector_bytes * slots * kv_heads_per_task;
}

/// CPU kernels take tiles of 32 tokens, and chunks below an eighth of one slow them down (cpu_rule.cc). Profiles know
/// pages of 16 tokens, two of which are a tile, hence the halves.
std::int64_t cpu_chunk_bytes(const PriceInputs& inputs, std::int32_t kv_heads_per_task, std::int64_t chunk) {
  constexpr std::int64_t kHalfTileTokens = 16;
  constexpr std::int64_t kHalfOfChunksInTile = 4;
  const std::int64_t vector_bytes = std::int64_t{inputs.shape.head_dim} * dtype_bytes(inputs.kv_dtype);
  return std::min(kv_heads_per_task * kHalfTileTokens * vector_bytes, kHalfOfChunksInTile * chunk);
}

/// Page ids that are checked before a plan is made.
std::int64_t num_pages(const Plan& plan) {
  std::int64_t pages = 0;
  for (const std::int32_t seq_len : plan.seq_lens()) {
    pages += plan.shape().attended(seq_len).size() / plan.page_size() + 1;
  }
  return pages;
}

GpuPrice corrected(GpuPrice price, const Correction& by) {
  price.start_us *= by.fixed;
  price.read_us *= by.memory;
  price.busy_us *= by.arithmetic;
  price.merge_us *= by.fixed;
  return price;
}

}  // namespace

Result<PriceModel> PriceModel::make(const DeviceProfile& profile, const PriceInputs& inputs) {
  PKV_RETURN_IF_ERROR(validate(profile));
  PKV_RETURN_IF_ERROR(validate(inputs.shape));
  if (inputs.num_layers < 1 || inputs.num_layers > kMaxLayers) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 1 to {}", inputs.num_layers, kMaxLayers),
                 "num_layers"};
  }
  const auto points = points_of(profile, inputs.kv_dtype, inputs.shape.head_dim);
  if (points.empty()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("profile {} has no arithmetic rate of {}", profile.name, dtype_name(inputs.kv_dtype)),
                 "profile.arithmetic"};
  }
  return PriceModel(profile, inputs, arithmetic_rate(points, inputs.shape.group_size()));
}

PriceModel::PriceModel(DeviceProfile profile, const PriceInputs& inputs, double arithmetic_bytes_per_ns)
    : profile_(std::move(profile)),
      inputs_(inputs),
      arithmetic_bytes_per_ns_(arithmetic_bytes_per_ns),
      token_bytes_(static_cast<double>(2 * inputs.shape.head_dim * dtype_bytes(inputs.kv_dtype))),
      num_slots_(profile_.num_workers * profile_.tasks_per_worker) {
  // Few k are looked at: where the bandwidth bends, powers of two, and all. A subset keeps what the header
  // promises, because each k's term falls when slots are added.
  for (std::int32_t busy = 1; busy < num_slots_; busy *= 2) {
    busy_counts_.push_back(busy);
  }
  for (const BandwidthPoint& point : profile_.bandwidth) {
    if (point.tasks < num_slots_) {
      busy_counts_.push_back(point.tasks);
    }
  }
  busy_counts_.push_back(num_slots_);
  std::ranges::sort(busy_counts_);
  const auto repeated = std::ranges::unique(busy_counts_);
  busy_counts_.erase(repeated.begin(), repeated.end());
  rebuild_rates();
}

double PriceModel::chunk_share(std::int32_t kv_heads_per_task) const {
  const std::int64_t chunk = page_chunk_bytes(inputs_, kv_heads_per_task);
  return profile_.chunk_share(profile_.kind == DeviceKind::kCpu ? cpu_chunk_bytes(inputs_, kv_heads_per_task, chunk)
                                                                : chunk);
}

PriceModel::WalkRates PriceModel::make_rates(std::int32_t kv_heads_per_task) const {
  WalkRates rates{.kv_heads_per_task = kv_heads_per_task, .by_busy = {}, .start_bytes = 0.0};
  const double share = chunk_share(kv_heads_per_task);
  const double p = profile_.overlap_exponent;
  const double arithmetic_ns = correction_.arithmetic / arithmetic_bytes_per_ns_;
  for (const std::int32_t busy : busy_counts_) {
    const double memory_ns = correction_.memory * busy / (bandwidth_of(profile_.bandwidth, busy) * share);
    // (m^p + a^p)^(1/p) from the larger of the two, so that no power overflows.
    const double larger = std::max(memory_ns, arithmetic_ns);
    const double smaller = std::min(memory_ns, arithmetic_ns);
    rates.by_busy.push_back({busy, larger * std::pow(1.0 + std::pow(smaller / larger, p), 1.0 / p)});
  }
  rates.start_bytes = correction_.fixed * profile_.task_ns / rates.by_busy.back().ns_per_byte;
  return rates;
}

void PriceModel::rebuild_rates() {
  rates_.clear();
  for (std::int32_t heads = 1; heads <= inputs_.shape.num_kv_heads; ++heads) {
    if (inputs_.shape.num_kv_heads % heads == 0) {
      rates_.push_back(make_rates(heads));
    }
  }
}

void PriceModel::set_correction(const Correction& correction) {
  correction_ = correction;
  rebuild_rates();
}

const PriceModel::WalkRates& PriceModel::rates(std::int32_t kv_heads_per_task, WalkRates& scratch) const {
  for (const WalkRates& known : rates_) {
    if (known.kv_heads_per_task == kv_heads_per_task) {
      return known;
    }
  }
  return scratch = make_rates(kv_heads_per_task);
}

double PriceModel::launch_span_ns(std::span<const Task> tasks, const WalkRates& rates,
                                  std::vector<double>& loads) const {
  Slots slots(loads, num_slots_);
  for (const Task& task : tasks) {
    const std::int64_t tokens =
        std::int64_t{task.token_end - task.token_begin} * (task.kv_head_end - task.kv_head_begin);
    slots.add(static_cast<double>(tokens) * token_bytes_ + rates.start_bytes);
  }
  std::ranges::sort(loads, std::greater<>());
  double span_ns = 0.0;
  double longest = 0.0;  // l_1 + ... + l_k
  std::size_t k = 0;
  for (const SharedRate& rate : rates.by_busy) {
    for (; k < std::min<std::size_t>(loads.size(), static_cast<std::size_t>(rate.busy)); ++k) {
      longest += loads[k];
    }
    span_ns = std::max(span_ns, longest * rate.ns_per_byte / rate.busy);
  }
  return span_ns;
}

bool PriceModel::prices(Route route) const {
  return !is_external(route) ||
         std::ranges::find(profile_.external, route, &ExternalKernel::route) != profile_.external.end();
}

namespace {

/// The smallest chunk, one for all rows, whose tasks fit one wave; whole rows where these fill it already.
std::int64_t wave_chunk(std::span<const std::int64_t> rows, std::int64_t heads, std::int64_t wave_tasks) {
  std::int64_t high = *std::ranges::max_element(rows);
  std::int64_t low = static_cast<std::int64_t>(rows.size()) * heads < wave_tasks ? 1 : high;
  while (low < high) {
    const std::int64_t chunk = (low + high) / 2;
    std::int64_t tasks = 0;
    for (const std::int64_t row : rows) {
      tasks += ceil_div(row, chunk) * heads;
    }
    tasks <= wave_tasks ? high = chunk : low = chunk + 1;
  }
  return low;
}

}  // namespace

Price PriceModel::price_external(const Plan& plan) const {
  const auto kernel = std::ranges::find(profile_.external, plan.route(), &ExternalKernel::route);
  const std::int32_t heads = inputs_.shape.num_kv_heads;
  std::vector<std::int64_t> rows;
  for (const std::int32_t seq_len : plan.seq_lens()) {
    rows.push_back(std::max(1, inputs_.shape.attended(seq_len).size()));
  }
  if (rows.empty()) {
    return {};
  }
  const std::int64_t chunk = wave_chunk(rows, heads, kernel->wave_tasks);
  std::vector<double> tasks;
  double tokens = 0.0;
  for (const std::int64_t row : rows) {
    const std::int64_t splits = ceil_div(row, chunk);
    tasks.insert(tasks.end(), static_cast<std::size_t>(splits * heads),
                 static_cast<double>(row) / static_cast<double>(splits));
    tokens += static_cast<double>(row * heads);
  }
  std::ranges::sort(tasks, std::greater<>());
  std::vector<double> loads;
  Slots slots(loads, kernel->wave_tasks);
  std::ranges::for_each(tasks, [&](double task) { slots.add(task); });
  const double longest = *std::ranges::max_element(loads);
  Price price;
  price.memory_ns = correction_.memory * tokens * token_bytes_ / kernel->bytes_per_ns;
  price.decode_ns = std::max(price.memory_ns, correction_.memory * longest * token_bytes_ / kernel->task_bytes_per_ns);
  price.tail_ns = price.decode_ns - price.memory_ns;
  price.launch_ns = correction_.fixed * kernel->launch_ns;
  price.plan_ns = (kernel->plan_ns + kernel->plan_page_ns * static_cast<double>(num_pages(plan))) / inputs_.num_layers;
  price.device_ns = price.decode_ns + price.launch_ns;
  return price;
}

double PriceModel::plan_ns(std::int64_t num_tasks, std::int64_t num_pages) const {
  return (profile_.plan_ns + profile_.plan_task_ns * static_cast<double>(num_tasks) +
          profile_.plan_page_ns * static_cast<double>(num_pages)) /
         inputs_.num_layers;
}

/// Our own kernels on a GPU, by the table that also chooses between them.
Price PriceModel::price_on_kernels(const TaskSizes& sizes, std::int64_t num_launches) const {
  const GpuKernelClass& kernels = gpu_kernel_class(inputs_.shape);
  GpuPrice terms = cheapest_width(inputs_.shape, kernels, sizes, gpu_machine(profile_)).price;
  terms.start_us += kernels.start_us * static_cast<double>(num_launches - 1);  // buckets: nothing hides these
  terms = corrected(terms, correction_);
  const double even_ns = static_cast<double>(sizes.tokens()) * token_bytes_ / profile_.bandwidth.back().bytes_per_ns;
  Price price;
  price.decode_ns = terms.decode_us() * kNsPerUs;
  price.memory_ns = terms.read_us * kNsPerUs;
  price.arithmetic_ns = terms.busy_us * kNsPerUs;
  price.tail_ns = std::max(0.0, price.decode_ns - correction_.memory * even_ns);
  price.launch_ns = terms.start_us * kNsPerUs;
  price.merge_ns = terms.merge_us * kNsPerUs;
  price.device_ns = price.decode_ns + price.launch_ns + price.merge_ns;
  return price;
}

Price PriceModel::price_on_kernels(const Plan& plan) const {
  Price price;
  const auto decodes = std::ranges::count(plan.launches(), LaunchKind::kDecode, &Launch::kind);
  if (!plan.tasks().empty() && decodes > 0) {
    price = price_on_kernels(task_sizes(plan), decodes);
  }
  price.plan_ns = plan_ns(plan.counters().num_tasks, num_pages(plan));
  return price;
}

Price PriceModel::price_whole_rows(const BatchState& batch) const {
  Price price;
  if (batch.num_rows() == 0) {
    return price;
  }
  std::int32_t longest = 1;
  std::int64_t pages = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int32_t tokens = batch.attended(row).size();
    longest = std::max(longest, tokens);
    pages += tokens / batch.page_size() + 1;
  }
  TaskSizes sizes(longest);
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    sizes.add(batch.attended(row).size(), inputs_.shape.num_kv_heads);
  }
  price = price_on_kernels(sizes, 1);
  price.plan_ns = plan_ns(sizes.num_tasks(), pages);
  return price;
}

Price PriceModel::price(const Plan& plan) const {
  if (is_external(plan.route())) {
    return price_external(plan);
  }
  if (!profile_.kernels.empty()) {
    return price_on_kernels(plan);
  }
  WalkRates scratch;
  const WalkRates& walk = rates(plan.kv_heads_per_task(), scratch);
  const PlanCounters& counters = plan.counters();
  thread_local std::vector<double> loads;
  Price price;
  double even_ns = 0.0;
  for (const Launch& launch : plan.launches()) {
    if (launch.kind == LaunchKind::kMerge) {
      price.launch_ns += correction_.fixed * profile_.merge_launch_ns;
      continue;
    }
    price.launch_ns += correction_.fixed * profile_.launch_ns;
    price.decode_ns += launch_span_ns(plan.tasks().subspan(static_cast<std::size_t>(launch.begin),
                                                           static_cast<std::size_t>(launch.end - launch.begin)),
                                      walk, loads);
    even_ns += std::accumulate(loads.begin(), loads.end(), 0.0) * walk.by_busy.back().ns_per_byte / num_slots_;
  }
  const double bytes = static_cast<double>(counters.attended_tokens) * inputs_.shape.num_kv_heads * token_bytes_;
  price.tail_ns = std::max(0.0, price.decode_ns - even_ns);
  price.memory_ns = correction_.memory * bytes /
                    (bandwidth_of(profile_.bandwidth, num_slots_) * chunk_share(plan.kv_heads_per_task()));
  price.arithmetic_ns = correction_.arithmetic * bytes / (arithmetic_bytes_per_ns_ * num_slots_);
  price.task_ns = correction_.fixed * profile_.task_ns * counters.num_tasks / num_slots_;
  price.merge_ns = correction_.fixed * static_cast<double>(counters.merge_state_bytes) / profile_.merge_bytes_per_ns;
  price.device_ns = price.decode_ns + price.merge_ns + price.launch_ns;
  price.plan_ns = plan_ns(counters.num_tasks, num_pages(plan));
  return price;
}

double PriceModel::least_ns(const Outline& outline, std::int64_t num_pages) const {
  const double host_ns = plan_ns(outline.num_tasks, num_pages);
  if (!profile_.kernels.empty() && outline.num_tasks == 0) {
    return host_ns;
  }
  if (!profile_.kernels.empty()) {
    const GpuPrice least = corrected(least_gpu_price(inputs_.shape, gpu_kernel_class(inputs_.shape), outline.num_tasks,
                                                     outline.attended_tokens * inputs_.shape.num_kv_heads,
                                                     outline.long_task_tokens, gpu_machine(profile_)),
                                     correction_);
    return host_ns + kNsPerUs * least.total_us();
  }
  WalkRates scratch;
  const WalkRates& walk = rates(outline.kv_heads_per_task, scratch);
  const double load = static_cast<double>(outline.attended_tokens) * inputs_.shape.num_kv_heads * token_bytes_ +
                      static_cast<double>(outline.num_tasks) * walk.start_bytes;
  double span_ns = static_cast<double>(outline.long_task_tokens) * token_bytes_ * walk.by_busy.front().ns_per_byte;
  const auto tasks = static_cast<double>(outline.num_tasks) / std::max(1, outline.num_decode_launches);
  for (const SharedRate& rate : walk.by_busy) {
    // With fewer tasks than slots the longest k hold at least their even part.
    const double held = tasks > 0.0 ? std::min(1.0, rate.busy / std::min<double>(tasks, num_slots_)) : 0.0;
    if (outline.num_decode_launches == 1 || rate.busy == num_slots_) {
      span_ns = std::max(span_ns, load * held * rate.ns_per_byte / rate.busy);
    }
  }
  return span_ns +
         correction_.fixed *
             (outline.num_decode_launches * profile_.launch_ns + outline.num_merge_launches * profile_.merge_launch_ns +
              static_cast<double>(outline.merge_state_bytes) / profile_.merge_bytes_per_ns) +
         host_ns;
}

double PriceModel::long_task_ns(const Outline& outline) const {
  WalkRates scratch;
  const WalkRates& walk = rates(outline.kv_heads_per_task, scratch);
  return (static_cast<double>(outline.long_task_tokens) * token_bytes_ + walk.start_bytes) *
         walk.by_busy.back().ns_per_byte;
}

std::vector<ScheduledTask> PriceModel::schedule(const Plan& plan) const {
  WalkRates scratch;
  const WalkRates& walk = rates(plan.kv_heads_per_task(), scratch);
  double stretch = 1.0;  // to the price, where that is made otherwise
  if (!profile_.kernels.empty() && !plan.tasks().empty()) {
    std::vector<double> all;
    stretch = price_on_kernels(plan).decode_ns / launch_span_ns(plan.tasks(), walk, all);
  }
  std::vector<ScheduledTask> scheduled;
  std::vector<double> loads;
  double launch_begin_ns = 0.0;
  for (const Launch& launch : plan.launches()) {
    if (launch.kind == LaunchKind::kMerge) {
      continue;
    }
    const auto tasks = plan.tasks().subspan(static_cast<std::size_t>(launch.begin),
                                            static_cast<std::size_t>(launch.end - launch.begin));
    const double span_ns = stretch * launch_span_ns(tasks, walk, loads);
    const double ns_per_load = loads.empty() ? 0.0 : span_ns / loads.front();  // sorted: the most loaded slot
    launch_begin_ns += correction_.fixed * profile_.launch_ns;
    std::vector<double> ends(static_cast<std::size_t>(num_slots_), 0.0);
    for (std::int32_t i = launch.begin; i < launch.end; ++i) {
      const Task& task = plan.tasks()[static_cast<std::size_t>(i)];
      const auto slot = std::ranges::min_element(ends);
      const std::int64_t tokens =
          std::int64_t{task.token_end - task.token_begin} * (task.kv_head_end - task.kv_head_begin);
      const double begin_ns = launch_begin_ns + *slot * ns_per_load;
      *slot += static_cast<double>(tokens) * token_bytes_ + walk.start_bytes;
      scheduled.push_back({.task_idx = i,
                           .slot = static_cast<std::int32_t>(slot - ends.begin()),
                           .begin_ns = begin_ns,
                           .end_ns = launch_begin_ns + *slot * ns_per_load});
    }
    launch_begin_ns += span_ns;
  }
  return scheduled;
}

}  // namespace pkv

// Limits of a profile's fields, and the profiles that come with the library.
// Not here: JSON (profile_json.cc), prices (price.cc).
#include "persistentkv/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "cost/shipped_profiles.h"
#include "persistentkv/shape.h"

namespace pkv {
namespace {

constexpr double kMaxBytesPerNs = 1e6;  // a petabyte a second: more is a mistake of units
constexpr double kMaxNs = 1e9;
constexpr std::int32_t kMaxTasksInFlight = 1 << 16;

Error bad(std::string message, std::string_view field) {
  return {ErrorCode::kInvalidArgument, std::move(message), fmt::format("profile.{}", field)};
}

// Written so that NaN fails.
Status check_range(std::string_view field, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    return bad(fmt::format("{:g} is outside {:g} to {:g}", value, low, high), field);
  }
  return {};
}

Status check_rate(std::string_view field, double bytes_per_ns) {
  if (!(bytes_per_ns > 0.0 && bytes_per_ns <= kMaxBytesPerNs)) {
    return bad(fmt::format("{:g} is not above 0 and at most {:g}", bytes_per_ns, kMaxBytesPerNs), field);
  }
  return {};
}

Status check_time(std::string_view field, double ns) { return check_range(field, ns, 0.0, kMaxNs); }

Status check_bandwidth(const std::vector<BandwidthPoint>& points) {
  if (points.empty()) {
    return bad("is empty; at least 1 point is needed", "bandwidth");
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    PKV_RETURN_IF_ERROR(check_range(fmt::format("bandwidth[{}].tasks", i), points[i].tasks, 1, kMaxTasksInFlight));
    const std::string field = fmt::format("bandwidth[{}].bytes_per_ns", i);
    PKV_RETURN_IF_ERROR(check_rate(field, points[i].bytes_per_ns));
    if (i == 0) {
      continue;
    }
    const BandwidthPoint& last = points[i - 1];
    if (points[i].tasks <= last.tasks) {
      return bad(fmt::format("{} is not above the {} before it", points[i].tasks, last.tasks),
                 fmt::format("bandwidth[{}].tasks", i));
    }
    const double most = last.bytes_per_ns * points[i].tasks / last.tasks;
    constexpr double kRounding = 1.0 + 1e-9;
    if (points[i].bytes_per_ns < last.bytes_per_ns || points[i].bytes_per_ns > most * kRounding) {
      return bad(fmt::format("{:g} is outside {:g} to {:g}: bandwidth never falls with more tasks, nor grows faster "
                             "than they do",
                             points[i].bytes_per_ns, last.bytes_per_ns, most),
                 field);
    }
  }
  return {};
}

Status check_chunks(const std::vector<ChunkPoint>& points) {
  if (points.empty()) {
    return bad("is empty; at least 1 point is needed", "chunks");
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::string field = fmt::format("chunks[{}].share", i);
    PKV_RETURN_IF_ERROR(check_range(fmt::format("chunks[{}].bytes", i), static_cast<double>(points[i].bytes), 1, 1e12));
    PKV_RETURN_IF_ERROR(check_range(field, points[i].share, 0.01, 1.0));
    if (i > 0 && points[i].bytes <= points[i - 1].bytes) {
      return bad(fmt::format("{} is not above the {} before it", points[i].bytes, points[i - 1].bytes),
                 fmt::format("chunks[{}].bytes", i));
    }
    if (i > 0 && points[i].share < points[i - 1].share) {
      return bad(fmt::format("{:g} is below the {:g} of shorter pieces", points[i].share, points[i - 1].share), field);
    }
  }
  return {};
}

Status check_arithmetic(const std::vector<ArithmeticPoint>& points) {
  if (points.empty()) {
    return bad("is empty; at least 1 point is needed", "arithmetic");
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto field = [i](std::string_view name) { return fmt::format("arithmetic[{}].{}", i, name); };
    PKV_RETURN_IF_ERROR(check_range(field("group_size"), points[i].group_size, 1, kMaxGroupSize));
    PKV_RETURN_IF_ERROR(check_range(field("head_dim"), points[i].head_dim, kMinHeadDim, kMaxHeadDim));
    PKV_RETURN_IF_ERROR(check_rate(field("bytes_per_ns"), points[i].bytes_per_ns));
    for (std::size_t j = 0; j < i; ++j) {
      if (points[j].dtype == points[i].dtype && points[j].group_size == points[i].group_size &&
          points[j].head_dim == points[i].head_dim) {
        return bad(fmt::format("repeats type, group size and head dimension of arithmetic[{}]", j),
                   field("group_size"));
      }
    }
  }
  return {};
}

Status check_external(const std::vector<ExternalKernel>& kernels) {
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const auto field = [i](std::string_view name) { return fmt::format("external[{}].{}", i, name); };
    if (!is_external(kernels[i].route)) {
      return bad(fmt::format("{} is a route of our own, not of another project", route_name(kernels[i].route)),
                 field("route"));
    }
    PKV_RETURN_IF_ERROR(check_rate(field("bytes_per_ns"), kernels[i].bytes_per_ns));
    PKV_RETURN_IF_ERROR(check_rate(field("task_bytes_per_ns"), kernels[i].task_bytes_per_ns));
    PKV_RETURN_IF_ERROR(check_range(field("wave_tasks"), kernels[i].wave_tasks, 1, kMaxTasksInFlight));
    PKV_RETURN_IF_ERROR(check_time(field("launch_ns"), kernels[i].launch_ns));
    PKV_RETURN_IF_ERROR(check_time(field("plan_ns"), kernels[i].plan_ns));
    PKV_RETURN_IF_ERROR(check_time(field("plan_page_ns"), kernels[i].plan_page_ns));
  }
  return {};
}

}  // namespace

std::string_view device_kind_name(DeviceKind kind) { return kind == DeviceKind::kGpu ? "gpu" : "cpu"; }

Status validate(const DeviceProfile& profile) {
  if (profile.name.empty()) {
    return bad("is empty", "name");
  }
  PKV_RETURN_IF_ERROR(check_range("num_workers", profile.num_workers, 1, 4096));
  PKV_RETURN_IF_ERROR(check_range("tasks_per_worker", profile.tasks_per_worker, 1, 64));
  if (profile.num_workers * profile.tasks_per_worker > kMaxTasksInFlight) {
    return bad(fmt::format("{} times num_workers {} is above {}", profile.tasks_per_worker, profile.num_workers,
                           kMaxTasksInFlight),
               "tasks_per_worker");
  }
  PKV_RETURN_IF_ERROR(check_range("cache_bytes", static_cast<double>(profile.cache_bytes), 0, 1e12));
  PKV_RETURN_IF_ERROR(check_bandwidth(profile.bandwidth));
  PKV_RETURN_IF_ERROR(check_chunks(profile.chunks));
  PKV_RETURN_IF_ERROR(check_arithmetic(profile.arithmetic));
  PKV_RETURN_IF_ERROR(check_range("overlap_exponent", profile.overlap_exponent, 1.0, 64.0));
  PKV_RETURN_IF_ERROR(check_time("task_ns", profile.task_ns));
  PKV_RETURN_IF_ERROR(check_time("launch_ns", profile.launch_ns));
  PKV_RETURN_IF_ERROR(check_time("merge_launch_ns", profile.merge_launch_ns));
  PKV_RETURN_IF_ERROR(check_rate("merge_bytes_per_ns", profile.merge_bytes_per_ns));
  PKV_RETURN_IF_ERROR(check_time("plan_ns", profile.plan_ns));
  PKV_RETURN_IF_ERROR(check_time("plan_task_ns", profile.plan_task_ns));
  PKV_RETURN_IF_ERROR(check_time("plan_page_ns", profile.plan_page_ns));
  PKV_RETURN_IF_ERROR(check_range("price_error", profile.price_error, 0.0, 0.5));
  PKV_RETURN_IF_ERROR(check_rate("paper.read_bytes_per_ns", profile.paper.read_bytes_per_ns));
  PKV_RETURN_IF_ERROR(check_range("paper.min_tasks_per_worker", profile.paper.min_tasks_per_worker, 1e-6, 1e6));
  PKV_RETURN_IF_ERROR(check_time("paper.launch_ns", profile.paper.launch_ns));
  if (!profile.kernels.empty() && (profile.kernels != kH100Kernels || profile.kind != DeviceKind::kGpu)) {
    return bad(fmt::format("'{}' of a {} profile is not '{}' of a gpu profile, the only table of kernels there is",
                           profile.kernels, device_kind_name(profile.kind), kH100Kernels),
               "kernels");
  }
  return check_external(profile.external);
}

double DeviceProfile::chunk_share(std::int64_t bytes) const {
  if (bytes <= chunks.front().bytes) {
    return chunks.front().share;
  }
  for (std::size_t i = 1; i < chunks.size(); ++i) {
    if (bytes <= chunks[i].bytes) {
      const double low = std::log2(static_cast<double>(chunks[i - 1].bytes));
      const double high = std::log2(static_cast<double>(chunks[i].bytes));
      const double part = (std::log2(static_cast<double>(bytes)) - low) / (high - low);
      return std::lerp(chunks[i - 1].share, chunks[i].share, part);
    }
  }
  return chunks.back().share;
}

std::span<const std::string_view> shipped_profile_names() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> found;
    for (const ShippedProfile& shipped : shipped_profiles()) {
      found.push_back(shipped.name);
    }
    return found;
  }();
  return names;
}

Result<DeviceProfile> shipped_profile(std::string_view name) {
  for (const ShippedProfile& shipped : shipped_profiles()) {
    if (shipped.name == name) {
      return parse_profile(shipped.json, fmt::format("profile {}", name));
    }
  }
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("unknown profile '{}'; known: {}", name, fmt::join(shipped_profile_names(), ", ")),
               "profile"};
}

}  // namespace pkv

// Profiles as JSON: the reader, which refuses what it does not know, and the writer.
// Not here: limits of fields (profile.cc).
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "persistentkv/profile.h"

namespace pkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "persistentkv-profile";

struct BadProfile {
  Error error;
};

[[noreturn]] void refuse(std::string_view place, std::string_view field, std::string message) {
  throw BadProfile{{ErrorCode::kInvalidArgument, std::move(message), fmt::format("{}, field {}", place, field)}};
}

/// The fields of one object; every one that is read is ticked off, and what remains is an error.
class Fields {
 public:
  Fields(const Json& object, std::string place, std::string prefix)
      : object_(object), place_(std::move(place)), prefix_(std::move(prefix)) {
    if (!object.is_object()) {
      refuse(place_, prefix_.empty() ? "(root)" : prefix_.substr(0, prefix_.size() - 1), "is not an object");
    }
  }

  const Json& any(const char* name) {
    seen_.insert(name);
    const auto found = object_.find(name);
    if (found == object_.end()) {
      refuse(place_, prefix_ + name, "is missing");
    }
    return *found;
  }
  bool has(const char* name) const { return object_.contains(name); }
  double number(const char* name) {
    const Json& value = any(name);
    if (!value.is_number()) {
      refuse(place_, prefix_ + name, fmt::format("{} is not a number", value.dump()));
    }
    return value.get<double>();
  }
  std::int64_t integer(const char* name) {
    const Json& value = any(name);
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
      refuse(place_, prefix_ + name, fmt::format("{} is not an integer of 64 bits", value.dump()));
    }
    return value.get<std::int64_t>();
  }
  std::int32_t count(const char* name) {
    const std::int64_t value = integer(name);
    if (value < 0 || value > INT32_MAX) {
      refuse(place_, prefix_ + name, fmt::format("{} is outside 0 to {}", value, INT32_MAX));
    }
    return static_cast<std::int32_t>(value);
  }
  std::string text(const char* name) {
    const Json& value = any(name);
    if (!value.is_string()) {
      refuse(place_, prefix_ + name, fmt::format("{} is not a string", value.dump()));
    }
    return value.get<std::string>();
  }
  template <typename T>
  T parsed(const char* name, Result<T> (*parse)(std::string_view)) {
    auto value = parse(text(name));
    if (!value.ok()) {
      refuse(place_, prefix_ + name, value.error().message);
    }
    return *value;
  }
  Fields object(const char* name) { return {any(name), place_, prefix_ + name + "."}; }
  template <typename Read>
  void each(const char* name, Read read) {
    const Json& list = any(name);
    if (!list.is_array()) {
      refuse(place_, prefix_ + name, "is not an array");
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      Fields element(list[i], place_, fmt::format("{}{}[{}].", prefix_, name, i));
      read(element);
      element.finish();
    }
  }
  /// Errors for what nobody asked for.
  void finish() const {
    for (const auto& [name, value] : object_.items()) {
      if (!seen_.contains(name)) {
        refuse(place_, prefix_ + name, "is unknown; a profile of this version has no such field");
      }
    }
  }

 private:
  const Json& object_;
  std::string place_;
  std::string prefix_;
  std::set<std::string> seen_;
};

Result<DeviceKind> parse_kind(std::string_view name) {
  for (const DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kGpu}) {
    if (name == device_kind_name(kind)) {
      return kind;
    }
  }
  return Error{ErrorCode::kInvalidArgument, fmt::format("'{}' is not one of cpu, gpu", name), "kind"};
}

void read_header(Fields& fields, std::string_view place) {
  if (const std::string format = fields.text("format"); format != kFormat) {
    refuse(place, "format", fmt::format("'{}' is not '{}'", format, kFormat));
  }
  if (const std::int64_t version = fields.integer("version"); version != kProfileVersion) {
    refuse(place, "version",
           fmt::format("{} is not {}, the only one that this build reads; run pkv calibrate again", version,
                       kProfileVersion));
  }
}

void read_lists(Fields& fields, DeviceProfile& profile) {
  profile.bandwidth.clear();
  fields.each("bandwidth", [&](Fields& point) {
    profile.bandwidth.push_back({.tasks = point.count("tasks"), .bytes_per_ns = point.number("bytes_per_ns")});
  });
  profile.chunks.clear();
  fields.each("chunks", [&](Fields& point) {
    profile.chunks.push_back({.bytes = point.integer("bytes"), .share = point.number("share")});
  });
  profile.arithmetic.clear();
  fields.each("arithmetic", [&](Fields& point) {
    profile.arithmetic.push_back({.dtype = point.parsed<DType>("dtype", parse_dtype),
                                  .group_size = point.count("group_size"),
                                  .head_dim = point.count("head_dim"),
                                  .bytes_per_ns = point.number("bytes_per_ns")});
  });
  fields.each("external", [&](Fields& kernel) {
    profile.external.push_back({.route = kernel.parsed<Route>("route", parse_route),
                                .bytes_per_ns = kernel.number("bytes_per_ns"),
                                .task_bytes_per_ns = kernel.number("task_bytes_per_ns"),
                                .wave_tasks = kernel.count("wave_tasks"),
                                .launch_ns = kernel.number("launch_ns"),
                                .plan_ns = kernel.number("plan_ns"),
                                .plan_page_ns = kernel.number("plan_page_ns")});
  });
}

DeviceProfile read_profile(const Json& json, const std::string& place) {
  Fields fields(json, place, "");
  read_header(fields, place);
  DeviceProfile profile;
  profile.name = fields.text("name");
  profile.kind = fields.parsed<DeviceKind>("kind", parse_kind);
  profile.source = fields.text("source");
  Fields identity = fields.object("identity");
  profile.identity = {.machine = identity.text("machine"),
                      .isa = identity.text("isa"),
                      .driver = identity.text("driver"),
                      .version = identity.text("version")};
  identity.finish();
  profile.num_workers = fields.count("num_workers");
  profile.tasks_per_worker = fields.count("tasks_per_worker");
  profile.cache_bytes = fields.integer("cache_bytes");
  read_lists(fields, profile);
  const std::pair<const char*, double*> numbers[] = {{"overlap_exponent", &profile.overlap_exponent},
                                                     {"task_ns", &profile.task_ns},
                                                     {"launch_ns", &profile.launch_ns},
                                                     {"merge_launch_ns", &profile.merge_launch_ns},
                                                     {"merge_bytes_per_ns", &profile.merge_bytes_per_ns},
                                                     {"plan_ns", &profile.plan_ns},
                                                     {"plan_task_ns", &profile.plan_task_ns},
                                                     {"plan_page_ns", &profile.plan_page_ns}};
  for (const auto& [name, target] : numbers) {
    *target = fields.number(name);
  }
  if (profile.kind == DeviceKind::kCpu) {
    profile.price_error = fields.number("price_error");
  }
  Fields paper = fields.object("paper");
  profile.paper = {.read_bytes_per_ns = paper.number("read_bytes_per_ns"),
                   .min_tasks_per_worker = paper.number("min_tasks_per_worker"),
                   .launch_ns = paper.number("launch_ns")};
  paper.finish();
  if (fields.has("kernels")) {
    profile.kernels = fields.text("kernels");
  }
  fields.finish();
  return profile;
}

/// nlohmann keeps the last of repeated members without a word.
Json parse_unique(std::string_view text, const std::string& place) {
  std::vector<std::set<std::string>> objects;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) {
      objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      objects.pop_back();
    } else if (event == Json::parse_event_t::key && !objects.back().insert(parsed.get<std::string>()).second) {
      refuse(place, parsed.get<std::string>(), "is given twice");
    }
    return true;
  };
  return Json::parse(text, watch);
}

}  // namespace

Result<DeviceProfile> parse_profile(std::string_view text, std::string_view place) {
  try {
    DeviceProfile profile = read_profile(parse_unique(text, std::string(place)), std::string(place));
    if (const Status status = validate(profile); !status.ok()) {
      Error error = status.error();
      error.where = fmt::format("{}, field {}", place, error.where.substr(std::string_view("profile.").size()));
      return error;
    }
    return profile;
  } catch (const BadProfile& bad) {
    return bad.error;
  } catch (const nlohmann::json::exception& error) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("is not JSON: {}", error.what()), std::string(place)};
  }
}

std::string profile_json(const DeviceProfile& profile) {
  Json json = {{"format", kFormat},
               {"version", kProfileVersion},
               {"name", profile.name},
               {"kind", device_kind_name(profile.kind)},
               {"source", profile.source},
               {"identity",
                {{"machine", profile.identity.machine},
                 {"isa", profile.identity.isa},
                 {"driver", profile.identity.driver},
                 {"version", profile.identity.version}}},
               {"num_workers", profile.num_workers},
               {"tasks_per_worker", profile.tasks_per_worker},
               {"cache_bytes", profile.cache_bytes}};
  Json list = Json::array();
  for (const BandwidthPoint& point : profile.bandwidth) {
    list.push_back({{"tasks", point.tasks}, {"bytes_per_ns", point.bytes_per_ns}});
  }
  json["bandwidth"] = std::exchange(list, Json::array());
  for (const ChunkPoint& point : profile.chunks) {
    list.push_back({{"bytes", point.bytes}, {"share", point.share}});
  }
  json["chunks"] = std::exchange(list, Json::array());
  for (const ArithmeticPoint& point : profile.arithmetic) {
    list.push_back({{"dtype", dtype_name(point.dtype)},
                    {"group_size", point.group_size},
                    {"head_dim", point.head_dim},
                    {"bytes_per_ns", point.bytes_per_ns}});
  }
  json["arithmetic"] = std::exchange(list, Json::array());
  json.update({{"overlap_exponent", profile.overlap_exponent},
               {"task_ns", profile.task_ns},
               {"launch_ns", profile.launch_ns},
               {"merge_launch_ns", profile.merge_launch_ns},
               {"merge_bytes_per_ns", profile.merge_bytes_per_ns},
               {"plan_ns", profile.plan_ns},
               {"plan_task_ns", profile.plan_task_ns},
               {"plan_page_ns", profile.plan_page_ns}});
  if (profile.kind == DeviceKind::kCpu) {
    json["price_error"] = profile.price_error;
  }
  json["paper"] = {{"read_bytes_per_ns", profile.paper.read_bytes_per_ns},
                   {"min_tasks_per_worker", profile.paper.min_tasks_per_worker},
                   {"launch_ns", profile.paper.launch_ns}};
  for (const ExternalKernel& kernel : profile.external) {
    list.push_back({{"route", route_name(kernel.route)},
                    {"bytes_per_ns", kernel.bytes_per_ns},
                    {"task_bytes_per_ns", kernel.task_bytes_per_ns},
                    {"wave_tasks", kernel.wave_tasks},
                    {"launch_ns", kernel.launch_ns},
                    {"plan_ns", kernel.plan_ns},
                    {"plan_page_ns", kernel.plan_page_ns}});
  }
  json["external"] = std::move(list);
  if (!profile.kernels.empty()) {
    json["kernels"] = profile.kernels;
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace pkv

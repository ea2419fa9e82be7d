// Profiles from files and from the cache directory.
#include "machine_profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "exec/cpu/topology.h"
#include "failure.h"

namespace pkv::cli {
namespace {

constexpr std::uintmax_t kMaxProfileBytes = 1 << 20;

std::string read_text(std::string_view option, const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    fail(std::string(option),
         fmt::format("'{}' is neither a file nor one of {}", path, fmt::join(shipped_profile_names(), ", ")));
  }
  if (const auto bytes = std::filesystem::file_size(path, error); !error && bytes > kMaxProfileBytes) {
    fail(std::string(option),
         fmt::format("'{}' has {} bytes; a profile has at most {}", path, bytes, kMaxProfileBytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) fail(std::string(option), fmt::format("'{}' cannot be read", path));
  return text;
}

void check_identity(const std::string& path, const MachineIdentity& found, const MachineIdentity& ours) {
  const auto check = [&](std::string_view what, const std::string& theirs, const std::string& own) {
    if (theirs == own) return;
    fail(path, fmt::format("field identity.{} is '{}', here it is '{}': run pkv calibrate again, or name a --profile",
                           what, theirs, own));
  };
  check("machine", found.machine, ours.machine);
  check("isa", found.isa, ours.isa);
  check("driver", found.driver, ours.driver);
  check("version", found.version, ours.version);
}

}  // namespace

DeviceProfile load_profile(std::string_view option, const std::string& name_or_path) {
  auto shipped = shipped_profile(name_or_path);
  if (shipped.ok()) return *std::move(shipped);
  return unwrap_at(option, parse_profile(read_text(option, name_or_path), name_or_path));
}

MachineIdentity machine_identity(const CpuOptions& cpu) {
  const Topology topology = unwrap(read_topology());
  const std::int32_t threads = cpu.threads.value_or(topology.num_cores());
  return {.machine = fmt::format("{}, {} workers{}", topology.cpu_model, threads, cpu.pin ? "" : " not pinned"),
          .isa = std::string(isa_name(cpu.isa.value_or(supported_isas().back()))),
          .driver = "none",
          .version = PKV_VERSION};
}

std::string machine_profile_path() {
  constexpr const char* kName = "/persistentkv/cpu-profile.json";
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + kName;
  const char* home = std::getenv("HOME");
  return home == nullptr || *home != '/' ? std::string{} : std::string(home) + "/.cache" + kName;
}

DeviceProfile machine_profile(const WorkerArguments& workers) {
  const std::string path = machine_profile_path();
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return unwrap(shipped_profile("cpu"));
  DeviceProfile profile = unwrap(parse_profile(read_text("profile", path), path));
  check_identity(path, profile.identity, machine_identity(resolve_workers(workers)));
  return profile;
}

}  // namespace pkv::cli

// Profiles by name or file, and where this machine's own lies.
// Not here: measuring it (calibration.h), the format (persistentkv/profile.h).
#pragma once

#include <string>
#include <string_view>

#include "persistentkv/cpu.h"
#include "persistentkv/profile.h"
#include "run_arguments.h"

namespace pkv::cli {

/// A shipped profile by its name, or a file. Fails with `option` as the place.
DeviceProfile load_profile(std::string_view option, const std::string& name_or_path);

/// What a profile of this machine must say: processor and workers, ISA, driver ("none": a CPU) and version.
MachineIdentity machine_identity(const CpuOptions& cpu);

/// persistentkv/cpu-profile.json in XDG_CACHE_HOME, or in .cache of HOME; empty if neither is set.
std::string machine_profile_path();

/// What `pkv calibrate` stored for these workers, or the shipped profile "cpu" where it stored nothing. Fails on a
/// file that is damaged or of another machine, ISA or version.
DeviceProfile machine_profile(const WorkerArguments& workers);

}  // namespace pkv::cli

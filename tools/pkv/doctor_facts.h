// What pkv doctor found: the machine, the build, and measured reads, as data, text and JSON.
// Not here: options (command_doctor.cc), the probes themselves (src/replay/cpu_probes.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "exec/cpu/topology.h"
#include "persistentkv/cpu.h"
#include "persistentkv/cuda.h"
#include "persistentkv/result.h"
#include "replay/cpu_probes.h"
#include "report/report.h"

namespace pkv::cli {

/// What would make figures worse than they need be, with what to do about it.
struct Advice {
  std::string text;
};

/// What the CUDA driver says, or why it says nothing.
struct GpuFacts {
  bool built = false;
  std::vector<CudaDevice> devices;
  /// Empty when there is a GPU.
  std::string reason;
};

struct DoctorFacts {
  std::string version;
  Topology topology;
  std::vector<Isa> isas;
  std::string backend;
  std::int32_t num_workers = 1;
  GpuFacts gpu;
  std::vector<std::string> built_in;
  /// Empty when skipped.
  std::optional<CpuProbes> probes;
  std::vector<Advice> advice;
};

enum class ProbeChoice : std::uint8_t { kSkip, kQuick, kFull };

/// Reads the machine and, unless skipped, measures it: a second or two, or a minute for the full set.
/// Errors: those of make_cpu_backend and measure_cpu_probes.
Result<DoctorFacts> examine(const CpuOptions& cpu, ProbeChoice probes);

std::string doctor_text(const DoctorFacts& facts, TextStyle style);
std::string doctor_json(const DoctorFacts& facts);

}  // namespace pkv::cli

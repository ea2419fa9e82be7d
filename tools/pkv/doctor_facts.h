// What pkv doctor found: the machine, the build, and measured reads, as data, text and JSON.
// Not here: options (command_doctor.cc), the probes themselves (src/exec/cpu/probe.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/cpu/topology.h"
#include "persistentkv/cpu.h"
#include "persistentkv/cuda.h"
#include "persistentkv/result.h"
#include "report/report.h"

namespace pkv::cli {

/// One way of reading memory, repeated: 1e9 bytes a second.
struct ReadFigure {
  std::string pattern;
  std::int32_t workers = 1;
  double median_gb_per_s = 0.0;
  double least_gb_per_s = 0.0;
  double most_gb_per_s = 0.0;
};

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
  std::int64_t probe_bytes = 0;
  std::vector<ReadFigure> reads;
  std::vector<Advice> advice;
};

enum class ProbeChoice : std::uint8_t { kMeasure, kSkip };

/// Reads the machine and, unless skipped, measures it for a few seconds.
/// Errors: those of make_cpu_backend and make_probe_buffer.
Result<DoctorFacts> examine(const CpuOptions& cpu, ProbeChoice probes);

std::string doctor_text(const DoctorFacts& facts, TextStyle style);
std::string doctor_json(const DoctorFacts& facts);

}  // namespace pkv::cli

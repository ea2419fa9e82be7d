// Examining the machine: topology, instruction sets, and reads of memory in the ways kernels read it.
// Not here: options (command_doctor.cc).
#include "doctor_facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "exec/cpu/cpu_backend.h"
#include "report/text_table.h"

namespace pkv::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMib = 1 << 20;
constexpr std::int32_t kQuickPasses = 5;
constexpr std::int32_t kFullPasses = 15;

std::vector<Advice> advise(const DoctorFacts& facts) {
  std::vector<Advice> advice;
  if (facts.topology.huge_pages == HugePageMode::kNever) {
    advice.push_back(
        {"transparent huge pages are off: reads of K and V lose 5 to 40%; "
         "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"});
  }
  if (facts.num_workers > facts.topology.num_cores()) {
    advice.push_back({fmt::format("{} workers share {} cores: they will wait for one another; try --threads {}",
                                  facts.num_workers, facts.topology.num_cores(), facts.topology.num_cores())});
  }
  if (!facts.isas.empty() && facts.isas.back() == Isa::kPortable) {
    advice.push_back({"this CPU has neither AVX2 nor AVX-512: the portable kernels run, several times slower"});
  }
  return advice;
}

std::vector<std::string> isa_names(const std::vector<Isa>& isas) {
  std::vector<std::string> names;
  for (const Isa isa : isas) names.emplace_back(isa_name(isa));
  return names;
}

std::string size_text(std::int64_t bytes) {
  constexpr double kKib = 1024.0;
  if (bytes == 0) return "unknown";
  if (bytes < kMib) return fmt::format("{:g} KiB", static_cast<double>(bytes) / kKib);
  if (bytes < 1024 * kMib) return fmt::format("{:g} MiB", static_cast<double>(bytes) / (kKib * kKib));
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (kKib * kKib * kKib));
}

GpuFacts examine_gpus() {
  GpuFacts facts{.built = cuda_built(), .devices = {}, .reason = {}};
  Result<std::vector<CudaDevice>> devices = cuda_devices();
  if (!devices.ok()) {
    facts.reason = devices.error().message;
  } else if (devices.value().empty()) {
    facts.reason = "the driver lists none";
  } else {
    facts.devices = std::move(devices).value();
  }
  return facts;
}

// CUDA counts 13000 for 13.0.
std::string cuda_version_text(std::int32_t version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string gpu_text(const CudaDevice& gpu) {
  return fmt::format(
      "{}: {}, compute capability {}.{}, {} SMs, {} memory, L2 {}, {} shared memory a block; CUDA driver "
      "{}, runtime {}",
      gpu.ordinal, gpu.name, gpu.compute_major, gpu.compute_minor, gpu.num_sms, size_text(gpu.memory_bytes),
      size_text(gpu.l2_bytes), size_text(gpu.shared_bytes_per_block), cuda_version_text(gpu.driver_version),
      cuda_version_text(gpu.runtime_version));
}

Json gpu_json(const CudaDevice& gpu) {
  return {{"ordinal", gpu.ordinal},
          {"name", gpu.name},
          {"compute_capability", fmt::format("{}.{}", gpu.compute_major, gpu.compute_minor)},
          {"num_sms", gpu.num_sms},
          {"memory_bytes", gpu.memory_bytes},
          {"l2_bytes", gpu.l2_bytes},
          {"shared_bytes_per_block", gpu.shared_bytes_per_block},
          {"driver_version", cuda_version_text(gpu.driver_version)},
          {"runtime_version", cuda_version_text(gpu.runtime_version)}};
}

Json cuda_json(const GpuFacts& facts) {
  Json gpus = Json::array();
  for (const CudaDevice& gpu : facts.devices) gpus.push_back(gpu_json(gpu));
  return {{"built", facts.built},
          {"gpus", std::move(gpus)},
          {"reason", facts.reason.empty() ? Json(nullptr) : Json(facts.reason)}};
}

std::string machine_text(const DoctorFacts& facts, TextStyle style) {
  const Topology& t = facts.topology;
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("{} {}\n", coloured(fmt::format("{:<16}", name), CellTone::kBold, style), value);
  };
  line("pkv", facts.version);
  line("CPU", t.cpu_model);
  line("cores", fmt::format("{} physical, {} hardware threads, {} NUMA node{}", t.num_cores(), t.num_hardware_threads,
                            t.num_numa_nodes, t.num_numa_nodes == 1 ? "" : "s"));
  line("caches", fmt::format("L1d {}, L2 {} a core; L3 {} times {}", size_text(t.l1d_bytes), size_text(t.l2_bytes),
                             t.num_l3, size_text(t.l3_bytes)));
  line("memory",
       fmt::format("{} in all, {} available", size_text(t.total_memory_bytes), size_text(t.available_memory_bytes)));
  line("huge pages", std::string(huge_page_mode_name(t.huge_pages)));
  line("ISAs", fmt::format("{} (the last is used)", fmt::join(isa_names(facts.isas), ", ")));
  line("backend", facts.backend);
  for (const CudaDevice& gpu : facts.gpu.devices) line("GPU", gpu_text(gpu));
  if (facts.gpu.devices.empty()) line("GPU", fmt::format("no GPU: {}; the CPU is used", facts.gpu.reason));
  line("built in", fmt::format("{}", fmt::join(facts.built_in, "; ")));
  return out;
}

std::string read_name(const ReadRate& read) {
  switch (read.order) {
    case ReadOrder::kSequential: return "in order";
    case ReadOrder::kRandom: return fmt::format("random chunks of {} KiB", *read.chunk_bytes / 1024);
    case ReadOrder::kPages: return "K,V pages (HND, f16, page size 16)";
  }
  return "unknown";
}

std::string rate_text(const CpuProbes& probes, const ReadRate& row, std::int32_t workers, MemoryPages memory) {
  for (const ReadRate& read : probes.reads) {
    if (read.order == row.order && read.chunk_bytes == row.chunk_bytes && read.workers == workers &&
        read.memory == memory) {
      return fmt::format("{:.1f} ({:.0f}-{:.0f})", read.gb_per_s.median, read.gb_per_s.least, read.gb_per_s.most);
    }
  }
  return "-";
}

std::string workers_text(std::int32_t workers) {
  return workers == 1 ? "1 worker" : fmt::format("{} workers", workers);
}

std::string reads_text(const CpuProbes& probes, TextStyle style) {
  std::vector<TextTable::Column> columns{{"GB/s: median (least-most)", TextTable::Align::kLeft}};
  std::vector<std::pair<std::int32_t, MemoryPages>> kinds;
  for (const MemoryPages memory : {MemoryPages::kHuge, MemoryPages::kSmall}) {
    for (const ReadRate& read : probes.reads) {
      if (read.order != ReadOrder::kSequential || read.memory != memory) continue;
      if (memory == MemoryPages::kSmall && read.workers != probes.num_workers) continue;
      kinds.emplace_back(read.workers, memory);
      columns.push_back({workers_text(read.workers) + (memory == MemoryPages::kSmall ? ", 4 KiB memory pages" : "")});
    }
  }
  TextTable table(columns);
  for (const ReadRate& row : probes.reads) {
    if (row.memory != MemoryPages::kHuge || row.workers != probes.num_workers) continue;
    std::vector<std::string> cells{read_name(row)};
    for (const auto& [workers, memory] : kinds) cells.push_back(rate_text(probes, row, workers, memory));
    table.add_row(cells);
  }
  return table.render(style);
}

std::string method_text(const ReadMethod& method) {
  return fmt::format("{} stream{}, {}", method.streams, method.streams == 1 ? "" : "s",
                     method.prefetch == ReadPrefetch::kNone
                         ? "no prefetch"
                         : fmt::format("prefetch into {} {} KiB ahead",
                                       method.prefetch == ReadPrefetch::kL1 ? "L1" : "L2", method.ahead_bytes / 1024));
}

std::string in_cache_text(const CpuProbes& probes, TextStyle style) {
  std::vector<std::int32_t> groups;
  for (const InCacheRate& rate : probes.in_cache) {
    if (std::find(groups.begin(), groups.end(), rate.group_size) == groups.end()) groups.push_back(rate.group_size);
  }
  std::vector<TextTable::Column> columns{{"decode in cache, GB/s of K,V", TextTable::Align::kLeft}};
  for (const std::int32_t group : groups) columns.push_back({fmt::format("group {}", group)});
  TextTable table(columns);
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    std::vector<std::string> cells{fmt::format("{}, {}", dtype_name(dtype), workers_text(probes.num_workers))};
    for (const InCacheRate& rate : probes.in_cache) {
      if (rate.dtype == dtype) cells.push_back(fmt::format("{:.1f}", rate.gb_per_s.median));
    }
    if (cells.size() == columns.size()) table.add_row(cells);
  }
  return probes.in_cache.empty() ? "" : table.render(style);
}

std::string probes_text(const CpuProbes& probes, TextStyle style) {
  std::string out =
      fmt::format("reads of {} ({:.0f}% of it on huge pages), {} passes: {}\n", size_text(probes.buffer_bytes),
                  100.0 * static_cast<double>(probes.huge_bytes) / static_cast<double>(probes.buffer_bytes),
                  probes.passes, method_text(probes.method));
  out += reads_text(probes, style);
  for (const ForkJoinTime& time : probes.fork_join) {
    out += fmt::format(
        "fork-join of {}, {}: {:.1f} us (p25 {:.1f}, p75 {:.1f})\n", workers_text(time.workers),
        time.idle_ns == 0 ? "one after the other" : fmt::format("after {} ms of nothing", time.idle_ns / 1'000'000),
        time.us.median, time.us.p25, time.us.p75);
  }
  for (const ExpRate& rate : probes.exp) {
    out += fmt::format("exp, {}: {:.1f} a ns\n", workers_text(rate.workers), rate.exp_per_ns.median);
  }
  return out + in_cache_text(probes, style);
}

}  // namespace

Result<DoctorFacts> examine(const CpuOptions& cpu, ProbeChoice probes) {
  DoctorFacts facts;
  facts.version = PKV_VERSION;
  Result<std::unique_ptr<CpuBackend>> backend = CpuBackend::create(cpu);
  if (!backend.ok()) return backend.error();
  CpuBackend& workers = *backend.value();
  facts.topology = workers.topology();
  facts.isas = supported_isas();
  facts.backend = workers.describe();
  facts.num_workers = workers.num_workers();
  facts.gpu = examine_gpus();
  facts.built_in = {"CPU backend", facts.gpu.built ? "CUDA backend" : "no CUDA backend",
                    facts.gpu.built ? "MLP proxies (oneDNN, cuBLAS)" : "MLP proxy (oneDNN)",
                    "trace formats csv, json, jsonl, azure2023, mooncake, coding-sessions, servegen"};
  facts.advice = advise(facts);
  if (probes == ProbeChoice::kSkip) return facts;
  const bool full = probes == ProbeChoice::kFull;
  Result<CpuProbes> measured = measure_cpu_probes(
      workers, {.set = full ? ProbeSet::kFull : ProbeSet::kQuick, .passes = full ? kFullPasses : kQuickPasses});
  if (!measured.ok()) return measured.error();
  facts.probes = std::move(measured).value();
  return facts;
}

std::string doctor_text(const DoctorFacts& facts, TextStyle style) {
  std::string out = machine_text(facts, style);
  if (facts.probes) out += "\n" + probes_text(*facts.probes, style);
  for (const Advice& advice : facts.advice) out += coloured("advice: " + advice.text, CellTone::kBad, style) + "\n";
  return out;
}

std::string doctor_json(const DoctorFacts& facts) {
  const Topology& t = facts.topology;
  Json advice = Json::array();
  for (const Advice& entry : facts.advice) advice.push_back(entry.text);
  const Json json = {{"version", facts.version},
                     {"cpu", t.cpu_model},
                     {"cores", t.num_cores()},
                     {"hardware_threads", t.num_hardware_threads},
                     {"numa_nodes", t.num_numa_nodes},
                     {"l1d_bytes", t.l1d_bytes},
                     {"l2_bytes", t.l2_bytes},
                     {"l3_bytes", t.l3_bytes},
                     {"num_l3", t.num_l3},
                     {"memory_bytes", t.total_memory_bytes},
                     {"available_memory_bytes", t.available_memory_bytes},
                     {"huge_pages", huge_page_mode_name(t.huge_pages)},
                     {"isas", isa_names(facts.isas)},
                     {"backend", facts.backend},
                     {"num_workers", facts.num_workers},
                     {"cuda", cuda_json(facts.gpu)},
                     {"built_in", facts.built_in},
                     {"probes", facts.probes ? Json::parse(cpu_probes_json(*facts.probes)) : Json(nullptr)},
                     {"advice", std::move(advice)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace pkv::cli

// Examining the machine: topology, instruction sets, and reads of memory in the ways kernels read it.
// Not here: options (command_doctor.cc).
#include "doctor_facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/math.h"
#include "base/random.h"
#include "exec/cpu/cpu_backend.h"
#include "report/statistics.h"
#include "report/text_table.h"

namespace pkv::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMib = 1 << 20;
constexpr std::int64_t kCachesToPass = 4;  // style.md: what is read is over four times the last-level cache
constexpr std::int64_t kLeastProbeBytes = 256 * kMib;
constexpr std::int64_t kMostProbeShare = 4;  // of the available memory
constexpr int kRepeats = 5;

std::int64_t probe_bytes(const Topology& topology) {
  const std::int64_t wanted = std::max(kLeastProbeBytes, kCachesToPass * topology.last_level_cache_bytes());
  const std::int64_t allowed =
      topology.available_memory_bytes > 0 ? topology.available_memory_bytes / kMostProbeShare : wanted;
  return std::max<std::int64_t>(round_up(std::min(wanted, allowed), kMib), kMib);
}

template <typename Probe>
Result<ReadFigure> repeat(std::string pattern, std::int32_t workers, Probe probe) {
  std::vector<double> rates;
  for (int i = 0; i < kRepeats; ++i) {
    const Result<ProbeResult> result = probe();
    if (!result.ok()) return result.error();
    rates.push_back(result.value().gb_per_s());
  }
  return ReadFigure{.pattern = std::move(pattern),
                    .workers = workers,
                    .median_gb_per_s = median(rates).value_or(0.0),
                    .least_gb_per_s = *std::min_element(rates.begin(), rates.end()),
                    .most_gb_per_s = *std::max_element(rates.begin(), rates.end())};
}

Status measure_streams(CpuBackend& backend, const AlignedBuffer& buffer, std::vector<ReadFigure>& reads) {
  std::vector<std::int32_t> worker_counts{1};
  if (backend.num_workers() > 1) worker_counts.push_back(backend.num_workers());
  for (const std::int32_t workers : worker_counts) {
    const auto figure = repeat("sequential", workers, [&] { return backend.read_probe(buffer, {.workers = workers}); });
    if (!figure.ok()) return figure.error();
    reads.push_back(figure.value());
  }
  for (const std::int64_t chunk : kProbeChunkBytes) {
    const auto figure = repeat(fmt::format("random chunks of {} KiB", chunk / 1024), backend.num_workers(),
                               [&] { return backend.read_probe(buffer, {.chunk_bytes = chunk}); });
    if (!figure.ok()) return figure.error();
    reads.push_back(figure.value());
  }
  return {};
}

// The paper's cache (8 KV heads, d 128, fp16, page 16) laid over the buffer: one row of all its pages, dealt at random.
Status measure_pages(CpuBackend& backend, const AlignedBuffer& buffer, std::vector<ReadFigure>& reads) {
  const AttentionShape shape;
  const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, shape);
  if (!layout.ok()) return layout.error();
  const auto half_bytes = static_cast<std::int64_t>(buffer.size()) / 2;
  const std::int64_t num_pages = half_bytes / (layout.value().page_elements() * dtype_bytes(DType::kF16));
  std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
  std::iota(pages.begin(), pages.end(), 0);
  SplitMix64 random(1);
  for (std::size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[random.below(i)]);
  const std::vector<std::int32_t> lens{static_cast<std::int32_t>(num_pages) * 16};
  const std::vector<std::int32_t> indptr{0, static_cast<std::int32_t>(num_pages)};
  const auto table = BlockTable::csr(indptr, pages);
  if (!table.ok()) return table.error();
  const auto batch = BatchState::make(
      {.shape = shape, .page_size = 16, .seq_lens = lens, .block_table = table.value(), .num_pages = num_pages});
  if (!batch.ok()) return batch.error();
  const PagedKv kv{.k = buffer.data(),
                   .v = buffer.as<char>() + half_bytes,
                   .dtype = DType::kF16,
                   .layout = layout.value(),
                   .num_pages = num_pages};
  const auto figure = repeat("paged K,V (HND, f16, page size 16)", backend.num_workers(),
                             [&] { return backend.paged_read_probe(batch.value(), kv); });
  if (!figure.ok()) return figure.error();
  reads.push_back(figure.value());
  return {};
}

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
  facts.probe_bytes = probe_bytes(facts.topology);
  const Result<AlignedBuffer> buffer = make_probe_buffer(workers.pool(), facts.probe_bytes);
  if (!buffer.ok()) return buffer.error();
  PKV_RETURN_IF_ERROR(measure_streams(workers, buffer.value(), facts.reads));
  PKV_RETURN_IF_ERROR(measure_pages(workers, buffer.value(), facts.reads));
  return facts;
}

std::string doctor_text(const DoctorFacts& facts, TextStyle style) {
  std::string out = machine_text(facts, style);
  if (!facts.reads.empty()) {
    TextTable table({{"read", TextTable::Align::kLeft}, {"workers"}, {"GB/s median"}, {"least"}, {"most"}});
    for (const ReadFigure& read : facts.reads) {
      table.add_row({read.pattern, fmt::format("{}", read.workers), cell(read.median_gb_per_s, 1),
                     cell(read.least_gb_per_s, 1), cell(read.most_gb_per_s, 1)});
    }
    out += fmt::format("\nmeasured reads of {}, {} passes each\n{}", size_text(facts.probe_bytes), kRepeats,
                       table.render(style));
  }
  for (const Advice& advice : facts.advice) out += coloured("advice: " + advice.text, CellTone::kBad, style) + "\n";
  return out;
}

std::string doctor_json(const DoctorFacts& facts) {
  const Topology& t = facts.topology;
  Json reads = Json::array();
  for (const ReadFigure& read : facts.reads) {
    reads.push_back({{"pattern", read.pattern},
                     {"workers", read.workers},
                     {"gb_per_s_p50", read.median_gb_per_s},
                     {"gb_per_s_min", read.least_gb_per_s},
                     {"gb_per_s_max", read.most_gb_per_s}});
  }
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
                     {"probe_bytes", facts.probe_bytes},
                     {"reads", std::move(reads)},
                     {"advice", std::move(advice)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace pkv::cli

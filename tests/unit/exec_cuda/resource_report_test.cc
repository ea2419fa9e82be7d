// What ptxas said about every kernel of this build: no spills, no stack, and registers that leave room for the
// blocks an SM is meant to hold. Not here: speed; cmake/nvcc_with_report.sh writes the reports.
#include <cxxabi.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "exec/cuda/instances.h"
#include "exec/cuda/kernels.h"

namespace pkv::cuda {
namespace {

constexpr int kRegistersPerSm = 65536;  // compute capability 8.0 to 12.0
constexpr int kMaxRegisters = 255;

struct Resources {
  int registers = -1;
  int stack_bytes = -1;
  int spill_bytes = -1;
};

/// By kernel name as in C++, then by architecture.
using Report = std::map<std::string, std::map<std::string, Resources>>;

std::string demangle(const std::string& mangled) {
  int status = 0;
  char* name = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string result = status == 0 ? name : mangled;
  std::free(name);
  return result;
}

/// The text between two quotes after `position`, and the position behind it.
std::string quoted(const std::string& line, std::size_t& position) {
  const std::size_t begin = line.find('\'', position) + 1;
  const std::size_t end = line.find('\'', begin);
  position = end + 1;
  return line.substr(begin, end - begin);
}

/// Lines of ptxas: "Compiling entry function 'NAME' for 'ARCH'", then what it takes.
void read_report(const std::string& path, Report& report) {
  std::ifstream file(path);
  ASSERT_TRUE(file.good()) << path << " is missing: the kernels were not compiled by nvcc_with_report.sh";
  Resources* current = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.find("Compiling entry function") != std::string::npos) {
      std::size_t position = 0;
      const std::string name = demangle(quoted(line, position));
      current = &report[name][quoted(line, position)];
    } else if (current != nullptr && line.find("bytes stack frame") != std::string::npos) {
      int stores = 0;
      int loads = 0;
      ASSERT_EQ(std::sscanf(line.c_str(), " %d bytes stack frame, %d bytes spill stores, %d bytes spill loads",
                            &current->stack_bytes, &stores, &loads),
                3)
          << line;
      current->spill_bytes = stores + loads;
    } else if (current != nullptr && line.find("Used ") != std::string::npos) {
      ASSERT_EQ(std::sscanf(line.c_str() + line.find("Used "), "Used %d registers", &current->registers), 1) << line;
    }
  }
}

Report read_all_reports() {
  Report report;
  std::ifstream objects(PKV_CUDA_OBJECTS);  // one path a line
  for (std::string object; std::getline(objects, object);) {
    if (object.find(".cu.") != std::string::npos) {
      read_report(object + ".resources", report);
    }
  }
  return report;
}

/// A kernel that must be in the report: a part of its name in C++, and its entry in the table.
struct Expected {
  std::string part;
  const KernelEntry* entry = nullptr;
};

// The order of the table is that of the lists, type by type.
std::vector<Expected> expected_decode_kernels() {
  std::vector<std::string> configs;
#define PKV_CONFIG(width, d, m, s, w, st, b, t) configs.push_back(#d ", " #m ", " #s ", " #w ", " #st ", " #b ", " #t);
  PKV_DECODE_D64(PKV_CONFIG)
  PKV_DECODE_D128(PKV_CONFIG)
  PKV_DECODE_D256(PKV_CONFIG)
#undef PKV_CONFIG
  std::vector<Expected> expected;
  for (const char* type : {"__half", "__nv_bfloat16"}) {
    for (const std::string& config : configs) {
      expected.push_back({.part = fmt::format("DecodeConfig<{}, {}>", type, config)});
    }
  }
  return expected;
}

std::vector<Expected> expected_kernels() {
  std::vector<Expected> expected = expected_decode_kernels();
  EXPECT_EQ(expected.size(), mma_kernels().size());
  for (std::size_t i = 0; i < std::min(expected.size(), mma_kernels().size()); ++i) {
    expected[i].entry = &mma_kernels()[i];
  }
  expected.push_back({"simple_decode_kernel<float>", &simple_kernel(ElementType::kF32)});
  expected.push_back({"simple_decode_kernel<__half>", &simple_kernel(ElementType::kF16)});
  expected.push_back({"simple_decode_kernel<__nv_bfloat16>", &simple_kernel(ElementType::kBF16)});
  for (const MergeEntry& merge : merge_kernels()) {
    const int warps = merge.kernel.threads / 32 / merge.units_per_block;
    const int lanes = merge.unit_dims / 4;
    const int batch = merge.splits_at_once / (warps * 32 / lanes);
    expected.push_back({fmt::format("merge_splits_kernel<{}, {}, {}, {}>", merge.units_per_block, warps, lanes, batch),
                        &merge.kernel});
  }
  expected.push_back({"read_pages_kernel", &page_read_kernel()});
  return expected;
}

/// `arch`: "sm_90".
int register_limit(const KernelEntry& entry, const std::string& arch) {
  const int blocks = blocks_that_fit(std::stoi(arch.substr(3)) * 10, entry.shared_bytes, entry.blocks_per_sm);
  return std::min(kMaxRegisters, kRegistersPerSm / (entry.threads * blocks) / 8 * 8);
}

void expect_within_limits(const KernelEntry& entry, const std::string& arch, const Resources& used) {
  SCOPED_TRACE(fmt::format("{} on {}", entry.name, arch));
  EXPECT_EQ(used.spill_bytes, 0);
  EXPECT_EQ(used.stack_bytes, 0);
  EXPECT_GT(used.registers, 0);
  EXPECT_LE(used.registers, register_limit(entry, arch))
      << entry.threads << " threads, " << entry.blocks_per_sm << " blocks an SM";
}

TEST(ResourceReport, EveryKernelOfTheTable_FitsTheBlocksOfItsSm) {
  const Report report = read_all_reports();
  std::set<std::string> archs;
  for (const auto& [name, by_arch] : report) {
    for (const auto& [arch, used] : by_arch) archs.insert(arch);
  }
  ASSERT_FALSE(archs.empty()) << "no report names a kernel";
  for (const Expected& kernel : expected_kernels()) {
    const auto found = std::find_if(report.begin(), report.end(), [&](const auto& item) {
      return item.first.find(kernel.part) != std::string::npos;
    });
    ASSERT_TRUE(found != report.end()) << kernel.part << " is missing from the report";
    ASSERT_NE(kernel.entry, nullptr) << kernel.part;
    for (const std::string& arch : archs) {
      ASSERT_TRUE(found->second.contains(arch)) << kernel.part << " was not compiled for " << arch;
      expect_within_limits(*kernel.entry, arch, found->second.at(arch));
    }
  }
}

}  // namespace
}  // namespace pkv::cuda

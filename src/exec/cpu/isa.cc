// Names of instruction sets, and which of them run here.
// Not here: the kernels themselves (kernels.cc).
#include <fmt/format.h>

#include "exec/cpu/kernels.h"

namespace pkv {
namespace {
constexpr Isa kAllIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};
}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512bf16";
    case Isa::kAmx: return "amx";
  }
  return "unknown";
}

Result<Isa> parse_isa(std::string_view name) {
  for (const Isa isa : kAllIsas) {
    if (name == isa_name(isa)) {
      return isa;
    }
  }
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("unknown instruction set '{}'; known: portable, avx2, avx512, avx512bf16, amx", name),
               "isa"};
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (find_kernels(isa) != nullptr) {
      isas.push_back(isa);
    }
  }
  return isas;
}

}  // namespace pkv

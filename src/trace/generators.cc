// The paper's five trace families, drawn by its exact rule from one std::mt19937.
// Not here: admission, page tables.
#include "trace/generators.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "base/math.h"
#include "persistentkv/layout.h"
#include "trace/names.h"

namespace pkv {
namespace {

using trace_internal::unknown_name;

/// By the value of PaperFamily.
constexpr std::array<std::string_view, 5> kFamilyNames = {"uniform", "bimodal", "zipf", "bucketed", "homogeneous"};
/// A bound against typing errors: 160 MB of requests.
constexpr std::int32_t kMaxRequests = 10'000'000;

Error option_error(std::string_view field, std::int64_t value, std::int64_t low, std::int64_t high) {
  return {.code = ErrorCode::kInvalidArgument,
          .message = fmt::format("{} is {}, must be {} to {}", field, value, low, high),
          .where = {}};
}

Status validate(const PaperTraceOptions& options) {
  if (options.num_requests < 1 || options.num_requests > kMaxRequests) {
    return option_error("num_requests", options.num_requests, 1, kMaxRequests);
  }
  if (options.max_active < 1) {
    return option_error("max_active", options.max_active, 1, std::numeric_limits<std::int32_t>::max());
  }
  if (options.page_size < 1 || options.page_size > kMaxPageSize) {
    return option_error("page_size", options.page_size, 1, kMaxPageSize);
  }
  return {};
}

/// The paper's draw: low + rng() % (high - low). The modulo's bias is part of the rule.
class PaperDraw {
 public:
  explicit PaperDraw(std::uint32_t seed) : rng_(seed) {}

  std::int32_t operator()(std::int32_t low, std::int32_t high) {
    return low + static_cast<std::int32_t>(rng_() % static_cast<std::uint32_t>(high - low));
  }

 private:
  std::mt19937 rng_;
};

std::int32_t zipf_prompt(PaperDraw& draw) {
  const std::int32_t rank = draw(1, 33);
  const auto prompt = static_cast<std::int32_t>(2048 + 65536 / std::sqrt(static_cast<double>(rank)));
  return std::max(1024, prompt + draw(-512, 513));
}

/// Draws in the paper's order: prompt, jitter, decode.
Request draw_request(PaperFamily family, std::int32_t i, PaperDraw& draw) {
  constexpr std::array<std::int32_t, 4> kBuckets = {8192, 16384, 32768, 65536};
  Request request;
  switch (family) {
    case PaperFamily::kUniform:
      request.prompt_len = draw(4096, 32769);
      request.decode_len = draw(16, 97);
      break;
    case PaperFamily::kBimodal:
      request.prompt_len = i % 4 == 0 ? draw(24576, 65537) : draw(2048, 12289);
      request.decode_len = i % 4 == 0 ? draw(32, 129) : draw(8, 65);
      break;
    case PaperFamily::kZipf:
      request.prompt_len = zipf_prompt(draw);
      request.decode_len = draw(8, 129);
      break;
    case PaperFamily::kBucketed:
      request.prompt_len = kBuckets[static_cast<std::size_t>(i % 4)];
      request.decode_len = draw(32, 97);
      break;
    case PaperFamily::kHomogeneous:
      request.prompt_len = 32768;
      request.decode_len = draw(32, 97);
      break;
  }
  return request;
}

}  // namespace

std::string_view paper_family_name(PaperFamily family) { return kFamilyNames[static_cast<std::size_t>(family)]; }

Result<PaperFamily> parse_paper_family(std::string_view name) {
  const auto found = std::find(kFamilyNames.begin(), kFamilyNames.end(), name);
  if (found == kFamilyNames.end()) {
    return unknown_name("paper trace", name, kFamilyNames);
  }
  return static_cast<PaperFamily>(found - kFamilyNames.begin());
}

Result<Trace> make_paper_trace(const PaperTraceOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options));
  Trace trace;
  trace.name = fmt::format("paper:{}", paper_family_name(options.family));
  trace.format = "paper";
  trace.requests.reserve(static_cast<std::size_t>(options.num_requests));
  PaperDraw draw(options.seed);
  for (std::int32_t i = 0; i < options.num_requests; ++i) {
    Request request = draw_request(options.family, i, draw);
    request.prompt_len = round_up(request.prompt_len, options.page_size);
    request.arrival = static_cast<double>(i / options.max_active);
    trace.requests.push_back(request);
  }
  return trace;
}

}  // namespace pkv

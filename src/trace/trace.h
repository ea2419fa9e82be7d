// Trace: requests of a serving log or of a generator, in memory.
// Not here: which rows are active in a step (admission.h), file formats (readers.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pkv {

enum class ArrivalUnit : std::uint8_t { kSteps, kSeconds };

/// One request: prompt_len tokens are in the cache when it becomes active; it then takes decode_len steps.
struct Request {
  /// Seconds or steps since the start of the trace, by Trace::arrival_unit.
  double arrival = 0.0;
  std::int32_t prompt_len = 0;
  std::int32_t decode_len = 0;
};

/// Requests in order of arrival (the order of the source among equals).
struct Trace {
  /// What the user named: "paper:bimodal" or the path.
  std::string name{};
  /// "paper", "csv", "json", "jsonl", "azure2023", "mooncake", "coding-sessions", "servegen".
  std::string format{};
  ArrivalUnit arrival_unit = ArrivalUnit::kSteps;
  /// False for a file without arrival times: all arrivals are 0, and paper admission takes the
  /// paper's own rule (request i at step i / max_active) in their place.
  bool has_arrivals = true;
  std::vector<Request> requests{};
  /// What a reader changed or left out, one sentence each ("11 calls without output tokens left out").
  std::vector<std::string> notes{};
};

}  // namespace pkv

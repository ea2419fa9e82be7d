// Quantiles, the context a decode step meets, and a histogram of prompts.
// Not here: reading traces (src/trace).
#include "trace_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>

#include "report/statistics.h"
#include "report/text_table.h"

namespace pkv::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kBarWidth = 40;
constexpr std::int64_t kKi = 1024;

template <typename Field>
std::vector<double> column(const Trace& trace, Field field) {
  std::vector<double> values(trace.requests.size());
  std::transform(trace.requests.begin(), trace.requests.end(), values.begin(),
                 [&](const Request& request) { return static_cast<double>(field(request)); });
  return values;
}

Distribution distribution_of(const std::vector<double>& values) {
  const auto at = [&](double q) { return quantile(values, q).value_or(0.0); };
  return {.p1 = at(0.01),
          .p10 = at(0.10),
          .p50 = at(0.50),
          .p90 = at(0.90),
          .p99 = at(0.99),
          .max = at(1.0),
          .mean = mean(values).value_or(0.0)};
}

std::vector<double> gaps(const Trace& trace) {
  std::vector<double> values;
  for (std::size_t i = 1; i < trace.requests.size(); ++i) {
    values.push_back(trace.requests[i].arrival - trace.requests[i - 1].arrival);
  }
  return values;
}

// Contexts [begin, end) that `weight` requests pass through, one decode step each.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t weight = 0;

  [[nodiscard]] std::int64_t steps() const { return (end - begin) * weight; }
};

// Sweep over where requests enter and leave: millions of decode steps need no list of their own.
std::vector<Segment> context_segments(const Trace& trace) {
  std::vector<std::pair<std::int64_t, int>> events;
  for (const Request& request : trace.requests) {
    events.emplace_back(request.prompt_len, +1);
    events.emplace_back(static_cast<std::int64_t>(request.prompt_len) + request.decode_len, -1);
  }
  std::sort(events.begin(), events.end());
  std::vector<Segment> segments;
  std::int64_t active = 0;
  for (std::size_t i = 0; i + 1 < events.size(); ++i) {
    active += events[i].second;
    if (active > 0 && events[i].first < events[i + 1].first) {
      segments.push_back({.begin = events[i].first, .end = events[i + 1].first, .weight = active});
    }
  }
  return segments;
}

std::int64_t context_at(const std::vector<Segment>& segments, std::int64_t rank) {
  for (const Segment& segment : segments) {
    if (rank < segment.steps()) return segment.begin + rank / segment.weight;
    rank -= segment.steps();
  }
  return segments.empty() ? 0 : segments.back().end - 1;
}

Distribution step_contexts(const Trace& trace) {
  const std::vector<Segment> segments = context_segments(trace);
  std::int64_t steps = 0;
  double sum = 0.0;
  for (const Segment& segment : segments) {
    steps += segment.steps();
    sum += static_cast<double>(segment.steps()) * static_cast<double>(segment.begin + segment.end - 1) / 2.0;
  }
  if (steps == 0) return {};
  const auto at = [&](double q) {
    return static_cast<double>(context_at(segments, static_cast<std::int64_t>(q * static_cast<double>(steps - 1))));
  };
  return {.p1 = at(0.01),
          .p10 = at(0.10),
          .p50 = at(0.50),
          .p90 = at(0.90),
          .p99 = at(0.99),
          .max = at(1.0),
          .mean = sum / static_cast<double>(steps)};
}

std::vector<LengthBin> prompt_bins(const Trace& trace) {
  const auto bin_of = [](const Request& request) {
    return std::bit_width(static_cast<std::uint32_t>(std::max(request.prompt_len, 0)));
  };
  std::vector<std::int64_t> counts(33, 0);
  for (const Request& request : trace.requests) ++counts[static_cast<std::size_t>(bin_of(request))];
  const auto first = std::find_if(counts.begin(), counts.end(), [](std::int64_t c) { return c > 0; }) - counts.begin();
  const auto last = counts.rend() - std::find_if(counts.rbegin(), counts.rend(), [](std::int64_t c) { return c > 0; });
  std::vector<LengthBin> bins;
  for (std::int64_t i = first; i < last; ++i) {
    bins.push_back({.begin_tokens = i == 0 ? 0 : std::int64_t{1} << (i - 1),
                    .end_tokens = std::int64_t{1} << i,
                    .count = counts[static_cast<std::size_t>(i)]});
  }
  return bins;
}

std::string unit_name(ArrivalUnit unit) { return unit == ArrivalUnit::kSteps ? "steps" : "seconds"; }

Json json_of(const Distribution& d) {
  return {{"p1", d.p1},   {"p10", d.p10}, {"p50", d.p50},  {"p90", d.p90},
          {"p99", d.p99}, {"max", d.max}, {"mean", d.mean}};
}

void add_distribution(TextTable& table, const std::string& name, const Distribution& d, int decimals) {
  std::vector<std::string> cells{name};
  for (const double value : {d.p1, d.p10, d.p50, d.p90, d.p99, d.max, d.mean}) cells.push_back(cell(value, decimals));
  table.add_row(std::move(cells));
}

std::string short_tokens(std::int64_t tokens) {
  return tokens >= kKi && tokens % kKi == 0 ? fmt::format("{}K", tokens / kKi) : fmt::format("{}", tokens);
}

std::string histogram(const TraceSummary& summary, TextStyle style) {
  std::int64_t most = 1;
  for (const LengthBin& bin : summary.bins) most = std::max(most, bin.count);
  std::string out;
  for (const LengthBin& bin : summary.bins) {
    const auto length = static_cast<std::size_t>(bin.count * static_cast<std::int64_t>(kBarWidth) / most);
    // The smallest count that is not zero is still seen.
    const std::string bar(bin.count > 0 ? std::max<std::size_t>(length, 1) : 0, '#');
    out += fmt::format("{:>6} to {:>6}  {}{} {}\n", short_tokens(bin.begin_tokens), short_tokens(bin.end_tokens),
                       coloured(bar, CellTone::kGood, style), std::string(kBarWidth - bar.size(), ' '), bin.count);
  }
  return out;
}

}  // namespace

TraceSummary summarize_trace(const Trace& trace) {
  TraceSummary summary;
  summary.name = trace.name;
  summary.format = trace.format;
  summary.arrival_unit = trace.arrival_unit;
  summary.requests = static_cast<std::int64_t>(trace.requests.size());
  summary.notes = trace.notes;
  for (const Request& request : trace.requests) {
    summary.prompt_tokens += request.prompt_len;
    summary.decode_tokens += request.decode_len;
  }
  summary.span = trace.requests.back().arrival - trace.requests.front().arrival;
  summary.prompt = distribution_of(column(trace, [](const Request& r) { return r.prompt_len; }));
  summary.decode = distribution_of(column(trace, [](const Request& r) { return r.decode_len; }));
  summary.end = distribution_of(
      column(trace, [](const Request& r) { return static_cast<std::int64_t>(r.prompt_len) + r.decode_len; }));
  summary.gap = distribution_of(gaps(trace));
  summary.step_context = step_contexts(trace);
  summary.bins = prompt_bins(trace);
  return summary;
}

std::string trace_json(const TraceSummary& summary) {
  Json bins = Json::array();
  for (const LengthBin& bin : summary.bins) {
    bins.push_back({{"begin_tokens", bin.begin_tokens}, {"end_tokens", bin.end_tokens}, {"count", bin.count}});
  }
  const Json json = {{"trace", summary.name},
                     {"format", summary.format},
                     {"arrival_unit", unit_name(summary.arrival_unit)},
                     {"requests", summary.requests},
                     {"prompt_tokens", summary.prompt_tokens},
                     {"decode_tokens", summary.decode_tokens},
                     {"arrival_span", summary.span},
                     {"prompt_len", json_of(summary.prompt)},
                     {"decode_len", json_of(summary.decode)},
                     {"end_len", json_of(summary.end)},
                     {"step_context", json_of(summary.step_context)},
                     {"arrival_gap", json_of(summary.gap)},
                     {"prompt_histogram", std::move(bins)},
                     {"notes", summary.notes}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string trace_text(const TraceSummary& summary, TextStyle style) {
  const std::string unit = unit_name(summary.arrival_unit);
  std::string out = fmt::format("{} ({}): {} requests over {:g} {}; {} prompt and {} decode tokens\n\n",
                                coloured(summary.name, CellTone::kBold, style), summary.format, summary.requests,
                                summary.span, unit, summary.prompt_tokens, summary.decode_tokens);
  TextTable table({{"", TextTable::Align::kLeft}, {"p1"}, {"p10"}, {"p50"}, {"p90"}, {"p99"}, {"max"}, {"mean"}});
  add_distribution(table, "prompt tokens", summary.prompt, 0);
  add_distribution(table, "decode tokens", summary.decode, 0);
  add_distribution(table, "tokens at the end", summary.end, 0);
  add_distribution(table, "context of a decode step", summary.step_context, 0);
  add_distribution(table, fmt::format("{} between arrivals", unit), summary.gap, 2);
  out += table.render(style) + "\nprompt tokens\n" + histogram(summary, style);
  for (const std::string& note : summary.notes) out += coloured("note: " + note, CellTone::kDim, style) + "\n";
  return out;
}

}  // namespace pkv::cli

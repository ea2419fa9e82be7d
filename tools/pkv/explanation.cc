// Tables, the timeline and JSON of an explanation.
// Not here: what is in it (command_explain.cc).
#include "explanation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "report/statistics.h"
#include "report/text_table.h"

namespace pkv::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kLeft = TextTable::Align::kLeft;
constexpr int kFormatVersion = 1;
constexpr std::size_t kShownCandidates = 16;
constexpr std::size_t kShownSteps = 48;
constexpr std::int32_t kShownWorkers = 16;
constexpr std::size_t kTimelineColumns = 72;

std::string us(double ns) { return fmt::format("{:.1f}", ns * 1e-3); }

template <typename T>
Json nullable(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

const char* worker_word(const PriceModel& model) { return model.profile().kind == DeviceKind::kGpu ? "SM" : "worker"; }

/// How much dearer a candidate is than the chosen one, term by term. Reading is shared between memory and arithmetic
/// by what each alone would add to (m^p + a^p)^(1/p).
struct Difference {
  double memory_ns = 0.0, arithmetic_ns = 0.0, tail_ns = 0.0, task_ns = 0.0, merge_ns = 0.0, launch_ns = 0.0,
         plan_ns = 0.0;
};

Difference difference(const Price& loser, const Price& winner, double overlap_exponent) {
  const auto reading = [](const Price& p) { return p.decode_ns - p.tail_ns - p.task_ns; };
  const auto together = [&](double memory, double arithmetic) {
    const double most = std::max(memory, arithmetic);
    if (!(most > 0.0)) return 0.0;
    return most * std::pow(std::pow(memory / most, overlap_exponent) + std::pow(arithmetic / most, overlap_exponent),
                           1.0 / overlap_exponent);
  };
  const double by_arithmetic =
      together(winner.memory_ns, loser.arithmetic_ns) - together(winner.memory_ns, winner.arithmetic_ns);
  return {.memory_ns = reading(loser) - reading(winner) - by_arithmetic,
          .arithmetic_ns = by_arithmetic,
          .tail_ns = loser.tail_ns - winner.tail_ns,
          .task_ns = loser.task_ns - winner.task_ns,
          .merge_ns = loser.merge_ns - winner.merge_ns,
          .launch_ns = loser.launch_ns - winner.launch_ns,
          .plan_ns = loser.plan_ns - winner.plan_ns};
}

// The one or two terms that are most above the winner's: "slower reads +12.3 us, a longer tail +4.0 us".
std::string why_lost(const Difference& d) {
  std::vector<std::pair<const char*, double>> terms = {
      {"slower reads", d.memory_ns},   {"more arithmetic", d.arithmetic_ns}, {"a longer tail", d.tail_ns},
      {"more task starts", d.task_ns}, {"more to merge", d.merge_ns},        {"more launches", d.launch_ns},
      {"more planning", d.plan_ns}};
  std::ranges::stable_sort(terms, [](const auto& a, const auto& b) { return a.second > b.second; });
  constexpr double kWorthSaying = 0.25;  // of the first
  std::string text = fmt::format("{} {:+.1f} us", terms[0].first, terms[0].second * 1e-3);
  if (terms[1].second > kWorthSaying * terms[0].second && terms[1].second * 1e-3 >= 0.05) {
    text += fmt::format(", {} {:+.1f}", terms[1].first, terms[1].second * 1e-3);
  }
  return text;
}

// Of a GPU: the rule has looked at it by the same prices, and the policy did not look again.
bool beside_the_rule(const Candidate& candidate, const PriceModel& model) {
  return !candidate.priced && !model.profile().kernels.empty();
}

// "chosen", or why not.
std::string verdict(const ExplainedCandidate& it, const Price& winner, const PriceModel& model, bool is_chosen) {
  if (is_chosen) return "chosen";
  constexpr double kSameNs = 50.0;       // as the table rounds
  constexpr double kWorthwhile = 0.998;  // of the search (persistentkv/decision.h)
  const double dearer_ns = it.price.total_ns() - winner.total_ns();
  if (std::abs(dearer_ns) < kSameNs) return "the same price";
  if (dearer_ns < 0.0 && beside_the_rule(it.candidate, model)) {
    return fmt::format("cheaper by {} us; {}", us(-dearer_ns),
                       it.candidate.max_splits == 1 ? "leaves SMs idle, which costs more than prices know"
                                                    : "not chosen for so little");
  }
  if (dearer_ns < 0.0) {
    const bool promised = it.candidate.predicted_ns < winner.total_ns() * kWorthwhile;
    return fmt::format("cheaper by {} us; not searched, {}", us(-dearer_ns),
                       promised ? "for want of time" : "since its bound promised under 0.2%");
  }
  return why_lost(difference(it.price, winner, model.profile().overlap_exponent));
}

std::string route_text(const Candidate& candidate) {
  return fmt::format("{}{}", route_name(candidate.route), candidate.priced ? "" : " -");
}

std::string splits_text(std::int32_t splits) { return fmt::format("{} split{}", splits, splits == 1 ? "" : "s"); }

// What a candidate is cut into; another project's route says nothing of it.
std::string cut_text(const Candidate& candidate, std::int32_t count) {
  return is_external(candidate.route) ? "-" : fmt::format("{}", count);
}

double tasks_per_slot(const ExplainedCandidate& explained, const PriceModel& model) {
  return static_cast<double>(explained.counters.num_tasks) / model.num_slots();
}

std::string candidate_table(const StepExplanation& step, const PriceModel& model, TextStyle style) {
  TextTable table({{"route", kLeft},
                   {"splits"},
                   {"heads"},
                   {"tasks"},
                   {model.profile().tasks_per_worker > 1 ? "a slot" : "a worker"},
                   {"predicted us"},
                   {"device us"},
                   {"measured us"},
                   {"spread"},
                   {"error"},
                   {"why it lost", kLeft}});
  const Price& winner = step.candidates.front().price;
  for (std::size_t i = 0; i < std::min(step.candidates.size(), kShownCandidates); ++i) {
    const ExplainedCandidate& it = step.candidates[i];
    const auto& measured = it.measured;
    table.add_row(
        {route_text(it.candidate), cut_text(it.candidate, it.candidate.max_splits),
         cut_text(it.candidate, it.candidate.kv_heads_per_task), cut_text(it.candidate, it.counters.num_tasks),
         is_external(it.candidate.route) ? "-" : fmt::format("{:.1f}", tasks_per_slot(it, model)),
         us(it.price.total_ns()), us(it.price.device_ns), measured ? us(measured->device_ns) : "-",
         measured ? fmt::format("{:.1f}%", measured->spread * 100.0) : "-",
         measured ? fmt::format("{:+.0f}%", (it.price.device_ns / measured->device_ns - 1.0) * 100.0) : "-",
         verdict(it, winner, model, i == 0)},
        i == 0 ? CellTone::kGood : CellTone::kNormal);
  }
  std::string text = table.render(style);
  if (step.candidates.size() > kShownCandidates) {
    text += fmt::format("and {} dearer ones (--json has all)\n", step.candidates.size() - kShownCandidates);
  }
  return text;
}

std::string terms_table(const StepExplanation& step, TextStyle style) {
  TextTable table({{"terms in us", kLeft},
                   {"splits"},
                   {"heads"},
                   {"memory"},
                   {"arithmetic"},
                   {"tail"},
                   {"starts"},
                   {"merge"},
                   {"launch"},
                   {"plan"}});
  for (std::size_t i = 0; i < std::min(step.candidates.size(), kShownCandidates); ++i) {
    const auto& [candidate, price, counters, measured] = step.candidates[i];
    table.add_row({route_text(candidate), cut_text(candidate, candidate.max_splits),
                   cut_text(candidate, candidate.kv_heads_per_task), us(price.memory_ns), us(price.arithmetic_ns),
                   us(price.tail_ns), us(price.task_ns), us(price.merge_ns), us(price.launch_ns), us(price.plan_ns)},
                  i == 0 ? CellTone::kGood : CellTone::kNormal);
  }
  return table.render(style);
}

std::size_t count_left_out(const Decision& decision) {
  return static_cast<std::size_t>(
      std::ranges::count_if(decision.candidates, [](const Candidate& candidate) { return !candidate.priced; }));
}

std::string bound_line(const StepExplanation& step, const PriceModel& model) {
  const std::size_t left_out = count_left_out(step.decision);
  if (left_out > 0 && !model.profile().kernels.empty()) {
    return "marked with '-': what the rule for GPUs passed over, cuts at most 3% dearer and whole rows; with learning "
           "on one layer of a step tries one of the near ones, and the fastest goes on\n";
  }
  if (left_out == 0) return "no candidate was left out by its bound\n";
  const auto shown = std::ranges::count_if(step.candidates, [](const auto& it) { return !it.candidate.priced; });
  return fmt::format(
      "{} of {} candidates were left out by their bounds; {} of them are priced here all the same, "
      "marked with '-'\n",
      left_out, step.decision.candidates.size(), shown);
}

std::string occupancy_line(const StepExplanation& step, const PriceModel& model) {
  const Plan& plan = step.decision.plan;
  const Price& price = step.decision.price;
  if (plan.tasks().empty()) return {};
  return fmt::format(
      "occupancy of the chosen plan: {} tasks on {} {}s of {} in flight, {:.0f}% of their time until the "
      "last end; tail {} us, {:.1f}% of the step\n",
      plan.counters().num_tasks, model.profile().num_workers, worker_word(model), model.profile().tasks_per_worker,
      occupancy(plan, model) * 100.0, us(price.tail_ns),
      price.device_ns > 0.0 ? price.tail_ns / price.device_ns * 100.0 : 0.0);
}

std::string learnt_line(const LearntScales& learnt) {
  const Correction& c = learnt.correction;
  return fmt::format(
      "online correction after {} measured steps: memory x{:.3f}, arithmetic x{:.3f}, fixed costs x{:.3f} (bounds "
      "x{:.2f} to x{:.0f})\n",
      learnt.steps, c.memory, c.arithmetic, c.fixed, 1.0 / kMaxCorrection, kMaxCorrection);
}

std::string measured_lines(const StepExplanation& step, const PriceModel& model) {
  if (step.repeats == 0) return "all times are prices, nothing was run\n";
  std::string text = fmt::format(
      "measured: {}; device time, medians of {} repeats, candidates in another order each; "
      "spread: half the distance of the quartiles\n",
      step.backend, step.repeats);
  if (model.profile().identity.machine.empty() && model.profile().kind == DeviceKind::kCpu) {
    text += fmt::format("prices are of profile {}, which was not measured here; pkv calibrate measures this machine\n",
                        model.profile().name);
  }
  if (step.twin_noise) {
    text += fmt::format("noise: the chosen plan, measured twice, differs by {:.1f}%\n", *step.twin_noise * 100.0);
  }
  const auto device = [](const ExplainedCandidate& c) { return c.measured ? c.measured->device_ns : 1e300; };
  const auto best = std::ranges::min_element(step.candidates, {}, device);
  if (best != step.candidates.end() && best->measured) {
    const double regret = step.candidates.front().measured->device_ns / best->measured->device_ns - 1.0;
    text += best == step.candidates.begin()
                ? "the chosen one was the fastest\n"
                : fmt::format("fastest measured: {} with {}, {} heads a task; the chosen one took {:.1f}% longer\n",
                              route_name(best->candidate.route), splits_text(best->candidate.max_splits),
                              best->candidate.kv_heads_per_task, regret * 100.0);
  }
  return text;
}

// One line a slot; each column is the row that its task reads, '.' is idle.
std::string timeline(const Plan& plan, const PriceModel& model, const Price& price) {
  if (plan.tasks().empty()) return {};
  const std::int32_t slots = std::min(model.num_slots(), kShownWorkers);
  const double column_ns = std::max(price.device_ns, 1.0) / static_cast<double>(kTimelineColumns);
  std::vector<std::string> lines(static_cast<std::size_t>(slots), std::string(kTimelineColumns, '.'));
  for (const ScheduledTask& task : model.schedule(plan)) {
    if (task.slot >= slots) continue;
    const auto begin = static_cast<std::size_t>(task.begin_ns / column_ns);
    const auto end = std::min(kTimelineColumns, std::max(begin + 1, static_cast<std::size_t>(task.end_ns / column_ns)));
    const std::int32_t row = plan.tasks()[static_cast<std::size_t>(task.task_idx)].row;
    for (std::size_t i = begin; i < end; ++i)
      lines[static_cast<std::size_t>(task.slot)][i] = "0123456789abcdefghijklmnopqrstuvwxyz"[row % 36];
  }
  const bool many = model.profile().tasks_per_worker > 1;
  std::string text = fmt::format("\n{}{} over {} us; a digit or letter is the row that is read, '.' idle or merging\n",
                                 worker_word(model), many ? "s' tasks in flight" : "s", us(price.device_ns));
  for (std::size_t i = 0; i < lines.size(); ++i) text += fmt::format("{:>4} {}\n", i, lines[i]);
  if (slots < model.num_slots()) text += fmt::format("     and {} more\n", model.num_slots() - slots);
  return text;
}

std::string profile_line(const PriceModel& model) {
  const DeviceProfile& profile = model.profile();
  const std::int32_t layers = model.inputs().num_layers;
  return fmt::format("profile {}: {} {}s{}", profile.name, profile.num_workers, worker_word(model),
                     layers == 1 ? std::string{} : fmt::format("; prices of one of {} layers", layers));
}

Json correction_object(const Correction& c) {
  return {{"memory", c.memory}, {"arithmetic", c.arithmetic}, {"fixed", c.fixed}};
}

Json learnt_object(const std::optional<LearntScales>& learnt) {
  if (!learnt) return nullptr;
  Json json = correction_object(learnt->correction);
  json["steps"] = learnt->steps;
  return json;
}

Json candidate_object(const ExplainedCandidate& it, const Price& winner, const PriceModel& model) {
  const auto& [candidate, price, counters, measured] = it;
  const Difference d = difference(price, winner, model.profile().overlap_exponent);
  Json json = {{"route", route_name(candidate.route)},
               {"splits", candidate.max_splits},
               {"kv_heads_per_task", candidate.kv_heads_per_task},
               {"searched", candidate.priced},
               {"tasks", counters.num_tasks},
               {"tasks_per_slot", tasks_per_slot(it, model)},
               {"total_ns", price.total_ns()},
               {"device_ns", price.device_ns},
               {"memory_ns", price.memory_ns},
               {"arithmetic_ns", price.arithmetic_ns},
               {"tail_ns", price.tail_ns},
               {"task_ns", price.task_ns},
               {"merge_ns", price.merge_ns},
               {"launch_ns", price.launch_ns},
               {"plan_ns", price.plan_ns},
               {"measured_device_ns", nullptr},
               {"measured_spread", nullptr},
               {"prediction_error", nullptr}};
  if (measured) {
    json["measured_device_ns"] = measured->device_ns;
    json["measured_spread"] = measured->spread;
    json["prediction_error"] = price.device_ns / measured->device_ns - 1.0;
  }
  json["dearer_by"] = {{"memory_ns", d.memory_ns}, {"arithmetic_ns", d.arithmetic_ns}, {"tail_ns", d.tail_ns},
                       {"task_ns", d.task_ns},     {"merge_ns", d.merge_ns},           {"launch_ns", d.launch_ns},
                       {"plan_ns", d.plan_ns}};
  return json;
}

std::string choice_text(const Candidate& chosen) {
  if (is_external(chosen.route)) return std::string(route_name(chosen.route));
  return fmt::format("{} {}, {} head{}", route_name(chosen.route), chosen.max_splits, chosen.kv_heads_per_task,
                     chosen.kv_heads_per_task == 1 ? "" : "s");
}

std::optional<double> error_of(const StepLine& line) {
  if (!line.measured_ns) return std::nullopt;
  return line.price.device_ns / *line.measured_ns - 1.0;
}

const char* decided_text(const StepLine& line) {
  if (line.basis == DecisionBasis::kMeasured) return "measured";
  return line.kept ? "kept" : "anew";
}

std::string tried_text(const StepLine& line) {
  if (!line.tried) return "-";
  return choice_text(*line.tried) + (line.tried_ns ? fmt::format(": {} us", us(*line.tried_ns)) : std::string{});
}

std::string steps_table(const TraceExplanation& trace, TextStyle style) {
  TextTable table({{"step"},
                   {"rows"},
                   {"tokens"},
                   {"choice", kLeft},
                   {"decided", kLeft},
                   {"device us"},
                   {"tail"},
                   {"occupancy"},
                   {"measured us"},
                   {"error"},
                   {"memory x"},
                   {"arith x"},
                   {"fixed x"},
                   {"one layer tried", kLeft}});
  for (std::size_t i = 0; i < std::min(trace.lines.size(), kShownSteps); ++i) {
    const StepLine& line = trace.lines[i];
    const auto error = error_of(line);
    const auto scale = [&](double factor) { return trace.learnt ? fmt::format("{:.3f}", factor) : std::string("-"); };
    table.add_row(
        {fmt::format("{}", line.step_idx), fmt::format("{}", line.num_rows), fmt::format("{}", line.tokens),
         choice_text(line.chosen), decided_text(line), us(line.price.device_ns),
         fmt::format("{:.1f}%", line.price.device_ns > 0.0 ? line.price.tail_ns / line.price.device_ns * 100.0 : 0.0),
         fmt::format("{:.0f}%", line.occupancy * 100.0), line.measured_ns ? us(*line.measured_ns) : "-",
         error ? fmt::format("{:+.0f}%", *error * 100.0) : "-", scale(line.correction.memory),
         scale(line.correction.arithmetic), scale(line.correction.fixed), tried_text(line)});
  }
  std::string text = table.render(style);
  if (trace.lines.size() > kShownSteps) {
    text += fmt::format("and {} more steps (--json has all)\n", trace.lines.size() - kShownSteps);
  }
  return text;
}

std::vector<std::pair<std::string, std::int64_t>> count_routes(const std::vector<StepLine>& lines) {
  std::map<std::string, std::int64_t> counts;
  for (const StepLine& line : lines) ++counts[std::string(route_name(line.chosen.route))];
  std::vector<std::pair<std::string, std::int64_t>> sorted(counts.begin(), counts.end());
  std::ranges::stable_sort(sorted, [](const auto& a, const auto& b) { return a.second > b.second; });
  return sorted;
}

std::vector<double> absolute_errors(const std::vector<StepLine>& lines) {
  std::vector<double> errors;
  for (const StepLine& line : lines) {
    if (const auto error = error_of(line)) errors.push_back(std::abs(*error));
  }
  return errors;
}

}  // namespace

double occupancy(const Plan& plan, const PriceModel& model) {
  double busy_ns = 0.0;
  double begin_ns = 0.0;
  double end_ns = 0.0;
  bool first = true;
  for (const ScheduledTask& task : model.schedule(plan)) {
    busy_ns += task.end_ns - task.begin_ns;
    begin_ns = first ? task.begin_ns : std::min(begin_ns, task.begin_ns);
    end_ns = std::max(end_ns, task.end_ns);
    first = false;
  }
  const double span_ns = (end_ns - begin_ns) * model.num_slots();
  return span_ns > 0.0 ? busy_ns / span_ns : 1.0;
}

std::string step_text(const StepExplanation& step, const PriceModel& model, TextStyle style) {
  std::string text =
      coloured(step.title, CellTone::kBold, style) + "\n" + profile_line(model) + "\n" + step.decision.reason() + "\n";
  if (!step.reason_in_trace.empty()) text += "in the trace: " + step.reason_in_trace + "\n";
  if (step.learnt) text += learnt_line(*step.learnt);
  text += "\n" + candidate_table(step, model, style) + "\n" + terms_table(step, style) + "\n";
  text += bound_line(step, model) + occupancy_line(step, model) + measured_lines(step, model);
  return text + timeline(step.decision.plan, model, step.decision.price);
}

std::string step_json(const StepExplanation& step, const PriceModel& model) {
  Json list = Json::array();
  for (const ExplainedCandidate& candidate : step.candidates) {
    list.push_back(candidate_object(candidate, step.candidates.front().price, model));
  }
  return dump({{"format", "persistentkv-explanation"},
               {"version", kFormatVersion},
               {"step", step.title},
               {"profile", model.profile().name},
               {"num_workers_or_sms", model.profile().num_workers},
               {"layers", model.inputs().num_layers},
               {"backend", step.backend.empty() ? Json(nullptr) : Json(step.backend)},
               {"repeats", step.repeats},
               {"noise", nullable(step.twin_noise)},
               {"reason", step.decision.reason()},
               {"reason_in_trace", step.reason_in_trace.empty() ? Json(nullptr) : Json(step.reason_in_trace)},
               {"occupancy", occupancy(step.decision.plan, model)},
               {"correction", learnt_object(step.learnt)},
               {"candidates", std::move(list)},
               {"left_out_by_bound", count_left_out(step.decision)}});
}

std::string trace_text(const TraceExplanation& trace, const PriceModel& model, TextStyle style) {
  std::string text = coloured(trace.trace, CellTone::kBold, style) +
                     fmt::format(": {} steps\n{}\n", trace.lines.size(), profile_line(model));
  if (!trace.backend.empty()) text += "measured: " + trace.backend + "\n";
  text += "\n" + steps_table(trace, style) + "\nsteps by choice:";
  for (const auto& [route, steps] : count_routes(trace.lines)) text += fmt::format(" {} {}", route, steps);
  text += "\n";
  const std::vector<double> errors = absolute_errors(trace.lines);
  if (const auto middle = median(errors)) {
    text += fmt::format("predicted against measured device time: median error {:.1f}%, 90% within {:.1f}%\n",
                        *middle * 100.0, quantile(errors, 0.9).value_or(0.0) * 100.0);
  } else {
    text += "all times are prices, nothing was run\n";
  }
  if (trace.learnt) text += learnt_line(*trace.learnt);
  text += "--step N shows one step's candidates and timeline\n";
  return text + (trace.interrupted ? "interrupted: the steps that were measured\n" : "");
}

std::string trace_json(const TraceExplanation& trace, const PriceModel& model) {
  Json lines = Json::array();
  for (const StepLine& line : trace.lines) {
    lines.push_back({{"step", line.step_idx},
                     {"rows", line.num_rows},
                     {"tokens", line.tokens},
                     {"route", route_name(line.chosen.route)},
                     {"splits", line.chosen.max_splits},
                     {"kv_heads_per_task", line.chosen.kv_heads_per_task},
                     {"kept", line.kept},
                     {"decided", decided_text(line)},
                     {"tried", line.tried ? Json(choice_text(*line.tried)) : Json(nullptr)},
                     {"tried_device_ns", nullable(line.tried_ns)},
                     {"device_ns", line.price.device_ns},
                     {"plan_ns", line.price.plan_ns},
                     {"tail_ns", line.price.tail_ns},
                     {"occupancy", line.occupancy},
                     {"measured_device_ns", nullable(line.measured_ns)},
                     {"prediction_error", nullable(error_of(line))},
                     {"correction", trace.learnt ? correction_object(line.correction) : Json(nullptr)}});
  }
  Json choices = Json::object();
  for (const auto& [route, steps] : count_routes(trace.lines)) choices[route] = steps;
  const std::vector<double> errors = absolute_errors(trace.lines);
  return dump({{"format", "persistentkv-explanation"},
               {"version", kFormatVersion},
               {"trace", trace.trace},
               {"profile", model.profile().name},
               {"num_workers_or_sms", model.profile().num_workers},
               {"layers", model.inputs().num_layers},
               {"backend", trace.backend.empty() ? Json(nullptr) : Json(trace.backend)},
               {"choices", std::move(choices)},
               {"prediction_error_p50", nullable(quantile(errors, 0.5))},
               {"prediction_error_p90", nullable(quantile(errors, 0.9))},
               {"correction", learnt_object(trace.learnt)},
               {"steps", std::move(lines)},
               {"interrupted", trace.interrupted}});
}

struct ChromeTrace::Events {
  Json list = Json::array();
  double now_ns = 0.0;
  std::int32_t num_slots = 0;
  std::int32_t tasks_per_worker = 1;
  std::string worker_word = "worker";
  bool merges = false;
};

// Threads: the host, the slots, the merges.
constexpr int kProcess = 1;
constexpr int kHostThread = 0;
constexpr int kFirstSlotThread = 1;

ChromeTrace::ChromeTrace() : events_(std::make_unique<Events>()) {}
ChromeTrace::~ChromeTrace() = default;

void ChromeTrace::add(const std::string& title, const Plan& plan, const Price& price, const PriceModel& model) {
  Events& events = *events_;
  events.num_slots = model.num_slots();
  events.tasks_per_worker = model.profile().tasks_per_worker;
  events.worker_word = worker_word(model);
  const auto complete = [&](const std::string& name, int thread, double begin_ns, double duration_ns, Json arguments) {
    events.list.push_back({{"name", name},
                           {"ph", "X"},
                           {"pid", kProcess},
                           {"tid", thread},
                           {"ts", (events.now_ns + begin_ns) * 1e-3},
                           {"dur", duration_ns * 1e-3},
                           {"args", std::move(arguments)}});
  };
  const std::string choice = fmt::format("{} with {} splits", route_name(plan.route()), plan.max_splits());
  complete("plan " + title, kHostThread, 0.0, price.plan_ns, {{"choice", choice}});
  complete(choice, kHostThread, price.plan_ns, price.device_ns,
           {{"memory_us", price.memory_ns * 1e-3},
            {"arithmetic_us", price.arithmetic_ns * 1e-3},
            {"tail_us", price.tail_ns * 1e-3},
            {"launch_us", price.launch_ns * 1e-3},
            {"merge_us", price.merge_ns * 1e-3}});
  double last_end_ns = 0.0;
  for (const ScheduledTask& scheduled : model.schedule(plan)) {
    const Task& task = plan.tasks()[static_cast<std::size_t>(scheduled.task_idx)];
    last_end_ns = std::max(last_end_ns, scheduled.end_ns);
    complete(fmt::format("row {}", task.row), kFirstSlotThread + scheduled.slot, price.plan_ns + scheduled.begin_ns,
             scheduled.end_ns - scheduled.begin_ns,
             {{"kv_heads", fmt::format("[{}, {})", task.kv_head_begin, task.kv_head_end)},
              {"tokens", fmt::format("[{}, {})", task.token_begin, task.token_end)}});
  }
  if (price.merge_ns > 0.0 && !plan.tasks().empty()) {
    events.merges = true;
    complete("merge", kFirstSlotThread + events.num_slots, price.plan_ns + last_end_ns, price.device_ns - last_end_ns,
             {{"mode", merge_mode_name(plan.merge_mode())}});
  }
  events.now_ns += price.total_ns();
}

std::string ChromeTrace::json(const std::string& profile) const {
  const Events& events = *events_;
  Json list = Json::array();
  const auto name = [&](const char* kind, int thread, const std::string& text) {
    list.push_back({{"name", kind}, {"ph", "M"}, {"pid", kProcess}, {"tid", thread}, {"args", {{"name", text}}}});
  };
  const auto name_thread = [&](int thread, const std::string& text) {
    name("thread_name", thread, text);
    list.push_back({{"name", "thread_sort_index"},
                    {"ph", "M"},
                    {"pid", kProcess},
                    {"tid", thread},
                    {"args", {{"sort_index", thread}}}});
  };
  name("process_name", kHostThread, fmt::format("pkv, prices of {}", profile));
  name_thread(kHostThread, "host: plan and step");
  for (std::int32_t slot = 0; slot < events.num_slots; ++slot) {
    const std::int32_t worker = slot / events.tasks_per_worker;
    name_thread(kFirstSlotThread + slot,
                events.tasks_per_worker == 1
                    ? fmt::format("{} {}", events.worker_word, worker)
                    : fmt::format("{} {}, task {}", events.worker_word, worker, slot % events.tasks_per_worker));
  }
  if (events.merges) name_thread(kFirstSlotThread + events.num_slots, "merges");
  list.insert(list.end(), events.list.begin(), events.list.end());
  return Json({{"traceEvents", std::move(list)}, {"displayTimeUnit", "ns"}}).dump() + "\n";
}

}  // namespace pkv::cli

// Lists to axes, axes to runs.
// Not here: the command's options and its end (command_sweep.cc).
#include "sweep_points.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "replay/replay.h"
#include "replay/step.h"

namespace pkv::cli {
namespace {

constexpr const char* kKindNames[] = {"splits", "groups", "pages", "holes", "mix", "capacity"};
constexpr const char* kMixNames[] = {"equal", "bimodal", "zipf", "one-long"};

// As many K and V as a step of the paper's bimodal trace with 8 active rows, in its proportions.
constexpr const char* kDefaultLens = "2x40000,6x7000";
constexpr const char* kDefaultSplits = "1,2,4,8,12,16,20,24,28,32,40,48,64";
constexpr const char* kDefaultGroups = "1,2,4,8";
constexpr std::int64_t kMaxEntries = 64;
constexpr std::int64_t kMaxSplits = 1 << 20;
constexpr std::int64_t kMaxContext = 1 << 27;
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxPages = 1 << 26;  // page ids of a step of a grid: 256 MiB
constexpr std::size_t kMaxPoints = 4096;
constexpr std::int64_t kDefaultSteps = 16;
constexpr std::int32_t kDefaultRounds = 5;
constexpr std::int32_t kDefaultRepeats = 5;

/// An option, whether it was given, and the kinds that it belongs to.
struct OptionUse {
  std::string_view option;
  bool given = false;
  std::vector<SweepKind> kinds;
};

std::vector<std::string> unique_entries(std::string_view option, const std::string& text) {
  std::vector<std::string> entries = split_list(option, text);
  if (static_cast<std::int64_t>(entries.size()) > kMaxEntries) {
    fail(std::string(option), fmt::format("'{}' has {} entries; at most {}", text, entries.size(), kMaxEntries));
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (std::find(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(i), entries[i]) !=
        entries.begin() + static_cast<std::ptrdiff_t>(i)) {
      fail(std::string(option), fmt::format("'{}' is given twice in '{}'; at most once", entries[i], text));
    }
  }
  return entries;
}

std::string entry_place(std::string_view option, std::size_t idx) { return fmt::format("{}[{}]", option, idx); }

std::vector<std::int32_t> parse_ints(std::string_view option, const std::string& text, IntLimits limits) {
  std::vector<std::int32_t> values;
  for (const std::string& entry : unique_entries(option, text)) {
    const auto value = static_cast<std::int32_t>(parse_int(entry_place(option, values.size()), entry, limits));
    if (std::ranges::find(values, value) != values.end()) {
      fail(std::string(option), fmt::format("{} is given twice in '{}'; at most once", value, text));
    }
    values.push_back(value);
  }
  return values;
}

std::vector<std::int32_t> groups_of(const SweepArguments& arguments) {
  return parse_ints("--groups", arguments.groups.value_or(kDefaultGroups), {.min = 1, .max = kMaxGroupSize});
}

void refuse_of_other_kinds(SweepKind kind, const SweepArguments& a) {
  using enum SweepKind;
  const std::vector<SweepKind> on_steps = {kSplits, kGroups, kPages, kHoles};
  const std::vector<SweepKind> measured = {kSplits, kGroups, kPages, kHoles, kMix};
  const auto but = [](SweepKind left_out) {
    std::vector<SweepKind> kinds = {kSplits, kGroups, kPages, kHoles, kMix, kCapacity};
    std::erase(kinds, left_out);
    return kinds;
  };
  std::vector<SweepKind> not_groups = but(kGroups);
  std::erase(not_groups, kCapacity);
  const OptionUse uses[] = {{"--splits", a.splits.has_value(), {kSplits}},
                            {"--groups", a.groups.has_value(), {kGroups, kCapacity}},
                            {"--page-sizes", a.page_sizes.has_value(), {kPages}},
                            {"--layouts", a.layouts.has_value(), {kPages}},
                            {"--packings", a.packings.has_value(), {kPages}},
                            {"--hole-fractions", a.hole_fractions.has_value(), {kHoles}},
                            {"--batches", a.batches.has_value(), {kMix, kCapacity}},
                            {"--contexts", a.contexts.has_value(), {kMix, kCapacity}},
                            {"--mixes", a.mixes.has_value(), {kMix}},
                            {"--layers", a.layers.has_value(), {kCapacity}},
                            {"--lens", a.lens.has_value(), on_steps},
                            {"--trace", a.trace.trace.has_value(), on_steps},
                            {"--rounds", a.rounds.has_value(), measured},
                            {"--repeats", a.repeats.has_value(), measured},
                            {"--routes", a.run.routes.routes.has_value(), measured},
                            {"--reference", a.reference.has_value(), measured},
                            {"--q-heads", a.run.shape.q_heads.has_value(), not_groups},
                            {"--page-size", a.run.kv.page_size.has_value(), but(kPages)},
                            {"--layout", a.run.kv.layout.has_value(), but(kPages)},
                            {"--packing", a.run.kv.packing.has_value(), but(kPages)},
                            {"--hole-fraction", a.run.kv.hole_fraction.has_value(), {kSplits, kGroups, kPages, kMix}}};
  for (const OptionUse& use : uses) {
    if (!use.given || std::ranges::find(use.kinds, kind) != use.kinds.end()) continue;
    std::vector<std::string_view> names;
    for (const SweepKind other : use.kinds) names.push_back(sweep_kind_name(other));
    fail(std::string(use.option),
         fmt::format("has no effect in sweep {}; it is for {}", sweep_kind_name(kind), fmt::join(names, ", ")));
  }
}

// What only traces, only single steps or only measured points take.
void check_workload(const SweepArguments& a) {
  if (a.lens && a.trace.trace) fail("--lens", "cannot be combined with --trace: both say what the steps are");
  if (!a.trace.trace) {
    constexpr std::string_view kReason = "needs --trace";
    refuse_trace_details(a.trace, a.admission);
    refuse(a.steps, "--steps", kReason);
    refuse(a.skip, "--skip", kReason);
  } else {
    refuse(a.repeats, "--repeats", "has no effect with --trace, whose steps are taken once a round");
  }
  if (is_sim(a.run.backend)) {
    constexpr std::string_view kReason = "has no effect with --backend sim:PROFILE, whose prices do not vary";
    refuse(a.rounds, "--rounds", kReason);
    refuse(a.repeats, "--repeats", kReason);
  }
}

/// Options of one point: those of the command line with the axes of the point filled in.
RunOptions resolve_point(const RunArguments& typed, const SweepArguments& arguments) {
  RunArguments point = typed;
  const bool names_routes = point.routes.routes.has_value();
  if (!names_routes) point.routes.routes = "row";
  point.policy.policy = PolicyKind::kAuto;
  if (!is_sim(point.backend)) point.policy.learn = false;
  RunOptions options = resolve(point, seed_of(arguments.trace));
  if (!names_routes) options.routes.erase(options.routes.begin());   // the policy is left
  options.sample_stride = std::numeric_limits<std::int32_t>::max();  // the first step of a run
  return options;
}

/// Rows of lengths `context * rows` in all, in the proportions of a mix.
std::vector<std::int32_t> mixed_lens(const std::string& mix, std::int32_t rows, std::int32_t context) {
  std::vector<double> weights(static_cast<std::size_t>(rows), 1.0);
  for (std::int32_t i = 0; i < rows; ++i) {
    double& weight = weights[static_cast<std::size_t>(i)];
    if (mix == "bimodal") weight = i % 4 == 0 ? 6.0 : 1.0;  // the means of the paper's two prompts
    if (mix == "zipf") weight = 1.0 / std::sqrt(i + 1.0);
    if (mix == "one-long" && i == 0) weight = std::max(1.0, rows - 1.0);  // half of all tokens
  }
  double sum = 0.0;
  for (const double weight : weights) sum += weight;
  std::vector<std::int32_t> lens;
  for (const double weight : weights) {
    const double len = std::round(weight / sum * static_cast<double>(context) * rows);
    lens.push_back(static_cast<std::int32_t>(std::clamp(len, 1.0, 2147483647.0)));
  }
  return lens;
}

void check_tokens(std::int64_t batch, std::int64_t context, std::int32_t page_size) {
  const std::int64_t pages = batch * ((context + page_size - 1) / page_size);
  if (pages > kMaxPages) {
    fail("--contexts", fmt::format("{} rows of {} tokens have {} pages of {}; at most {}", batch, context, pages,
                                   page_size, kMaxPages));
  }
}

class SweepBuilder {
 public:
  SweepBuilder(SweepKind kind, const SweepArguments& arguments) : arguments_(arguments) {
    sweep_.kind = kind;
    sweep_.repeats_one_step = !arguments.trace.trace;
    const bool simulated = is_sim(arguments.run.backend);
    sweep_.rounds = simulated ? 1 : static_cast<std::int32_t>(arguments.rounds.value_or(kDefaultRounds));
    repeats_ = simulated ? 1 : static_cast<std::int32_t>(arguments.repeats.value_or(kDefaultRepeats));
    if (arguments.trace.trace) {
      trace_ = std::make_shared<Trace>(load_trace(arguments.trace, page_size_of(arguments.run.kv)));
    }
  }

  Sweep build() && {
    switch (sweep_.kind) {
      case SweepKind::kSplits: add_splits(); break;
      case SweepKind::kGroups: add_groups(); break;
      case SweepKind::kPages: add_pages(); break;
      case SweepKind::kHoles: add_holes(); break;
      default: add_mixes(); break;
    }
    choose_reference();
    echo();
    return std::move(sweep_);
  }

 private:
  /// The step or the trace of the command line.
  void add(const RunArguments& run, SweepAxes axes) {
    const RunOptions options = resolve_point(run, arguments_);
    trace_ ? add_trace(run, options, std::move(axes))
           : add_lens(run, options, default_lens(), "lens:" + lens_text(), std::move(axes));
  }

  [[nodiscard]] std::string lens_text() const { return arguments_.lens.value_or(kDefaultLens); }
  [[nodiscard]] std::vector<std::int32_t> default_lens() const {
    return parse_lengths("--lens", lens_text(), kMaxRows);
  }

  void add_lens(const RunArguments& run, const RunOptions& options, std::vector<std::int32_t> lens,
                const std::string& text, SweepAxes axes) {
    StepOptions step;
    step.run = options;
    step.seq_lens = std::move(lens);
    step.page_size = page_size_of(run.kv);
    step.hole_fraction = run.kv.hole_fraction.value_or(0.0);
    step.page_seed = static_cast<std::uint64_t>(run.kv.page_seed.value_or(1));
    step.repeats = repeats_;
    const auto source = unwrap(make_repeated_source(step));
    RunRecords head;
    head.trace = text;
    sweep_.turns.push_back({.options = options,
                            .make_source = [step] { return make_repeated_source(step); },
                            .records = begin_records(options, step.page_size, *source, std::move(head))});
    sweep_.axes.push_back(std::move(axes));
  }

  void add_trace(const RunArguments& run, const RunOptions& options, SweepAxes axes) {
    ReplayOptions replay;
    replay.run = options;
    replay.admission = resolve_admission(arguments_.admission, arguments_.trace, *trace_,
                                         {.page_size = page_size_of(run.kv),
                                          .hole_fraction = run.kv.hole_fraction.value_or(0.0),
                                          .page_seed = static_cast<std::uint64_t>(run.kv.page_seed.value_or(1))});
    replay.max_steps = arguments_.steps.value_or(kDefaultSteps);
    replay.skip_steps = arguments_.skip.value_or(0);
    const auto source = unwrap(make_trace_source(*trace_, replay));
    RunRecords head;
    head.trace = trace_->name;
    head.seed = seed_of(arguments_.trace);
    head.notes = trace_->notes;
    sweep_.turns.push_back({.options = options,
                            .make_source = [trace = trace_, replay] { return make_trace_source(*trace, replay); },
                            .records = begin_records(options, page_size_of(run.kv), *source, std::move(head))});
    sweep_.axes.push_back(std::move(axes));
  }

  // One run: all split counts take part in every step.
  void add_splits() {
    RunArguments run = arguments_.run;
    if (!run.routes.routes) run.routes.routes = "workqueue";
    const std::string text = arguments_.splits.value_or(kDefaultSplits);
    const auto splits = parse_ints("--splits", text, {.min = 1, .max = kMaxSplits});
    const RunOptions resolved = resolve_point(run, arguments_);
    RunOptions options = resolved;
    options.routes.clear();
    for (const RouteChoice& choice : resolved.routes) {
      if (choice.policy || choice.route == Route::kRow || is_external(choice.route)) {
        options.routes.push_back(choice);
        continue;
      }
      for (const std::int32_t count : splits) {
        options.routes.push_back(choice);
        options.routes.back().splits = count;
      }
    }
    trace_ ? add_trace(run, options, {}) : add_lens(run, options, default_lens(), "lens:" + lens_text(), {});
    list_ = {"splits", text};
  }

  void add_groups() {
    for (const std::int32_t group : groups_of(arguments_)) {
      RunArguments run = arguments_.run;
      run.shape.q_heads = group * run.shape.kv_heads.value_or(AttentionShape{}.num_kv_heads);
      add(run, {{"group", fmt::format("{}", group)}});
    }
    list_ = {"groups", arguments_.groups.value_or(kDefaultGroups)};
  }

  void add_pages() {
    const std::string sizes = arguments_.page_sizes.value_or("4,16,64,256");
    const std::string layouts = arguments_.layouts.value_or("HND,NHD");
    const std::string packings = arguments_.packings.value_or("separate");
    const auto packing_names = unique_entries("--packings", packings);
    const std::vector<std::string> known_layouts = {"HND", "NHD"};
    const std::vector<std::string> known_packings = {"separate", "packed"};
    const auto layout_names = unique_entries("--layouts", layouts);
    for (const std::int32_t size : parse_ints("--page-sizes", sizes, {.min = 1, .max = kMaxPageSize})) {
      for (const std::string& layout : layout_names) {
        for (const std::string& packing : packing_names) {
          RunArguments run = arguments_.run;
          run.kv.page_size = size;
          const auto order = parse_kv_order(layout);
          if (!order.ok()) fail("--layouts", unknown_name("layout", layout, known_layouts));
          run.kv.layout = *order;
          if (packing != "separate" && packing != "packed") {
            fail("--packings", unknown_name("packing", packing, known_packings));
          }
          run.kv.packing = packing == "packed" ? KvPacking::kPacked : KvPacking::kSeparate;
          SweepAxes axes = {{"page_size", fmt::format("{}", size)}, {"layout", std::string(kv_order_name(*order))}};
          if (packing_names.size() > 1 || packing == "packed") axes.emplace_back("packing", packing);
          if (std::ranges::find(sweep_.axes, axes) != sweep_.axes.end()) {
            fail("--layouts", fmt::format("{} is given twice in '{}'; at most once", kv_order_name(*order), layouts));
          }
          add(run, std::move(axes));
        }
      }
    }
    list_ = {"page_sizes", sizes};
    more_ = {{"layouts", layouts}, {"packings", packings}};
  }

  void add_holes() {
    const std::string text = arguments_.hole_fractions.value_or("0,0.25,0.5,0.75");
    std::size_t idx = 0;
    for (const std::string& entry : unique_entries("--hole-fractions", text)) {
      RunArguments run = arguments_.run;
      run.kv.hole_fraction = parse_real(entry_place("--hole-fractions", idx++), entry,
                                        {.min = 0.0, .max = 1.0, .high = RealLimits::High::kOpen});
      add(run, {{"hole_fraction", entry}});
    }
    if (is_sim(arguments_.run.backend)) {
      sweep_.turns.front().records.notes.emplace_back("profiles have no price of holes: page ids are random anyway");
    }
    list_ = {"hole_fractions", text};
  }

  void add_mixes() {
    const std::string batches = arguments_.batches.value_or("1,4,8");
    const std::string contexts = arguments_.contexts.value_or("8192");
    const std::string mixes = arguments_.mixes.value_or(fmt::format("{}", fmt::join(kMixNames, ",")));
    const auto mix_names = unique_entries("--mixes", mixes);
    const std::vector<std::string> known_mixes(std::begin(kMixNames), std::end(kMixNames));
    for (const std::string& mix : mix_names) {
      if (std::ranges::find(known_mixes, mix) == known_mixes.end()) {
        fail("--mixes", unknown_name("mix", mix, known_mixes));
      }
    }
    const RunOptions options = resolve_point(arguments_.run, arguments_);
    for (const std::int32_t batch : parse_ints("--batches", batches, {.min = 1, .max = kMaxRows})) {
      for (const std::int32_t context : parse_ints("--contexts", contexts, {.min = 1, .max = kMaxContext})) {
        check_tokens(batch, context, page_size_of(arguments_.run.kv));
        std::vector<std::vector<std::int32_t>> seen;
        for (const std::string& mix : mix_names) {
          auto lens = mixed_lens(mix, batch, context);
          if (std::ranges::find(seen, lens) != seen.end()) continue;  // one row has no mix
          seen.push_back(lens);
          add_lens(arguments_.run, options, std::move(lens), "batches of mixed lengths",
                   {{"batch", fmt::format("{}", batch)}, {"context", fmt::format("{}", context)}, {"mix", mix}});
        }
      }
    }
    list_ = {"batches", batches};
    more_ = {{"contexts", contexts}, {"mixes", mixes}};
  }

  void choose_reference() {
    std::size_t points = 0;
    for (const Turn& turn : sweep_.turns) points += turn.options.routes.size();
    if (points > kMaxPoints) {
      fail("pkv sweep", fmt::format("{} points are above the limit of {}", points, kMaxPoints));
    }
    const std::int64_t reference = arguments_.reference.value_or(1);
    if (reference > static_cast<std::int64_t>(points)) {
      fail("--reference", fmt::format("{} is above the {} points of this sweep", reference, points));
    }
    sweep_.reference_idx = static_cast<std::size_t>(reference - 1);
  }

  void echo() {
    OptionEcho& out = sweep_.options;
    out.push_back(list_);
    out.insert(out.end(), more_.begin(), more_.end());
    if (trace_) {
      out.emplace_back("trace", trace_->name);
      out.emplace_back("steps", fmt::format("{}", arguments_.steps.value_or(kDefaultSteps)));
      out.emplace_back("skip", fmt::format("{}", arguments_.skip.value_or(0)));
    } else {
      if (sweep_.kind != SweepKind::kMix) out.emplace_back("lens", lens_text());
      out.emplace_back("repeats", fmt::format("{}", repeats_));
    }
    const RunOptions& first = sweep_.turns.front().options;
    out.emplace_back("rounds", fmt::format("{}", sweep_.rounds));
    out.emplace_back("seed", fmt::format("{}", first.data_seed));
    out.emplace_back("page_seed", fmt::format("{}", arguments_.run.kv.page_seed.value_or(1)));
    out.emplace_back("warmup", fmt::format("{}", first.warmup_steps));
    out.emplace_back("verify",
                     first.backend == BackendKind::kSim ? "off" : std::string(verify_mode_name(first.verify)));
    out.emplace_back("reference", fmt::format("{}", sweep_.reference_idx + 1));
  }

  const SweepArguments& arguments_;
  Sweep sweep_;
  std::int32_t repeats_ = 1;
  std::shared_ptr<Trace> trace_;
  std::pair<std::string, std::string> list_;
  OptionEcho more_;
};

}  // namespace

std::string_view sweep_kind_name(SweepKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

SweepKind resolve_kind(const SweepArguments& arguments) {
  const std::vector<std::string> names(std::begin(kKindNames), std::end(kKindNames));
  if (!arguments.kind)
    fail("pkv sweep", fmt::format("what to sweep is missing; it must be one of {}", fmt::join(names, ", ")));
  const auto found = std::ranges::find(names, *arguments.kind);
  if (found == names.end()) fail("pkv sweep", unknown_name("sweep", *arguments.kind, names));
  const auto kind = static_cast<SweepKind>(found - names.begin());
  refuse_of_other_kinds(kind, arguments);
  check_workload(arguments);
  if (!arguments.run.routes.routes && kind != SweepKind::kSplits) {
    refuse(arguments.run.routes.merge, "--merge", "needs --routes: the policy chooses for itself");
    refuse(arguments.run.routes.heads_per_task, "--heads-per-task", "needs --routes: the policy chooses for itself");
  }
  return kind;
}

Sweep resolve_sweep(SweepKind kind, const SweepArguments& arguments) { return SweepBuilder(kind, arguments).build(); }

CapacityGrid resolve_capacity(const SweepArguments& arguments) {
  if (!is_sim(arguments.run.backend)) {
    const bool given = arguments.run.backend.backend.has_value();
    fail("--backend",
         fmt::format("{}; capacity is planned on a profile: sim:h100, sim:cpu96 or sim:FILE{}",
                     given ? "measures, it does not plan" : "is missing", given ? " (sweep mix measures)" : ""));
  }
  CapacityGrid grid;
  grid.layers = static_cast<std::int32_t>(arguments.layers.value_or(1));
  const std::string batches = arguments.batches.value_or("1,8,32");
  const std::string contexts = arguments.contexts.value_or("1024,8192,32768");
  const std::string groups = arguments.groups.value_or("4");
  for (const std::int32_t group : parse_ints("--groups", groups, {.min = 1, .max = kMaxGroupSize})) {
    RunArguments run = arguments.run;
    run.shape.q_heads = group * run.shape.kv_heads.value_or(AttentionShape{}.num_kv_heads);
    const RunOptions options = resolve_point(run, arguments);
    for (const std::int32_t context : parse_ints("--contexts", contexts, {.min = 1, .max = kMaxContext})) {
      for (const std::int32_t batch : parse_ints("--batches", batches, {.min = 1, .max = kMaxRows})) {
        check_tokens(batch, context, page_size_of(run.kv));
        StepOptions step;
        step.run = options;
        step.run.num_layers = grid.layers;
        step.seq_lens.assign(static_cast<std::size_t>(batch), context);
        step.page_size = page_size_of(run.kv);
        step.repeats = 1;
        grid.steps.push_back({.batch = batch, .context_tokens = context, .group_size = group, .step = std::move(step)});
      }
    }
  }
  if (grid.steps.size() > kMaxPoints) {
    fail("pkv sweep", fmt::format("{} points are above the limit of {}", grid.steps.size(), kMaxPoints));
  }
  grid.options = {
      {"batches", batches}, {"contexts", contexts}, {"groups", groups}, {"layers", fmt::format("{}", grid.layers)}};
  return grid;
}

}  // namespace pkv::cli

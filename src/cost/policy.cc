// The search for the cheapest plan: outlines, bounds, then whole plans; who takes part in a contest.
// Not here: prices of plans (price.cc), what is learnt from measurements (correction.cc, contest.cc).
//
// Cost: an outline is a pass over the rows (about 30 ns at 8 rows), there are 20 to 60 of them; a plan and its
// price take about 10 ns a task. 8 rows are decided in 10 us for a few workers, in 50 us for the 132 of an H100.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "base/math.h"
#include "cost/gpu_kernels.h"
#include "persistentkv/decision.h"

namespace pkv {
namespace {

constexpr std::int32_t kTileTokens = 32;
// Eighths of a task a slot that are tried: from few tasks, which leave slots idle but start and merge little, over
// one wave to many small tasks, which level out.
constexpr std::int64_t kTasksPerSlot8[] = {1, 2, 4, 8, 16, 24, 32, 48, 64};
// A step is decided anew when its rows have grown by more.
constexpr std::int32_t kGrownTokens = 16;
constexpr std::int32_t kGrownRowPart = 64;
constexpr std::int64_t kGrownStepPart = 128;
constexpr double kMovedFactor = 1.05;
constexpr double kDearerFactor = 1.007;
// A plan that can be cheaper by less than this is not priced.
constexpr double kWorthwhile = 0.998;
// A search on a CPU right after a step, whose K and V have driven everything out of the L2: 8 us where it is warm, 12
// here (2 cores, 8 rows). It must be won back within the layers of the step.
constexpr double kSearchNs = 10000.0;
// Plans that are dearer by at most this are tried: the order of prices of kernels is off by 1 to 2%.
constexpr double kNearShare = 1.03;
// The paper's gates.
constexpr std::int32_t kPaperGroup = 4;
constexpr std::int32_t kPaperLongRow = 16384;
constexpr std::int32_t kPaperLargeBatch = 8;
constexpr std::int32_t kPaperSplitStep = 4;
constexpr std::int32_t kPaperMaxSplits = 64;

bool moved(const Correction& from, const Correction& to) {
  const auto far = [](double a, double b) { return a > b * kMovedFactor || b > a * kMovedFactor; };
  return far(from.memory, to.memory) || far(from.arithmetic, to.arithmetic) || far(from.fixed, to.fixed);
}

bool cheaper(const Candidate& a, const Candidate& b) {
  return a.priced != b.priced ? a.priced : a.predicted_ns < b.predicted_ns;
}

Candidate candidate_of(const Plan& plan, const Price& price) {
  return {.route = plan.route(),
          .max_splits = plan.max_splits(),
          .kv_heads_per_task = plan.kv_heads_per_task(),
          .predicted_ns = price.total_ns()};
}

Decision finish(Plan&& plan, const Price& price, std::vector<Candidate> candidates, DecisionBasis basis,
                double basis_figure = 0.0) {
  Decision decision;
  decision.predicted_ns = price.device_ns;
  decision.price = price;
  decision.plan = std::move(plan);
  decision.candidates = std::move(candidates);
  decision.basis = basis;
  decision.basis_figure = basis_figure;
  return decision;
}

/// With no other candidate.
Decision finish_alone(Plan&& plan, const Price& price, DecisionBasis basis, double basis_figure = 0.0) {
  std::vector<Candidate> candidates = {candidate_of(plan, price)};
  return finish(std::move(plan), price, std::move(candidates), basis, basis_figure);
}

/// The chosen one first, the rest as they are.
void move_to_front(std::vector<Candidate>& candidates, const Plan& plan, const Price& price) {
  const auto chosen = std::ranges::find_if(candidates, [&](const Candidate& candidate) {
    return candidate.priced && candidate.route == plan.route() && candidate.max_splits == plan.max_splits() &&
           candidate.kv_heads_per_task == plan.kv_heads_per_task() && candidate.predicted_ns == price.total_ns();
  });
  std::rotate(candidates.begin(), chosen, chosen + 1);
}

}  // namespace

std::string_view policy_kind_name(PolicyKind kind) { return kind == PolicyKind::kAuto ? "auto" : "paper"; }

Result<PolicyKind> parse_policy_kind(std::string_view name) {
  for (const PolicyKind kind : {PolicyKind::kAuto, PolicyKind::kPaper}) {
    if (name == policy_kind_name(kind)) {
      return kind;
    }
  }
  return Error{ErrorCode::kInvalidArgument, fmt::format("unknown policy '{}'; known: auto, paper", name), "policy"};
}

Result<Policy> Policy::make(const DeviceProfile& profile, const PriceInputs& inputs, const PolicyOptions& options) {
  if (options.routes.empty()) {
    return Error{ErrorCode::kInvalidArgument, "is empty; at least 1 route is needed", "routes"};
  }
  auto model = PriceModel::make(profile, inputs);
  if (!model.ok()) {
    return model.error();
  }
  for (const Route route : options.routes) {
    if (!model->prices(route)) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("profile {} has no price of {}", profile.name, route_name(route)), "routes"};
    }
  }
  std::optional<KvLayout> rule_layout;
  if (profile.kind == DeviceKind::kCpu && std::ranges::find(options.routes, Route::kPages) != options.routes.end()) {
    auto layout = KvLayout::make(inputs.order, KvPacking::kSeparate, inputs.page_size, inputs.shape);
    if (!layout.ok()) {
      return layout.error();
    }
    rule_layout = *layout;
  }
  return Policy(*std::move(model), options, std::move(rule_layout));
}

Policy::Policy(PriceModel model, PolicyOptions options, std::optional<KvLayout> rule_layout)
    : model_(std::move(model)),
      options_(std::move(options)),
      rule_layout_(std::move(rule_layout)),
      rule_curve_(ReadCurve::of(model_.profile())) {}

bool Policy::allows(Route route) const { return std::ranges::find(options_.routes, route) != options_.routes.end(); }

Result<Decision> Policy::decide(const BatchState& batch, Plan&& recycled) {
  const PriceInputs& inputs = model_.inputs();
  if (batch.shape() != inputs.shape || batch.page_size() != inputs.page_size) {
    return Error{ErrorCode::kInvalidArgument, "its shape or page size is not the policy's", "batch"};
  }
  std::optional<Decision> carried;
  if (may_carry_on(batch)) {
    carried = carry_on(batch, recycled);
  }
  Result<Decision> decision = carried                               ? *std::move(carried)
                              : options_.kind == PolicyKind::kPaper ? decide_paper(batch, std::move(recycled))
                                                                    : decide_auto(batch, std::move(recycled));
  running_ = decision.ok() ? decision->price : Price{};
  trial_plan_ns_ = decision.ok() && decision->trial ? decision->trial->price.plan_ns : 0.0;
  return decision;
}

bool Policy::may_carry_on(const BatchState& batch) const {
  const auto lens = batch.seq_lens();
  if (!last_ || lens.size() != last_lens_.size() || moved(last_correction_, model_.correction()) ||
      batch.attended_tokens() - last_tokens_ > last_tokens_ / kGrownStepPart) {
    return false;
  }
  for (std::size_t i = 0; i < lens.size(); ++i) {
    const std::int64_t grown = std::int64_t{lens[i]} - last_lens_[i];
    if (grown < 0 || grown > kGrownTokens + last_lens_[i] / kGrownRowPart) {
      return false;
    }
  }
  return true;
}

void Policy::remember(const BatchState& batch, const PlanOptions& options, const Price& price) {
  last_ = options;
  last_lens_.assign(batch.seq_lens().begin(), batch.seq_lens().end());
  last_tokens_ = batch.attended_tokens();
  last_correction_ = model_.correction();
  last_ns_ = price.total_ns();
}

std::optional<Decision> Policy::carry_on(const BatchState& batch, Plan& recycled) {
  const PlanOptions before = *last_;
  if (contest_.is_on()) {
    last_ = contest_.choose_leader();
  }
  auto plan = make_plan(batch, *last_, std::move(recycled));
  if (!plan.ok()) {
    recycled = {};
    return std::nullopt;
  }
  const Price price = model_.price(*plan);
  if (last_->route != before.route || last_->splits != before.splits) {  // another leads
    remember(batch, *last_, price);
  }
  const Correction& now = model_.correction();
  const double corrected = std::max({now.memory / last_correction_.memory, now.arithmetic / last_correction_.arithmetic,
                                     now.fixed / last_correction_.fixed});
  if (options_.kind == PolicyKind::kAuto && price.total_ns() > last_ns_ * kDearerFactor * corrected) {
    recycled = *std::move(plan);
    return std::nullopt;
  }
  Decision decision = finish_alone(*std::move(plan), price, DecisionBasis::kCarriedOn);
  take_part(batch, decision);
  return decision;
}

void Policy::drop_trial() { contest_.drop_trial(); }

void Policy::take_part(const BatchState& batch, Decision& decision) {
  if (!contest_.is_on()) {
    return;
  }
  contest_.begin_step(batch, model_.inputs().num_layers);
  if (contest_.overrules()) {
    decision.basis = DecisionBasis::kMeasured;
    decision.basis_figure = contest_.lead();
  }
  if (contest_.trial() == nullptr) {
    return;
  }
  auto plan = make_plan(batch, *contest_.trial(), std::move(scratch_));
  scratch_ = {};
  if (!plan.ok()) {
    contest_.drop_trial();
    return;
  }
  const Price price = model_.price(*plan);
  decision.trial = Decision::Trial{.plan = *std::move(plan), .price = price};
}

void Policy::measure_rows(const BatchState& batch) {
  tiles_.clear();
  total_tiles_ = 0;
  max_tiles_ = 0;
  attended_tokens_ = batch.attended_tokens();
  num_pages_ = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const TokenRange attended = batch.attended(row);
    const std::int32_t tiles = ceil_div(attended.end, kTileTokens) - attended.begin / kTileTokens;
    tiles_.push_back(tiles);
    total_tiles_ += tiles;
    max_tiles_ = std::max(max_tiles_, tiles);
    num_pages_ += attended.size() / batch.page_size() + 1;
  }
}

void Policy::outline(Route route, std::int32_t kv_heads_per_task, std::int32_t splits) {
  const AttentionShape& shape = model_.inputs().shape;
  const std::int32_t runs = ceil_div(shape.num_kv_heads, kv_heads_per_task);
  const std::int32_t chunk = std::max(1, ceil_div(max_tiles_, splits));
  const bool fuses = model_.profile().kind == DeviceKind::kCpu;
  std::int64_t parts = 0;
  std::int64_t slots = 0;
  bool has_merges = false;
  std::int32_t long_tiles = 0;
  for (const std::int32_t tiles : tiles_) {
    const std::int32_t own = route == Route::kRow         ? 1
                             : route == Route::kWorkqueue ? std::min(splits, tiles)
                                                          : ceil_div(tiles, chunk);
    parts += fuses ? std::max(own, 1) : own;  // without a merge launch an empty row has a task
    slots += own > 1 ? own : 0;
    has_merges = has_merges || own != 1;
    long_tiles = std::max(long_tiles, own > 0 ? tiles / own : 0);
  }
  Choice choice;
  choice.plan = {.route = route,
                 .splits = splits,
                 .num_workers = model_.num_slots(),
                 .tile_tokens = kTileTokens,
                 .kv_heads_per_task = kv_heads_per_task,
                 .merge = fuses ? MergeMode::kFused : MergeMode::kSeparate};
  choice.outline = {.attended_tokens = attended_tokens_,
                    .num_tasks = parts * runs,
                    .merge_state_bytes = slots * shape.num_kv_heads * shape.group_size() * (shape.head_dim + 2) * 4,
                    .num_decode_launches = parts > 0 ? 1 : 0,
                    .num_merge_launches = has_merges && !fuses ? 1 : 0,
                    .kv_heads_per_task = kv_heads_per_task,
                    .long_task_tokens = std::int64_t{std::max(0, long_tiles - 1)} * kTileTokens * kv_heads_per_task};
  choice.least_ns = model_.least_ns(choice.outline, num_pages_);
  choice.likely_ns = choice.least_ns + 0.5 * model_.long_task_ns(choice.outline);
  choices_.push_back(choice);
}

// Splits of the longest row such that a step has an eighth to eight tasks a slot.
void Policy::outline_widths(Route route) {
  const std::int32_t heads = model_.inputs().shape.num_kv_heads;
  for (std::int32_t width = heads; width >= 1; --width) {
    if (heads % width != 0 || (route == Route::kPages && width != heads) ||
        (route == Route::kSplit && width == heads && allows(Route::kPages))) {
      continue;
    }
    if (route == Route::kRow) {
      outline(route, width, 1);
      continue;
    }
    const std::int64_t units = total_tiles_ * (heads / width);
    outline(route, width, 1);  // as `row`, but rows without tokens have no task
    std::int32_t last_splits = 1;
    for (const std::int64_t per_slot8 : kTasksPerSlot8) {
      const std::int64_t target = ceil_div(model_.num_slots() * per_slot8, std::int64_t{8});
      const std::int64_t splits =
          route == Route::kWorkqueue
              ? ceil_div<std::int64_t>(
                    target, std::max<std::int64_t>(1, static_cast<std::int64_t>(tiles_.size()) * (heads / width)))
              : ceil_div<std::int64_t>(max_tiles_, std::max<std::int64_t>(1, units / target));
      const auto bounded = static_cast<std::int32_t>(std::min<std::int64_t>(splits, std::max(1, max_tiles_)));
      if (bounded > last_splits) {
        outline(route, width, bounded);
        last_splits = bounded;
      }
    }
  }
}

void Policy::outline_all() {
  choices_.clear();
  for (const Route route : options_.routes) {
    const bool dominated = (route == Route::kPadded || route == Route::kBucket) && options_.routes.size() > 1;
    if (!is_external(route) && !dominated && route != Route::kPadded && route != Route::kBucket) {
      outline_widths(route);
    }
  }
}

Result<Decision> Policy::decide_auto(const BatchState& batch, Plan&& recycled) {
  measure_rows(batch);
  rule_.reset();
  if (auto kept = keep_rule(batch, recycled)) {
    return *std::move(kept);
  }
  if (model_.profile().kernels.empty() || !(allows(Route::kSplit) || allows(Route::kWorkqueue))) {
    outline_all();
    return price_choices(batch, std::move(recycled));
  }
  // The rule has searched by the same prices, whole rows among them; these beside it, as a plan of so few tasks costs
  // next to nothing.
  const bool wants_near = holds_contests() || options_.search == SearchMode::kAlways;
  const GpuCuts cuts = gpu_cuts(batch, gpu_machine(model_.profile()), rule_route(), wants_near ? kNearShare : 1.0);
  near_.clear();
  near_.push_back({.options = cuts.chosen.options, .price = cuts.chosen.us});
  for (std::size_t i = 0; i < cuts.num_near; ++i) {
    near_.push_back({.options = cuts.near[i].options, .price = cuts.near[i].us});
  }
  choices_.clear();
  choices_.push_back({.plan = cuts.chosen.options, .outline = {}});
  if (allows(Route::kRow) && cuts.chosen.options.splits != 1 && !whole_rows_leave_idle(batch)) {
    choices_.push_back(whole_rows(batch));
  }
  Result<Decision> decision = price_choices(batch, std::move(recycled));
  if (decision.ok() && holds_contests()) {
    start_contest(batch, *decision);
  }
  return decision;
}

// Of those that gpu_rule chooses between; none: either.
std::optional<Route> Policy::rule_route() const {
  if (allows(Route::kSplit) && allows(Route::kWorkqueue)) {
    return std::nullopt;
  }
  return allows(Route::kSplit) ? Route::kSplit : Route::kWorkqueue;
}

bool Policy::holds_contests() const {
  return options_.learning == Learning::kOn && !model_.profile().kernels.empty() &&
         model_.inputs().num_layers >= Contest::kMinLayers;
}

void Policy::start_contest(const BatchState& batch, Decision& decision) {
  if (is_external(decision.plan.route()) || near_.front().price <= 0.0) {
    contest_.stop();
    return;
  }
  // Whole rows may have been chosen beside the rule's cuts, at a price that counts planning and corrections, too.
  std::array<Contest::Contender, Contest::kMaxPlans> contenders = {{{.options = *last_, .price = near_.front().price}}};
  std::size_t num = 1;
  for (const Contest::Contender& it : near_) {
    const bool both_whole = last_->splits.value_or(1) == 1 && it.options.splits.value_or(1) == 1;
    const bool is_last = it.options.route == last_->route && it.options.splits == last_->splits;
    if (num < contenders.size() && !both_whole && !is_last) {
      contenders[num++] = it;
    }
  }
  contest_.start(std::span(contenders).first(num), batch);
  if (contest_.overrules()) {
    auto plan = make_plan(batch, contest_.leader(), std::move(scratch_));
    if (!plan.ok()) {  // too large a grid, where the chosen plan is none
      scratch_ = {};
      contest_.stop();
    } else {
      last_ = contest_.leader();
      scratch_ = std::exchange(decision.plan, *std::move(plan));
      decision.price = model_.price(decision.plan);
      decision.predicted_ns = decision.price.device_ns;
      decision.candidates.insert(decision.candidates.begin(), candidate_of(decision.plan, decision.price));
    }
  }
  last_ns_ = decision.price.total_ns();
  take_part(batch, decision);
}

void Policy::show_near(const BatchState& batch, std::vector<Candidate>& candidates) {
  const auto show = [&](const PlanOptions& options) {
    auto plan = make_plan(batch, options, std::move(scratch_));
    if (!plan.ok()) {
      scratch_ = {};
      return;
    }
    scratch_ = *std::move(plan);
    Candidate candidate = candidate_of(scratch_, model_.price(scratch_));
    candidate.priced = false;
    candidates.push_back(candidate);
  };
  for (std::size_t i = 1; i < near_.size(); ++i) {
    show(near_[i].options);
  }
  if (allows(Route::kRow) && std::ranges::find(candidates, Route::kRow, &Candidate::route) == candidates.end()) {
    show({.route = Route::kRow, .num_workers = model_.profile().num_workers});
  }
}

bool Policy::whole_rows_leave_idle(const BatchState& batch) const {
  std::int64_t rows = 0;
  std::int64_t longest = 0;
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    const std::int64_t tokens = batch.attended(row).size();
    rows += tokens > 0 ? 1 : 0;
    longest = std::max(longest, tokens);
  }
  const AttentionShape& shape = batch.shape();
  return leaves_sms_idle(shape, gpu_kernel_class(shape).at(KernelWidth::kWide).blocks_per_sm, rows * shape.num_kv_heads,
                         batch.attended_tokens() * shape.num_kv_heads, longest, gpu_machine(model_.profile()));
}

Policy::Choice Policy::whole_rows(const BatchState& batch) const {
  Choice choice;
  choice.plan = {.route = Route::kRow, .num_workers = model_.profile().num_workers};
  choice.least_ns = model_.price_whole_rows(batch).total_ns();
  choice.likely_ns = choice.least_ns;
  return choice;
}

double Policy::least_of_all_ns() const {
  const std::int32_t heads = model_.inputs().shape.num_kv_heads;
  const std::int32_t slots = model_.num_slots();
  double least_ns = std::numeric_limits<double>::infinity();
  for (std::int32_t width = heads; width >= 1; --width) {
    if (heads % width == 0) {
      // Evenly spread, one start a slot, nothing to merge.
      const double even_ns = model_.least_ns(
          {.attended_tokens = attended_tokens_, .num_tasks = slots, .kv_heads_per_task = width}, num_pages_);
      // ... which least_ns has planned a task for.
      least_ns = std::min(least_ns, even_ns - (model_.plan_ns(slots, num_pages_) - model_.plan_ns(0, num_pages_)));
    }
  }
  return least_ns;
}

// The rule weighs reading against merging and knows no arithmetic: where a step is bound by that, its cut by the
// profile's bandwidth can lose to its cut by the built-in one, which is that of route pages alone (one row of 300
// tokens, group 8, two splits of all heads against two runs of heads: 9% slower). Where they differ prices decide.
PlanOptions Policy::choose_rule(const BatchState& batch) {
  const PlanOptions ours = cpu_rule(batch, *rule_layout_, model_.inputs().kv_dtype, model_.num_slots(), rule_curve_);
  const PlanOptions usual = cpu_rule(batch, *rule_layout_, model_.inputs().kv_dtype, model_.num_slots());
  if (ours.splits == usual.splits && ours.kv_heads_per_task == usual.kv_heads_per_task) {
    return ours;
  }
  const auto price_ns = [&](const PlanOptions& options) {
    auto plan = make_plan(batch, options, std::move(scratch_));
    if (!plan.ok()) {
      scratch_ = {};
      return std::numeric_limits<double>::infinity();
    }
    scratch_ = *std::move(plan);
    return model_.price(scratch_).total_ns();
  };
  return price_ns(ours) < price_ns(usual) ? ours : usual;
}

const PlanOptions& Policy::rule_of(const BatchState& batch) {
  if (!rule_) {
    rule_ = choose_rule(batch);
  }
  return *rule_;
}

std::optional<Decision> Policy::keep_rule(const BatchState& batch, Plan& recycled) {
  if (!rule_layout_ || options_.search == SearchMode::kAlways) {
    return std::nullopt;
  }
  const PlanOptions options = rule_of(batch);
  auto plan = make_plan(batch, options, std::move(recycled));
  if (!plan.ok()) {
    recycled = {};
    return std::nullopt;
  }
  const Price price = model_.price(*plan);
  const double error = model_.profile().price_error;
  const double search_ns = kSearchNs / model_.inputs().num_layers;
  if (least_of_all_ns() < price.total_ns() * (1.0 - error) * kWorthwhile - search_ns) {
    recycled = *std::move(plan);
    return std::nullopt;
  }
  remember(batch, options, price);
  return finish_alone(*std::move(plan), price, DecisionBasis::kRuleNotSearched);
}

Result<Decision> Policy::price_choices(const BatchState& batch, Plan&& recycled) {
  std::ranges::sort(choices_, {}, &Choice::likely_ns);
  std::vector<Candidate> candidates;
  candidates.reserve(choices_.size() + options_.routes.size());
  Plan best = std::move(recycled);
  Price best_price;
  std::optional<PlanOptions> best_options;
  Error last_error;
  std::int64_t priced_tasks = 0;
  double beat_ns = std::numeric_limits<double>::infinity();  // what another plan must be cheaper than to be chosen
  double least_ns = std::numeric_limits<double>::infinity();
  const auto consider = [&](const PlanOptions& options) {
    auto plan = make_plan(batch, options, std::move(scratch_));
    if (!plan.ok()) {  // one grid may be too large for a step that another route runs well
      last_error = plan.error();
      scratch_ = {};
      return;
    }
    const Price price = model_.price(*plan);
    priced_tasks += plan->counters().num_tasks;
    candidates.push_back(candidate_of(*plan, price));
    scratch_ = *std::move(plan);
    least_ns = std::min(least_ns, price.total_ns());
    if (!best_options || price.total_ns() < beat_ns) {
      std::swap(best, scratch_);
      best_price = price;
      best_options = options;
      beat_ns = price.total_ns();
    }
  };
  if (rule_layout_) {
    // Prices are surer of a plan's size than of the order of plans that are nearly equal: the rule's plan, which was
    // measured, is left only for a gain that is above the error of such comparisons.
    consider(rule_of(batch));
    beat_ns *= 1.0 - model_.profile().price_error;
  }
  for (const Route route : options_.routes) {
    const bool alone = options_.routes.size() == 1;
    if (is_external(route) || (alone && (route == Route::kPadded || route == Route::kBucket))) {
      consider({.route = route, .num_workers = model_.num_slots()});
    }
  }
  for (const Choice& choice : choices_) {
    const double limit_ns = options_.search == SearchMode::kAlways ? least_ns : beat_ns;
    const bool may_win = choice.least_ns < limit_ns * kWorthwhile;
    const bool affordable = priced_tasks < kPricedTasks + 4 * model_.num_slots() ||
                            std::ranges::find(candidates, choice.plan.route, &Candidate::route) == candidates.end();
    if (!best_options || (may_win && affordable)) {
      consider(choice.plan);
      continue;
    }
    candidates.push_back({.route = choice.plan.route,
                          .max_splits = choice.plan.splits.value_or(1),
                          .kv_heads_per_task = choice.plan.kv_heads_per_task.value_or(1),
                          .predicted_ns = choice.least_ns,
                          .priced = false});
  }
  if (!best_options) {
    return last_error;
  }
  if (options_.search == SearchMode::kAlways && !model_.profile().kernels.empty()) {
    show_near(batch, candidates);
  }
  remember(batch, *best_options, best_price);
  const bool kept_rule = rule_layout_ && beat_ns < best_price.total_ns();
  std::ranges::sort(candidates, cheaper);
  move_to_front(candidates, best, best_price);
  return finish(std::move(best), best_price, std::move(candidates),
                kept_rule ? DecisionBasis::kRuleKept : DecisionBasis::kCheapest,
                kept_rule ? model_.profile().price_error : 0.0);
}

Result<Decision> Policy::decide_paper(const BatchState& batch, Plan&& recycled) {
  measure_rows(batch);
  const std::int32_t longest = batch.num_rows() == 0 ? 0 : *std::ranges::max_element(batch.seq_lens());
  const std::int32_t rows = batch.num_rows();
  const bool gated =
      batch.shape().group_size() != kPaperGroup || longest < kPaperLongRow || (rows != 1 && rows < kPaperLargeBatch);
  PlanOptions options{.num_workers = model_.num_slots(), .tile_tokens = kTileTokens};
  double least_ns = -1.0;
  if (gated) {
    options.route = allows(Route::kFlashInferCore) ? Route::kFlashInferCore : Route::kRow;
  } else {
    options.route = rows == 1 ? Route::kBucket : Route::kWorkqueue;
    for (std::int32_t splits = kPaperSplitStep;
         splits <= std::min(kPaperMaxSplits, std::max(kPaperSplitStep, max_tiles_)); splits += kPaperSplitStep) {
      PlanOptions tried = options;
      tried.splits = splits;
      auto plan = make_plan(batch, tried, std::move(scratch_));
      if (!plan.ok()) {
        return plan.error();
      }
      scratch_ = *std::move(plan);
      const double ns = paper_price_ns(scratch_, model_.inputs().kv_dtype, model_.profile());
      if (least_ns < 0.0 || ns < least_ns) {
        least_ns = ns;
        options.splits = splits;
      }
    }
  }
  auto plan = make_plan(batch, options, std::move(recycled));
  if (!plan.ok()) {
    return plan.error();
  }
  const Price price = model_.price(*plan);
  remember(batch, options, price);
  return finish_alone(*std::move(plan), price, gated ? DecisionBasis::kPaperGates : DecisionBasis::kPaperFormula,
                      least_ns);
}

}  // namespace pkv

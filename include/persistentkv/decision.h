// Policy and Decision: which plan a step runs, what it should cost, and why.
// Not here: prices (price.h), measuring a device (pkv calibrate), running (backend.h).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/batch.h"
#include "persistentkv/contest.h"
#include "persistentkv/dtype.h"
#include "persistentkv/gpu_machine.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/price.h"
#include "persistentkv/profile.h"
#include "persistentkv/result.h"

namespace pkv {

/// How a step is divided on a GPU: a rule in place of a calibrated policy. Splits rows so
/// that few long tasks or many short ones alike keep every SM reading until the end, and no row more than
/// that. Route split (equal chunks) or, for rows of unlike lengths, workqueue (equal counts), or the best of the one
/// of these two that is named. For AttentionShape and lengths of any kind; measured on an H100
/// (docs/performance.md). Looks at the device's time alone: the layers of a model share what a plan costs on the host.
PlanOptions gpu_rule(const BatchState& batch, const GpuMachine& machine, std::optional<Route> route = std::nullopt);

/// Read bandwidth of all workers together by the bytes of K (or V) that a task reads in one go, as the decode
/// kernel reads them. Facts of a machine; the defaults are 2 cores of a Zen 4 server (docs/decisions/0006).
struct ReadCurve {
  struct Point {
    std::int64_t bytes = 0;
    double bytes_per_ns = 0.0;
  };
  /// Ascending by bytes; between two points bandwidth is linear, outside it is that of the nearest.
  std::array<Point, 6> points = {
      {{2048, 18.0}, {4096, 21.0}, {8192, 24.0}, {16384, 28.0}, {32768, 30.5}, {65536, 32.5}}};

  [[nodiscard]] double bytes_per_ns(std::int64_t bytes) const;

  /// That of a profile, but small pieces no better than by default: a probe of single chunks may find none worse,
  /// where a walk over fewer KV heads still loses. A task reads the two pages of a tile in one go, so `bytes` are two
  /// of the profile's chunks.
  static ReadCurve of(const DeviceProfile& profile);
};

/// How a step is divided on a CPU: route pages with one KV head, a run of heads or all heads a task, chosen by
/// layout, page size, lengths and the bandwidth by chunk size; splits that level the workers; fused merges.
PlanOptions cpu_rule(const BatchState& batch, const KvLayout& layout, DType kv_dtype, std::int32_t num_workers,
                     const ReadCurve& curve = {});

enum class PolicyKind : std::uint8_t {
  kAuto,   // every candidate priced by PriceModel, the cheapest runs
  kPaper,  // the paper's gates and closed formula, for comparison
};

/// "auto", "paper".
std::string_view policy_kind_name(PolicyKind kind);
/// Errors: kInvalidArgument that lists the names.
Result<PolicyKind> parse_policy_kind(std::string_view name);

/// Whether a policy learns from the steps that it is told of.
enum class Learning : std::uint8_t {
  kOff,  // the same lengths always give the same plan
  kOn,
};

/// Whether candidates are looked at that cannot be chosen.
enum class SearchMode : std::uint8_t {
  kWhereItPays,  // none where the bound of all plans is too near the rule's plan: the cheapest decision
  kAlways,       // to show them
};

struct PolicyOptions {
  PolicyKind kind = PolicyKind::kAuto;
  /// Routes to choose from, at least one. External ones only where the profile prices them.
  std::vector<Route> routes = {std::begin(kAllRoutes), std::end(kAllRoutes)};
  Learning learning = Learning::kOff;
  SearchMode search = SearchMode::kWhereItPays;
};

struct Candidate {
  Route route = Route::kRow;
  std::int32_t max_splits = 1;
  std::int32_t kv_heads_per_task = 1;
  /// Of a layer: device and its part of planning; of a candidate that was not planned, its least possible price.
  double predicted_ns = 0.0;
  /// False: left out by its bound, never planned.
  bool priced = true;
};

/// How a decision came about; Decision::reason has the words.
enum class DecisionBasis : std::uint8_t {
  kNamed,            // the caller named the route
  kCpuRule,          // cpu_rule, nothing priced
  kGpuRule,          // gpu_rule, nothing priced
  kCheapest,         // of the candidates
  kRuleKept,         // cpu_rule's plan: no candidate was cheaper by more than the prices' error
  kRuleNotSearched,  // cpu_rule's plan: by a bound no candidate can be cheaper by that and a search
  kCarriedOn,        // the last step's choice
  kMeasured,         // not the one that prices chose, but one near it that trials have shown to be faster
  kPaperGates,
  kPaperFormula,
};

/// The plan that was priced is the plan that runs.
struct Decision {
  Plan plan;
  /// Of the device, one layer: what its measured time is compared with.
  double predicted_ns = 0.0;
  Price price;
  /// Those that were looked at, the chosen one first, then by price. One when a decision was carried on.
  std::vector<Candidate> candidates;
  DecisionBasis basis = DecisionBasis::kNamed;
  /// Of the basis: the prices' error, a fraction (kRuleKept), the formula's ns (kPaperFormula), workers or SMs (rules),
  /// how much longer the prices' choice should take, a fraction (kMeasured).
  double basis_figure = 0.0;
  /// A plan that is priced nearly as low, for one layer of the step in place of `plan`, best the second, whose time
  /// Policy::observe_trial is told. As exact; whoever does not run it loses nothing but its planning.
  struct Trial {
    Plan plan;
    Price price;
  };
  std::optional<Trial> trial = std::nullopt;
  /// Of Engine::decide, from 1; 0: not of an engine's decide().
  std::int64_t serial = 0;
  /// Time that deciding and planning took; 0 when nobody measured it.
  std::int64_t plan_ns = 0;

  /// Why, in a sentence. Made when asked for: formatting it costs a step that nobody asks 13 us with cold caches.
  [[nodiscard]] std::string reason() const;

 private:
  [[nodiscard]] std::string reason_of_plan() const;
};

/// Chooses the plan of each step of one shape, type and layout. Keeps its last choice while rows grow a little
/// (each row by 16 tokens and 1/64 of its length, all together by 1/128), their price grows by at most 0.7% and no
/// factor of the correction moves by 5%; that costs at most 2%, beside price_error, against deciding anew. Where
/// prices are those of kernels (DeviceProfile::kernels), learning is on and a step has at least Contest::kMinLayers,
/// one layer of a step tries a plan that is priced at most 3% above the chosen one (Decision::trial), and the fastest
/// goes on (Contest), its growth counted from there. Not thread-safe; the same steps in the same order always give the
/// same plans unless learning is on.
class Policy {
 public:
  /// Errors: those of PriceModel::make; kInvalidArgument (no routes); kUnsupported (an external route without a
  /// price in the profile).
  static Result<Policy> make(const DeviceProfile& profile, const PriceInputs& inputs, const PolicyOptions& options);

  /// kAuto, on a CPU: the plan of cpu_rule, with the profile's ReadCurve or the built-in one, unless one of the others
  /// is cheaper by more than the profile's price_error; without a search where none can be by that and a layer's part
  /// of what a search costs. On a GPU the cheapest. The others: for every number of KV heads a task that divides them,
  /// whole rows, equal chunks (split, pages) and equal counts (workqueue) for an eighth to eight tasks a slot are
  /// outlined; the likeliest are planned and priced until nothing that is left can be cheaper by 0.2% (or by
  /// price_error), or tasks beyond kPricedTasks (and 4 a slot) have been priced. padded and bucket are workqueue with
  /// empty tasks or more launches, so they are looked at only alone. On CPUs merges are fused, which saves their
  /// launch.
  ///
  /// kPaper: groups other than 4, steps whose longest row is under 16,384 tokens and batches of 2 to 7 rows go to
  /// FlashInfer, or to `row` where there is none; one row goes to bucket, 8 or more to workqueue, with the multiple
  /// of four splits whose formula is least.
  ///
  /// `recycled`: the plan of a decision that is no longer needed.
  ///
  /// Errors: kInvalidArgument (a batch of another shape or page size), those of make_plan.
  Result<Decision> decide(const BatchState& batch, Plan&& recycled = {});

  /// Tells what a decided step took, or each of its layers, with the price of the plan that it ran. Moves the
  /// correction by a fraction of the error, each term by its part in the price; a single step at most by kMaxStep.
  /// Without effect while learning is off.
  void observe(const Price& predicted, const RunTimes& measured);
  /// Tells what the last decision's trial took, and the layer right after it, which ran the decision's plan. Moves no
  /// price.
  void observe_trial(const RunTimes& trial, const RunTimes& after);
  /// The last decision's trial cannot run.
  void drop_trial();

  /// The next step is decided anew, whatever the last choice was and whatever contests have shown.
  void forget_choice() {
    last_.reset();
    contest_.stop();
  }

  [[nodiscard]] const PriceModel& model() const { return model_; }
  [[nodiscard]] const PolicyOptions& options() const { return options_; }

  static constexpr std::int64_t kPricedTasks = 2048;
  static constexpr double kMaxStep = 0.06;

 private:
  struct Choice {
    PlanOptions plan;
    PriceModel::Outline outline;
    double least_ns = 0.0;
    double likely_ns = 0.0;  // with half a long task of tail; orders the search
  };

  Policy(PriceModel model, PolicyOptions options, std::optional<KvLayout> rule_layout);
  Result<Decision> decide_auto(const BatchState& batch, Plan&& recycled);
  Result<Decision> decide_paper(const BatchState& batch, Plan&& recycled);
  /// No value: the last choice no longer fits, `recycled` is as it was.
  std::optional<Decision> carry_on(const BatchState& batch, Plan& recycled);
  [[nodiscard]] bool may_carry_on(const BatchState& batch) const;
  void remember(const BatchState& batch, const PlanOptions& options, const Price& price);
  /// Of the two that gpu_rule chooses between; no value: either.
  [[nodiscard]] std::optional<Route> rule_route() const;
  /// Whether plans near the chosen one are tried.
  [[nodiscard]] bool holds_contests() const;
  /// Between the chosen plan and near_; what steps have shown before to be faster takes the chosen one's place.
  void start_contest(const BatchState& batch, Decision& decision);
  /// The contest's part in a decision: its basis, its trial.
  void take_part(const BatchState& batch, Decision& decision);
  /// The near plans and whole rows, for whoever wants to see what they would cost.
  void show_near(const BatchState& batch, std::vector<Candidate>& candidates);
  void measure_rows(const BatchState& batch);
  void outline_all();
  void outline(Route route, std::int32_t kv_heads_per_task, std::int32_t splits);
  void outline_widths(Route route);
  /// Of a GPU: leaves_sms_idle of route row, which is then not chosen against the rule.
  [[nodiscard]] bool whole_rows_leave_idle(const BatchState& batch) const;
  /// Route row, not planned.
  [[nodiscard]] Choice whole_rows(const BatchState& batch) const;
  [[nodiscard]] bool allows(Route route) const;
  Result<Decision> price_choices(const BatchState& batch, Plan&& recycled);
  /// cpu_rule by the profile's ReadCurve or by the built-in one, whichever plan has the lower price; once a decision.
  const PlanOptions& rule_of(const BatchState& batch);
  PlanOptions choose_rule(const BatchState& batch);
  /// The rule's plan where no plan can be cheaper by more than the prices' error and the time of a search; no value:
  /// `recycled` is as it was.
  std::optional<Decision> keep_rule(const BatchState& batch, Plan& recycled);
  /// Below the price of any plan of the step.
  [[nodiscard]] double least_of_all_ns() const;

  PriceModel model_;
  PolicyOptions options_;
  // Set where cpu_rule's plan is the one to beat.
  std::optional<KvLayout> rule_layout_;
  ReadCurve rule_curve_;
  // Of the step in progress; members so that a steady stream of steps allocates little.
  std::vector<std::int32_t> tiles_;
  std::int64_t total_tiles_ = 0;
  std::int32_t max_tiles_ = 0;
  std::int64_t attended_tokens_ = 0;
  std::int64_t num_pages_ = 0;
  std::vector<Choice> choices_;
  std::optional<PlanOptions> rule_;
  Plan scratch_;
  // The last decision.
  std::optional<PlanOptions> last_;
  std::vector<std::int32_t> last_lens_;
  std::int64_t last_tokens_ = 0;
  Correction last_correction_;
  double last_ns_ = 0.0;
  std::vector<Contest::Contender> near_;  // of the last search by gpu_rule, its choice first
  Contest contest_;
  Price running_;  // of the last decision, by which a measurement of it is known
  double trial_plan_ns_ = 0.0;
};

}  // namespace pkv

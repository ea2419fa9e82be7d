// Every published log row of the paper's RTX 3060 runs (arXiv 2606.26666): the counters of our traces
// and plans equal the logged ones, to the printed precision.
// paper_counters.csv holds the logged counters; bucket_splits and workqueue_splits are the splits that
// the paper set by hand for the log. Rates and times of that GPU are not compared.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "trace/admission.h"
#include "trace/generators.h"

namespace pkv {
namespace {

constexpr double kRtx3060Sms = 28.0;
constexpr double kMib = 1024.0 * 1024.0;

using Row = std::map<std::string, std::string>;

std::vector<std::string> split_fields(const std::string& line) {
  std::vector<std::string> fields;
  std::stringstream stream(line);
  for (std::string field; std::getline(stream, field, ',');) {
    fields.push_back(field);
  }
  return fields;
}

std::vector<Row> read_rows(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  const std::vector<std::string> names = split_fields(line);
  std::vector<Row> rows;
  while (std::getline(file, line)) {
    const std::vector<std::string> fields = split_fields(line);
    Row row;
    for (std::size_t i = 0; i < names.size(); ++i) {
      row[names[i]] = i < fields.size() ? fields[i] : "";
    }
    rows.push_back(row);
  }
  return rows;
}

std::vector<Row> golden_rows() { return read_rows(std::string(PKV_GOLDEN_DIR) + "/paper_counters.csv"); }

// Sums over the steps of one log row.
struct Sums {
  double steps = 0, buckets = 0, launches = 0, merge_launches = 0, nonempty = 0, tasks = 0, useful_bytes = 0,
         merge_bytes = 0;
};

PlanOptions plan_options(const Row& row) {
  const std::string& ran = row.at("ran");
  if (ran == "flashinfer") {
    return {.route = Route::kRow};  // one launch, no merge, as that engine is logged
  }
  const Route route = parse_route(ran).value();
  return {.route = route, .splits = std::stoi(row.at(route == Route::kBucket ? "bucket_splits" : "workqueue_splits"))};
}

void add_step(const StepRows& rows, const AttentionShape& shape, std::int64_t num_pages, const PlanOptions& options,
              Sums& sums) {
  const BatchState batch = BatchState::make({.shape = shape,
                                             .page_size = 16,
                                             .seq_lens = rows.seq_lens,
                                             .block_table = BlockTable::csr(rows.kv_indptr, rows.kv_indices).value(),
                                             .num_pages = num_pages})
                               .value();
  const Plan plan = make_plan(batch, options).value();
  sums.steps += 1;
  sums.buckets += static_cast<double>(std::set(rows.seq_lens.begin(), rows.seq_lens.end()).size());
  sums.launches += plan.counters().num_launches;
  sums.merge_launches += plan.counters().num_merge_launches;
  sums.nonempty += plan.counters().nonempty_share();
  sums.tasks += plan.counters().num_tasks;
  sums.useful_bytes += static_cast<double>(kv_bytes(batch.attended_tokens(), shape, DType::kF16));
  sums.merge_bytes += static_cast<double>(plan.counters().merge_state_bytes);
}

void expect_counters(const Row& row, const Sums& sums) {
  EXPECT_EQ(fmt::format("{}", sums.steps), row.at("steps"));
  EXPECT_EQ(fmt::format("{:.2f}", sums.buckets / sums.steps), row.at("exact_length_buckets_mean"));
  EXPECT_EQ(fmt::format("{:.2f}", sums.launches / sums.steps), row.at("launches_per_step"));
  EXPECT_EQ(fmt::format("{:.3f}", sums.nonempty / sums.steps), row.at("nonempty_cta_fraction"));
  EXPECT_EQ(fmt::format("{:.1f}", sums.useful_bytes / sums.steps / kMib), row.at("useful_kv_mib_per_step"));
  EXPECT_EQ(fmt::format("{:.2f}", sums.merge_bytes / sums.steps / kMib), row.at("merge_state_mib_per_step"));
  EXPECT_EQ(fmt::format("{:.2f}", sums.merge_launches / sums.steps), row.at("merge_launches_per_step"));
  if (row.at("ran") != "flashinfer") {  // the logs count no CTAs of FlashInfer
    EXPECT_EQ(fmt::format("{:.1f}", sums.tasks / sums.steps / kRtx3060Sms), row.at("decode_cta_work_per_sm"));
  }
}

void check_row(const Row& row) {
  const Trace trace = make_paper_trace({.family = parse_paper_family(row.at("trace")).value(),
                                        .seed = static_cast<std::uint32_t>(std::stoul(row.at("seed"))),
                                        .num_requests = std::stoi(row.at("requests")),
                                        .max_active = std::stoi(row.at("max_active"))})
                          .value();
  const auto admission = make_admission(trace, {.max_active = std::stoi(row.at("max_active"))}).value();
  EXPECT_EQ(std::to_string(admission->num_physical_pages()), row.at("physical_pages"));
  const AttentionShape shape{.num_kv_heads = std::stoi(row.at("num_kv_heads"))};
  const PlanOptions options = plan_options(row);
  Sums sums;
  StepRows rows;
  while (sums.steps < std::stod(row.at("steps")) && admission->next(rows).value()) {
    add_step(rows, shape, admission->num_physical_pages(), options, sums);
  }
  expect_counters(row, sums);
}

TEST(PaperCounters, EveryPublishedRow_IsReproduced) {
  const std::vector<Row> rows = golden_rows();
  ASSERT_EQ(rows.size(), 112U);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.at("log") + " " + row.at("engine"));
    check_row(row);
  }
}

// Developers and CI have the published file itself: our table leaves no row out and changes no figure.
TEST(PaperCounters, Table_EqualsThePublishedFile) {
  const std::vector<Row> published = read_rows(std::string(PKV_SHARED_DIR) + "/paper/rtx3060_results.csv");
  if (published.empty()) {
    GTEST_SKIP() << "shared/paper is not beside this checkout";
  }
  const std::vector<Row> golden = golden_rows();
  ASSERT_EQ(golden.size(), published.size());
  for (std::size_t i = 0; i < golden.size(); ++i) {
    for (const char* field :
         {"log", "trace", "seed", "requests", "max_active", "steps", "num_kv_heads", "physical_pages",
          "exact_length_buckets_mean", "launches_per_step", "nonempty_cta_fraction", "decode_cta_work_per_sm",
          "useful_kv_mib_per_step", "merge_state_mib_per_step", "merge_launches_per_step"}) {
      EXPECT_EQ(golden[i].at(field), published[i].at(field)) << "row " << i << " " << field;
    }
  }
}

}  // namespace
}  // namespace pkv

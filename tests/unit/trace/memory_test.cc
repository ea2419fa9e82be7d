// The end of memory is an error value that says what was asked for, and nothing large is allocated before
// a caller can ask how large it will be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "trace/admission.h"
#include "trace/generators.h"
#include "trace/readers.h"
#include "unit/trace/limit_allocations.h"
#include "unit/trace/temp_files.h"

namespace pkv {
namespace {

using test::AllocationLimit;
using test::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMib = std::size_t{1} << 20;
/// The longest request there can be, with one page a token.
const Request kLongest{.arrival = 0, .prompt_len = 2147483000, .decode_len = 647};

Trace trace_of(std::size_t num_requests) {
  Trace trace{.name = "t"};
  trace.requests.assign(num_requests, {.arrival = 0, .prompt_len = 8, .decode_len = 2});
  return trace;
}

template <typename T>
void expect_exhausted(const Result<T>& result, const std::string& text) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(result.error().to_string(), text);
}

TEST(TraceMemory, ReadTrace_NamesTheFileAndItsSize) {
  const TempDir dir;
  const std::string text = *serialize_trace(trace_of(200000), TraceFormat::kCsv);  // 3.2 MB of requests
  const std::string csv = dir.write("t.csv", text);
  const std::string json = dir.write("t.json", *serialize_trace(trace_of(100000), TraceFormat::kJson));
  for (const std::string& path : {csv, json}) {
    const std::string bytes = std::to_string(std::filesystem::file_size(path));
    ASSERT_TRUE(read_trace(path, {}).ok());
    const AllocationLimit limit(kMib);
    expect_exhausted(read_trace(path, {}),
                     path + ": not enough memory for the requests in it, " + bytes + " bytes as stored");
  }
}

TEST(TraceMemory, SmallFile_IsReadInLittle) {
  const TempDir dir;
  const std::string path = dir.write("t.csv", "prompt_len,decode_len\n2147483000,647\n");
  const AllocationLimit limit(kMib);
  EXPECT_TRUE(read_trace(path, {}).ok());
}

TEST(TraceMemory, PaperTrace_SaysTheBytes) {
  const AllocationLimit limit(kMib);
  expect_exhausted(make_paper_trace({.family = PaperFamily::kZipf, .num_requests = 1000000}),
                   "paper:zipf: not enough memory for 1000000 requests, 16000000 bytes");
}

TEST(TraceMemory, Text_NamesTheTrace) {
  const Trace trace = trace_of(200000);
  const AllocationLimit limit(kMib);
  expect_exhausted(serialize_trace(trace, TraceFormat::kJsonLines),
                   "t: not enough memory for the text of 200000 requests");
}

TEST(TraceMemory, RequestsOfAnAdmission_SayTheBytes) {
  const Trace trace = trace_of(200000);
  for (const AdmissionMode mode : {AdmissionMode::kPaper, AdmissionMode::kFcfs}) {
    const AllocationLimit limit(kMib);
    expect_exhausted(make_admission(trace, {.mode = mode}),
                     "t: not enough memory to admit 200000 requests, 4800000 bytes");
  }
}

struct ModeTables {
  AdmissionMode mode;
  std::string bytes;
};

TEST(TraceMemory, PagesOfAnAdmission_AreCountedFirstAndDealtByTheFirstStep) {
  Trace trace{.name = "t", .requests = {kLongest}};
  for (const ModeTables& tables : {ModeTables{AdmissionMode::kPaper, "2147483647 physical pages, 8589934588 bytes"},
                                   ModeTables{AdmissionMode::kFcfs, "2147483646 physical pages, 25769803752 bytes"}}) {
    SCOPED_TRACE(admission_mode_name(tables.mode));
    const AllocationLimit limit(kMib);
    const auto admission = make_admission(trace, {.mode = tables.mode, .max_active = 8, .page_size = 1});
    ASSERT_TRUE(admission.ok()) << admission.error().to_string();
    EXPECT_EQ((*admission)->num_physical_pages(), tables.mode == AdmissionMode::kPaper ? 2147483647 : 2147483646);
    StepRows rows;
    for (int call = 0; call < 2; ++call) {
      expect_exhausted((*admission)->next(rows), "t: not enough memory for the tables of " + tables.bytes);
    }
  }
}

/// In the middle of a run: what the admission held is of no use then, so it stays at its error.
TEST(TraceMemory, StepThatOutgrowsMemory_EndsTheAdmission) {
  Trace trace{.name = "t", .requests = {{.arrival = 0, .prompt_len = 200000, .decode_len = 3}}};
  for (const AdmissionMode mode : {AdmissionMode::kPaper, AdmissionMode::kFcfs}) {
    SCOPED_TRACE(admission_mode_name(mode));
    const auto admission = make_admission(trace, {.mode = mode, .page_size = 1});
    ASSERT_TRUE(admission.ok());
    StepRows rows;
    ASSERT_TRUE((*admission)->next(rows).ok());
    rows = {};
    {
      const AllocationLimit limit(kMib / 2);
      const auto more = (*admission)->next(rows);
      ASSERT_FALSE(more.ok());
      EXPECT_EQ(more.error().code, ErrorCode::kResourceExhausted);
    }
    EXPECT_FALSE((*admission)->next(rows).ok());
  }
}

/// Larger than the pool: known without dealing it.
TEST(TraceMemory, RequestLargerThanALargePool_IsNamedWithoutDealing) {
  Trace trace{.name = "t", .requests = {kLongest}};
  const auto limit_and_call = [&] {
    const AllocationLimit limit(kMib);
    const auto admission =
        make_admission(trace, {.mode = AdmissionMode::kFcfs, .page_size = 1, .pool_pages = 2147483645});
    StepRows rows;
    return admission.ok() ? (*admission)->next(rows) : Result<bool>(admission.error());
  };
  const Result<bool> more = limit_and_call();
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().where, "t, request 0");
  EXPECT_THAT(more.error().message, AllOf(HasSubstr("need 2147483646 pages"), HasSubstr("the pool has 2147483645")));
}

}  // namespace
}  // namespace pkv

// Every format from samples made here: plain, gzip, tar, folders; detection; what is left out.
// Not here: input that must be refused (bad_trace_test.cc).
#include "trace/readers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "unit/trace/temp_files.h"

namespace pkv {

static bool operator==(const Request& a, const Request& b) {
  return a.arrival == b.arrival && a.prompt_len == b.prompt_len && a.decode_len == b.decode_len;
}
static void PrintTo(const Request& r, std::ostream* out) {
  *out << "{" << r.arrival << ", " << r.prompt_len << ", " << r.decode_len << "}";
}

namespace {

using test::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::string_view kMooncakeLines =
    R"({"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 3]}
{"timestamp": 2999, "input_length": 10, "output_length": 1, "hash_ids": []}
)";

constexpr std::string_view kSessionLine =
    R"({"id": "s1", "block_size": 64, "hash_id_scope": "local", "requests": [)"
    R"({"t": 0.5, "type": "n", "in": 100, "out": 10, "hash_ids": [1], "stop": ""},)"
    R"({"t": 90.0, "type": "subagent", "agent_id": "a", "requests": [)"
    R"({"t": 0.0, "type": "n", "in": 300, "out": 30}, {"t": 2.5, "type": "s", "in": 400, "out": 40}]},)"
    R"({"t": 95.0, "type": "s", "in": 500, "out": 0, "hash_ids": []}]})";

Trace read_ok(const std::string& path, const TraceReadOptions& options = {}) {
  auto trace = read_trace(path, options);
  EXPECT_TRUE(trace.ok()) << trace.error().to_string();
  return trace.ok() ? std::move(trace).value() : Trace{};
}

Trace read_text(std::string_view content, const TraceReadOptions& options = {}) {
  const TempDir dir;
  return read_ok(dir.write("trace", content), options);
}

TEST(ReadCsv, Seconds_AreReadWithTheirUnit) {
  const Trace trace = read_text("prompt_len,decode_len,arrival\n100,10,0\n200,20,1.25\n");
  EXPECT_EQ(trace.format, "csv");
  EXPECT_EQ(trace.arrival_unit, ArrivalUnit::kSeconds);
  EXPECT_TRUE(trace.has_arrivals);
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 100, 10}, Request{1.25, 200, 20}));
  EXPECT_THAT(trace.notes, IsEmpty());
}

TEST(ReadCsv, StepsAndShortNames_AreReadInAnyOrder) {
  const Trace trace = read_text("decode,arrival_step,prompt\n10,0,100\n20,3,200\n");
  EXPECT_EQ(trace.arrival_unit, ArrivalUnit::kSteps);
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 100, 10}, Request{3, 200, 20}));
}

TEST(ReadCsv, NoArrivals_AreMarked) {
  const Trace trace = read_text("prompt_len,decode_len\n100,10\n");
  EXPECT_FALSE(trace.has_arrivals);
  EXPECT_EQ(trace.arrival_unit, ArrivalUnit::kSteps);
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 100, 10}));
}

TEST(ReadCsv, QuotesCrlfBomAndBlankLines_AreTolerated) {
  const Trace trace = read_text(
      "\xEF\xBB\xBF\r\n \"prompt_len\" , decode_len,\"who\"\r\n\r\n"
      "\"100\", 10 ,\"a, \"\"b\"\"\r\nc\"\r\n   \r\n200.0,2e1,x");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 100, 10}, Request{0, 200, 20}));
  EXPECT_THAT(trace.notes, ElementsAre("columns ignored: who"));
}

TEST(ReadCsv, RowsOutOfOrder_AreSortedAndNoted) {
  const Trace trace = read_text("prompt_len,decode_len,arrival\n1,1,5\n2,1,3\n3,1,5\n4,1,0\n");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 4, 1}, Request{3, 2, 1}, Request{5, 1, 1}, Request{5, 3, 1}));
  EXPECT_THAT(trace.notes, ElementsAre("requests were put in order of arrival"));
}

TEST(ReadCsv, RequestsWithoutTokens_AreLeftOutAndCounted) {
  const Trace trace = read_text("prompt_len,decode_len\n100,0\n0,5\n0,0\n7,7\n");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 7, 7}));
  EXPECT_THAT(trace.notes,
              ElementsAre("2 requests without output tokens left out", "1 request without prompt tokens left out"));
}

TEST(ReadCsv, Limit_KeepsTheFirstToArrive) {
  const Trace trace = read_text("prompt_len,decode_len,arrival\n1,1,5\n2,1,3\n3,1,4\n", {.limit = 2});
  EXPECT_THAT(trace.requests, ElementsAre(Request{3, 2, 1}, Request{4, 3, 1}));
  EXPECT_THAT(trace.notes.back(), "the first 2 of 3 requests kept");
}

TEST(ReadCsv, LargestLengths_AreAccepted) {
  const Trace trace = read_text("prompt_len,decode_len\n2147483646,1\n1,2147483646\n");
  EXPECT_EQ(trace.requests.size(), 2U);
}

TEST(ReadJson, ArrayAndDocument_AreTheSame) {
  constexpr std::string_view kArray =
      "[\n {\"prompt_len\": 100, \"decode_len\": 10, \"arrival\": 0.5},\n"
      " {\"prompt\": 200, \"decode\": 20.0, \"arrival\": 2, \"extra\": {\"prompt_len\": [1, {}]}}\n]\n";
  const Trace array = read_text(kArray);
  const Trace document = read_text("{\"version\": 1, \"requests\": " + std::string(kArray) + ", \"tail\": null}");
  EXPECT_EQ(array.format, "json");
  EXPECT_EQ(document.format, "json");
  EXPECT_THAT(array.requests, ElementsAre(Request{0.5, 100, 10}, Request{2, 200, 20}));
  EXPECT_EQ(array.requests, document.requests);
}

TEST(ReadJson, OneLineDocuments_AreToldFromSessions) {
  EXPECT_EQ(read_text(R"({"requests": [{"prompt_len": 1, "decode_len": 2}]})").format, "json");
  EXPECT_EQ(read_text(R"({"requests": [{"t": 1, "in": 1, "out": 2}]})").format, "coding-sessions");
  EXPECT_EQ(read_text(R"({"prompt_len": 1, "decode_len": 2})").format, "jsonl");
}

TEST(ReadJsonLines, BlankLinesAndSteps_AreRead) {
  const Trace trace = read_text(
      "\n{\"prompt\": 1, \"decode\": 2, \"arrival_step\": 0}\r\n\n{\"prompt\": 3, \"decode\": 4, \"arrival_step\": 9}");
  EXPECT_EQ(trace.format, "jsonl");
  EXPECT_EQ(trace.arrival_unit, ArrivalUnit::kSteps);
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 1, 2}, Request{9, 3, 4}));
}

TEST(ReadAzure, Timestamps_KeepTheir100NanosecondDigits) {
  const Trace trace = read_text(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      "2023-11-16 23:59:59.9999999,374,44\r\n"
      "2023-11-17 00:00:00.0000001,396,109\r\n"
      "2023-11-17 01:00:00,1,2\r\n");
  EXPECT_EQ(trace.format, "azure2023");
  EXPECT_EQ(trace.arrival_unit, ArrivalUnit::kSeconds);
  EXPECT_THAT(trace.requests,
              ElementsAre(Request{0, 374, 44}, Request{0.0000002, 396, 109}, Request{3600.0000001, 1, 2}));
}

TEST(ReadAzure, EarlierRowAndUtcMarks_AreTakenIn) {
  const Trace trace = read_text(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      "2024-02-29 12:00:01.5+00:00,10,1\n2024-02-29T12:00:00Z,20,2\n2024-03-01 12:00:00.123456789,30,3\n");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 20, 2}, Request{1.5, 10, 1}, Request{86398.6234567 + 1.5, 30, 3}));
}

TEST(ReadMooncake, TicksOfThreeSeconds_AreSpreadEvenly) {
  const Trace trace = read_text(kMooncakeLines);
  EXPECT_EQ(trace.format, "mooncake");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 6758, 500}, Request{1.5, 7322, 490}, Request{3, 10, 1}));
  EXPECT_THAT(trace.notes, ElementsAre(HasSubstr("spread evenly")));
}

TEST(ReadMooncake, TicksKept_WhenAskedFor) {
  const Trace trace = read_text(kMooncakeLines, {.spread_ticks = false});
  EXPECT_THAT(trace.requests, ElementsAre(Request{0, 6758, 500}, Request{0, 7322, 490}, Request{2.999, 10, 1}));
  EXPECT_THAT(trace.notes, IsEmpty());
}

TEST(ReadMooncake, FreeTimes_AreNotSpreadAndStartAtZero) {
  const Trace trace = read_text(
      "{\"timestamp\": 1040, \"input_length\": 1, \"output_length\": 2}\n"
      "{\"timestamp\": 1040, \"input_length\": 3, \"output_length\": 4}\n"
      "{\"timestamp\": 1277, \"input_length\": 5, \"output_length\": 6}\n");
  ASSERT_EQ(trace.requests.size(), 3U);
  EXPECT_EQ(trace.requests[1], (Request{0, 3, 4}));
  EXPECT_NEAR(trace.requests[2].arrival, 0.237, 1e-12);
}

TEST(ReadSessions, SubAgents_CountFromTheirOwnStart) {
  const Trace trace = read_text(std::string(kSessionLine) + "\n" + std::string(kSessionLine) + "\n");
  EXPECT_EQ(trace.format, "coding-sessions");
  EXPECT_THAT(trace.requests, ElementsAre(Request{0.5, 100, 10}, Request{60.5, 100, 10}, Request{90, 300, 30},
                                          Request{92.5, 400, 40}, Request{150, 300, 30}, Request{152.5, 400, 40}));
  EXPECT_THAT(trace.notes, ElementsAre("2 sessions have no common clock: session k starts at k * 60 s",
                                       "4 calls of sub-agents included", "2 requests without output tokens left out"));
}

TEST(ReadSessions, Gap_MovesLaterSessions) {
  const std::string two = std::string(kSessionLine) + "\n" + std::string(kSessionLine);
  EXPECT_EQ(read_text(two, {.session_gap_s = 1000}).requests[3].arrival, 1000.5);
  EXPECT_EQ(read_text(two, {.session_gap_s = 0}).requests[1].arrival, 0.5);
}

/// Client 0 is idle; client 7 sends 2 requests a second in the second window, lengths 10 or 30 and 5.
TempDir::Entries servegen_files() {
  return {{"model/chunk-7-dataset.json",
           R"({"1200": {"input_tokens": "{10: 0.25, 30: 0.75}", "output_tokens": "{5: 1.0}", "reason_ratio": "{x"},)"
           R"( "0": {"input_tokens": "{}", "output_tokens": "{}"}})"},
          {"model/chunk-0-trace.csv", "600,0,0,,0,0\n1200,0,0,,0,0\n"},
          {"model/chunk-7-trace.csv", "600,0,0,,0,0\n1200,2.0,1.0,Gamma,1.0,0.5\n1800,0.0,0,,0,0\n"},
          {"model/chunk-0-dataset.json", R"({"600": {"input_tokens": "{}", "output_tokens": "{}"}})"},
          {"model/README", "not part of a pair"}};
}

TEST(ReadServeGen, TarAndFolder_DrawTheSameRequests) {
  const TempDir dir;
  for (const auto& [name, content] : servegen_files()) {
    dir.write("folder/" + name, content);
  }
  const Trace folder = read_ok(dir.path("folder/model"));
  const Trace tar = read_ok(dir.write_archive("t.tar", servegen_files(), TempDir::Container::kTar));
  const Trace tar_gz = read_ok(dir.write_archive("t.tar.gz", servegen_files(), TempDir::Container::kTarGzip));
  EXPECT_EQ(folder.format, "servegen");
  EXPECT_EQ(folder.requests, tar.requests);
  EXPECT_EQ(folder.requests, tar_gz.requests);
  EXPECT_NEAR(static_cast<double>(folder.requests.size()), 1200.0, 5 * 35.0);  // Poisson: sigma is 35
  std::size_t long_prompts = 0;
  for (const Request& request : folder.requests) {
    ASSERT_GE(request.arrival, 600.0);
    ASSERT_LT(request.arrival, 1200.0);
    ASSERT_TRUE(request.prompt_len == 10 || request.prompt_len == 30);
    ASSERT_EQ(request.decode_len, 5);
    long_prompts += request.prompt_len == 30 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(long_prompts) / static_cast<double>(folder.requests.size()), 0.75, 0.07);
  EXPECT_THAT(folder.notes.front(), HasSubstr("synthetic: requests drawn with seed 1"));
}

TEST(ReadServeGen, Seed_DecidesTheDraw) {
  const TempDir dir;
  const std::string path = dir.write_archive("t.tar", servegen_files(), TempDir::Container::kTar);
  EXPECT_EQ(read_ok(path, {.seed = 5}).requests, read_ok(path, {.seed = 5}).requests);
  EXPECT_NE(read_ok(path, {.seed = 5}).requests, read_ok(path, {.seed = 6}).requests);
}

TEST(ReadTrace, GzipAndSingleFileTar_AreUnpacked) {
  const TempDir dir;
  const std::string text = "prompt_len,decode_len\n100,10\n";
  for (const auto container : {TempDir::Container::kGzip, TempDir::Container::kTar, TempDir::Container::kTarGzip}) {
    const Trace trace = read_ok(dir.write_archive("packed", {{"inner/t.csv", text}}, container));
    EXPECT_EQ(trace.format, "csv");
    EXPECT_EQ(trace.name, dir.path("packed"));
    EXPECT_THAT(trace.requests, ElementsAre(Request{0, 100, 10}));
  }
}

TEST(ReadTrace, LongLines_CrossBlocks) {
  // One session line of about 3 MB, more than ten blocks of input.
  std::string line = R"({"id": "x", "requests": [)";
  for (int i = 0; i < 20; ++i) {
    line += std::string(i == 0 ? "" : ",") + R"({"t": )" + std::to_string(i) + R"(, "in": 7, "out": 3, "hash_ids": [)";
    for (int id = 0; id < 20000; ++id) {
      line += std::to_string(100000 + id) + (id + 1 < 20000 ? ", " : "");
    }
    line += "]}";
  }
  line += "]}\n";
  const TempDir dir;
  const Trace trace = read_ok(dir.write_archive("s.jsonl.gz", {{"s", line + line}}, TempDir::Container::kGzip));
  EXPECT_EQ(trace.format, "coding-sessions");
  EXPECT_EQ(trace.requests.size(), 40U);
}

TEST(ReadTrace, FormatOverride_IsTaken) {
  const Trace trace = read_text("{\"prompt_len\": 1, \"decode_len\": 2}\n", {.format = TraceFormat::kJsonLines});
  EXPECT_EQ(trace.format, "jsonl");
}

TEST(TraceFormat, Names_ParseBack) {
  for (const TraceFormat format :
       {TraceFormat::kCsv, TraceFormat::kJson, TraceFormat::kJsonLines, TraceFormat::kAzure2023, TraceFormat::kMooncake,
        TraceFormat::kCodingSessions, TraceFormat::kServeGen}) {
    EXPECT_EQ(*parse_trace_format(trace_format_name(format)), format);
  }
  const auto wrong = parse_trace_format("mooncacke");
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.error().message, HasSubstr("did you mean \"mooncake\""));
}

}  // namespace
}  // namespace pkv

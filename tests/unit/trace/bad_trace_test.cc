// A table of trace input that must be refused: what the error says and where it points.
// Not here: input that is read (readers_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "trace/readers.h"
#include "unit/trace/temp_files.h"

namespace pkv {
namespace {

using test::TempDir;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

struct BadText {
  std::string name;
  std::string content;
  ErrorCode code;
  /// End of Error::where, after the path.
  std::string where;
  /// Part of Error::message.
  std::string message;
  std::optional<TraceFormat> format = std::nullopt;
};

void PrintTo(const BadText& bad, std::ostream* out) { *out << bad.name; }

constexpr ErrorCode kIo = ErrorCode::kIo;
constexpr ErrorCode kBad = ErrorCode::kInvalidArgument;
const std::string kAzure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
const std::string kMoon = R"({"timestamp": 0, "input_length": 1, "output_length": 2})"
                          "\n";

std::string nested(std::size_t depth) {
  return R"([{"prompt_len": )" + std::string(depth, '[') + std::string(depth, ']') + "}]";
}

std::vector<BadText> bad_texts() {
  return {
      {"Empty", "", kIo, "trace", "is empty"},
      {"OnlyBlankLines", "\n  \n\t\n", kIo, "trace", "is empty"},
      {"OnlyBom", "\xEF\xBB\xBF", kIo, "trace", "is empty"},
      {"Binary",
       std::string("\x7F"
                   "ELF\x02\x01\x00\x00\x00",
                   9),
       kIo, "trace:1", "binary data"},
      {"Utf16",
       std::string("\xFF\xFE"
                   "p\0r\0",
                   6),
       kIo, "trace:1", "binary data"},
      {"Prose", "Once upon a time\n", kIo, "trace:1", "unknown format: \"Once upon a time\" begins none of csv"},
      {"GarbageBytes", "\xC3\x28\xFF,\x80\n1,2\n", kIo, "trace:1", "unknown format: \"?(?,?\""},
      {"UnknownColumns", "alpha,beta\n1,2\n", kIo, "trace:1", "unknown format"},
      {"UnknownObject", "{\"foo\": 1}\n", kIo, "trace:1", "unknown format"},
      {"RateTableAlone", "600,0,0,,0,0\n", kIo, "trace:1", "unknown format"},

      {"CsvNoDecode", "prompt_len,arrival\n1,2\n", kBad, "trace:1, field decode_len",
       "no column decode_len or decode; the header has: prompt_len, arrival"},
      {"CsvNoPrompt", "decode,arrival\n1,2\n", kBad, "trace:1, field prompt_len", "no column prompt_len or prompt"},
      {"CsvDoubledColumn", "prompt_len,decode_len,prompt_len\n1,2,3\n", kBad, "trace:1",
       "columns 1 (\"prompt_len\") and 3"},
      {"CsvAlias", "prompt_len,decode_len,prompt\n1,2,3\n", kBad, "trace:1", "mean the same"},
      {"CsvTwoClocks", "prompt_len,decode_len,arrival,arrival_step\n1,2,3,4\n", kBad, "trace:1", "mean the same"},
      {"CsvHeaderOnly", "prompt_len,decode_len\n", kBad, "trace", "0 requests, at least 1 is needed"},
      {"CsvAllLeftOut", "prompt_len,decode_len\n5,0\n", kBad, "trace",
       "0 requests with prompt and output tokens (1 without)"},
      {"CsvShortRow", "prompt_len,decode_len\n1,2\n3\n", kIo, "trace:3", "1 fields, the header has 2"},
      {"CsvLongRow", "prompt_len,decode_len\n\n1,2,3\n", kIo, "trace:3", "3 fields, the header has 2"},
      {"CsvSemicolons", "prompt_len;decode_len\n1;2\n", kIo, "trace:1", "unknown format"},
      {"CsvOpenQuote", "prompt_len,decode_len\n1,2\n\"3,4\n5,6\n", kIo, "trace:3",
       "quoted field that begins here is not closed"},
      {"CsvAfterQuote", "prompt_len,decode_len\n\"1\"x,2\n", kIo, "trace:2", "\"x\" after a closing quote"},
      {"CsvNegative", "prompt_len,decode_len\n1,2\n-3,4\n", kBad, "trace:3, field prompt_len",
       "-3 is negative, must be 0 to 2147483647"},
      {"CsvFraction", "prompt,decode\n1.5,2\n", kBad, "trace:2, field prompt", "1.5 is not a whole number"},
      {"CsvWord", "prompt_len,decode_len\n1,two\n", kBad, "trace:2, field decode_len", "\"two\" is not a whole number"},
      {"CsvHex", "prompt_len,decode_len\n0x10,2\n", kBad, "trace:2, field prompt_len",
       "\"0x10\" is not a whole number"},
      {"CsvNan", "prompt_len,decode_len\nnan,2\n", kBad, "trace:2, field prompt_len", "\"nan\" is not a whole number"},
      {"CsvInf", "prompt_len,decode_len\n1,inf\n", kBad, "trace:2, field decode_len", "\"inf\""},
      {"CsvEmptyField", "prompt_len,decode_len\n1,\n", kBad, "trace:2, field decode_len",
       "is empty, expected a whole number"},
      {"CsvTooLarge", "prompt_len,decode_len\n2147483648,1\n", kBad, "trace:2, field prompt_len",
       "2147483648 is above the limit of 2147483647"},
      {"CsvFarTooLarge", "prompt_len,decode_len\n1,99999999999999999999999\n", kBad, "trace:2, field decode_len",
       "above the limit of 2147483647"},
      {"CsvSumTooLarge", "prompt_len,decode_len\n2147483647,1\n", kBad, "trace:2",
       "prompt 2147483647 + output 1 = 2147483648 tokens, the limit is 2147483647"},
      {"CsvNegativeArrival", "prompt_len,decode_len,arrival\n1,2,-0.5\n", kBad, "trace:2, field arrival",
       "-0.5 is outside 0 to"},
      {"CsvHugeArrival", "prompt_len,decode_len,arrival\n1,2,1e300\n", kBad, "trace:2, field arrival",
       "outside 0 to 9007199254740992"},
      {"CsvFractionOfStep", "prompt_len,decode_len,arrival_step\n1,2,2.5\n", kBad, "trace:2, field arrival_step",
       "2.5 is not a whole number of steps"},
      {"CsvEmptyArrival", "prompt_len,decode_len,arrival\n1,2,\n", kBad, "trace:2, field arrival",
       "is empty, expected a number"},
      {"CsvDateArrival", "prompt_len,decode_len,arrival\n1,2,2024-01-01\n", kBad, "trace:2, field arrival",
       "\"2024-01-01\" is not a number"},
      {"CsvZeroByteLater", std::string("prompt_len,decode_len\n1,2\n1,\0\n", 30), kIo, "trace:3", "binary data"},

      {"JsonTruncated", "[\n {\"prompt_len\": 1, \"decode_len\": 2},\n {\"prompt_len\": 3,", kIo, "trace:3",
       "unexpected end of input; expected string literal"},
      {"JsonTruncatedNumber", "[\n{\"prompt_len\": -", kIo, "trace:2", "expected digit after '-'"},
      {"JsonTruncatedString", "[{\"prompt_len", kIo, "trace:1", "missing closing quote"},
      {"JsonMissingComma", "[\n{\"prompt_len\": 1\n\"decode_len\": 2}]", kIo, "trace:3", "expected '}'"},
      {"JsonTrailing", "[{\"prompt_len\": 1, \"decode_len\": 2}]\n]", kIo, "trace:2", "expected end of input"},
      {"JsonBadUtf8", "[\n\n{\"prompt_len\": \"\xC3\x28\"}]", kIo, "trace:3", "ill-formed UTF-8"},
      {"JsonNumberOverflow", "[{\"prompt_len\": 1e999}]", kIo, "trace:1", "number overflow"},
      {"JsonDeep", nested(100), kIo, "trace:1", "nested deeper than the limit of 64"},
      {"JsonVeryDeep", nested(1000000), kIo, "trace:1", "nested deeper than the limit of 64"},
      {"JsonNoRequests", "{\n\"foo\": [] }", kBad, "trace:1",
       "expected an array of objects, or an object with an array \"requests\""},
      {"JsonRequestsObject", "{\n\"requests\": {} }", kBad, "trace:1", "expected an array of objects"},
      {"JsonEmptyArray", "[]", kBad, "trace", "0 requests"},
      {"JsonEmptyRequests", "{\"requests\": []}", kBad, "trace", "0 requests"},
      {"JsonArrayOfNumbers", "[\n1, 2]", kBad, "trace:2", "a request is a number, expected an object"},
      {"JsonArrayOfArrays", "[\n[1, 2]]", kBad, "trace:2", "a request is an array, expected an object"},
      {"JsonMissing", "[{\"prompt_len\": 1,\n\"decode_len\": 2},\n{\"prompt_len\": 1}]", kBad,
       "trace:3, field decode_len", "is missing"},
      {"JsonString", "[{\"prompt_len\": \"1\",\n\"decode_len\": 2}]", kBad, "trace:1, field prompt_len",
       "is a string, expected a number"},
      {"JsonNull", "[{\"prompt_len\": 1,\n\"decode_len\": null}]", kBad, "trace:2, field decode_len",
       "is null, expected a number"},
      {"JsonTwice", "[{\"prompt_len\": 1,\n\"prompt_len\": 1}]", kBad, "trace:2, field prompt_len", "appears twice"},
      {"JsonAlias", "[{\"prompt_len\": 1, \"prompt\": 1, \"decode\": 2}]", kBad, "trace:1, field prompt_len",
       "mean the same"},
      {"JsonTwoClocks", "[{\"prompt\": 1, \"decode\": 2, \"arrival\": 0, \"arrival_step\": 0}]", kBad,
       "trace:1, field arrival", "mean the same"},
      {"JsonMixedClocks", "[{\"prompt\": 1, \"decode\": 2, \"arrival\": 0},\n{\"prompt\": 1, \"decode\": 2}]", kBad,
       "trace:2, field arrival", "this request has no arrival, the first one has arrival"},
      {"JsonNegative", "[{\"prompt\": 1, \"decode\": -2}]", kBad, "trace:1, field decode", "-2 is negative"},
      {"JsonTooLarge", "[{\"prompt\": 3000000000, \"decode\": 2}]", kBad, "trace:1, field prompt",
       "3000000000 is above the limit of 2147483647"},

      {"LinesBroken", "{\"prompt\": 1, \"decode\": 2}\n{\"prompt\": 1, \"dec\n", kIo, "trace:2",
       "broken JSON at column"},
      {"LinesTwoOnOne", "{\"prompt\": 1, \"decode\": 2}\n{\"prompt\": 1, \"decode\": 2} {}\n", kIo, "trace:2",
       "expected end of input"},
      {"LinesNumber", "{\"prompt\": 1, \"decode\": 2}\n7\n", kBad, "trace:2",
       "the line is a number, expected an object"},

      {"AzureNoContext", "TIMESTAMP,GeneratedTokens\n", kBad, "trace:1, field ContextTokens",
       "no column ContextTokens"},
      {"AzureNoTime", "ContextTokens,GeneratedTokens\n1,2\n", kBad, "trace:1, field TIMESTAMP", "no column TIMESTAMP"},
      {"AzureNotATime", kAzure + "yesterday,1,2\n", kBad, "trace:2, field TIMESTAMP", "\"yesterday\" is no time like"},
      {"AzureMonth13", kAzure + "2023-13-16 18:15:46.68,1,2\n", kBad, "trace:2, field TIMESTAMP", "is no time like"},
      {"AzureFeb30", kAzure + "2023-02-30 18:15:46,1,2\n", kBad, "trace:2, field TIMESTAMP", "is no time like"},
      {"AzureShortTime", kAzure + "2023-02-20 18:15,1,2\n", kBad, "trace:2, field TIMESTAMP", "is no time like"},
      {"AzureDotOnly", kAzure + "2023-02-20 18:15:00.,1,2\n", kBad, "trace:2, field TIMESTAMP", "is no time like"},
      {"AzureOtherZone", kAzure + "2023-02-20 18:15:00+02:00,1,2\n", kBad, "trace:2, field TIMESTAMP",
       "is no time like"},
      {"AzureNegative", kAzure + "2023-11-16 18:15:46,-1,2\n", kBad, "trace:2, field ContextTokens", "-1 is negative"},
      {"AzureHeaderOnly", kAzure, kBad, "trace", "0 requests"},

      {"MoonMissing", kMoon + "{\"timestamp\": 0, \"input_length\": 1}\n", kBad, "trace:2, field output_length",
       "is missing"},
      {"MoonNegativeTime", "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 2}\n", kBad,
       "trace:1, field timestamp", "-1 is outside 0 to"},
      {"MoonFractionTime", "{\"timestamp\": 0.5, \"input_length\": 1, \"output_length\": 2}\n", kBad,
       "trace:1, field timestamp", "0.5 is not a whole number of milliseconds"},
      {"MoonTruncated", kMoon + "{\"timestamp\": 0, \"input_length\": 1, \"out", kIo, "trace:2", "broken JSON"},
      {"MoonBrokenHashes", kMoon + "{\"hash_ids\": [1, }\n", kIo, "trace:2", "broken JSON"},

      {"SessionNoRequests", "{\"id\": \"a\", \"block_size\": 64, \"requests\": 5}\n", kBad, "trace:1, field requests",
       "is a number, expected an array of calls"},
      {"SessionNoIn", "{\"requests\": [{\"t\": 0, \"in\": 5, \"out\": 5}, {\"t\": 0, \"out\": 5}]}\n", kBad,
       "trace:1, field in", "call 1: is missing"},
      {"SessionNoT", "{\"requests\": [{\"in\": 5, \"out\": 5}]}\n", kBad, "trace:1, field t", "call 0: is missing"},
      {"SessionSubAgent",
       "{\"requests\": [{\"t\": 1, \"type\": \"subagent\", \"requests\": [{\"t\": 0, \"in\": -5, \"out\": 5}]}]}\n",
       kBad, "trace:1, field in", "call 0: call 0: -5 is negative"},
      {"SessionCallNumber", "{\"block_size\": 64, \"requests\": [7]}\n", kBad, "trace:1, field requests",
       "call 0: is a number, expected an object"},

      {"WrongFormatCsv", kMoon, kIo, "trace:1",
       "after a closing quote, expected a comma or the end of the line (read as csv because that format was asked for; "
       "the content looks like mooncake)",
       TraceFormat::kCsv},
      {"WrongFormatAzure", "prompt_len,decode_len\n1,2\n", kBad, "trace:1, field TIMESTAMP", "no column TIMESTAMP",
       TraceFormat::kAzure2023},
      {"JsonAfterBlankLines", "\n\n[{\"prompt\": 1,\n\"decode\": -2}]", kBad, "trace:4, field decode",
       "-2 is negative"},
      {"WrongFormatBinary", std::string("\x7F\0\nprompt_len,decode_len\n1,2\n", 30), kIo, "trace:1", "binary data",
       TraceFormat::kCsv},
      {"WrongFormatEmpty", "\n", kIo, "trace", "is empty", TraceFormat::kMooncake},
      {"WrongFormatMooncake", "{\"prompt\": 1, \"decode\": 2}\n", kBad, "trace:1, field timestamp", "is missing",
       TraceFormat::kMooncake},
      {"WrongFormatSessions", kMoon, kBad, "trace:1, field requests", "is missing, expected an array of calls",
       TraceFormat::kCodingSessions},
      {"WrongFormatJson", "prompt_len,decode_len\n1,2\n", kIo, "trace:1", "broken JSON", TraceFormat::kJson},
      {"WrongFormatJsonLines", "[\n1]", kIo, "trace:1", "broken JSON", TraceFormat::kJsonLines},
      {"WrongFormatServeGen", "prompt_len,decode_len\n1,2\n", kIo, "trace",
       "is a single file; servegen is a folder or a tar", TraceFormat::kServeGen},
  };
}

class BadTrace : public ::testing::TestWithParam<BadText> {};

TEST_P(BadTrace, Input_IsRefusedWithItsPlace) {
  const BadText& bad = GetParam();
  const TempDir dir;
  const auto trace = read_trace(dir.write("trace", bad.content), {.format = bad.format});
  ASSERT_FALSE(trace.ok());
  const Error& error = trace.error();
  EXPECT_EQ(error.code, bad.code) << error.to_string();
  EXPECT_EQ(error.where, dir.path(bad.where)) << error.to_string();
  EXPECT_THAT(error.message, HasSubstr(bad.message));
  EXPECT_THAT(error.to_string(), Not(HasSubstr("\n"))) << "a message is one line";
  EXPECT_LT(error.to_string().size(), 600U);
}

INSTANTIATE_TEST_SUITE_P(Table, BadTrace, ::testing::ValuesIn(bad_texts()),
                         [](const auto& instance) { return instance.param.name; });

std::string error_text(const std::string& path, const TraceReadOptions& options = {}) {
  const auto trace = read_trace(path, options);
  return trace.ok() ? "no error" : trace.error().to_string();
}

TEST(BadTracePath, Missing_IsAnIoErrorWithThePath) {
  const auto trace = read_trace("/nonexistent/trace.csv", {});
  ASSERT_FALSE(trace.ok());
  EXPECT_EQ(trace.error().code, kIo);
  EXPECT_EQ(trace.error().to_string(), "/nonexistent/trace.csv: no such file or folder");
  EXPECT_THAT(error_text(""), HasSubstr("no such file"));
}

TEST(BadTracePath, FolderWithoutPairs_IsRefused) {
  const TempDir dir;
  EXPECT_THAT(error_text(dir.path()), HasSubstr("has no pair chunk-N-trace.csv, chunk-N-dataset.json"));
  dir.write("a.csv", "prompt_len,decode_len\n1,2\n");
  EXPECT_THAT(error_text(dir.path()), HasSubstr("has no pair"));
  EXPECT_THAT(error_text(dir.path(), {.format = TraceFormat::kCsv}),
              HasSubstr("holds several files, the format csv is a single one"));
}

TEST(BadTraceArchive, Broken_IsAnIoError) {
  const TempDir dir;
  std::string text = "prompt_len,decode_len\n";
  for (int i = 1; i < 20000; ++i) {
    text += std::to_string(i * 7919 % 100003) + "," + std::to_string(i % 97 + 1) + "\n";
  }
  const std::string path = dir.write_archive("t.gz", {{"t", text}}, TempDir::Container::kGzip);
  ASSERT_EQ(error_text(path), "no error");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  const auto truncated = read_trace(path, {});
  ASSERT_FALSE(truncated.ok());
  EXPECT_EQ(truncated.error().code, kIo);
  EXPECT_THAT(truncated.error().to_string(), HasSubstr("cannot be read: truncated gzip input"));
}

TEST(BadTraceArchive, EmptyOrSeveralFiles_AreRefused) {
  const TempDir dir;
  EXPECT_THAT(error_text(dir.write_archive("e.tar", {}, TempDir::Container::kTar)), HasSubstr("is empty"));
  EXPECT_THAT(error_text(dir.write_archive("e.gz", {{"e", ""}}, TempDir::Container::kGzip)), HasSubstr("is empty"));
  EXPECT_THAT(error_text(dir.write_archive("m.tar", {{"a.csv", "x"}, {"b.csv", "y"}}, TempDir::Container::kTar)),
              HasSubstr("is an archive of 2 files, none of them of a ServeGen pair"));
}

TEST(BadTraceOptions, LimitAndGap_AreChecked) {
  EXPECT_EQ(error_text("/nonexistent", {.limit = 0}), "limit is 0, must be at least 1");
  EXPECT_EQ(error_text("/nonexistent", {.limit = -3}), "limit is -3, must be at least 1");
  EXPECT_THAT(error_text("/nonexistent", {.session_gap_s = -1}), HasSubstr("session_gap_s is -1"));
  EXPECT_THAT(error_text("/nonexistent", {.session_gap_s = std::nan("")}), HasSubstr("session_gap_s is nan"));
}

struct BadPair {
  std::string name;
  std::string rates;
  std::string lengths;
  std::string where;
  std::string message;
};

void PrintTo(const BadPair& bad, std::ostream* out) { *out << bad.name; }

const std::string kRates = "0,1.0,1.0,Gamma,1.0,1.0\n";
std::string lengths(const std::string& input_tokens) {
  return "{\"0\": {\"input_tokens\": \"" + input_tokens + "\",\n\"output_tokens\": \"{5: 1.0}\"}}";
}

class BadServeGen : public ::testing::TestWithParam<BadPair> {};

TEST_P(BadServeGen, Pair_IsRefusedWithItsPlace) {
  const BadPair& bad = GetParam();
  const TempDir dir;
  dir.write("chunk-3-trace.csv", bad.rates);
  dir.write("chunk-3-dataset.json", bad.lengths);
  const auto trace = read_trace(dir.path(), {});
  ASSERT_FALSE(trace.ok());
  EXPECT_THAT(trace.error().where, EndsWith(bad.where)) << trace.error().to_string();
  EXPECT_THAT(trace.error().message, HasSubstr(bad.message));
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadServeGen,
    ::testing::ValuesIn(std::vector<BadPair>{
        {"EmptyRates", "", lengths("{1: 1.0}"), "chunk-3-trace.csv", "is empty"},
        {"BlankRates", "\n\n", lengths("{1: 1.0}"), "chunk-3-trace.csv", "is empty, expected a rate table"},
        {"FewFields", "0,1.0,1.0,Gamma\n", lengths("{1: 1.0}"), "chunk-3-trace.csv:1", "4 fields, a rate table has 6"},
        {"NegativeRate", "0,-1,1.0,Gamma,1,1\n", lengths("{1: 1.0}"), "chunk-3-trace.csv:1, field rate",
         "\"-1\", expected a number from 0"},
        {"NanRate", "0,nan,1.0,Gamma,1,1\n", lengths("{1: 1.0}"), ":1, field rate", "\"nan\""},
        {"UnknownFamily", "0,1,1.0,Pareto,1,1\n", lengths("{1: 1.0}"), ":1, field arrival family",
         "\"Pareto\", expected Gamma, Weibull"},
        {"ZeroShape", "0,1,1.0,Gamma,0,1\n", lengths("{1: 1.0}"), ":1, field shape",
         "\"0\", expected a number from 0.0001"},
        {"TinyWeibullShape", "0,1,1.0,Weibull,0.001,1\n", lengths("{1: 1.0}"), ":1, field shape",
         "expected a number from 0.01"},
        {"Unordered", "600,0,0,,0,0\n0,0,0,,0,0\n", lengths("{1: 1.0}"), "chunk-3-trace.csv:2, field window start",
         "expected a start after the one before it, 600"},
        {"TooManyRequests", "0,1000000,1.0,Gamma,1,1\n", lengths("{1: 1.0}"), "",
         "the rates imply 600000000 requests, the limit is 20000000"},
        {"AllIdle", "0,0,0,,0,0\n", lengths("{1: 1.0}"), "", "0 requests"},
        {"NoLengths", kRates, lengths("{}"), "", "0 requests"},
        {"LengthsNotJson", kRates, "{\n\"0\": ", "chunk-3-dataset.json:2", "broken JSON"},
        {"LengthsArray", kRates, "[]", "chunk-3-dataset.json:1", "expected an object with at least one window"},
        {"LengthsEmpty", kRates, "{}", "chunk-3-dataset.json:1", "expected an object with at least one window"},
        {"WindowName", kRates, "{\"noon\": {}}", "chunk-3-dataset.json:1, field noon", "is no start of a window"},
        {"WindowNumber", kRates, "{\"0\": 5}", "chunk-3-dataset.json:1, field 0", "is a number, expected an object"},
        {"NoInputTokens", kRates, "{\"0\": {\n}}", "chunk-3-dataset.json:1, field input_tokens",
         "is missing or no string"},
        {"InputTokensObject", kRates, "{\"0\": {\"input_tokens\": {}}}", ":1, field input_tokens",
         "is missing or no string"},
        {"NoBrace", kRates, lengths("1: 1.0"), ":1, field input_tokens", "position 0: expected '{'"},
        {"NoColon", kRates, lengths("{1 1.0}"), ":1, field input_tokens", "expected ':', found \"1.0}\""},
        {"NoComma", kRates, lengths("{1: 0.5 2: 0.5}"), ":1, field input_tokens", "expected ',' or '}'"},
        {"Open", kRates, lengths("{1: 1.0"), ":1, field input_tokens", "expected ',' or '}', found \"\""},
        {"Trailing", kRates, lengths("{1: 1.0} x"), ":1, field input_tokens", "expected nothing after '}'"},
        {"NegativeValue", kRates, lengths("{-1: 1.0}"), ":1, field input_tokens", "-1 is negative"},
        {"HugeValue", kRates, lengths("{3000000000: 1.0}"), ":1, field input_tokens", "above the limit"},
        {"WordProbability", kRates, lengths("{1: nan}"), ":1, field input_tokens",
         "expected a probability from 0 to 1"},
        {"LargeProbability", kRates, lengths("{1: 1.5}"), ":1, field input_tokens",
         "expected a probability from 0 to 1"},
        {"SumNotOne", kRates, lengths("{1: 0.5, 2: 0.25}"), ":1, field input_tokens",
         "probabilities add up to 0.7500, expected 1"},
        {"SumTooLarge", kRates, "{\"0\": {\"input_tokens\": \"{2147483647: 1}\", \"output_tokens\": \"{5: 1}\"}}",
         "chunk-3-trace.csv:1", "the limit is 2147483647"},
    }),
    [](const auto& instance) { return instance.param.name; });

TEST(BadServeGenPair, HalfOrDoubled_IsRefused) {
  const TempDir dir;
  EXPECT_THAT(error_text(dir.write_archive("a.tar", {{"chunk-3-trace.csv", kRates}}, TempDir::Container::kTar)),
              HasSubstr("chunk-3-dataset.json is missing beside chunk-3-trace.csv"));
  EXPECT_THAT(
      error_text(dir.write_archive("b.tar", {{"chunk-4-dataset.json", lengths("{1: 1}")}}, TempDir::Container::kTar)),
      HasSubstr("chunk-4-trace.csv is missing beside chunk-4-dataset.json"));
  EXPECT_THAT(error_text(dir.write_archive("c.tar", {{"a/chunk-3-trace.csv", kRates}, {"b/chunk-3-trace.csv", kRates}},
                                           TempDir::Container::kTar)),
              HasSubstr("c.tar/b/chunk-3-trace.csv: a second file for the client chunk-3"));
}

}  // namespace
}  // namespace pkv

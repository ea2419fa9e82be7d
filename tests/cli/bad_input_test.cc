// Bad command lines and files: exit code 2, and one line that names value, limit and place.
// Not here: bad block tables, which no command takes (library_bad_input_test.cc).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/process.h"

namespace pkv::test {
namespace {

/// "@name" in an argument is the path of the file below.
struct BadCase {
  std::string name;
  std::vector<std::string> arguments;
  /// Every one must be in the error line.
  std::vector<std::string> expected;
};

struct BadFile {
  const char* name;
  std::string content;
};

const std::string kHeader = "prompt_len,decode_len,arrival\n";

const std::vector<BadFile>& bad_files() {
  static const std::vector<BadFile> files = {
      {"good.csv", kHeader + "64,4,0\n128,4,0\n"},
      {"empty.csv", ""},
      {"header_only.csv", kHeader},
      {"no_decode.csv", "prompt_len,arrival\n64,0\n"},
      {"broken_row.csv", kHeader + "64,4,0\n128\n"},
      {"word.csv", kHeader + "64,4,0\n12x8,4,0\n"},
      {"negative.csv", kHeader + "-64,4,0\n"},
      {"huge.csv", kHeader + "99999999999,4,0\n"},
      {"nan_arrival.csv", kHeader + "64,4,nan\n"},
      {"open_quote.csv", kHeader + "\"64,4,0\n"},
      {"cut.json", "[{\"prompt_len\": 64, \"decode_len\": 4}, {\"prompt_len\":"},
      {"no_array.json", "{\"hello\": 1}"},
      {"none.json", "[]"},
      {"text_length.json", "[{\"prompt_len\": \"many\", \"decode_len\": 4}]"},
      {"no_decode.json", "[{\"prompt_len\": 64}]"},
      {"cut.jsonl", "{\"prompt_len\": 64, \"decode_len\": 4}\n{\"prompt_len\": 64, \"dec"},
      {"fraction.jsonl", "{\"prompt_len\": 64.5, \"decode_len\": 4}\n"},
      {"binary.bin", std::string("\x7f"
                                 "ELF\0\1\2\3\0\0\0\0",
                                 12)},
      {"fake.gz", std::string("\x1f\x8b\x08\x00garbage", 11)},
      {"mooncake.jsonl", "{\"timestamp\": 0, \"input_length\": 64}\n"},
  };
  return files;
}

std::vector<BadCase> command_line_cases() {
  return {
      {"UnknownCommand", {"replya"}, {"'replya'", "did you mean 'replay'"}},
      {"UnknownCommandFarFromAll", {"xyzzyqqq"}, {"'xyzzyqqq'", "known: tour, replay, run"}},
      {"UnknownOption", {"replay", "--stesp", "4"}, {"'--stesp'", "did you mean '--steps'", "pkv replay"}},
      {"UnknownOptionOfTour", {"--stesp", "4"}, {"'--stesp'", "did you mean '--steps'", "pkv tour"}},
      {"UnknownShortOption", {"doctor", "-q"}, {"'-q'", "pkv doctor"}},
      {"StrayArgument", {"replay", "stray"}, {"'stray'", "pkv replay"}},
      {"TwoCommands", {"run", "verify"}, {"'verify'", "pkv run"}},
      {"OptionWithoutValue", {"replay", "--steps"}, {"--steps", "exactly 1"}},
      {"OptionTwice", {"replay", "--steps", "3", "--steps", "4"}, {"--steps", "at most once"}},
      {"FlagWithValue", {"replay", "--plan-only=maybe"}, {"--plan-only", "'maybe'", "no value"}},
      {"OptionAfterTheMark",
       {"run", "--lens", "100", "--", "--repeats", "2"},
       {"pkv run", "unexpected argument '--repeats'"}},
      {"EmptyValue", {"replay", "--trace", ""}, {"--trace", "''"}},

      {"NoTrace", {"replay"}, {"--trace", "paper:NAME"}},
      {"UnknownPaperTrace", {"replay", "--trace", "paper:bimodle"}, {"'bimodle'", "did you mean 'bimodal'"}},
      {"FamilyWithoutPrefix", {"replay", "--trace", "bimodal"}, {"'bimodal'", "did you mean 'paper:bimodal'"}},
      {"UnknownFormat", {"replay", "--trace", "@good.csv", "--format", "cvs"}, {"--format", "'cvs'", "'csv'"}},
      {"FormatOfPaperTrace", {"replay", "--trace", "paper:zipf", "--format", "csv"}, {"--format", "trace files"}},
      {"UnknownAdmission", {"replay", "--trace", "paper:zipf", "--admission", "papre"}, {"'papre'", "'paper'"}},

      {"ZeroRequests", {"replay", "--trace", "paper:zipf", "--requests", "0"}, {"--requests", "0", "must be 1 to"}},
      {"NegativeRequests", {"trace", "paper:zipf", "--requests", "-3"}, {"--requests", "-3", "must be 1 to"}},
      {"ZeroSteps", {"replay", "--trace", "paper:zipf", "--steps", "0"}, {"--steps", "0", "must be 1 to"}},
      {"NegativeSkip", {"replay", "--trace", "paper:zipf", "--skip", "-1"}, {"--skip", "-1", "must be 0 to"}},
      {"StepsTrailingLetters", {"replay", "--trace", "paper:zipf", "--steps", "12abc"}, {"--steps", "'12abc'"}},
      {"StepsFraction", {"replay", "--trace", "paper:zipf", "--steps", "1.5"}, {"--steps", "'1.5'", "whole number"}},
      {"StepsOverflow",
       {"replay", "--trace", "paper:zipf", "--steps", "99999999999999999999"},
       {"--steps", "99999999999999999999", "9223372036854775807"}},
      {"SeedWord", {"replay", "--trace", "paper:zipf", "--seed", "lucky"}, {"--seed", "'lucky'"}},
      {"SeedNegative", {"replay", "--trace", "paper:zipf", "--seed", "-1"}, {"--seed", "-1", "4294967295"}},
      {"SeedOverflow",
       {"replay", "--trace", "paper:zipf", "--seed", "4294967296"},
       {"--seed", "4294967296", "4294967295"}},
      {"SeedHex", {"verify", "--seed", "0x10"}, {"--seed", "'0x10'"}},
      {"MaxActiveZero",
       {"replay", "--trace", "paper:zipf", "--max-active", "0"},
       {"--max-active", "0", "must be 1 to"}},
      {"MaxActiveHuge", {"replay", "--trace", "paper:zipf", "--max-active", "1048577"}, {"--max-active", "1048576"}},

      {"HeadsNotDivisible", {"run", "--lens", "64", "--q-heads", "30"}, {"--q-heads", "30", "8"}},
      {"GroupTooLarge", {"run", "--lens", "64", "--q-heads", "520"}, {"--q-heads", "65", "64"}},
      {"ZeroKvHeads", {"run", "--lens", "64", "--kv-heads", "0"}, {"--kv-heads", "0", "must be 1 to"}},
      {"HeadDimOdd", {"run", "--lens", "64", "--head-dim", "100"}, {"--head-dim", "100", "8"}},
      {"HeadDimHuge", {"run", "--lens", "64", "--head-dim", "520"}, {"--head-dim", "520", "512"}},
      {"PageSizeZero", {"run", "--lens", "64", "--page-size", "0"}, {"--page-size", "0", "1 to 256"}},
      {"PageSizeAbove", {"run", "--lens", "64", "--page-size", "257"}, {"--page-size", "257", "1 to 256"}},
      {"ScaleNan", {"run", "--lens", "64", "--softmax-scale", "nan"}, {"--softmax-scale", "'nan'", "finite"}},
      {"SoftCapNan", {"run", "--lens", "64", "--soft-cap", "NaN"}, {"--soft-cap", "'NaN'", "finite"}},
      {"SoftCapInf", {"run", "--lens", "64", "--soft-cap", "inf"}, {"--soft-cap", "'inf'", "finite"}},
      {"SoftCapZero", {"run", "--lens", "64", "--soft-cap", "0"}, {"--soft-cap", "0", "above 0"}},
      {"WindowZero", {"run", "--lens", "64", "--window", "0"}, {"--window", "0", "must be 1 to"}},
      {"HoleFractionOne", {"run", "--lens", "64", "--hole-fraction", "1"}, {"--hole-fraction", "1", "below 1"}},
      {"HoleFractionNegative", {"run", "--lens", "64", "--hole-fraction", "-0.1"}, {"--hole-fraction", "-0.1"}},
      {"UnknownDtype", {"run", "--lens", "64", "--dtype", "f61"}, {"--dtype", "'f61'", "'f16'"}},
      {"UnknownLayout", {"run", "--lens", "64", "--layout", "NDH"}, {"--layout", "'NDH'", "'NHD'"}},
      {"UnknownPacking", {"run", "--lens", "64", "--packing", "pakced"}, {"--packing", "'packed'"}},

      {"NoLens", {"run"}, {"--lens", "48000,6000"}},
      {"LensNegative", {"run", "--lens", "64,-5"}, {"--lens[1]", "-5", "must be 0 to 2147483647"}},
      {"LensOverflow", {"run", "--lens", "2147483648"}, {"--lens[0]", "2147483648", "2147483647"}},
      {"LensWord", {"run", "--lens", "64,long"}, {"--lens[1]", "'long'"}},
      {"LensEmptyEntry", {"run", "--lens", "64,,64"}, {"--lens", "'64,,64'", "position 3"}},
      {"LensTrailingComma", {"run", "--lens", "64,"}, {"--lens", "'64,'", "position 3"}},
      {"LensRepeatZero", {"run", "--lens", "0x64"}, {"--lens", "0x64", "must be 1 to"}},
      {"LensTooManyRows", {"run", "--lens", "2000000x1"}, {"--lens", "2000000", "1048576"}},
      {"RepeatsZero", {"run", "--lens", "64", "--repeats", "0"}, {"--repeats", "0", "must be 1 to"}},

      {"UnknownRoute", {"run", "--lens", "64", "--routes", "row,workqeue"}, {"'workqeue'", "'workqueue'"}},
      {"RouteTwice", {"run", "--lens", "64", "--routes", "row,row"}, {"--routes", "'row'", "at most once"}},
      {"SplitsZero", {"run", "--lens", "64", "--splits", "0"}, {"--splits", "0", "must be 1 to"}},
      {"SplitsOfUnknownRoute", {"run", "--lens", "64", "--splits", "bukcet=4"}, {"'bukcet'", "'bucket'"}},
      {"SplitsOfRouteNotRun",
       {"run", "--lens", "64", "--routes", "row,split", "--splits", "bucket=4"},
       {"--splits", "'bucket'", "--routes"}},
      {"SplitsOfRow", {"run", "--lens", "64", "--splits", "row=4"}, {"--splits row", "4", "1 to 1"}},
      {"SplitsTwice", {"run", "--lens", "64", "--splits", "split=4,split=8"}, {"--splits", "'split'", "at most once"}},
      {"SplitsWithoutEffect", {"run", "--lens", "64", "--routes", "row", "--splits", "4"}, {"--splits", "4", "row"}},
      {"BaselineNotRun", {"run", "--lens", "64", "--routes", "row", "--baseline", "split"}, {"--baseline", "'split'"}},
      {"HeadsPerTaskAbove", {"run", "--lens", "64", "--heads-per-task", "9"}, {"--heads-per-task", "9", "8"}},

      {"SplitsOfExternalRoute",
       {"run", "--lens", "64", "--routes", "all,flashinfer-core", "--splits", "flashinfer-core=4"},
       {"--splits", "'flashinfer-core'", "takes no splits"}},
      {"SplitsOfNoRoute",
       {"run", "--lens", "64", "--routes", "row,flashinfer-core", "--splits", "4"},
       {"--splits", "4", "no effect", "row,flashinfer-core"}},
      {"HeadsPerTaskOfNoRoute",
       {"run", "--lens", "64", "--routes", "flashinfer-core", "--heads-per-task", "2"},
       {"--heads-per-task", "2", "no effect"}},
      {"AllRoutesAndOneAgain", {"run", "--lens", "64", "--routes", "all,row"}, {"--routes", "'row'", "at most once"}},
      {"ExternalRouteOnTheCpu",
       {"run", "--lens", "64", "--routes", "row,flashinfer-tensor"},
       {"flashinfer-tensor", "cpu backend", "scripts/get-flashinfer"}},
      {"UnknownMerge", {"run", "--lens", "64", "--merge", "fuzed"}, {"--merge", "'fuzed'", "'fused'"}},
      {"MergeFusedOfPages",
       {"run", "--lens", "64", "--merge", "fused", "--backend", "cuda"},
       {"--merge", "'pages' has all", "--heads-per-task 1"}},
      {"MergeFusedOfTwoHeads",
       {"run", "--lens", "64", "--merge", "fused", "--backend", "cuda", "--routes", "split", "--heads-per-task", "2"},
       {"--merge", "'split' has 2", "--heads-per-task 1"}},
      {"MergeOfRow", {"run", "--lens", "64", "--merge", "separate", "--routes", "row"}, {"--merge", "no effect"}},

      {"UnknownBackend", {"run", "--lens", "64", "--backend", "cudda"}, {"--backend", "'cudda'", "'cuda'"}},
      {"DeviceOfTheCpu", {"run", "--lens", "64", "--device", "0"}, {"--device", "--backend cuda"}},
      {"DeviceNegative", {"run", "--lens", "64", "--backend", "cuda", "--device", "-1"}, {"--device", "-1", "0 to"}},
      {"DeviceOfTheCpuInVerify", {"verify", "--device", "0"}, {"--device", "--backend cuda"}},
      {"DeviceOfTheCpuInTour", {"tour", "--backend", "cpu", "--device", "0"}, {"--device", "--backend cuda"}},
      {"ThreadsOfAGpu", {"run", "--lens", "64", "--backend", "cuda", "--threads", "2"}, {"--threads", "--backend cpu"}},
      {"PinOfAGpu",
       {"replay", "--trace", "paper:zipf", "--backend", "cuda", "--no-pin"},
       {"--pin/--no-pin", "--backend cpu"}},
      {"WaitOfAGpu", {"tour", "--backend", "cuda", "--wait", "spin"}, {"--wait", "--backend cpu"}},
      {"IsaOfAGpu", {"verify", "--backend", "cuda", "--isa", "avx2"}, {"--isa", "--backend cpu"}},
      {"BackendWithPlanOnly",
       {"run", "--lens", "64", "--plan-only", "--backend", "cuda"},
       {"--backend", "--plan-only"}},
      {"FullProbesOfNone", {"doctor", "--no-probes", "--full-probes"}, {"--full-probes", "--no-probes"}},
      {"BackendOfDoctor", {"doctor", "--backend", "cuda"}, {"'--backend'", "pkv doctor"}},

      {"SmsWithoutPlanOnly", {"run", "--lens", "64", "--sms", "28"}, {"--sms", "--plan-only"}},
      {"VerifyWithPlanOnly", {"run", "--lens", "64", "--plan-only", "--verify", "every"}, {"--verify", "--plan-only"}},
      {"LayoutWithPlanOnly", {"run", "--lens", "64", "--plan-only", "--layout", "NHD"}, {"--layout", "--plan-only"}},
      {"SmsAndThreads", {"run", "--lens", "64", "--plan-only", "--sms", "4", "--threads", "2"}, {"--threads", "--sms"}},
      {"PoolPagesWithPaper",
       {"replay", "--trace", "paper:zipf", "--pool-pages", "100"},
       {"--pool-pages", "--admission fcfs"}},
      {"StepSecondsWithPaper",
       {"replay", "--trace", "paper:zipf", "--step-seconds", "0.1"},
       {"--step-seconds", "--admission fcfs"}},
      {"PoolTooSmallForOneRequest",
       {"replay", "--trace", "paper:zipf", "--admission", "fcfs", "--pool-pages", "3", "--plan-only"},
       {"3"}},
      {"SkipBeyondTheTrace", {"replay", "--trace", "paper:zipf", "--skip", "1000000", "--plan-only"}, {"1000000"}},

      {"ThreadsZero", {"run", "--lens", "64", "--threads", "0"}, {"--threads", "0", "1 to 1024"}},
      {"ThreadsAbove", {"run", "--lens", "64", "--threads", "1025"}, {"--threads", "1025", "1 to 1024"}},
      {"UnknownIsa", {"run", "--lens", "64", "--isa", "axv2"}, {"--isa", "'axv2'", "'avx2'"}},
      {"UnknownWait", {"run", "--lens", "64", "--wait", "sleeep"}, {"--wait", "'sleeep'", "'sleep'"}},
      {"UnknownVerify", {"run", "--lens", "64", "--verify", "evry"}, {"--verify", "'evry'", "'every'"}},
      {"MlpOneSize", {"run", "--lens", "64", "--mlp", "4096"}, {"--mlp", "'4096'", "HIDDEN,INTERMEDIATE"}},
      {"MlpWord", {"run", "--lens", "64", "--mlp", "4096,big"}, {"--mlp intermediate", "'big'"}},
      {"MemoryLimitWord", {"run", "--lens", "64", "--memory-limit", "lots"}, {"--memory-limit", "'lots'"}},
      {"MemoryLimitOverflow", {"run", "--lens", "64", "--memory-limit", "9999999999TiB"}, {"9999999999TiB"}},
      {"MemoryLimitBelowNeed",
       {"run", "--lens", "64", "--memory-limit", "1MiB"},
       {"1048576", "memory", "; lower --lens or --kv-heads"}},
      {"ReplayBeyondMemory",
       {"replay", "--trace", "paper:zipf", "--memory-limit", "1MiB"},
       {"1048576", "memory", "; lower --requests"}},
      {"PoolBeyondMemory",
       {"replay", "--trace", "@good.csv", "--memory-limit", "1MiB", "--pool-pages", "10000"},
       {"1048576", "memory", "; lower --pool-pages or --kv-heads"}},
      {"MoreMemoryThanThereIs", {"run", "--lens", "8x100000000"}, {"memory", "GiB", "available"}},

      {"VerifyZeroCases", {"verify", "--cases", "0"}, {"--cases", "0", "must be 1 to"}},
      {"VerifyCaseAndCases", {"verify", "--cases", "5", "--case", "3"}, {"--case", "3", "--cases 5"}},
      {"VerifyNegativeCase", {"verify", "--case", "-1"}, {"--case", "-1", "must be 0 to"}},

      {"JsonInNoFolder",
       {"replay", "--trace", "paper:zipf", "--json", "@no/such/x.json"},
       {"--json", "no/such/x.json"}},
      {"JsonIsAFolder", {"doctor", "--no-probes", "--json", "@"}, {"--json", "directory"}},
      {"OutputWithoutConvert", {"trace", "paper:zipf", "--output", "@x.csv"}, {"--output", "--convert"}},
      {"ConvertToUnknownFormat", {"trace", "paper:zipf", "--convert", "xml"}, {"--convert", "'xml'", "csv"}},
      {"ConvertAndJsonOnStdout", {"trace", "paper:zipf", "--convert", "csv", "--json", "-"}, {"--json", "--output"}},
      {"TwoTraces", {"trace", "paper:zipf", "--trace", "paper:uniform"}, {"paper:uniform", "paper:zipf"}},
      {"TracePageSizeOfFile", {"trace", "@good.csv", "--page-size", "32"}, {"--page-size", "paper:NAME"}},
      {"SeedOfCsv", {"trace", "@good.csv", "--seed", "5"}, {"--seed", "csv", "servegen"}},
      {"SessionGapOfCsv", {"trace", "@good.csv", "--session-gap", "5"}, {"--session-gap", "csv"}},
  };
}

std::vector<BadCase> file_cases() {
  return {
      {"MissingFile", {"trace", "@none.csv"}, {"none.csv", "no file"}},
      {"Folder", {"trace", "@"}, {"servegen"}},
      {"EmptyFile", {"trace", "@empty.csv"}, {"empty.csv", "empty"}},
      {"HeaderOnly", {"trace", "@header_only.csv"}, {"header_only.csv"}},
      {"MissingColumn", {"trace", "@no_decode.csv"}, {"no_decode.csv", "decode"}},
      {"BrokenRow", {"trace", "@broken_row.csv"}, {"broken_row.csv:3"}},
      {"LengthIsAWord", {"trace", "@word.csv"}, {"word.csv:3", "12x8", "prompt_len"}},
      {"NegativeLength", {"trace", "@negative.csv"}, {"negative.csv:2", "-64", "prompt_len"}},
      {"OverflowingLength", {"trace", "@huge.csv"}, {"huge.csv:2", "99999999999"}},
      {"ArrivalNan", {"trace", "@nan_arrival.csv"}, {"nan_arrival.csv:2", "nan", "arrival"}},
      {"OpenQuote", {"trace", "@open_quote.csv"}, {"open_quote.csv:2"}},
      {"TruncatedJson", {"trace", "@cut.json"}, {"cut.json"}},
      {"JsonOfAnotherKind", {"trace", "@no_array.json"}, {"no_array.json"}},
      {"JsonWithoutRequests", {"trace", "@none.json"}, {"none.json"}},
      {"JsonLengthIsText", {"trace", "@text_length.json"}, {"text_length.json", "prompt_len"}},
      {"JsonMissingField", {"trace", "@no_decode.json"}, {"no_decode.json", "decode"}},
      {"TruncatedJsonLine", {"trace", "@cut.jsonl"}, {"cut.jsonl:2"}},
      {"JsonLineFraction", {"trace", "@fraction.jsonl"}, {"fraction.jsonl:1", "64.5", "prompt_len"}},
      {"BinaryFile", {"trace", "@binary.bin"}, {"binary.bin"}},
      {"BrokenGzip", {"trace", "@fake.gz"}, {"fake.gz"}},
      {"MooncakeMissingField",
       {"trace", "@mooncake.jsonl", "--format", "mooncake"},
       {"mooncake.jsonl:1", "output_length"}},
      {"WrongFormat", {"trace", "@good.csv", "--format", "json"}, {"good.csv"}},
      {"ReplayOfBrokenFile", {"replay", "--trace", "@word.csv"}, {"word.csv:3", "12x8"}},
  };
}

class BadInput : public testing::TestWithParam<BadCase> {};

TEST_P(BadInput, IsRefusedInOneLine) {
  const TemporaryFolder folder;
  for (const BadFile& file : bad_files()) folder.write(file.name, file.content);
  std::vector<std::string> arguments = GetParam().arguments;
  for (std::string& argument : arguments) {
    if (argument.starts_with('@')) argument = folder.path(argument.substr(1));
  }
  const ProcessResult result = run_pkv(arguments);
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(count_lines(result.err), 1) << result.err;
  EXPECT_EQ(result.err.rfind("pkv: error: ", 0), 0U) << result.err;
  for (const std::string& text : GetParam().expected) {
    EXPECT_NE(result.err.find(text), std::string::npos) << "'" << text << "' is not in: " << result.err;
  }
}

std::string case_name(const testing::TestParamInfo<BadCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(CommandLine, BadInput, testing::ValuesIn(command_line_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(File, BadInput, testing::ValuesIn(file_cases()), case_name);

}  // namespace
}  // namespace pkv::test

// What is written reads back equal, to the last bit of an arrival; what cannot is refused.
// Not here: reading itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "trace/generators.h"
#include "trace/readers.h"
#include "unit/trace/temp_files.h"

namespace pkv {
namespace {

using test::TempDir;
using ::testing::HasSubstr;

constexpr TraceFormat kWritten[] = {TraceFormat::kCsv, TraceFormat::kJson, TraceFormat::kJsonLines};

void expect_round_trip(const Trace& trace) {
  for (const TraceFormat format : kWritten) {
    SCOPED_TRACE(trace_format_name(format));
    const auto text = serialize_trace(trace, format);
    ASSERT_TRUE(text.ok()) << text.error().to_string();
    const TempDir dir;
    const auto back = read_trace(dir.write("trace", *text), {});
    ASSERT_TRUE(back.ok()) << back.error().to_string();
    EXPECT_EQ(back->format, trace_format_name(format)) << "written as it is detected";
    EXPECT_EQ(back->arrival_unit, trace.arrival_unit);
    EXPECT_EQ(back->has_arrivals, trace.has_arrivals);
    EXPECT_TRUE(back->notes.empty());
    ASSERT_EQ(back->requests.size(), trace.requests.size());
    for (std::size_t i = 0; i < trace.requests.size(); ++i) {
      ASSERT_EQ(back->requests[i].arrival, trace.requests[i].arrival);
      ASSERT_EQ(back->requests[i].prompt_len, trace.requests[i].prompt_len);
      ASSERT_EQ(back->requests[i].decode_len, trace.requests[i].decode_len);
    }
  }
}

TEST(SerializeTrace, PaperTrace_RoundTrips) {
  const auto trace = make_paper_trace({.family = PaperFamily::kZipf, .num_requests = 100});
  ASSERT_TRUE(trace.ok());
  expect_round_trip(*trace);
}

TEST(SerializeTrace, Seconds_RoundTripToTheLastBit) {
  Trace trace{.name = "t", .arrival_unit = ArrivalUnit::kSeconds};
  std::mt19937_64 random(3);
  double arrival = 0;
  for (int i = 0; i < 2000; ++i) {
    trace.requests.push_back({.arrival = arrival, .prompt_len = 1 + i, .decode_len = 1});
    arrival += std::ldexp(static_cast<double>(random() >> 11), -static_cast<int>(random() % 100));
    arrival = std::min(arrival, 9e15);
  }
  trace.requests.front().arrival = 0;
  trace.requests[1].arrival = 5e-324;
  std::sort(trace.requests.begin(), trace.requests.end(),
            [](const Request& a, const Request& b) { return a.arrival < b.arrival; });
  expect_round_trip(trace);
}

TEST(SerializeTrace, NoArrivals_StayAbsent) {
  Trace trace{.name = "t", .has_arrivals = false};
  trace.requests.assign(3, {.arrival = 0, .prompt_len = 2147483646, .decode_len = 1});
  expect_round_trip(trace);
}

TEST(SerializeTrace, WhatAReaderWouldRefuse_IsRefused) {
  const auto error_of = [](std::vector<Request> requests, TraceFormat format = TraceFormat::kCsv) {
    const auto text = serialize_trace({.name = "t", .requests = std::move(requests)}, format);
    return text.ok() ? std::string("no error") : text.error().to_string();
  };
  const Request good{.arrival = 1, .prompt_len = 2, .decode_len = 3};
  EXPECT_EQ(error_of({good}), "no error");
  EXPECT_EQ(error_of({}), "t: 0 requests, at least 1 is needed");
  EXPECT_THAT(error_of({good, {.arrival = 1, .prompt_len = 0, .decode_len = 3}}),
              HasSubstr("t, request 1: prompt_len 0"));
  EXPECT_THAT(error_of({{.arrival = 1, .prompt_len = 1, .decode_len = 0}}), HasSubstr("decode_len 0"));
  EXPECT_THAT(error_of({{.arrival = std::nan(""), .prompt_len = 1, .decode_len = 1}}), HasSubstr("arrival nan"));
  EXPECT_THAT(error_of({{.arrival = 0.5, .prompt_len = 1, .decode_len = 1}}), HasSubstr("not a whole number of steps"));
  EXPECT_THAT(error_of({good, {.arrival = 0, .prompt_len = 1, .decode_len = 1}}),
              HasSubstr("before that of the request"));
  EXPECT_THAT(error_of({good}, TraceFormat::kServeGen), HasSubstr("servegen is only read"));
}

}  // namespace
}  // namespace pkv

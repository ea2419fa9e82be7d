// Pipes, FIFOs and devices in the place of a trace file: read once, bounded, or refused by what they are.
// Not here: what the bytes mean (readers_test.cc).
#include "trace/input_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "trace/readers.h"
#include "unit/trace/temp_files.h"

namespace pkv {
namespace {

using test::TempDir;
using ::testing::EndsWith;
using trace_internal::InputFile;

std::string file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A pipe under a path, as a shell gives it for `cat trace | pkv trace /dev/stdin`, and its writer.
class Pipe {
 public:
  explicit Pipe(std::string bytes) {
    EXPECT_EQ(::pipe(ends_.data()), 0);
    writer_ = std::thread([end = ends_[1], content = std::move(bytes)] {
      std::size_t done = 0;
      while (done < content.size()) {
        const ssize_t size = ::write(end, content.data() + done, content.size() - done);
        if (size <= 0) {
          break;
        }
        done += static_cast<std::size_t>(size);
      }
      ::close(end);
    });
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    drain();
    writer_.join();
    ::close(ends_[0]);
  }

  [[nodiscard]] std::string path() const { return "/dev/fd/" + std::to_string(ends_[0]); }

 private:
  /// What a reader left: the writer would wait for it.
  void drain() const {
    std::array<char, 4096> rest{};
    while (::read(ends_[0], rest.data(), rest.size()) > 0) {
    }
  }

  std::array<int, 2> ends_{};
  std::thread writer_;
};

std::string long_csv() {
  std::string text = "prompt_len,decode_len\n";
  for (int i = 1; i <= 100000; ++i) {  // several blocks of the reader, many of a pipe
    text += std::to_string(i) + "," + std::to_string(i % 97 + 1) + "\n";
  }
  return text;
}

TraceFormat format_of(const Trace& trace) { return *parse_trace_format(trace.format); }

void expect_same_through_pipe(const std::string& path) {
  SCOPED_TRACE(path);
  const auto from_file = read_trace(path, {});
  ASSERT_TRUE(from_file.ok()) << from_file.error().to_string();
  const Pipe pipe(file_bytes(path));
  const auto from_pipe = read_trace(pipe.path(), {});
  ASSERT_TRUE(from_pipe.ok()) << from_pipe.error().to_string();
  EXPECT_EQ(from_pipe->name, pipe.path());
  EXPECT_EQ(format_of(*from_pipe), format_of(*from_file));
  EXPECT_EQ(from_pipe->notes, from_file->notes);
  EXPECT_EQ(*serialize_trace(*from_pipe, TraceFormat::kCsv), *serialize_trace(*from_file, TraceFormat::kCsv));
}

TEST(ReadPipe, EveryContainer_GivesWhatTheFileGives) {
  const TempDir dir;
  expect_same_through_pipe(dir.write("a.csv", long_csv()));
  expect_same_through_pipe(dir.write("a.json", "[{\"prompt\": 8,\n\"decode\": 2}]"));
  expect_same_through_pipe(dir.write_archive("a.gz", {{"a", long_csv()}}, TempDir::Container::kGzip));
  expect_same_through_pipe(dir.write_archive("a.tgz", {{"a.csv", long_csv()}}, TempDir::Container::kTarGzip));
  const std::string lengths = R"({"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{5: 1.0}"}})";
  expect_same_through_pipe(dir.write_archive(
      "s.tar", {{"chunk-0-trace.csv", "0,1.0,1.0,Gamma,1.0,1.0\n"}, {"chunk-0-dataset.json", lengths}},
      TempDir::Container::kTar));
}

TEST(ReadPipe, NamedFifo_IsOpenedOnce) {
  const TempDir dir;
  const std::string fifo = dir.path("trace.csv");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(fifo) << long_csv(); });
  const auto trace = read_trace(fifo, {});
  writer.join();
  ASSERT_TRUE(trace.ok()) << trace.error().to_string();
  EXPECT_EQ(trace->requests.size(), 100000U);
}

TEST(ReadPipe, Errors_NameThePathAndTheLine) {
  const Pipe pipe("prompt_len,decode_len\n1,2\n3,-4\n");
  const auto trace = read_trace(pipe.path(), {});
  ASSERT_FALSE(trace.ok());
  EXPECT_EQ(trace.error().to_string(), pipe.path() + ":3, field decode_len: -4 is negative, must be 0 to 2147483647");
}

TEST(ReadPipe, NothingInIt_IsEmpty) {
  const Pipe pipe("");
  for (const std::string& path : {pipe.path(), std::string("/dev/null")}) {
    const auto trace = read_trace(path, {});
    ASSERT_FALSE(trace.ok());
    EXPECT_EQ(trace.error().code, ErrorCode::kIo);
    EXPECT_EQ(trace.error().to_string(), path + ": is empty, expected a trace");
  }
}

TEST(InputFile, AboveTheLimit_IsRefusedWithIt) {
  const Pipe pipe(std::string(1001, 'x'));
  const auto file = InputFile::open(pipe.path(), 1000);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code, ErrorCode::kIo);
  EXPECT_EQ(file.error().to_string(),
            pipe.path() + ": more than 1000 bytes from a pipe or device; write them to a file, it has no such limit");
  const auto endless = InputFile::open("/dev/zero", 1 << 20);
  ASSERT_FALSE(endless.ok());
  EXPECT_EQ(endless.error().code, ErrorCode::kIo);
  const Pipe fitting(std::string(1000, 'x'));
  const auto whole = InputFile::open(fitting.path(), 1000);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(*whole->bytes(), std::string(1000, 'x'));
}

TEST(InputFile, Socket_IsRefusedByName) {
  const TempDir dir;
  const std::string path = dir.path("s");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  const int handle = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(handle, 0);
  ASSERT_EQ(::bind(handle, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const auto trace = read_trace(path, {});
  ::close(handle);
  ASSERT_FALSE(trace.ok());
  EXPECT_EQ(trace.error().code, ErrorCode::kIo);
  EXPECT_THAT(trace.error().to_string(), EndsWith("/s: is a socket, expected a file, a folder or a pipe"));
}

}  // namespace
}  // namespace pkv

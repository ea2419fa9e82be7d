// Runs the real pkv (or a script) as a user would and keeps what it printed.
// Not here: expectations (the tests).
#pragma once

#include <csignal>
#include <optional>
#include <string>
#include <vector>

namespace pkv::test {

struct ProcessResult {
  /// Exit code, or 128 + signal.
  int exit_code = -1;
  std::string out;
  std::string err;
};

struct ProcessOptions {
  /// Added to the environment: "NO_COLOR=1".
  std::vector<std::string> environment = {};
  /// Regular expression; `signal` is sent once standard error, a terminal then, has shown it. Empty: never.
  std::string interrupt_when = {};
  /// Milliseconds after the first signal until a second one is sent; not set: one only.
  std::optional<int> interrupt_again_after_ms = std::nullopt;
  int signal = SIGINT;
  /// Standard output is a terminal; what it shows is in ProcessResult::out.
  bool terminal = false;
};

ProcessResult run_program(const std::string& program, const std::vector<std::string>& arguments,
                          const ProcessOptions& options = {});
ProcessResult run_pkv(const std::vector<std::string>& arguments, const ProcessOptions& options = {});

/// The arguments, then more of them.
std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more);

/// A folder below the test's temporary folder; removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& content) const;
  /// Files and folders in it, hidden ones included.
  [[nodiscard]] int num_entries() const;

 private:
  std::string path_;
};

std::string read_file(const std::string& path);

/// Number of newline characters.
int count_lines(const std::string& text);

}  // namespace pkv::test

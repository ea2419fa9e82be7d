// fork, exec, and two temporary files for the output.
// Not here: expectations (the tests).
#include "cli/process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace pkv::test {
namespace {

struct Command {
  const std::string& program;
  const std::vector<std::string>& arguments;
};

[[noreturn]] void become(const Command& command, const ProcessOptions& options, const std::string& out,
                         const std::string& err) {
  ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
  ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
  ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
  for (const std::string& variable : options.environment) ::putenv(::strdup(variable.c_str()));
  std::vector<char*> argv{::strdup(command.program.c_str())};
  for (const std::string& argument : command.arguments) argv.push_back(::strdup(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(command.program.c_str(), argv.data());
  ::_exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The side of a new terminal that sees what a program prints.
int open_terminal() {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ::grantpt(master);
  ::unlockpt(master);
  return master;
}

// Until every program has closed the other side, which Linux reports as an error.
std::string read_terminal(int master) {
  std::string text;
  char buffer[4096];
  for (ssize_t taken = ::read(master, buffer, sizeof buffer); taken > 0;
       taken = ::read(master, buffer, sizeof buffer)) {
    text.append(buffer, static_cast<std::size_t>(taken));
  }
  ::close(master);
  return text;
}

ProcessResult run_on_terminal(const Command& command, const ProcessOptions& options) {
  const TemporaryFolder folder;
  const std::string err = folder.path("err");
  const int master = open_terminal();
  const std::string terminal = ::ptsname(master);
  const pid_t child = ::fork();
  if (child == 0) become(command, options, terminal, err);
  const int keep_open = ::open(terminal.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ProcessResult result;
  result.exit_code = wait_for(child);
  ::close(keep_open);
  result.out = read_terminal(master);
  result.err = read_file(err);
  return result;
}

}  // namespace

ProcessResult run_program(const std::string& program, const std::vector<std::string>& arguments,
                          const ProcessOptions& options) {
  const Command command{program, arguments};
  if (options.terminal) return run_on_terminal(command, options);
  const TemporaryFolder folder;
  const std::string out = folder.path("out");
  const std::string err = folder.path("err");
  const pid_t child = ::fork();
  if (child == 0) become(command, options, out, err);
  if (options.interrupt_after_ms > 0) {
    ::usleep(static_cast<useconds_t>(options.interrupt_after_ms) * 1000);
    ::kill(child, options.signal);
  }
  if (options.interrupt_again_after_ms) {
    ::usleep(static_cast<useconds_t>(*options.interrupt_again_after_ms) * 1000);
    ::kill(child, options.signal);
  }
  ProcessResult result;
  result.exit_code = wait_for(child);
  result.out = read_file(out);
  result.err = read_file(err);
  return result;
}

ProcessResult run_pkv(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  return run_program(PKV_BINARY, arguments, options);
}

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "pkv_cli_XXXXXX").string();
  path_ = ::mkdtemp(name.data()) != nullptr ? name : ".";
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (path_ != ".") std::filesystem::remove_all(path_, ignored);
}

void TemporaryFolder::write(const std::string& name, const std::string& content) const {
  std::ofstream(path(name), std::ios::binary) << content;
}

int TemporaryFolder::num_entries() const {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(path_), {}));
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

int count_lines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

}  // namespace pkv::test

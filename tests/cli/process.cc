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
#include <functional>
#include <regex>
#include <sstream>
#include <thread>

#include "support/temp_folder.h"

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

// A new terminal: `master` sees what a program prints on `other`.
struct Terminal {
  int master;
  int other;
};

Terminal open_terminal() {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  ::grantpt(master);
  ::unlockpt(master);
  return {master, ::open(::ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC)};
}

// Until every program has closed the other side, which Linux reports as an error. `seen` is called with the whole
// text after every piece.
std::string read_terminal(int master, const std::function<void(const std::string&)>& seen) {
  std::string text;
  char buffer[4096];
  for (ssize_t taken = ::read(master, buffer, sizeof buffer); taken > 0;
       taken = ::read(master, buffer, sizeof buffer)) {
    text.append(buffer, static_cast<std::size_t>(taken));
    seen(text);
  }
  ::close(master);
  return text;
}

void interrupt(pid_t child, const ProcessOptions& options) {
  ::kill(child, options.signal);
  if (!options.interrupt_again_after_ms) return;
  ::usleep(static_cast<useconds_t>(*options.interrupt_again_after_ms) * 1000);
  ::kill(child, options.signal);
}

// Runs with one of the two outputs on a terminal and the other in a file.
ProcessResult run_on_terminal(const Command& command, const ProcessOptions& options) {
  const TemporaryFolder folder;
  const std::string file = folder.path("file");
  const Terminal terminal = open_terminal();
  const std::string shown = ::ptsname(terminal.master);
  const pid_t child = ::fork();
  if (child == 0) become(command, options, options.terminal ? shown : file, options.terminal ? file : shown);
  // The other side stays open here until the child has ended: a terminal that all have closed reads as ended.
  bool waits = !options.interrupt_when.empty();
  const std::regex awaited(options.interrupt_when);
  std::thread ends_with_the_child([&] {
    siginfo_t ended;
    while (::waitid(P_PID, child, &ended, WEXITED | WNOWAIT) < 0 && errno == EINTR) {  // its id stays its own
    }
    ::close(terminal.other);
  });
  std::string text = read_terminal(terminal.master, [&](const std::string& so_far) {
    if (!waits || !std::regex_search(so_far, awaited)) return;
    waits = false;
    interrupt(child, options);
  });
  ends_with_the_child.join();
  ProcessResult result;
  result.exit_code = wait_for(child);
  result.out = options.terminal ? text : read_file(file);
  result.err = options.terminal ? read_file(file) : text;
  return result;
}

}  // namespace

ProcessResult run_program(const std::string& program, const std::vector<std::string>& arguments,
                          const ProcessOptions& options) {
  const Command command{program, arguments};
  if (options.terminal || !options.interrupt_when.empty()) return run_on_terminal(command, options);
  const TemporaryFolder folder;
  const std::string out = folder.path("out");
  const std::string err = folder.path("err");
  const pid_t child = ::fork();
  if (child == 0) become(command, options, out, err);
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

TemporaryFolder::TemporaryFolder() : path_(make_temp_folder("pkv_cli").string()) {}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
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

// Files and terminals by POSIX calls: streams lose the reason of an error.
// Not here: what is written (src/report).
#include "output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "failure.h"

namespace pkv::cli {
namespace {

constexpr mode_t kPermissionBits = 07777;

std::string reason() { return std::generic_category().message(errno); }

// True when all of it was taken; errno says why not.
bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t taken = ::write(descriptor, text.data(), text.size());
    if (taken < 0 && errno == EINTR) continue;
    if (taken < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(taken));
  }
  return true;
}

// The same, at the end of a file: some file systems refuse the text only when it is closed.
bool write_and_close(int descriptor, std::string_view text) {
  const bool taken = write_all(descriptor, text);
  const int why = errno;
  const bool closed = ::close(descriptor) == 0;
  if (!taken) errno = why;
  return taken && closed;
}

}  // namespace

OutputFile::OutputFile(std::string option, std::string path) : option_(std::move(option)), path_(std::move(path)) {
  if (is_stdout()) return;
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  exists_ = descriptor_ >= 0;
  if (!exists_ && errno != ENOENT) fail_errno("opened for writing");
  exists_ ? prepare_existing() : prepare_new();
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::fail_errno(std::string_view action) const {
  throw Failure{{.code = ErrorCode::kIo,
                 .message = fmt::format("'{}' cannot be {}: {}", path_, action, reason()),
                 .where = option_}};
}

// Stays open, to be written in place, when it is a device or a pipe or its folder takes no new file.
void OutputFile::prepare_existing() {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) return;
  mode_ = status.st_mode & kPermissionBits;
  std::error_code error;
  target_ = std::filesystem::canonical(path_, error).string();
  std::string probe;
  const int beside = error ? -1 : create_beside(probe);
  if (beside < 0) return;
  ::close(beside);
  ::unlink(probe.c_str());
  ::close(std::exchange(descriptor_, -1));
}

void OutputFile::prepare_new() {
  target_ = path_;
  std::string probe;
  const int beside = create_beside(probe);
  if (beside < 0) fail_errno("opened for writing");
  ::close(beside);
  ::unlink(probe.c_str());
}

int OutputFile::create_beside(std::string& name) const {
  constexpr mode_t kEveryoneMayRead = 0644;
  constexpr int kAttempts = 100;  // names that killed runs of the same process id left
  const std::filesystem::path folder = std::filesystem::path(target_).parent_path();
  int descriptor = -1;
  for (int i = 0; i < kAttempts && descriptor < 0; ++i) {
    // Not made from the target's name, which may be as long as a name can be.
    name = (folder / fmt::format(".pkv-{}-{}.tmp", ::getpid(), i)).string();
    descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kEveryoneMayRead);
    if (descriptor < 0 && errno != EEXIST) break;
  }
  return descriptor;
}

void OutputFile::write(std::string_view text) {
  if (is_stdout()) {
    print(text);
  } else if (descriptor_ >= 0) {
    write_in_place(text);
  } else {
    replace(text);
  }
}

void OutputFile::write_in_place(std::string_view text) {
  // Devices and pipes cannot be cut, and need not be.
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (regular && ::ftruncate(descriptor_, 0) != 0) fail_errno("emptied");
  if (!write_all(descriptor_, text)) fail_errno("written");
}

void OutputFile::replace(std::string_view text) const {
  std::string name;
  const int descriptor = create_beside(name);
  if (descriptor < 0) fail_errno("written");
  if (exists_) ::fchmod(descriptor, mode_);
  if (write_and_close(descriptor, text) && ::rename(name.c_str(), target_.c_str()) == 0) return;
  const int why = errno;
  ::unlink(name.c_str());
  errno = why;
  fail_errno("written");
}

Output::Output(const std::optional<std::string>& json_path) {
  if (json_path) json_.emplace("--json", *json_path);
}

Status Output::show(std::string_view text, const std::string& json) {
  Status status;
  try {
    if (wants_text()) print(text);
  } catch (const Failure& failure) {
    status = failure.error;
  }
  try {
    if (json_) json_->write(json + "\n");
  } catch (const Failure& failure) {
    status = failure.error;
  }
  return status;
}

TextStyle Output::style() const { return style_of(STDOUT_FILENO); }

void print(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  throw Failure{{.code = ErrorCode::kIo,
                 .message = fmt::format("{} bytes cannot be written: {}", text.size(), reason()),
                 .where = "standard output"}};
}

TextStyle style_of(int file_descriptor) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool refused =
      (no_color != nullptr && *no_color != '\0') || terminal == nullptr || std::string_view(terminal) == "dumb";
  return !refused && ::isatty(file_descriptor) == 1 ? TextStyle::kAnsi : TextStyle::kPlain;
}

}  // namespace pkv::cli

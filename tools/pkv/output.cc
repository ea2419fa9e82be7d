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
#include <system_error>

#include "failure.h"

namespace pkv::cli {
namespace {

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

}  // namespace

OutputFile::OutputFile(std::string option, std::string path) : option_(std::move(option)), path_(std::move(path)) {
  if (is_stdout()) return;
  constexpr mode_t kEveryoneMayRead = 0644;
  struct stat status {};
  created_ = ::stat(path_.c_str(), &status) != 0;
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, kEveryoneMayRead);
  if (descriptor_ < 0) fail_errno("opened for writing");
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (descriptor_ >= 0 && created_ && !written_) ::unlink(path_.c_str());
}

void OutputFile::fail_errno(std::string_view action) const {
  throw Failure{{.code = ErrorCode::kIo,
                 .message = fmt::format("'{}' cannot be {}: {}", path_, action, reason()),
                 .where = option_}};
}

void OutputFile::write(std::string_view text) {
  if (is_stdout()) {
    print(text);
    return;
  }
  // Devices and pipes cannot be cut, and need not be.
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (regular && ::ftruncate(descriptor_, 0) != 0) fail_errno("emptied");
  if (!write_all(descriptor_, text)) fail_errno("written");
  written_ = true;
}

Output::Output(const std::optional<std::string>& json_path) {
  if (json_path) json_.emplace("--json", *json_path);
}

void Output::text(std::string_view text) {
  if (wants_text()) print(text);
}

void Output::json(const std::string& json) {
  if (json_) json_->write(json + "\n");
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

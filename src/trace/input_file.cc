// Tells files from pipes, and reads pipes.
// Not here: archives and lines (text_input.cc).
#include "trace/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace pkv::trace_internal {
namespace {

namespace fs = std::filesystem;

Error io_error(std::string message, std::string where) {
  return {.code = ErrorCode::kIo, .message = std::move(message), .where = std::move(where)};
}

Error system_error(int code, const std::string& path) {
  return io_error(fmt::format("cannot be read: {}", std::generic_category().message(code)), path);
}

std::string_view special_name(fs::file_type type) {
  switch (type) {
    case fs::file_type::socket: return "a socket";
    case fs::file_type::block: return "a block device";
    default: return "no file of a known kind";
  }
}

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) {
      ::close(value_);
    }
  }
  [[nodiscard]] int value() const { return value_; }

 private:
  int value_;
};

Result<std::string> read_pipe(const std::string& path, std::int64_t max_bytes) {
  constexpr std::size_t kChunkBytes = 256 * 1024;
  const Descriptor pipe(path);
  if (pipe.value() < 0) {
    return system_error(errno, path);
  }
  std::string bytes;
  std::string chunk(kChunkBytes, '\0');
  for (;;) {
    const ssize_t size = ::read(pipe.value(), chunk.data(), chunk.size());
    if (size < 0 && errno == EINTR) {
      continue;
    }
    if (size < 0) {
      return system_error(errno, path);
    }
    if (size == 0) {
      return bytes;
    }
    bytes.append(chunk, 0, static_cast<std::size_t>(size));
    if (std::cmp_greater(bytes.size(), max_bytes)) {
      return io_error(
          fmt::format("more than {} bytes from a pipe or device; write them to a file, it has no such limit",
                      max_bytes),
          path);
    }
  }
}

}  // namespace

Result<InputFile> InputFile::open(const std::string& path, std::int64_t max_pipe_bytes) {
  InputFile file(path);
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  switch (type) {
    case fs::file_type::regular: return file;
    case fs::file_type::directory: file.is_folder_ = true; return file;
    case fs::file_type::fifo:
    case fs::file_type::character: {
      Result<std::string> bytes = read_pipe(path, max_pipe_bytes);
      PKV_RETURN_IF_ERROR(bytes);
      file.bytes_ = std::move(bytes).value();
      return file;
    }
    case fs::file_type::not_found: return io_error("no such file or folder", path);
    default:
      return error ? io_error(fmt::format("cannot be read: {}", error.message()), path)
                   : io_error(fmt::format("is {}, expected a file, a folder or a pipe", special_name(type)), path);
  }
}

}  // namespace pkv::trace_internal

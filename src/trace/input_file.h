// Where the bytes of an input are: at a path that can be opened again and again, or in memory, from a pipe.
// Not here: archives and lines (text_input.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "persistentkv/result.h"

namespace pkv::trace_internal {

/// A regular file or a folder stays where it is. A pipe, a FIFO or a character device gives its bytes
/// only once: they are read to their end here and kept.
class InputFile {
 public:
  static constexpr std::int64_t kMaxPipeBytes = std::int64_t{1} << 30;

  /// Waits for the writer of a pipe or FIFO as long as it takes.
  /// Errors: kIo (missing, unreadable, a socket or block device, a pipe with more than max_pipe_bytes).
  static Result<InputFile> open(const std::string& path, std::int64_t max_pipe_bytes = kMaxPipeBytes);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool is_folder() const { return is_folder_; }
  /// What a pipe carried; null pointer for what can be opened at path().
  [[nodiscard]] const std::string* bytes() const { return bytes_ ? &*bytes_ : nullptr; }

 private:
  explicit InputFile(std::string path) : path_(std::move(path)) {}

  std::string path_;
  bool is_folder_ = false;
  std::optional<std::string> bytes_;
};

}  // namespace pkv::trace_internal

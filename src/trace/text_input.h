// Text of a trace file, line by line: plain, gzip, or inside a tar archive.
// Not here: what a line means (the read_*.cc of each format).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/input_file.h"

struct archive;

namespace pkv::trace_internal {

/// Lines are cut at LF; a CR before it and a byte order mark before the first line are dropped.
/// A single pass, a buffer of one block and one line in memory.
class TextInput {
 public:
  /// Yields the next block of bytes, empty at the end; what it views is valid until the next call.
  using BlockSource = std::function<Result<std::string_view>()>;

  TextInput(std::string name, BlockSource source) : name_(std::move(name)), source_(std::move(source)) {}

  /// False at the end. `line` is valid until the next call.
  /// Errors: kIo (read errors, binary data, a line above 256 MiB).
  Result<bool> next_line(std::string_view& line);
  /// The next call of next_line answers the last line again.
  void unread_line() { unread_ = true; }
  /// Everything that is left, lines joined by LF. Errors: kIo, also above 1 GiB.
  Result<std::string> read_rest();

  /// Path, and path/entry inside an archive.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Of the last line, from 1.
  [[nodiscard]] std::int64_t line_number() const { return line_number_; }
  /// Of the line that comes next.
  [[nodiscard]] std::int64_t next_line_number() const { return unread_ ? line_number_ : line_number_ + 1; }
  /// "name:line", or "name:line, field FIELD".
  [[nodiscard]] std::string place(std::string_view field = {}) const;

 private:
  Result<bool> read_line();

  std::string name_;
  BlockSource source_;
  std::string_view block_;  // unread part of the current block
  std::string line_;
  std::int64_t line_number_ = 0;
  bool at_end_ = false;
  bool unread_ = false;
};

/// Place in a file, for errors made away from the input: "name:line, field FIELD".
std::string format_place(std::string_view name, std::int64_t line, std::string_view field = {});

/// The regular files of a plain file (one), a gzip file (one) or a tar archive, in stored order.
class ArchiveReader {
 public:
  /// `file` must outlive the reader. Errors: kIo (missing, unreadable).
  static Result<ArchiveReader> open(const InputFile& file);

  ArchiveReader(ArchiveReader&&) noexcept = default;
  ArchiveReader& operator=(ArchiveReader&&) noexcept = default;

  /// Goes to the next regular file; false after the last. Errors: kIo.
  Result<bool> next_entry();
  /// Name inside the archive; empty for a file that is no archive.
  [[nodiscard]] const std::string& entry_name() const { return entry_name_; }
  /// The text of the current entry. Must not outlive this object nor the next call of next_entry.
  TextInput text();

 private:
  struct Closer {
    void operator()(archive* handle) const;
  };
  explicit ArchiveReader(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] Error read_error() const;

  std::string path_;
  std::string entry_name_;
  std::unique_ptr<archive, Closer> handle_;
  std::unique_ptr<std::string> buffer_;
};

}  // namespace pkv::trace_internal

// Where results go: tables to standard output, JSON to a file or to standard output alone.
// Not here: what they say (src/report).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "persistentkv/result.h"
#include "report/report.h"

namespace pkv::cli {

/// A file written after a long run, whose place is tried before it, so that a bad path costs nothing.
/// A regular file appears complete or not at all, and an old one stays whole until then: the text goes to
/// a temporary file beside it that takes its name. Devices and pipes are opened before the run.
class OutputFile {
 public:
  /// Fails with `option` as the place. "-" is standard output.
  OutputFile(std::string option, std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  [[nodiscard]] bool is_stdout() const { return path_ == "-"; }
  void write(std::string_view text);

 private:
  [[noreturn]] void fail_errno(std::string_view action) const;
  void prepare_existing();
  void prepare_new();
  void write_in_place(std::string_view text);
  void replace(std::string_view text) const;
  /// Creates a file of a new name in the folder of target_; fails with errno set and -1.
  int create_beside(std::string& name) const;

  std::string option_;
  std::string path_;
  std::string target_;  // path_ behind symbolic links
  unsigned mode_ = 0;   // of an old file
  bool exists_ = false;
  int descriptor_ = -1;  // of what is written in place
};

/// The two forms of one result.
class Output {
 public:
  /// `json_path` from --json, if given.
  explicit Output(const std::optional<std::string>& json_path);

  /// Shows a measurement in both forms: the table on standard output unless JSON goes there, `json` and a
  /// newline where --json asked for it. A form that cannot be written does not keep the other back.
  Status show(std::string_view text, const std::string& json);
  [[nodiscard]] bool wants_json() const { return json_.has_value(); }
  [[nodiscard]] bool wants_text() const { return !json_ || !json_->is_stdout(); }
  [[nodiscard]] TextStyle style() const;

 private:
  std::optional<OutputFile> json_;
};

/// Writes to standard output; fails when it cannot take the text (a full disk).
void print(std::string_view text);

/// Colours only on a terminal that can show them, and never with NO_COLOR (no-color.org).
TextStyle style_of(int file_descriptor);

}  // namespace pkv::cli

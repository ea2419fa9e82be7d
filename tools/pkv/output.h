// Where results go: tables to standard output, JSON to a file or to standard output alone.
// Not here: what they say (src/report).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "report/report.h"

namespace pkv::cli {

/// A file that is opened before a long run, so that a bad path costs nothing, and written after it.
/// A file that it created and never wrote is removed again.
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
  std::string option_;
  std::string path_;
  int descriptor_ = -1;
  bool created_ = false;
  bool written_ = false;
};

/// The two forms of one result.
class Output {
 public:
  /// `json_path` from --json, if given.
  explicit Output(const std::optional<std::string>& json_path);

  /// Text goes to standard output unless JSON does.
  void text(std::string_view text);
  /// Writes `json` and a newline where --json asked for it.
  void json(const std::string& json);
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

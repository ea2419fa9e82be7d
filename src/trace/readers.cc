// Detects the format of a trace file by its content and hands it to the reader of that format.
// Not here: the formats (read_*.cc).
#include "trace/readers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "trace/formats.h"
#include "trace/input_file.h"
#include "trace/names.h"

namespace pkv {
namespace {

using namespace trace_internal;  // NOLINT(google-build-using-namespace): the other half of this file

/// By the value of TraceFormat.
constexpr std::array<std::string_view, 7> kFormatNames = {
    "csv", "json", "jsonl", "azure2023", "mooncake", "coding-sessions", "servegen"};

Error io_error(std::string message, std::string where) {
  return {.code = ErrorCode::kIo, .message = std::move(message), .where = std::move(where)};
}

Error unknown_format(const TextInput& input, std::string_view line) {
  return io_error(fmt::format("unknown format: \"{}\" begins none of {}; name one with the format option if it is one",
                              printable(line), fmt::join(kFormatNames, ", ")),
                  input.place());
}

Status validate(const TraceReadOptions& options) {
  if (options.limit && *options.limit < 1) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("limit is {}, must be at least 1", *options.limit),
                 .where = {}};
  }
  constexpr double kMaxGap = 1e9;
  if (!(options.session_gap_s >= 0.0 && options.session_gap_s <= kMaxGap)) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("session_gap_s is {}, must be 0 to {:.0f}", options.session_gap_s, kMaxGap),
                 .where = {}};
  }
  return {};
}

bool is_sniffed_member(std::string_view name) {
  constexpr std::array<std::string_view, 14> kNames = {
      "input_length", "output_length", "timestamp",  "requests", "in",   "out",        "t",
      "prompt_len",   "prompt",        "decode_len", "decode",   "type", "block_size", "hash_id_scope"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

bool has_any(const JsonValue& object, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return object.find(name) != nullptr; });
}

/// Sessions and JSON documents in the paper's columns both have "requests".
TraceFormat sniff_requests(const JsonValue& object, const JsonValue& requests) {
  const bool session_calls =
      !requests.elements.empty() && has_any(requests.elements.front(), {"in", "out", "t", "type"});
  return session_calls || has_any(object, {"block_size", "hash_id_scope"}) ? TraceFormat::kCodingSessions
                                                                           : TraceFormat::kJson;
}

/// A first line that is no complete object begins a document of several lines.
Result<TraceFormat> sniff_object(const TextInput& input, std::string_view line) {
  const Result<JsonValue> object =
      parse_json({.text = line, .file = input.name(), .first_line = 1, .wanted = is_sniffed_member});
  if (!object.ok()) {
    return TraceFormat::kJson;
  }
  if (has_any(*object, {"input_length", "output_length"})) {
    return TraceFormat::kMooncake;
  }
  if (const JsonValue* requests = object->find("requests")) {
    return sniff_requests(*object, *requests);
  }
  if (has_any(*object, {"prompt_len", "prompt", "decode_len", "decode"})) {
    return TraceFormat::kJsonLines;
  }
  return unknown_format(input, line);
}

/// The header alone decides: a missing or doubled column is the business of the reader.
Result<TraceFormat> sniff_header(const TextInput& input, std::string_view line) {
  std::vector<std::string_view> columns;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(',', begin), line.size());
    std::string_view column = trimmed(line.substr(begin, end - begin));
    if (column.size() >= 2 && column.front() == '"' && column.back() == '"') {
      column = trimmed(column.substr(1, column.size() - 2));
    }
    columns.push_back(column);
    begin = end + 1;
  }
  const auto has = [&](std::initializer_list<std::string_view> names) {
    return std::find_first_of(columns.begin(), columns.end(), names.begin(), names.end()) != columns.end();
  };
  if (has({"ContextTokens", "GeneratedTokens"})) {
    return TraceFormat::kAzure2023;
  }
  if (has({"prompt_len", "prompt", "decode_len", "decode"})) {
    return TraceFormat::kCsv;
  }
  return unknown_format(input, line);
}

/// The first line that is not blank; it is read again afterwards, blank lines before it are gone.
Result<std::string_view> peek_line(TextInput& input) {
  std::string_view line;
  do {
    const Result<bool> more = input.next_line(line);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return io_error("is empty, expected a trace", input.name());
    }
  } while (trimmed(line).empty());
  input.unread_line();
  return line;
}

/// By the first line that is not blank.
Result<TraceFormat> detect(const TextInput& input, std::string_view line) {
  switch (trimmed(line).front()) {
    case '[': return TraceFormat::kJson;
    case '{': return sniff_object(input, line);
    default: return sniff_header(input, line);
  }
}

Status read_text(TextInput& input, TraceFormat format, const TraceReadOptions& options, TraceBuilder& builder) {
  switch (format) {
    case TraceFormat::kCsv: return read_csv(input, builder);
    case TraceFormat::kJson: return read_json(input, builder);
    case TraceFormat::kJsonLines: return read_json_lines(input, builder);
    case TraceFormat::kAzure2023: return read_azure2023(input, builder);
    case TraceFormat::kMooncake: return read_mooncake(input, options, builder);
    case TraceFormat::kCodingSessions: return read_coding_sessions(input, options, builder);
    case TraceFormat::kServeGen: break;
  }
  return io_error("is a single file; servegen is a folder or a tar of pairs chunk-N-trace.csv, chunk-N-dataset.json",
                  input.name());
}

/// Names of the regular files of an archive; a file that is no archive has one empty name.
Result<std::vector<std::string>> list_entries(const InputFile& file) {
  Result<ArchiveReader> archive = ArchiveReader::open(file);
  PKV_RETURN_IF_ERROR(archive);
  std::vector<std::string> names;
  for (;;) {
    const Result<bool> more = archive->next_entry();
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return names;
    }
    names.push_back(archive->entry_name());
    if (names.back().empty()) {
      return names;
    }
  }
}

Error with_format_hint(Error error, TraceFormat asked, TraceFormat detected) {
  error.message += fmt::format(" (read as {} because that format was asked for; the content looks like {})",
                               trace_format_name(asked), trace_format_name(detected));
  return error;
}

Result<Trace> read_single(const InputFile& file, const TraceReadOptions& options) {
  Result<ArchiveReader> archive = ArchiveReader::open(file);
  PKV_RETURN_IF_ERROR(archive);
  const Result<bool> found = archive->next_entry();
  PKV_RETURN_IF_ERROR(found);
  TextInput input = archive->text();
  const Result<std::string_view> line = peek_line(input);
  PKV_RETURN_IF_ERROR(line);
  const Result<TraceFormat> detected = detect(input, line.value());
  if (!options.format) {
    PKV_RETURN_IF_ERROR(detected);
  }
  const TraceFormat format = options.format ? *options.format : detected.value();
  TraceBuilder builder(file.path(), trace_format_name(format));
  if (Status status = read_text(input, format, options, builder); !status.ok()) {
    return detected.ok() && detected.value() != format ? with_format_hint(status.error(), format, detected.value())
                                                       : status.error();
  }
  return std::move(builder).finish(options.limit);
}

Result<Trace> read_pairs(const InputFile& file, const TraceReadOptions& options) {
  if (options.format && *options.format != TraceFormat::kServeGen) {
    return io_error(
        fmt::format("holds several files, the format {} is a single one", trace_format_name(*options.format)),
        file.path());
  }
  TraceBuilder builder(file.path(), trace_format_name(TraceFormat::kServeGen));
  PKV_RETURN_IF_ERROR(read_servegen(file, options, builder));
  return std::move(builder).finish(options.limit);
}

Result<Trace> read_file(const InputFile& file, const TraceReadOptions& options) {
  const Result<std::vector<std::string>> entries = list_entries(file);
  PKV_RETURN_IF_ERROR(entries);
  if (entries->empty()) {
    return io_error("is empty, expected a trace", file.path());
  }
  if (std::any_of(entries->begin(), entries->end(), is_servegen_file)) {
    return read_pairs(file, options);
  }
  if (entries->size() > 1) {
    return io_error(
        fmt::format("is an archive of {} files, none of them of a ServeGen pair; expected one trace", entries->size()),
        file.path());
  }
  return read_single(file, options);
}

}  // namespace

std::string_view trace_format_name(TraceFormat format) { return kFormatNames[static_cast<std::size_t>(format)]; }

Result<TraceFormat> parse_trace_format(std::string_view name) {
  const auto found = std::find(kFormatNames.begin(), kFormatNames.end(), name);
  if (found == kFormatNames.end()) {
    return unknown_name("trace format", name, kFormatNames);
  }
  return static_cast<TraceFormat>(found - kFormatNames.begin());
}

Result<Trace> read_trace(const std::string& path, const TraceReadOptions& options) {
  PKV_RETURN_IF_ERROR(validate(options));
  const Result<InputFile> file = InputFile::open(path);
  PKV_RETURN_IF_ERROR(file);
  return file->is_folder() ? read_pairs(*file, options) : read_file(*file, options);
}

}  // namespace pkv

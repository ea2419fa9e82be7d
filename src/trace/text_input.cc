// Lines from blocks of bytes, and blocks from libarchive.
// Not here: what a line means (the read_*.cc of each format).
#include "trace/text_input.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace pkv::trace_internal {
namespace {

constexpr std::size_t kBlockBytes = 256 * 1024;
/// The longest line of the public traces is 3 MB.
constexpr std::size_t kMaxLineBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxDocumentBytes = std::size_t{1} << 30;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

Error io_error(std::string message, std::string where) {
  return {.code = ErrorCode::kIo, .message = std::move(message), .where = std::move(where)};
}

}  // namespace

std::string format_place(std::string_view name, std::int64_t line, std::string_view field) {
  return field.empty() ? fmt::format("{}:{}", name, line) : fmt::format("{}:{}, field {}", name, line, field);
}

std::string TextInput::place(std::string_view field) const { return format_place(name_, line_number_, field); }

Result<bool> TextInput::next_line(std::string_view& line) {
  if (unread_) {
    unread_ = false;
  } else {
    const Result<bool> more = read_line();
    if (!more.ok() || !more.value()) {
      return more;
    }
  }
  line = line_;
  return true;
}

Result<bool> TextInput::read_line() {
  line_.clear();
  bool found_any = false;
  for (;;) {
    if (block_.empty() && !at_end_) {
      const Result<std::string_view> block = source_();
      PKV_RETURN_IF_ERROR(block);
      block_ = block.value();
      at_end_ = block_.empty();
    }
    if (at_end_) {
      break;
    }
    found_any = true;
    const std::size_t end = block_.find('\n');
    line_.append(block_.substr(0, end));
    if (line_.size() > kMaxLineBytes) {
      return io_error(fmt::format("line is longer than {} bytes", kMaxLineBytes),
                      format_place(name_, line_number_ + 1));
    }
    if (end != std::string_view::npos) {
      block_.remove_prefix(end + 1);
      break;
    }
    block_ = {};
  }
  if (!found_any) {
    return false;
  }
  ++line_number_;
  if (line_.find('\0') != std::string::npos) {
    return io_error("binary data (a zero byte), expected text", place());
  }
  if (line_number_ == 1 && line_.starts_with(kByteOrderMark)) {
    line_.erase(0, kByteOrderMark.size());
  }
  if (!line_.empty() && line_.back() == '\r') {
    line_.pop_back();
  }
  return true;
}

Result<std::string> TextInput::read_rest() {
  std::string rest;
  std::string_view line;
  bool first = true;
  for (;;) {
    const Result<bool> more = next_line(line);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return rest;
    }
    rest.append(first ? "" : "\n").append(line);
    first = false;
    if (rest.size() > kMaxDocumentBytes) {
      return io_error(fmt::format("document is larger than {} bytes; JSON lines have no such limit", kMaxDocumentBytes),
                      place());
    }
  }
}

void ArchiveReader::Closer::operator()(archive* handle) const { archive_read_free(handle); }

Result<ArchiveReader> ArchiveReader::open(const InputFile& file) {
  ArchiveReader reader(file.path());
  reader.handle_.reset(archive_read_new());
  reader.buffer_ = std::make_unique<std::string>(kBlockBytes, '\0');
  archive* handle = reader.handle_.get();
  if (handle == nullptr || archive_read_support_filter_gzip(handle) != ARCHIVE_OK ||
      archive_read_support_format_tar(handle) != ARCHIVE_OK || archive_read_support_format_raw(handle) != ARCHIVE_OK ||
      archive_read_support_format_empty(handle) != ARCHIVE_OK) {
    return io_error("libarchive lacks gzip, tar or raw support", file.path());
  }
  const std::string* bytes = file.bytes();
  const int status = bytes != nullptr ? archive_read_open_memory(handle, bytes->data(), bytes->size())
                                      : archive_read_open_filename(handle, file.path().c_str(), kBlockBytes);
  if (status != ARCHIVE_OK) {
    return reader.read_error();
  }
  return reader;
}

Error ArchiveReader::read_error() const {
  const char* text = archive_error_string(handle_.get());
  const std::string where = entry_name_.empty() ? path_ : path_ + "/" + entry_name_;
  return io_error(fmt::format("cannot be read: {}", text != nullptr ? text : "unknown error"), where);
}

Result<bool> ArchiveReader::next_entry() {
  for (;;) {
    archive_entry* entry = nullptr;
    entry_name_.clear();
    const int status = archive_read_next_header(handle_.get(), &entry);
    if (status == ARCHIVE_EOF) {
      return false;
    }
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
      return read_error();
    }
    if (archive_format(handle_.get()) == ARCHIVE_FORMAT_RAW) {
      return true;
    }
    if (archive_entry_filetype(entry) == AE_IFREG) {
      const char* name = archive_entry_pathname(entry);
      entry_name_ = name != nullptr ? name : "?";
      return true;
    }
  }
}

TextInput ArchiveReader::text() {
  auto source = [this]() -> Result<std::string_view> {
    const la_ssize_t size = archive_read_data(handle_.get(), buffer_->data(), buffer_->size());
    if (size < 0) {
      return read_error();
    }
    return std::string_view(buffer_->data(), static_cast<std::size_t>(size));
  };
  return TextInput(entry_name_.empty() ? path_ : path_ + "/" + entry_name_, std::move(source));
}

}  // namespace pkv::trace_internal

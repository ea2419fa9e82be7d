// Files that live as long as a test: plain, gzip, tar.
// Not here: what is in them.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/temp_folder.h"

namespace pkv::test {

/// A folder of its own, removed with everything in it.
class TempDir {
 public:
  TempDir() : path_(make_temp_folder("pkv_trace")) {}
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::string path(std::string_view name) const { return (path_ / name).string(); }
  [[nodiscard]] std::string path() const { return path_.string(); }

  /// Returns the path.
  std::string write(std::string_view name, std::string_view content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

  using Entries = std::vector<std::pair<std::string, std::string>>;
  enum class Container { kGzip, kTar, kTarGzip };

  /// Entries are (name, content); gzip takes exactly one.
  std::string write_archive(std::string_view name, const Entries& entries, Container container) const {
    archive* handle = archive_write_new();
    EXPECT_EQ(container == Container::kTar ? ARCHIVE_OK : archive_write_add_filter_gzip(handle), ARCHIVE_OK);
    EXPECT_EQ(
        container == Container::kGzip ? archive_write_set_format_raw(handle) : archive_write_set_format_ustar(handle),
        ARCHIVE_OK);
    EXPECT_EQ(archive_write_open_filename(handle, path(name).c_str()), ARCHIVE_OK);
    for (const auto& [entry_name, content] : entries) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, entry_name.c_str());
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_entry_set_perm(entry, 0644);
      archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
      EXPECT_EQ(archive_write_header(handle, entry), ARCHIVE_OK);
      EXPECT_EQ(archive_write_data(handle, content.data(), content.size()), static_cast<la_ssize_t>(content.size()));
      archive_entry_free(entry);
    }
    EXPECT_EQ(archive_write_free(handle), ARCHIVE_OK);
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace pkv::test

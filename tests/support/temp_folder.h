// A new folder for the files of one test. Not here: removing it, which its owner does.
#pragma once

#include <stdlib.h>  // mkdtemp

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace pkv::test {

/// In the system's folder for such files, by a name that begins with `prefix`. Throws filesystem_error, which fails the
/// test.
inline std::filesystem::path make_temp_folder(std::string_view prefix) {
  const std::string ending(6, 'X');  // what mkdtemp replaces
  std::string name = (std::filesystem::temp_directory_path() / (std::string(prefix) + "_" + ending)).string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::filesystem::filesystem_error("mkdtemp", name, std::error_code(errno, std::generic_category()));
  }
  return name;
}

}  // namespace pkv::test

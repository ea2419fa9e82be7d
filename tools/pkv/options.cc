// What options share, without their types.
// Not here: which options a command has (command_*.cc).
#include "options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace pkv::cli {

std::string Options::join(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, "|")); }

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

}  // namespace pkv::cli

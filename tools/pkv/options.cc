// Options in terms of CLI11, the only file beside application.cc that includes it: it is slow to compile.
// Not here: which options a command has (command_*.cc).
#include "options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

namespace pkv::cli {

CLI::App& Options::add_command(CLI::App& parent, const std::string& name, const std::string& help,
                               const std::string& examples) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->footer(examples);
  return *command;
}

void Options::flag(const OptionText& text, std::optional<bool>& target) {
  app_.add_flag_function(
          text.flags, [&target](std::int64_t count) { target = count > 0; }, text.help)
      ->disable_flag_override();
}

void Options::positional(const OptionText& text, const std::string& metavar, std::optional<std::string>& target) {
  app_.add_option_function<std::string>(
          text.flags, [&target](const std::string& value) { target = value; }, text.help)
      ->type_name(metavar);
}

void Options::add(const OptionText& text, const std::string& metavar, Parse parse) {
  const std::string& name = text.flags;
  const std::string help =
      text.shown_default.empty() ? text.help : fmt::format("{} [{}]", text.help, text.shown_default);
  app_.add_option_function<std::string>(
          name, [parse = std::move(parse), name](const std::string& value) { parse(name, value); }, help)
      ->type_name(metavar);
}

std::string Options::join(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

}  // namespace pkv::cli

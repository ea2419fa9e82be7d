// Options: registers strict options with CLI11; a bad value ends the command with option, value and limit.
// Not here: which options a command has (command_*.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.h"
#include "names.h"
#include "numbers.h"

namespace CLI {
class App;
}

namespace pkv::cli {

/// How one option looks in --help; `shown_default` may be a sentence.
struct OptionText {
  std::string flags;
  std::string help;
  std::string shown_default;
};

/// Targets stay empty when an option is not given, so that a command can tell.
class Options {
 public:
  /// A new command below `parent`, with `examples` at the end of its help.
  static CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& help,
                               const std::string& examples);

  explicit Options(CLI::App& app) : app_(app) {}

  void integer(const OptionText& text, std::optional<std::int64_t>& target, IntLimits limits) {
    add(text, "N", [&target, limits](const std::string& name, const std::string& value) {
      target = parse_int(name, value, limits);
    });
  }
  void real(const OptionText& text, std::optional<double>& target, const RealLimits& limits) {
    add(text, "X", [&target, limits](const std::string& name, const std::string& value) {
      target = parse_real(name, value, limits);
    });
  }
  void bytes(const OptionText& text, std::optional<std::int64_t>& target) {
    add(text, "SIZE",
        [&target](const std::string& name, const std::string& value) { target = parse_bytes(name, value); });
  }
  void words(const OptionText& text, const std::string& metavar, std::optional<std::string>& target) {
    add(text, metavar, [&target](const std::string& name, const std::string& value) {
      if (value.empty()) fail(name, "'' is empty; it must be a name");
      target = value;
    });
  }
  /// One of `names`, understood by the library's parser (which may know more spellings).
  template <typename T>
  void choice(const OptionText& text, std::optional<T>& target, std::vector<std::string> names,
              Result<T> (*parse)(std::string_view)) {
    const OptionText listed{text.flags, text.help + ": " + join(names), text.shown_default};
    add(listed, "NAME", [&target, names, parse](const std::string& name, const std::string& value) {
      Result<T> parsed = parse(value);
      if (!parsed.ok()) fail(name, unknown_name("value", value, names));
      target = std::move(parsed).value();
    });
  }
  /// "--plan-only", or "--pin,!--no-pin" for both answers.
  void flag(const OptionText& text, std::optional<bool>& target);
  /// A word without a flag; OptionText::flags is its name in the help.
  void positional(const OptionText& text, const std::string& metavar, std::optional<std::string>& target);

 private:
  /// Called with option and value; fails on a bad one.
  using Parse = std::function<void(const std::string& name, const std::string& value)>;
  void add(const OptionText& text, const std::string& metavar, Parse parse);
  static std::string join(const std::vector<std::string>& names);

  CLI::App& app_;
};

/// Ends the command when an option was given that would have no effect.
template <typename T>
void refuse(const std::optional<T>& option, std::string_view name, std::string_view reason) {
  if (option.has_value()) fail(std::string(name), std::string(reason));
}

/// All options of an application, for nearest names: "--steps", "--json", ...
std::vector<std::string> option_names(const CLI::App& app);

}  // namespace pkv::cli

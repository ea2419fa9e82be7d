// Dispatch, help, unknown names, and the one place where an error becomes a line and an exit code.
// Not here: the commands (command_*.cc).
#include "application.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "commands.h"
#include "output.h"

namespace pkv::cli {
namespace {

constexpr const char* kDescription =
    "Decode attention over paged KV caches, scheduled step by step.\n"
    "Without a command, pkv runs the tour: five serving traces, every schedule, on this machine.";

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv                                        the tour, about a minute\n"
    "  pkv replay --trace paper:bimodal           one trace in detail\n"
    "  pkv run --lens 48000,6000,6000             one step from lengths\n"
    "  pkv verify --cases 1000 --seed 7           random cases against the float64 oracle\n"
    "  pkv trace paper:zipf                       what a trace looks like\n"
    "  pkv doctor                                 this machine, as pkv sees it\n"
    "  pkv calibrate                              its profile, for --policy auto\n"
    "  pkv explain --lens 48000,6000,6000         why the policy chooses what it does\n"
    "  pkv sweep splits --lens 48000,6000         one axis point by point; also capacity of a profile\n"
    "\n"
    "Exit codes: 0 done, 1 verification failed, 2 bad input, 130 interrupted (what was measured is printed).";

constexpr const char* kOptionsEnd = "--";

// Options in two columns that fit a terminal.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(30); }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    std::string name = CLI::Formatter::make_option_name(option, is_positional);
    constexpr std::string_view kDefaultOfFlag = "{false}";
    if (const auto at = name.find(kDefaultOfFlag); at != std::string::npos) name.erase(at, kDefaultOfFlag.size());
    return name;
  }
};

class Application {
 public:
  Application() : app_(kDescription, "pkv") {
    app_.footer(kExamples);
    app_.formatter(std::make_shared<HelpFormatter>());
    app_.set_version_flag("--version", "pkv " PKV_VERSION);
    app_.require_subcommand(0, 1);
    app_.allow_extras();
    commands_ = {add_tour(app_),  add_replay(app_), add_run(app_),       add_verify(app_),
                 add_trace(app_), add_doctor(app_), add_calibrate(app_), add_explain(app_),
                 add_sweep(app_)};
    for (const Command& command : commands_) command.app->allow_extras();
  }

  int run(std::span<const std::string> arguments) {
    try {
      app_.parse(reversed(arguments));
    } catch (const CLI::Success& request) {  // --help, --version
      return show(request);
    } catch (const CLI::ParseError& error) {
      refuse_syntax(error, arguments);
    }
    const Command* command = chosen();
    refuse_extras(command, arguments);
    return command == nullptr ? run_default_tour() : command->action();
  }

 private:
  // CLI11 takes arguments from the back. Options without a command are the tour's.
  static std::vector<std::string> reversed(std::span<const std::string> arguments) {
    std::vector<std::string> words(arguments.rbegin(), arguments.rend());
    constexpr std::string_view kOwn[] = {"-h", "--help", "--version"};
    const bool own = !words.empty() && std::find(std::begin(kOwn), std::end(kOwn), words.back()) != std::end(kOwn);
    if (!words.empty() && words.back().starts_with('-') && !own) words.emplace_back("tour");
    return words;
  }

  // CLI11 says "plan-only was given a disallowed flag override" and drops the value.
  static void refuse_flag_value(const std::string& text, std::span<const std::string> arguments) {
    const std::string flag = "--" + text.substr(0, text.find(' '));
    for (const std::string& argument : arguments) {
      if (argument.starts_with(flag + "=")) {
        fail(flag, fmt::format("takes no value, but '{}' is given", argument.substr(flag.size() + 1)));
      }
    }
  }

  // CLI11 says "--steps: 1 required N missing": the option is the place.
  [[noreturn]] static void refuse_syntax(const CLI::ParseError& error, std::span<const std::string> arguments) {
    if (error.get_name() == "ArgumentMismatch") refuse_flag_value(error.what(), arguments);
    const std::string text = error.what();
    const std::size_t colon = text.find(": ");
    if (!text.starts_with("--") || colon == std::string::npos) fail("command line", text);
    const std::string message = text.substr(colon + 2);
    if (message.find("missing") != std::string::npos) fail(text.substr(0, colon), "has no value; it takes exactly 1");
    if (message.starts_with("At Most")) fail(text.substr(0, colon), "is given more than once; at most once");
    fail(text.substr(0, colon), message);
  }

  int show(const CLI::Success& request) {
    if (dynamic_cast<const CLI::CallForHelp*>(&request) != nullptr) {
      print(app_.help());  // of the chosen command, if any
    } else {
      print(std::string(request.what()) + "\n");
    }
    return kExitOk;
  }

  [[nodiscard]] const Command* chosen() const {
    const auto found =
        std::find_if(commands_.begin(), commands_.end(), [](const Command& c) { return c.app->parsed(); });
    return found == commands_.end() ? nullptr : &*found;
  }

  // Words after "--" are no options, whatever they begin with.
  static bool is_after_mark(const std::string& word, std::span<const std::string> arguments) {
    const auto mark = std::find(arguments.begin(), arguments.end(), kOptionsEnd);
    return std::find(arguments.begin(), mark, word) == mark;
  }

  void refuse_extras(const Command* command, std::span<const std::string> arguments) const {
    const CLI::App& app = command == nullptr ? app_ : *command->app;
    std::vector<std::string> extras = app_.remaining(true);
    std::erase(extras, kOptionsEnd);
    if (extras.empty()) return;
    const std::string& word = extras.front();
    const std::string where = command == nullptr ? "command line" : "pkv " + app.get_name();
    if (word.starts_with('-') && !is_after_mark(word, arguments)) {
      const std::string name = word.substr(0, word.find('='));
      fail(where,
           unknown_name("option", name, option_names(app), NameList::kHidden) + fmt::format("; see {} --help", where));
    }
    if (command != nullptr) fail(where, fmt::format("unexpected argument '{}'; see {} --help", word, where));
    fail(where, unknown_name("command", word, command_names()));
  }

  [[nodiscard]] std::vector<std::string> command_names() const {
    std::vector<std::string> names;
    for (const Command& command : commands_) names.push_back(command.app->get_name());
    return names;
  }

  CLI::App app_;
  std::vector<Command> commands_;
};

int report(const Error& error) {
  std::fprintf(stderr, "%s\n", error_line(error).c_str());
  return exit_code_of(error);
}

}  // namespace

int run_application(std::span<const std::string> arguments) {
  try {
    return Application().run(arguments);
  } catch (const Failure& failure) {
    return report(failure.error);
  } catch (const std::bad_alloc&) {
    return report(out_of_memory());
  } catch (const std::exception& error) {
    return report({ErrorCode::kInvalidArgument, error.what(), "pkv"});
  }
}

}  // namespace pkv::cli

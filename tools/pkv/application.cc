// Dispatch, help, unknown names, and the one place where an error becomes a line and an exit code.
// Not here: the commands (command_*.cc).
#include "application.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
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
    "\n"
    "Exit codes: 0 done, 1 verification failed, 2 bad input, 130 interrupted (what was measured is printed).";

class Application {
 public:
  Application() : app_(kDescription, "pkv") {
    app_.footer(kExamples);
    app_.set_version_flag("--version", "pkv " PKV_VERSION);
    app_.require_subcommand(0, 1);
    app_.allow_extras();
    commands_ = {add_tour(app_), add_replay(app_), add_run(app_), add_verify(app_), add_trace(app_), add_doctor(app_)};
    for (const Command& command : commands_) command.app->allow_extras();
  }

  int run(std::span<const std::string> arguments) {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // CLI11 takes them from the back
    try {
      app_.parse(std::move(reversed));
    } catch (const CLI::Success& request) {  // --help, --version
      return show(request);
    } catch (const CLI::ParseError& error) {
      fail("command line", error.what());
    }
    const Command* command = chosen();
    refuse_extras(command);
    return command == nullptr ? run_default_tour() : command->action();
  }

 private:
  // CLI11 prints help and version itself; errors never come here.
  int show(const CLI::Success& request) {
    if (dynamic_cast<const CLI::CallForHelp*>(&request) != nullptr) {
      const Command* command = chosen();
      print(command == nullptr ? app_.help() : command->app->help());
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

  void refuse_extras(const Command* command) const {
    const CLI::App& app = command == nullptr ? app_ : *command->app;
    const std::vector<std::string> extras = app_.remaining(true);
    if (extras.empty()) return;
    const std::string& word = extras.front();
    const std::string where = command == nullptr ? "pkv" : "pkv " + app.get_name();
    if (word.starts_with('-')) {
      const std::string name = word.substr(0, word.find('='));
      fail(where, unknown_name("option", name, option_names(app), NameList::kHidden) + "; see " + where + " --help");
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
    return report({ErrorCode::kResourceExhausted, "the system has no more of it for this process", "memory"});
  } catch (const std::exception& error) {
    return report({ErrorCode::kInvalidArgument, error.what(), "pkv"});
  }
}

}  // namespace pkv::cli

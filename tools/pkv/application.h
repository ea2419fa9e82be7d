// The pkv application: arguments in, exit code out. What main does, callable from tests.
// Not here: the commands (commands.h).
#pragma once

#include <span>
#include <string>

namespace pkv::cli {

/// `arguments` without the program's name. Errors are one line on standard error and exit code 2.
int run_application(std::span<const std::string> arguments);

}  // namespace pkv::cli

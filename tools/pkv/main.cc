// main: nothing but the hand-over.
// Not here: everything else (application.h).
#include <string>
#include <vector>

#include "application.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  return pkv::cli::run_application(arguments);
}

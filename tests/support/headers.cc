// Nothing but the headers of GoogleTest, compiled once for all test programs (cmake/PkvTargets.cmake).
// Not here: code.

#!/usr/bin/env bash
# A compiler launcher: keeps what ptxas says about registers and spills beside each object, and prints the rest.
# Not here: judging the numbers (tests/unit/exec_cuda/resource_report_test.cc).
set -uo pipefail

object=
for ((i = 1; i < $#; i++)); do
  if [[ ${!i} == -o ]]; then
    next=$((i + 1))
    object=${!next}
  fi
done
[[ -n $object ]] || exec "$@"

report=$object.resources
"$@" 2>"$report.new"
code=$?
# The kinds of line that --resource-usage adds; all else is a message for whoever builds.
kept='^ptxas info  |^ *[0-9]+ bytes stack frame,'
grep -vE "$kept" "$report.new" >&2
grep -E "$kept" "$report.new" >"$report"
rm -f "$report.new"
exit "$code"

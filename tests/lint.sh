#!/usr/bin/env bash
# clang-tidy-16 over the C++ files, with the checks of .clang-tidy. Slower than the tests, so it is a command of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=trace_tools/debian_packages.sh
source trace_tools/debian_packages.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'TEXT'
usage: tests/lint.sh [--since COMMIT | --recent N | FILE...]

Checks the given files, those that differ from COMMIT, the N that changed last, or every .cpp file of core, gui and
trace_tools (about 15 minutes on 2 cores). Installs clang-tidy-16 where it is missing and configures the preset `dev` where it is not.
TEXT
  exit 0
fi

require_dpkg
echo "tests/lint.sh will $(packages_sentence clang-tidy-16), then run clang-tidy-16 with .clang-tidy"
require_debian_packages clang-tidy-16
[ -f build/dev/compile_commands.json ] || cmake --preset dev >/dev/null

if [ "${1:-}" = --since ]; then
  mapfile -t files < <(git diff --name-only --diff-filter=d "${2:?--since needs a commit}" -- 'core/*.cpp' 'gui/*.cpp' 'trace_tools/*.cpp')
elif [ "${1:-}" = --recent ]; then
  mapfile -t files < <(git log --format= --name-only --diff-filter=d -- 'core/*.cpp' 'gui/*.cpp' 'trace_tools/*.cpp' |
    awk '!seen[$0]++' | while read -r file; do [ ! -f "$file" ] || echo "$file"; done | head -n "${2:?--recent needs a number}")
elif [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files 'core/*.cpp' 'gui/*.cpp' 'trace_tools/*.cpp')
fi
echo "${#files[@]} files"
[ ${#files[@]} -gt 0 ] || exit 0
# Complaints about unknown warning flags of GCC and the count of suppressed warnings are noise.
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy-16 --quiet -p build/dev 2> >(grep -v 'warnings\? generated' >&2)
echo "nothing to report"

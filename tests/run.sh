#!/usr/bin/env bash
# Sets up a Debian 12 machine for work on kvreplay, builds everything with warnings as errors and passes all tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=trace_tools/debian_packages.sh
source trace_tools/debian_packages.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'TEXT'
usage: tests/run.sh [CTEST OPTIONS]

Installs the Debian packages that are missing, configures and builds the preset `dev` in build/dev (warnings are errors)
and runs every test: unit tests, golden cases, end-to-end runs, source rules, format, scripts, installation.
Options go to ctest, for example: tests/run.sh -R Trace
PRESET=asan tests/run.sh does the same under the address and undefined-behaviour sanitizers.
TEXT
  exit 0
fi

preset=${PRESET:-dev}
packages=("${program_packages[@]}" "${test_packages[@]}")
jobs=$(nproc)
require_dpkg

cat <<TEXT
tests/run.sh will
  1. $(packages_sentence "${packages[@]}")
  2. configure and build the preset $preset in build/$preset with $jobs jobs, warnings as errors
     (from nothing about 5 minutes on 2 cores, seconds when built)
  3. run every test with ctest
Nothing outside this folder changes but the packages.
TEXT

step() { printf '\n== %s\n' "$*"; }

step "1. packages"
require_debian_packages "${packages[@]}"
step "2. configure and build"
cmake --preset "$preset" -DKVREPLAY_WERROR=ON
cmake --build --preset "$preset" -- -j "$jobs"
step "3. tests"
ctest --test-dir "build/$preset" --output-on-failure -j "$jobs" "$@"

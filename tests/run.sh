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
     (from nothing about 15 minutes on 2 cores, seconds when built)
  3. meanwhile make a Python with torch and transformers in build/torch, once (about 600 MB from where pip looks, 2 minutes)
  4. run every test with ctest
Nothing outside this folder changes but the packages.
TEXT

step() { printf '\n== %s\n' "$*"; }

step "1. packages"
require_debian_packages "${packages[@]}"
step "2. configure and build"
# Where nobody will run the kernels, they are compiled for one architecture: that takes a third of the time.
architectures=()
if [ "${CI:-}" = true ]; then architectures=(-DKVREPLAY_CUDA_ARCHITECTURES=90a-real); fi
# For the tests of trace_tools/capture_hf.py, which are skipped without it.
mkdir -p build
/usr/bin/python3 tests/torch_environment.py build/torch >build/torch.log 2>&1 &
torch=$!
trap 'kill "$torch" 2>/dev/null || true' EXIT
cmake --preset "$preset" -DKVREPLAY_WERROR=ON "${architectures[@]}"
cmake --build --preset "$preset" -- -j "$jobs"
step "3. torch"
wait "$torch" || echo "The tests that need torch will be SKIPPED."
cat build/torch.log
step "4. tests"
ctest --test-dir "build/$preset" --output-on-failure -j "$jobs" "$@"

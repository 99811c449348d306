#!/usr/bin/env bash
# Packs kvreplay so that it runs on another x86-64 Linux machine: a cluster's node with nothing but a driver.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=trace_tools/debian_packages.sh
source trace_tools/debian_packages.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'TEXT'
usage: trace_tools/bundle.sh [--small] [OUT.tar.xz]

Builds the preset `bundle` (in build/bundle) and packs the programs, the tests, the benchmarks, the bundled model and a few
prompts into OUT.tar.xz (build/bundle/kvreplay-VERSION-linux-x86_64.tar.xz), then unpacks it elsewhere and runs it. HDF5,
Boost, PCRE2, zlib and the CUDA runtime are linked statically, libraries that come without an archive are packed beside the
programs. The other machine needs a glibc as new as this one's (the script prints which) and, for a GPU, its driver.

--small: kvreplay and the tests of the CUDA backend alone, which build in a fraction of the time.

Needs the packages of tests/run.sh and libbenchmark-dev, and nvcc on the path for the CUDA backend.
TEXT
  exit 0
fi

small=
if [ "${1:-}" = --small ]; then
  small=yes
  shift
fi
case ${1:-} in -*) echo "trace_tools/bundle.sh: unknown option $1; --help lists them" >&2; exit 2 ;; esac

require_dpkg
packages=("${program_packages[@]}" "${test_packages[@]}" libbenchmark-dev)
require_debian_packages "${packages[@]}"
jobs=${JOBS:-$(nproc)}
# Whose notices travel with what is linked or packed.
linked=(libhdf5-dev libaec-dev zlib1g-dev libpcre2-dev libboost1.74-dev libeigen3-dev nlohmann-json3-dev libsentencepiece0
  libgtest-dev libbenchmark-dev libstdc++6 libgcc-s1)

step() { printf '\n== %s\n' "$*"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step "1. build"
cmake --preset bundle
targets=(kvreplay_program)
[ -n "$small" ] || targets+=(kvreplay_unit_tests kvreplay_benchmarks)
known=$(ninja -C build/bundle -t targets all)
if [[ $known == *"bin/kvreplay_gpu_tests:"* ]]; then targets+=(kvreplay_gpu_tests); fi
cmake --build --preset bundle --target "${targets[@]}" -- -j "$jobs"

step "2. collect"
version=$(build/bundle/bin/kvreplay --version | cut -d' ' -f2)
name=kvreplay-$version-linux-x86_64
out=${1:-build/bundle/$name.tar.xz}
top=$work/$name
mkdir -p "$top"/{bin,lib,doc,tests/golden}
for target in "${targets[@]}"; do
  program=${target/%_program/}
  strip -o "$top/bin/$program" "build/bundle/bin/$program"
done
# glibc belongs to the machine; every other shared library comes along.
glibc='^(linux-vdso|ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil|libmvec)\.so'
for program in "$top"/bin/*; do
  ldd "$program" | awk '$2 == "=>" { print $1, $3 }' | while read -r soname path; do
    [[ $soname =~ $glibc ]] || [ -e "$top/lib/$soname" ] || cp -L "$path" "$top/lib/$soname"
  done
done
chmod 644 "$top"/lib/* 2>/dev/null && strip --strip-unneeded "$top"/lib/*
mkdir -p "$top/data/models" "$top/data/prompts" "$top/tests"
cp -r data/models/reader-8m "$top/data/models/"
cp data/prompts/needle-1k.* data/prompts/needle-4k.* "$top/data/prompts/"
cp tests/golden/*.h5 "$top/tests/golden/"
[ -n "$small" ] || cp -r tests/fixtures "$top/tests/"
cp LICENSE "$top/"
for package in "${linked[@]}"; do
  cp -L "/usr/share/doc/$package/copyright" "$top/doc/$package.txt"
done
needs_glibc=$(objdump -T "$top"/bin/* "$top"/lib/* | grep -o 'GLIBC_2\.[0-9]*' | sort -t. -k2 -n | tail -1 | cut -d_ -f2)

driver="which this build does not use"
if [[ $known == *"bin/kvreplay_gpu_tests:"* ]]; then
  compiler=$(sed -n 's/^CMAKE_CUDA_COMPILER:[A-Z]*=//p' build/bundle/CMakeCache.txt)
  driver="one for CUDA $("$compiler" --version | sed -n 's/.*release \([0-9]*\).*/\1/p') or later"
fi

cat >"$top/README.txt" <<TEXT
kvreplay $version for x86-64 Linux with glibc $needs_glibc or later. Nothing needs installing; programs find their libraries in lib/
beside them. A GPU needs its driver alone ($driver); without one everything runs on the CPU.

  bin/kvreplay info                  the backends and devices that it sees here
  bin/kvreplay --help

From this folder, a trace of the bundled model, policies on it, and a table:

  bin/kvreplay capture --model data/models/reader-8m --prompt data/prompts/needle-4k.txt \\
      --spans data/prompts/needle-4k.spans.json --generate 64 --out trace.h5
  bin/kvreplay replay trace.h5 --policy restkv --policy snapkv --budget 128,512 --out results.h5
  bin/kvreplay report results.h5

Tests and benchmarks, also from this folder:

  bin/kvreplay bench                 the speed of the GPU's operations, beside the floor
$(for program in "$top"/bin/*; do
  case $program in
    */kvreplay_gpu_tests) echo "  bin/kvreplay_gpu_tests             every operation of the CUDA backend against the CPU's" ;;
    */kvreplay_unit_tests) echo "  bin/kvreplay_unit_tests            those of the CPU; a few need files of the repository and are skipped" ;;
    */kvreplay_benchmarks) echo "  bin/kvreplay_benchmarks            the speed of the CPU's kernels" ;;
  esac
done)

doc/ has the notices of the libraries that are part of the programs.
TEXT

step "3. pack"
# The largest dictionary: the programs share most of their code, which is then stored once.
mkdir -p "$(dirname "$out")"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@"$(git log -1 --format=%ct 2>/dev/null || echo 0)" \
  -c "$name" | xz -9 >"$work/packed"
mv "$work/packed" "$out"

step "4. run it from elsewhere"
/usr/bin/python3 tests/project/bundle_test.py "$out"
echo "$out: $(($(stat -c %s "$out") / 1000000)) MB, glibc $needs_glibc or later"

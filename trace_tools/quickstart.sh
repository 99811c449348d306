#!/usr/bin/env bash
# From a fresh Debian 12 machine and a clone to a report: which tokens each eviction policy threw away, and what that did.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=trace_tools/debian_packages.sh
source trace_tools/debian_packages.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'TEXT'
usage: trace_tools/quickstart.sh

Installs the Debian packages that are missing, builds the programs (preset `release`, in build/release), captures the
bundled model reading the bundled prompt, replays eight eviction policies at five budgets on that trace, prints a
summary and writes build/quickstart/report.html.

Another model or prompt: MODEL=DIR PROMPT=FILE [SPANS=FILE] [OUT=DIR] trace_tools/quickstart.sh
TEXT
  exit 0
fi

prompt_given=${PROMPT:-}
model=${MODEL:-data/models/reader-8m}
prompt=${PROMPT:-data/prompts/needle-4k.txt}
# The marked spans belong to the bundled prompt.
spans=${SPANS:-$([ -n "$prompt_given" ] || echo data/prompts/needle-4k.spans.json)}
out=${OUT:-build/quickstart}
policies=(full random streaming_llm h2o tova snapkv restkv oracle_attention)
budgets=128,256,512,1024,2048
jobs=$(nproc)

require_dpkg
for path in "$model/config.json" "$prompt" ${spans:+"$spans"}; do
  [ -e "$path" ] || { echo "quickstart: $path is not there" >&2; exit 1; }
done

cat <<TEXT
trace_tools/quickstart.sh will
  1. $(packages_sentence "${program_packages[@]}")
  2. build the programs in build/release with $jobs jobs (from nothing about 8 minutes on 2 cores, seconds when built)
  3. capture: the model $model reads $prompt and writes 64 tokens; what its attention
     saw goes to $out/trace.h5
  4. replay ${#policies[@]} policies at 5 budgets ($budgets tokens a head): $out/results.h5
  5. report: a table here and $out/report.html
Nothing outside this folder changes but the packages.
TEXT

step() { printf '\n== %s\n' "$*"; }

step "1. packages"
require_debian_packages "${program_packages[@]}"

step "2. build"
cmake --preset release
cmake --build --preset release -- -j "$jobs"
kvreplay=build/release/bin/kvreplay
mkdir -p "$out"

# The commands are printed as they are run, to be copied.
run() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

step "3. capture"
rm -f "$out/trace.h5" "$out/trace.h5.partial" "$out/results.h5"
run $kvreplay capture --model "$model" --prompt "$prompt" ${spans:+--spans "$spans"} --generate 64 --out "$out/trace.h5"

step "4. replay"
run $kvreplay replay "$out/trace.h5" "${policies[@]/#/--policy=}" --budget "$budgets" --out "$out/results.h5"

step "5. report"
run $kvreplay report "$out/results.h5"
run $kvreplay report "$out/results.h5" --html "$out/report.html"

cat <<TEXT

Open $PWD/$out/report.html in a browser: the error against the budget with the oracle's line, the error of each
layer, the evicted mass of each head, and the text with kept and evicted tokens marked.

Next
  $kvreplay inspect $out/trace.h5            what is in the trace
  $kvreplay policies --explain restkv        what a policy does, its parameters and variants
  $kvreplay replay $out/trace.h5 --policy snapkv:kernel=15 --budget 5% --out mine.h5 && $kvreplay report mine.h5
  $kvreplay-gui $out/trace.h5 $out/results.h5      the same in a window, live
  $kvreplay --help
TEXT

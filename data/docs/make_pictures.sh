#!/usr/bin/env bash
# Makes the pictures of README.md, data/docs/figures.md and data/docs/window.md from what the quickstart wrote: the figures by kvreplay figure, the
# report by a screenshot of headless Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=build/quickstart
kvreplay=${KVREPLAY_PROGRAM:-build/release/bin/kvreplay}
if [ ! -f "$out/report.html" ] || [ ! -x "$kvreplay" ]; then
  echo "needs $out/report.html and $kvreplay (run trace_tools/quickstart.sh)" >&2
  exit 1
fi

mkdir -p data/docs/figures
figure() { "$kvreplay" figure "$@" --width 520 -o "data/docs/figures/$1.svg"; }
figure error_by_budget $out/results.h5
figure table $out/results.h5
figure policy_by_layer $out/results.h5 --minus snapkv
figure head_grid $out/results.h5 --policy snapkv
figure eviction_map $out/trace.h5 --policy tova --budget 10%
figure token_strip $out/results.h5 --policy snapkv
figure redistribution $out/results.h5 --policy snapkv
figure cost_by_context data/published/restkv_latency.csv data/published/restkv_memory.csv --bandwidth 2039 --weights 14.5 \
  --bytes_per_token 131072 --kept 1024
policies=()
for alpha in 0.1 0.2 0.3 0.5 0.7 0.9; do policies+=(--policy "restkv:alpha=$alpha"); done
"$kvreplay" replay $out/trace.h5 "${policies[@]}" --budget 5%,10%,20% --out $out/sensitivity.h5
figure sensitivity $out/sensitivity.h5

gui=${KVREPLAY_GUI:-build/release/bin/kvreplay-gui}
if [ -x "$gui" ]; then
  pictures=$(mktemp -d)
  QT_QPA_PLATFORM=offscreen XDG_CACHE_HOME=/tmp/kvreplay XDG_CONFIG_HOME="$pictures" "$gui" --screenshots "$pictures"
  mkdir -p data/docs/window
  for panel in window head_grid eviction_map redistribution attention_view; do
    cp "$pictures/$panel-light.png" "data/docs/window/$panel.png"
  done
  cp "$pictures/window-dark.png" data/docs/window/window_dark.png
  rm -rf "$pictures"
fi

if ! command -v chromium >/dev/null; then
  echo "the report's picture needs chromium (apt-get install chromium)" >&2
  exit 1
fi
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
# --no-sandbox: Chromium's sandbox does not start for root; the page is our own.
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" --window-size=1000,915 \
  --screenshot=data/docs/report.png "file://$PWD/$out/report.html"

#!/usr/bin/env bash
# Makes the picture of README.md from the report that the quickstart wrote: a screenshot by headless Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

report=build/quickstart/report.html
if [ ! -f "$report" ] || ! command -v chromium >/dev/null; then
  echo "needs $report (run trace_tools/quickstart.sh) and chromium (apt-get install chromium)" >&2
  exit 1
fi
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
# --no-sandbox: Chromium's sandbox does not start for root; the page is our own.
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" --window-size=1000,915 \
  --screenshot=data/docs/report.png "file://$PWD/$report"

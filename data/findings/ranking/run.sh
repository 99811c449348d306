#!/usr/bin/env bash
# The ranking of all eviction policies on the bundled model: traces, replays, tables. README.md says what comes out.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for python in "${PYTHON:-}" python3 /usr/bin/python3; do
  if [ -n "$python" ] && "$python" -c 'import h5py, numpy' 2>/dev/null; then
    exec "$python" "$here/rank.py" "$@"
  fi
done
echo "data/findings/ranking/run.sh: no Python with h5py and numpy; install them (Debian: python3-h5py) or name one in PYTHON" >&2
exit 1

#!/usr/bin/env python3
"""Does a bundle run on a machine that has nothing of it?

usage: bundle_test.py [BUNDLE.tar.xz]     default: what trace_tools/bundle.sh left in build/bundle; skipped when there is none
"""

import glob
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
GLIBC = re.compile(r"^(linux-vdso|/lib64/ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil|libmvec)\.so")
MAX_BYTES = 48_000_000  # with all tests; --small has below 40


def run(*command, cwd):
    """In an empty environment."""
    result = subprocess.run(command, cwd=cwd, env={}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def foreign_libraries(program, top):
    """Shared libraries that are neither glibc's nor in the bundle."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    foreign = []
    for line in listing.splitlines():
        name, _, place = line.strip().partition(" => ")
        if not GLIBC.match(name) and not os.path.realpath(place.split(" (")[0]).startswith(os.path.realpath(top) + os.sep):
            foreign.append(line.strip())
    return foreign


def main():
    found = sys.argv[1:] or sorted(glob.glob(os.path.join(ROOT, "build/bundle/*.tar.xz")), key=os.path.getmtime)
    if not found:
        print("SKIPPED: no bundle in build/bundle; trace_tools/bundle.sh makes one")
        return 77
    bundle = found[-1]
    size = os.path.getsize(bundle)
    if size > MAX_BYTES:
        sys.exit(f"{bundle} has {size} bytes; at most {MAX_BYTES} are easy to carry")
    with tempfile.TemporaryDirectory(prefix="kvreplay bundle ") as folder:
        with tarfile.open(bundle) as archive:
            archive.extractall(folder)
        (top,) = glob.glob(os.path.join(folder, "*"))
        programs = sorted(glob.glob(os.path.join(top, "bin/*")))
        if os.path.join(top, "bin/kvreplay") not in programs:
            sys.exit("bin/kvreplay is not in the bundle")
        for program in programs:
            foreign = foreign_libraries(program, top)
            if foreign:
                sys.exit(f"{os.path.basename(program)} needs libraries of this machine: {foreign}")
        info = json.loads(run("bin/kvreplay", "info", "--json", cwd=top))
        if not info["version"].startswith("kvreplay "):
            sys.exit(f"unexpected answer of info: {info}")
        run("bin/kvreplay", "capture", "--model", "data/models/reader-8m", "--prompt", "data/prompts/needle-1k.txt",
            "--generate", "2", "--out", "trace.h5", cwd=top)
        run("bin/kvreplay", "replay", "trace.h5", "--policy", "snapkv", "--budget", "64", "--out", "results.h5", cwd=top)
        for program in programs:
            if program.endswith("_tests"):
                run(program, "--gtest_list_tests", cwd=top)
        print(f"{os.path.basename(bundle)}: {len(programs)} programs run from an empty environment")
    return 0


if __name__ == "__main__":
    sys.exit(main())

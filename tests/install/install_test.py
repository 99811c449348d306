#!/usr/bin/env python3
"""Can a project outside kvreplay use it after `cmake --install`?

usage: install_test.py BUILD_DIR      installs BUILD_DIR to an empty folder, builds the project beside this file with
find_package(kvreplay) and runs it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command):
    print("$", " ".join(command), flush=True)
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{result.stdout}\nexit code {result.returncode}")
    return result.stdout


def main():
    build = sys.argv[1]
    # The space in the name: an install prefix may have one.
    with tempfile.TemporaryDirectory(prefix="kvreplay install ") as folder:
        prefix, outside, sources = (os.path.join(folder, name) for name in ("prefix", "build", "sources"))
        shutil.copytree(HERE, sources)
        run("cmake", "--install", build, "--prefix", prefix)
        for name in ("bin/kvreplay", "include/kvreplay/core/trace/trace.h", "share/doc/kvreplay/LICENSE",
                     "share/kvreplay/python/capture_hf.py", "share/kvreplay/python/kvreplay_trace_writer.py"):
            if not os.path.isfile(os.path.join(prefix, name)):
                sys.exit(f"{name} was not installed")
        # Every installed header is part of the package: all of them compile with what kvreplay::core brings along.
        include = os.path.join(prefix, "include/kvreplay")
        headers = sorted(os.path.relpath(os.path.join(place, name), include)
                         for place, _, names in os.walk(include) for name in names if name.endswith(".h"))
        with open(os.path.join(sources, "all_headers.cpp"), "w", encoding="utf-8") as file:
            file.writelines(f"#include <{name}>\n" for name in headers)
        run("cmake", "-S", sources, "-B", outside, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release")
        run("cmake", "--build", outside)
        output = run(os.path.join(outside, "print_trace_shape"), os.path.join(HERE, "../golden/mha_odd.h5"))
        if output != "1 layer, key [3, 262, 20], prompt 257 of 262 tokens\n":
            sys.exit(f"unexpected output: {output}")
        if os.path.isfile(os.path.join(prefix, "include/kvreplay/gpu/cuda.h")):
            cuda_build = os.path.join(folder, "build with cuda")
            run("cmake", "-S", os.path.join(sources, "with_cuda"), "-B", cuda_build, "-G", "Ninja",
                f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release")
            run("cmake", "--build", cuda_build)
            output = run(os.path.join(cuda_build, "list_backends"))
            if not re.fullmatch(r"cuda: (\d+ devices?|none, .+)\n", output):
                sys.exit(f"unexpected output: {output}")
        installed = run(os.path.join(prefix, "bin/kvreplay"), "--version")
        if not installed.startswith("kvreplay "):
            sys.exit(f"unexpected output: {installed}")


if __name__ == "__main__":
    main()

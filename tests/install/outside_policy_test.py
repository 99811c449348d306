#!/usr/bin/env python3
"""Does CONTRIBUTING.md's walk-through of a new policy work as it is written, outside the tree?

usage: outside_policy_test.py BUILD_DIR      follows the walk-through with the very blocks of the page: files into an empty
folder, its commands against BUILD_DIR installed to another empty folder, the program on a golden trace
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
TRACE = os.path.join(ROOT, "tests/golden/gqa_small.h5")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(command, folder, environment):
    print("$", command, flush=True)
    result = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{result.stdout}\nexit code {result.returncode}")
    return result.stdout


def expect(holds, what):
    if not holds:
        sys.exit(f"unexpected: {what}")


def main():
    build = os.path.abspath(sys.argv[1])
    with open(os.path.join(ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        page = file.read()
    policy = page[page.index("## A new policy"):page.index("## A new metric")]
    code = dict(re.match(r"// (\S+)\n(.*)", block, re.DOTALL).groups() for block in blocks(policy, "cpp"))
    outside = policy[policy.index("### Outside the tree"):]
    project, = blocks(outside, "cmake")
    install, configure, compile_, replay = blocks(outside, "sh")[0].splitlines()
    lines = [line for line in code["core/policy/presets/last_query.cpp"].splitlines() if line.strip()]
    expect(len(lines) <= 40, f"the policy has {len(lines)} lines")

    with tempfile.TemporaryDirectory(prefix="kvreplay outside ") as folder:
        mine = os.path.join(folder, "mine")
        os.mkdir(mine)
        for name, text in {"last_query.cpp": code["core/policy/presets/last_query.cpp"], "main.cpp": code["main.cpp"],
                           "CMakeLists.txt": project}.items():
            with open(os.path.join(mine, name), "w", encoding="utf-8") as file:
                file.write(text)
        shutil.copyfile(TRACE, os.path.join(mine, "trace.h5"))
        environment = {**os.environ, "PREFIX": os.path.join(folder, "prefix"), "CMAKE_GENERATOR": "Ninja"}
        run(install.replace("build/dev", f'"{build}"'), ROOT, environment)
        run(configure, mine, environment)
        run(compile_, mine, environment)
        output = run(replay, mine, environment)
        expect(re.fullmatch(r"last_query +\d+ tokens, output error \d\.\d+\nsnapkv +\d+ tokens, output error \d\.\d+\n", output), output)
        report = run('"$PREFIX/bin/kvreplay" report results.h5 --csv', mine, environment)
        expect("last_query@paper:window=4" in report, report)


if __name__ == "__main__":
    main()

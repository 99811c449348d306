#!/usr/bin/env python3
"""Is every C++ file formatted as .clang-format says?  --fix formats them in place.

clang-format 14 decides: other versions format a few constructs differently.
"""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source_rules


def main():
    root = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout if program else ""
    if " 14." not in version:
        print("clang-format 14 is not installed: apt-get install clang-format-14")
        return 1
    files = [name for name in source_rules.tracked_files(root) if name.endswith(source_rules.SOURCE)]
    arguments = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "-Werror"]
    result = subprocess.run([program, *arguments, *files], cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(result.stderr, end="")
        print("format every file with: tests/project/format_check.py --fix")
        return 1
    print(f"{len(files)} files are formatted")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes the C++ examples of a document to files, so that a build can show that they compile.

usage: document_examples.py DOCUMENT FOLDER     prints the files; an example begins with a comment that is its path
"""

import os
import re
import sys


def main():
    document, folder = sys.argv[1:]
    with open(document, encoding="utf-8") as file:
        examples = re.findall(r"^```cpp\n// (\S+\.cpp)\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    os.makedirs(folder, exist_ok=True)
    names = []
    for path, code in examples:
        name = os.path.join(folder, os.path.basename(path))
        names.append(name)
        if os.path.exists(name):
            with open(name, encoding="utf-8") as file:
                if file.read() == code:
                    continue
        with open(name, "w", encoding="utf-8") as file:
            file.write(code)
    print(";".join(names), end="")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What holds for every source file: who may include whom, how long a file may be, and what may not be written anywhere.

usage: source_rules.py [ROOT]      prints one line a violation (file:line: rule) and exits with 1 when there are any
"""

import os
import re
import subprocess
import sys

MAX_LINES = 800
SOURCE = (".h", ".cpp", ".cu", ".cuh")
COUNTED = SOURCE + (".py", ".sh", ".cmake")
TEXT = COUNTED + (".md", ".txt", ".def", ".in", ".json", ".yaml", ".yml", "")

# Which folders of the top level a folder may include; itself is always allowed.
MAY_INCLUDE = {
    "core": set(),
    "gpu": {"core"},
    "gui": {"core", "gpu"},
    "trace_tools": {"core", "gpu", "gui"},
    "tests": {"core", "gpu", "gui", "trace_tools"},
}
# What programs may include of gpu/, and outside projects see: these name no CUDA type.
GPU_PUBLIC = {"gpu/cuda.h", "gpu/rates.h"}
# The same inside core/: lower parts never know higher ones.
CORE_MAY_INCLUDE = {
    "base": set(),
    "kernels": {"base"},
    "trace": {"base", "kernels"},
    "model": {"base", "kernels", "trace"},
    "backend": {"base", "kernels", "trace"},
    "policy": {"base", "kernels", "trace", "backend"},
    "metric": {"base", "kernels", "trace", "backend"},
    "replay": {"base", "kernels", "trace", "backend", "policy", "metric"},
    "report": {"base", "kernels", "trace", "policy", "metric"},
}
# Where one line in a table and one file make a part: the table, its folder, and what the file defines.
REGISTRIES = [
    ("trace_tools/commands.def", "trace_tools/commands", "_command()"),
    ("core/policy/policies.def", "core/policy/presets", "_policy()"),
    ("core/metric/metrics.def", "core/metric/metrics", "_metric()"),
    ("gui/window/panels.def", "gui/window/panels", "_panel()"),
    ("gui/figure_kinds/kinds.def", "gui/figure_kinds/kinds", "_kind()"),
]

HDF5_HEADER = re.compile(r'#\s*include\s*[<"](?:hdf5|hdf5_hl|H5\w*)\.h[>"]')
INCLUDE = re.compile(r'#\s*include\s*[<"]([^>"]+)[>"]')
QT_INCLUDE = re.compile(r"#\s*include\s*<(Q[^>]*|Qt\w+/[^>]*)>")
QT_WIDGETS = re.compile(r"QtWidgets|QtCharts|QWidget|QApplication\b|QMainWindow|QGraphics|QDialog|QAbstractScrollArea")
QT_GUI = re.compile(r"QtGui|QColor|QPainter|QFont|QImage|QPixmap|QGuiApplication")
CUDA = re.compile(r"\bcuda[A-Z]\w*|cuda_(?:runtime|fp16|bf16)|\bcublas|\b__half\b|\b__nv_bfloat16\b|\b__device__\b|\bCUdeviceptr\b")
PRINTS = re.compile(r"\bstd::(?:cout|cerr|clog)\b|(?:\bstd::|(?<![\w:.>]))(?:f?printf|f?puts|exit|abort|quick_exit)\s*\(")
# The patterns are written so that this file does not match itself.
UNFINISHED = re.compile("TO" "DO|FIX" "ME|XX" "X:")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:wo" r"rk|ho" r"me|ro" r"ot|Us" r"ers)/")


def tracked_files(root):
    """Files under version control, or all of them (less build output) where the tree is no checkout."""
    listing = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, check=False)
    if listing.returncode == 0 and os.path.exists(os.path.join(root, ".git")):
        return sorted(name for name in listing.stdout.decode().split("\0") if name and os.path.isfile(os.path.join(root, name)))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ("build", ".git", "__pycache__")]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return sorted(found)


def without_comments_and_strings(line):
    """Good enough for one-line rules: drops "..." and what follows //."""
    line = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    return re.sub(r"//.*", "", line)


def include_problem(name, target):
    """What is wrong with `name` including `target`, or None."""
    top, other = name.split("/")[0], target.split("/")[0]
    if other in MAY_INCLUDE and other != top and top in MAY_INCLUDE and other not in MAY_INCLUDE[top]:
        return f"{top}/ may not include {other}/ ({target})"
    if other == "gpu" and top in ("gui", "trace_tools") and target not in GPU_PUBLIC:
        return f"{top}/ may include of gpu/ {' and '.join(sorted(GPU_PUBLIC))} only ({target})"
    parts, target_parts = name.split("/"), target.split("/")
    if top == "core" and other == "core" and len(parts) > 2 and len(target_parts) > 2:
        here, there = parts[1], target_parts[1]
        if here not in CORE_MAY_INCLUDE:
            return f"core/{here} has no line in tests/project/source_rules.py"
        if here != there and there not in CORE_MAY_INCLUDE[here]:
            return f"core/{here} may not include core/{there} ({target})"
    if name.startswith("gui/figure/") and target.startswith("gui/") and not target.startswith("gui/figure/"):
        return f"gui/figure/ stands alone ({target})"
    if name.startswith("gui/figure_kinds/") and target.startswith("gui/") and not target.startswith("gui/figure"):
        return f"gui/figure_kinds/ knows figures and no window ({target})"
    if name.startswith("gui/model/") and target.startswith("gui/") and not target.startswith("gui/model/"):
        return f"gui/model/ knows neither figures nor the window ({target})"
    if name.startswith("gui/window/panels/") and target.startswith("gui/window/panels/") and os.path.splitext(target)[0] != os.path.splitext(name)[0]:
        return f"no panel knows another ({target})"
    return None


def source_problems(name, lines):
    top = name.split("/")[0]
    public_header = name.endswith(".h") and (top in ("core", "gui", "trace_tools") or name in GPU_PUBLIC)
    library = top == "core" or (top == "gpu" and not name.startswith("gpu/benchmarks/"))
    if name.endswith(".h") and not any(line.strip() == "#pragma once" for line in lines):
        yield 1, "a header needs #pragma once"
    for number, line in enumerate(lines, 1):
        match = INCLUDE.search(line)
        if match:
            problem = include_problem(name, match.group(1))
            if problem:
                yield number, problem
        if HDF5_HEADER.search(line) and not name.startswith(("core/trace/", "tests/")):
            yield number, "HDF5 is included in core/trace/ only"
        if QT_INCLUDE.search(line) and top not in ("gui", "tests"):
            yield number, "Qt is included in gui/ only"
        if name.startswith("gui/figure/") and QT_WIDGETS.search(line):
            yield number, "figures need Qt Gui and Svg only, no widgets"
        if name.startswith("gui/model/") and match and (QT_WIDGETS.search(line) or QT_GUI.search(line)):
            yield number, "the window's model needs Qt Core only"
        code = without_comments_and_strings(line)
        if public_header and CUDA.search(line if match else code):
            yield number, "no CUDA type in a public header"
        if library and PRINTS.search(code):
            yield number, "the library never prints, exits or aborts"


def text_problems(lines):
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line):
            yield number, "unfinished work belongs in the tracker, not in the tree"
        if MACHINE_PATH.search(line):
            yield number, "a path of one machine"


def registry_problems(root):
    """A part is one file and one line, and neither without the other."""
    for table, folder, definition in REGISTRIES:
        if not os.path.isfile(os.path.join(root, table)):
            continue
        with open(os.path.join(root, table), encoding="utf-8") as file:
            listed = set(re.findall(r"^\s*\w+\(\s*(\w+)\s*\)", file.read(), re.MULTILINE))
        files = {name[:-4] for name in os.listdir(os.path.join(root, folder)) if name.endswith(".cpp")}
        for name in sorted(listed - files):
            yield f"{table}:1: {name} has no {folder}/{name}.cpp"
        for name in sorted(files - listed):
            with open(os.path.join(root, folder, name + ".cpp"), encoding="utf-8") as file:
                if name + definition in file.read():
                    yield f"{folder}/{name}.cpp:1: not listed in {table}"


def check(root):
    problems = []
    for name in tracked_files(root):
        extension = os.path.splitext(name)[1]
        if extension not in TEXT or os.path.basename(name) == "LICENSE" or (name.startswith("data/models/") and extension == ".json"):
            continue
        try:
            with open(os.path.join(root, name), encoding="utf-8") as file:
                lines = file.read().split("\n")
        except UnicodeDecodeError:
            continue
        found = list(text_problems(lines))
        if extension in COUNTED and len(lines) - 1 > MAX_LINES:
            found.append((MAX_LINES + 1, f"{len(lines) - 1} lines; a file has at most {MAX_LINES}"))
        if extension in SOURCE:
            found += source_problems(name, lines)
        problems += [f"{name}:{number}: {text}" for number, text in found]
    return problems + list(registry_problems(root))


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
    problems = check(os.path.abspath(root))
    print("\n".join(problems) if problems else "every source rule holds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

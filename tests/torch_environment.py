#!/usr/bin/env python3
"""Makes a Python with torch for the tests of trace_tools/capture_hf.py: a virtual environment, no system package.

usage: torch_environment.py FOLDER      e.g. build/torch; FOLDER/bin/python is the result

What is there and complete is left alone. Packages come from wherever pip is configured to look. torch's usual package
for Linux is built for CUDA and asks for gigabytes of libraries, of which nothing runs on a CPU: it is installed without
them, and libraries that do nothing take their place (they are bound when torch is loaded, and never called). Where that does
not work, torch is installed with all it asks for. Exit code 1: no torch; the tests that need it are then skipped.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import time

# What the test was written against. torch's own requirements but for the CUDA libraries follow it.
TORCH = ["torch==2.15.0"]
BESIDE_TORCH = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions", "nvidia-cuda-runtime>=13.2,<14"]
OTHERS = ["transformers==5.23.0", "h5py", "numpy"]
TRIAL = "import h5py, transformers, torch; assert float((torch.ones(9, 9) @ torch.ones(9, 9)).sum()) == 729"


def run(*command, **options):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def install(python, *packages):
    command = [python, "-m", "pip", "install", "--quiet", "--retries", "2", "--no-cache-dir", "--no-compile", "--only-binary", ":all:"]
    result = subprocess.run([*command, *packages], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:  # otherwise it only complains of the libraries that are left out on purpose
        raise RuntimeError(f"pip install {' '.join(packages)}:\n{result.stdout}{result.stderr}")


def works(python):
    return subprocess.run([python, "-c", TRIAL], capture_output=True, check=False).returncode == 0


def symbols(which, libraries):
    """Names of functions that the libraries define or miss."""
    names = set()
    for library in libraries:
        text = run("nm", "-D", "-j", f"--{which}-only", library, capture_output=True, text=True).stdout
        names |= {name.split("@")[0] for name in text.split()}
    return names


def stand_in_for_cuda(python):
    """Empty libraries by the names of those that are missing, and one with all functions that torch's libraries want of them."""
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", capture_output=True, text=True).stdout.strip()
    folder = os.path.join(site, "torch/lib")
    own = glob.glob(folder + "/*.so*") + glob.glob(site + "/torch/_C*.so")
    present = own + glob.glob(site + "/nvidia/**/*.so*", recursive=True)
    wanted = set()
    for library in own:
        wanted |= set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", "-W", library, capture_output=True, text=True).stdout))
    missing = {name for name in wanted if re.match(r"lib(cu|nv|nccl)", name)} - {os.path.basename(path) for path in present}
    if not missing:
        return
    functions = {name for name in symbols("undefined", own) - symbols("defined", present) if re.match(r"cu|nv|nccl", name)}
    compiler = ["cc", "-shared", "-fPIC", "-O0", "-w", "-x", "c", "-"]
    source = "\n".join(f"void {name}(void) {{ __builtin_trap(); }}" for name in sorted(functions))
    subprocess.run([*compiler, "-o", folder + "/libabsent.so", "-Wl,-soname,libabsent.so"], input=source, text=True, check=True)
    for name in missing:
        subprocess.run([*compiler, "-o", f"{folder}/{name}", f"-Wl,-soname,{name},--no-as-needed,-rpath,$ORIGIN", f"-L{folder}",
                        "-labsent"], input="", text=True, check=True)


def make(folder):
    python = os.path.join(folder, "bin/python")
    run(sys.executable, "-m", "venv", folder)
    install(python, "--no-deps", *TORCH)
    install(python, *BESIDE_TORCH, *OTHERS)
    stand_in_for_cuda(python)
    if not works(python):
        print("torch does not work without its CUDA libraries; installing them", flush=True)
        install(python, *TORCH)
        if not works(python):
            raise RuntimeError("torch was installed and does not work")


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip())
        return 0 if len(sys.argv) == 2 and sys.argv[1] in ("-h", "--help") else 2
    folder, wanted = os.path.abspath(sys.argv[1]), "\n".join(TORCH + BESIDE_TORCH + OTHERS)
    mark = os.path.join(folder, "complete")
    if os.path.exists(mark):
        with open(mark, encoding="utf-8") as file:
            if file.read() == wanted:
                return 0
    if os.path.exists(folder) and not os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        print(f"no torch: {folder} exists and is no virtual environment", file=sys.stderr)
        return 1
    started = time.monotonic()
    try:
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"no torch: {error}", file=sys.stderr)
        return 1
    with open(mark, "w", encoding="utf-8") as file:
        file.write(wanted)
    print(f"{folder}: ready after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Replays every golden case whose policy this version has and compares kept sets (exactly) and scores (1e-4 of the row's
largest finite magnitude) with what the published implementations chose. Golden files carry their expectations under
/expected/<case>: attributes policy, budget, granularity; per layer kept [H, n], kept_mask [H, P] or evicted_at [H, T].

usage: check_golden.py KVREPLAY FOLDER_WITH_H5_FILES [--backend B] [NAME.h5 ...]
--backend: as `kvreplay replay` takes it; default cpu.
"""
import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np


def policies_of(program):
    import json
    listed = json.loads(subprocess.run([program, "policies", "--json"], check=True, capture_output=True, text=True).stdout)
    return {p["name"]: {v["name"] for v in p["variants"]} for p in listed}


def is_known(policy, known):
    head = policy.split(":")[0]
    name, _, variant = head.partition("@")
    return name in known and (not variant or variant in known[name])


def expected_evicted_at(layer, heads, prompt, tokens):
    if "evicted_at" in layer:
        return layer["evicted_at"][...]
    out = np.full((heads, tokens), -1, np.int32)
    out[:, :prompt] = 0
    if "kept_mask" in layer:
        out[:, :prompt][layer["kept_mask"][...].astype(bool)] = -1
    else:
        for h, row in enumerate(layer["kept"][...]):
            out[h, row] = -1
    return out


def compare(case, run, prompt, tokens):
    """The differences of one case, as text; empty when it matches."""
    problems = []
    granularity = run.attrs["granularity"]
    granularity = granularity.decode() if isinstance(granularity, bytes) else granularity
    if case.attrs["granularity"] != granularity:
        problems.append(f"granularity {granularity} instead of {case.attrs['granularity']}")
    evicted_at = run["evicted_at"][...]
    for index, name in enumerate(sorted(case)):
        got = evicted_at[index]
        want = expected_evicted_at(case[name], got.shape[0], prompt, tokens)
        if want.shape != got.shape:
            problems.append(f"layer {name}: shape {got.shape} instead of {want.shape}")
        elif (want != got).any():
            problems.append(f"layer {name}: {(want != got).sum()} of {want.size} entries differ")
        if "scores" in case[name] and "scores" in run and "evicted_at" not in case[name]:
            want = case[name]["scores"][...]
            if "chunk_scores" in case[name]:  # what the chunks were ranked by, at every token of each
                chunk = int(re.search(r"chunk=([0-9]+)", case.attrs["policy"]).group(1))
                want = np.repeat(case[name]["chunk_scores"][...], chunk, axis=1)[:, :prompt]
            got = run["scores"][index][:, : want.shape[1]]
            finite = np.isfinite(got)
            scale = np.abs(np.where(np.isfinite(want), want, 0)).max(axis=1, keepdims=True)
            error = np.where(finite, np.abs(got - want) / scale, 0)
            if error.max() > 1e-4 or not finite.any():
                problems.append(f"layer {name}: scores differ by {error.max():.1e} of the row's largest")
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--backend", default="cpu")
    given = parser.parse_args()
    program, folder = given.program, given.folder
    files = [folder / name for name in given.names] or sorted(folder.glob("*.h5"))
    known = policies_of(program)
    passed, failed, skipped = 0, 0, []
    for path in files:
        with h5py.File(path, "r") as golden, tempfile.TemporaryDirectory() as scratch:
            if "expected" not in golden:
                continue
            prompt, tokens = int(golden["tokens"].attrs["prompt_length"]), golden["tokens/ids"].shape[0]
            for name, case in golden["expected"].items():
                policy, budget = case.attrs["policy"], int(case.attrs["budget"])
                if not is_known(policy, known):
                    skipped.append(f"{path.name}/{name} ({policy})")
                    continue
                out = f"{scratch}/{name}.h5"
                command = [program, "replay", str(path), "--policy", policy, "--budget", str(budget), "--scores", "--metrics", "none",
                           "--backend", given.backend, "--out", out]
                ran = subprocess.run(command, capture_output=True, text=True)
                problems = [ran.stderr.strip()] if ran.returncode != 0 else []
                if not problems:
                    with h5py.File(out, "r") as results:
                        problems = compare(case, results["runs/00000"], prompt, tokens)
                if problems:
                    failed += 1
                    print(f"FAILED {path.name}/{name}: {policy} at {budget}: " + "; ".join(problems))
                else:
                    passed += 1
    for case in skipped:
        print("not in this version:", case)
    print(f"{passed} cases match, {failed} do not, {len(skipped)} are of policies that this version does not have")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

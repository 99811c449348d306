#!/usr/bin/env python3
"""Is every bad input refused with one line that says where, what and what to do, and exit code 1?"""

import os
import shutil
import unittest

import numpy

from harness import GOLDEN, EndToEndTest, edited_trace, kvreplay, listed_commands, replaced

TRACE = os.path.join(GOLDEN, "mha_odd.h5")
COMMANDS = listed_commands()


def needs(*commands):
    missing = [name for name in commands if name not in COMMANDS]
    return unittest.skipIf(missing, f"this build has no {missing}")


class BadTraces(EndToEndTest):
    """Files that are no traces, or contradict themselves: the same answer from every command that reads them."""

    def refused(self, words, path):
        for command in ("inspect", "replay"):
            if command not in COMMANDS:
                continue
            extra = ("--policy", "snapkv", "--budget", "64", "--out", self.path("r.h5")) if command == "replay" else ()
            with self.subTest(command):
                line = self.fails(1, words, command, path, *extra)
                self.assertIn(os.path.basename(path), line)
                self.assertFalse(os.path.exists(self.path("r.h5")), "a failed replay leaves no output")
                self.assertFalse(os.path.exists(self.path("r.h5.partial")), "a failed replay leaves no output")
        if "validate" in COMMANDS:
            with self.subTest("validate"):
                result = kvreplay("validate", path)
                self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
                self.assertIn(os.path.basename(path), result.stdout + result.stderr)

    def edited(self, edit):
        return edited_trace(self.path("edited.h5"), edit)

    def test_missing(self):
        self.refused("no-such-file.h5", self.path("no-such-file.h5"))

    def test_folder(self):
        self.refused("", self.folder)

    def test_empty(self):
        open(self.path("empty.h5"), "wb").close()
        self.refused("", self.path("empty.h5"))

    def test_truncated(self):
        size = os.path.getsize(TRACE)
        for part in (100, size // 2, size - 1000):
            with self.subTest(f"{part} bytes"):
                with open(TRACE, "rb") as source, open(self.path("short.h5"), "wb") as target:
                    target.write(source.read(part))
                self.refused("", self.path("short.h5"))

    def test_foreign(self):
        with open(self.path("notes.h5"), "w", encoding="utf-8") as file:
            file.write("this is no HDF5 file\n" * 100)
        self.refused("", self.path("notes.h5"))
        self.refused("format", self.edited(lambda file: file.attrs.__setitem__("format", "somebody-elses")))
        self.refused("version", self.edited(lambda file: file.attrs.__setitem__("version", 99)))

    def test_a_shape_that_contradicts_another(self):
        self.refused("key", self.edited(lambda f: replaced(f, "layers/000/key", f["layers/000/key"][:, :-1])))
        self.refused("value", self.edited(lambda f: replaced(f, "layers/000/value", f["layers/000/value"][:-1])))
        self.refused("query", self.edited(lambda f: replaced(f, "layers/000/query", f["layers/000/query"][:, :, :-1])))
        self.refused("KV heads", self.edited(lambda f: f["model"].attrs.__setitem__("num_kv_heads", 2)))
        self.refused("prompt_length", self.edited(lambda f: f["tokens"].attrs.__setitem__("prompt_length", 100000)))
        self.refused("positions", self.edited(lambda f: replaced(f, "queries/positions", f["queries/positions"][...][::-1])))

    def test_a_missing_dataset(self):
        self.refused("value", self.edited(lambda file: file.__delitem__("layers/000/value")))
        self.refused("ids", self.edited(lambda file: file.__delitem__("tokens/ids")))
        self.refused("model", self.edited(lambda file: file.__delitem__("model")))

    def with_value(self, dataset, value):
        """`value` in the last row, which every replay reads."""
        def edit(file):
            values = file[dataset][...]
            rows = values.reshape(-1, *values.shape[-2:])  # a view
            rows[0, -1, 0] = value
            replaced(file, dataset, values)
        return self.edited(edit)

    def test_nan_and_infinity(self):
        for dataset in ("key", "value", "query", "output_projection"):
            for value in (numpy.nan, numpy.inf):
                path = self.with_value(f"layers/000/{dataset}", value)
                with self.subTest(f"{dataset} {value}"):
                    if "replay" in COMMANDS:
                        self.fails(1, [dataset, "edited.h5"], "replay", path, "--policy", "restkv", "--budget", "64", "--out",
                                   self.path("r.h5"))
                        self.assertFalse(os.path.exists(self.path("r.h5")))
                    if "validate" in COMMANDS:
                        result = kvreplay("validate", path)
                        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
                        self.assertIn(dataset, result.stdout + result.stderr)

    def test_names_in_a_file_cannot_drive_the_terminal(self):
        path = self.edited(lambda file: file["model"].attrs.__setitem__("name", "evil\x1b[2J\nname"))
        if "inspect" in COMMANDS:
            self.assertIn("evil", self.succeeds("inspect", path))  # succeeds() refuses escape sequences


@needs("replay")
class BadReplays(EndToEndTest):
    def refused(self, words, *arguments, code=1):
        out = self.path("r.h5")
        self.fails(code, words, "replay", TRACE, *arguments, "--out", out)
        self.assertFalse(os.path.exists(out), "a failed replay leaves no output")
        self.assertEqual(os.listdir(self.folder), [], "a failed replay leaves nothing behind")

    def test_budget(self):
        for budget, words in (("0", "budget"), ("-5", "budget"), ("x", "budget"), ("0%", "budget"), ("12%%", "budget"),
                              ("1B", "budget"), ("", "budget"), ("64,,32", "budget"), ("99999999999999999999", "budget")):
            with self.subTest(budget):
                self.refused(words, "--policy", "snapkv", *(["--budget", ""] if budget == "" else [f"--budget={budget}"]))

    def test_budget_below_what_the_policy_protects(self):
        self.refused(["snapkv", "32"], "--policy", "snapkv", "--budget", "16")
        self.refused(["streaming_llm"], "--policy", "streaming_llm:sinks=8", "--budget", "7")

    def test_unknown_policy_key_variant(self):
        self.refused(["snapkb", "snapkv"], "--policy", "snapkb", "--budget", "64")
        self.refused(["snapkv", "windou", "window"], "--policy", "snapkv:windou=3", "--budget", "64")
        self.refused(["snapkv", "nonesuch", "released"], "--policy", "snapkv@nonesuch", "--budget", "64")
        self.refused(["snapkv", "window"], "--policy", "snapkv:window=-1", "--budget", "64")
        self.refused(["snapkv", "pooling", "max"], "--policy", "snapkv:pooling=most", "--budget", "64")
        self.refused(["snapkv", "kernel"], "--policy", "snapkv:kernel=4", "--budget", "64")
        self.refused(["snapkv"], "--policy", "snapkv:window", "--budget", "64")
        self.refused(["snapkv"], "--policy", "snapkv:window=8,window=9", "--budget", "64")
        self.refused(["tova", "released"], "--policy", "tova@released", "--budget", "64")
        self.refused("policy", "--policy", "", "--budget", "64")

    def test_unknown_metric(self):
        self.refused(["output_eror", "output_error"], "--policy", "snapkv", "--budget", "64", "--metrics", "output_eror")

    def test_missing_arguments(self):
        self.fails(2, "--policy", "replay", TRACE, "--budget", "64", "--out", self.path("r.h5"))
        self.fails(2, "--budget", "replay", TRACE, "--policy", "snapkv", "--out", self.path("r.h5"))
        self.fails(2, "--out", "replay", TRACE, "--policy", "snapkv", "--budget", "64")
        self.fails(2, "trace", "replay", "--policy", "snapkv", "--budget", "64", "--out", self.path("r.h5"))

    def test_a_budget_above_the_prompt_is_no_error_and_is_said(self):
        for policy in ("snapkv", "restkv", "h2o", "streaming_llm"):
            with self.subTest(policy):
                result = kvreplay("replay", TRACE, "--policy", policy, "--budget", "100000", "--out", self.path("r.h5"))
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn("nothing", result.stdout + result.stderr)


class BadPlaces(EndToEndTest):
    """Outputs that cannot be written. Root may write anywhere, so the places are ones where nobody can."""

    def commands(self, out):
        if "replay" in COMMANDS:
            yield ("replay", TRACE, "--policy", "snapkv", "--budget", "64", "--out", out)
        if "synth" in COMMANDS:
            yield ("synth", "--out", out)

    def test_no_such_folder(self):
        for command in self.commands(self.path("nowhere/r.h5")):
            self.fails(1, "nowhere", *command)

    def test_no_permission(self):
        for command in self.commands("/proc/kvreplay.h5"):
            self.fails(1, "/proc/kvreplay.h5", *command)

    def test_a_folder_is_in_the_way(self):
        os.mkdir(self.path("folder.h5"))
        for command in self.commands(self.path("folder.h5")):
            self.fails(1, "folder.h5", *command)


if __name__ == "__main__":
    unittest.main()

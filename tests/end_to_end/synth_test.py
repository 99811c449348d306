#!/usr/bin/env python3
"""Synthetic traces by the command line: do other tools read them, and do policies fare on them as their texts promise?"""

import json
import os
import unittest

import h5py
import numpy

from harness import EndToEndTest

SMALL = ("--layers", 2, "--query-heads", 8, "--kv-heads", 4, "--head-dim", 32, "--prompt", 1024, "--decode", 24)


class Synth(EndToEndTest):
    def test_h5py_reads_it_and_the_manifest_says_what_it_is(self):
        trace = self.path("t.h5")
        told = self.json_of("synth", "--out", trace, *SMALL, "--seed", 3, "--queries", "window:16", "--dtype", "bf16")
        self.assertAlmostEqual(told["predicted_bytes"] / os.path.getsize(trace), 1, delta=0.02)
        with h5py.File(trace) as file:
            self.assertEqual(file["tokens/ids"].shape, (1048,))
            self.assertEqual(list(file["queries/positions"]), list(range(1008, 1048)))
            self.assertEqual(file["layers/001/query"].shape, (8, 40, 32))
            self.assertEqual(file["layers/001/key"].attrs["encoding"], "bfloat16")
            self.assertEqual([bytes(label).rstrip(b"\0") for label in file["tokens/span_label"]], [b"needle", b"question"])
            manifest = json.loads(file.attrs["manifest"])
        self.assertTrue(manifest["synthetic"])
        self.assertEqual(manifest["seed"], 3)
        self.assertEqual(manifest["parameters"]["prompt"], 1024)

    def test_the_same_command_gives_the_same_bytes_on_any_number_of_threads(self):
        contents = []
        for threads in (1, 3):
            self.succeeds("synth", "--out", "t.h5", *SMALL, "--threads", threads, cwd=self.folder)
            with h5py.File(self.path("t.h5")) as file:
                names = []
                file.visit(names.append)
                contents.append({name: file[name][...].tobytes() for name in names if isinstance(file[name], h5py.Dataset)})
        self.assertEqual(contents[0], contents[1])

    def test_policies_fare_as_the_description_says(self):
        """Who asks the question's queries keeps the needle; who keeps sinks and recent tokens alone loses it; hindsight is best."""
        trace, results = self.path("t.h5"), self.path("r.h5")
        self.succeeds("synth", "--out", trace, *SMALL, "--needle-depth", 0.4)
        policies = ("streaming_llm", "random", "h2o", "snapkv", "restkv", "oracle_attention")
        self.succeeds("replay", trace, *(f"--policy={policy}" for policy in policies), "--budget", 160, "--out", results)
        recall, error = {}, {}
        with h5py.File(results) as file:
            for run in file["runs"].values():
                name = run.attrs["policy"].split("@")[0].split(":")[0]
                recall[name] = float(numpy.nanmean(run["metrics/evidence_recall"]))
                error[name] = float(numpy.nanmean(run["metrics/output_error"]))
        self.assertEqual(recall["streaming_llm"], 0)
        self.assertLess(recall["random"], 0.4)
        self.assertGreater(recall["snapkv"], 0.7)
        self.assertGreater(recall["restkv"], 0.7)
        self.assertEqual(min(error, key=error.get), "oracle_attention")
        for policy in ("snapkv", "restkv", "h2o"):
            self.assertLess(error[policy], 0.9 * error["streaming_llm"])

    def test_a_dry_run_writes_nothing(self):
        told = self.json_of("synth", "--out", self.path("t.h5"), "--dry-run", "--prompt", 131072, "--layers", 32, "--kv-heads", 8,
                            "--query-heads", 32, "--head-dim", 128, "--queries", "window:512", "--output-projection", "none")
        self.assertFalse(told["written"])
        self.assertGreater(told["predicted_bytes"], 17e9)
        self.assertEqual(os.listdir(self.folder), [])

    def test_bad_options_are_named(self):
        out = self.path("t.h5")
        for words, options in ((["--query-heads", "--kv-heads"], ("--query-heads", 7)), (["--dtype", "f16"], ("--dtype", "f8")),
                               (["--queries", "window:W"], ("--queries", "last:3")), (["--needle"], ("--needle", 5000)),
                               (["--output-projection", "none"], ("--output-projection", "half"))):
            self.fails(1, words, "synth", "--out", out, *options)
        self.fails(2, "--out", "synth")
        self.fails(1, "folder", "synth", "--out", self.path("none/t.h5"))
        self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main()

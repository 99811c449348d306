#!/usr/bin/env python3
"""Does trace_tools/kvreplay_files.py read every kind of file that the program writes, and say what is wrong with others?"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy

from harness import GOLDEN, PROGRAM, ROOT, EndToEndTest, edited_trace, replaced

sys.path.insert(0, os.path.join(ROOT, "trace_tools"))
import kvreplay_files

MODELS = os.path.join(ROOT, "tests/fixtures/models")
# Of a stored number's last place; attention and head outputs are float16 beside bfloat16.
ROUNDING = {"f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}


class ReaderTest(EndToEndTest):
    def ids(self, count):
        with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
            file.write(" ".join(str(3 + (i * i + 7 * i) % 77) for i in range(count)))
        return self.path("ids.txt")

    def capture(self, *extra, model="llama3", count=300):
        self.succeeds("capture", "--model", os.path.join(MODELS, model), "--ids", self.ids(count), "--out", self.path("t.h5"), *extra)
        return kvreplay_files.open_trace(self.path("t.h5"))

    def recomputed(self, trace, layer):
        """Log-sum-exps, weights and head outputs of the recorded queries, from Q, K and V in float64."""
        group = trace.model["num_query_heads"] // trace.model["num_kv_heads"]
        query, key, value = (trace.read(layer, name).astype(numpy.float64) for name in ("query", "key", "value"))
        scores = query @ key.repeat(group, axis=0).transpose(0, 2, 1) * trace.model["attention_scale"]
        cap, window = trace.model.get("logit_softcap"), trace.sliding_window(layer)
        scores = cap * numpy.tanh(scores / cap) if cap else scores
        distance = trace.query_positions[:, None] - numpy.arange(trace.num_tokens)
        scores[:, (distance < 0) | ((distance >= window) if window else False)] = -numpy.inf
        sums = numpy.log(numpy.exp(scores).sum(axis=2))
        weights = numpy.exp(scores - sums[..., None])
        return sums, weights, weights @ value.repeat(group, axis=0)

    def check(self, trace, tolerance):
        """Shapes by the format page, and that the tensors belong together."""
        m, tokens, queries = trace.model, trace.num_tokens, len(trace.query_positions)
        self.assertEqual(len(trace.ids), tokens)
        for layer in trace.layers:
            self.assertEqual(trace.read(layer, "key").shape, (m["num_kv_heads"], tokens, m["head_dim"]))
            self.assertEqual(trace.read(layer, "query").shape, (m["num_query_heads"], queries, m["head_dim"]))
            sums, weights, output = self.recomputed(trace, layer)
            if "log_sum_exp" in trace.datasets(layer):
                numpy.testing.assert_allclose(trace.read(layer, "log_sum_exp"), sums, atol=4 * tolerance)
                numpy.testing.assert_allclose(trace.read(layer, "head_output"), output, atol=tolerance * abs(output).max())
            if "attention" in trace.datasets(layer):
                rows = numpy.searchsorted(trace.query_positions, trace.attention_positions)
                numpy.testing.assert_allclose(trace.read(layer, "attention"), weights[:, rows], atol=tolerance)
            if "attention_column_sum" in trace.datasets(layer):
                total = trace.read(layer, "attention_column_sum").sum(axis=1)
                numpy.testing.assert_allclose(total, trace.prompt_length, rtol=1e-4)


class Traces(ReaderTest):
    def test_element_types(self):
        for dtype, stored in (("f32", numpy.float32), ("f16", numpy.float16), ("bf16", numpy.float32)):
            with self.subTest(dtype), self.capture("--dtype", dtype, "--generate", 3, "--attention", "window:5") as trace:
                self.assertEqual(trace.read(0, "key").dtype, stored)
                self.assertEqual(trace.read(1, "output_projection").shape[0], trace.model["hidden_size"])
                self.assertEqual((trace.num_tokens, trace.prompt_length, trace.complete), (303, 300, True))
                self.assertTrue(numpy.isnan(trace.nll[0]) and numpy.isfinite(trace.nll[1:]).all())
                self.check(trace, ROUNDING[dtype])

    def test_bfloat16_is_the_upper_half_of_float32(self):
        with self.capture("--dtype", "f32") as exact:
            key = exact.read(0, "key")
        with self.capture("--dtype", "bf16") as trace:
            rounded = trace.read(0, "key")
        self.assertFalse((rounded.view(numpy.uint32) & 0xFFFF).any())
        numpy.testing.assert_allclose(rounded, key, rtol=2.0**-8)

    def test_selections(self):
        with self.capture("--queries", "window:16", "--layers", "1", "--prompt-length", 290, "--dtype", "f32") as trace:
            self.assertEqual((trace.layers, trace.query_positions.tolist()), ([1], list(range(274, 300))))
            self.assertIsNone(trace.attention_positions)
            self.assertNotIn("attention", trace.datasets(1))
            self.check(trace, ROUNDING["f32"])
            with self.assertRaisesRegex(ValueError, "layer 0 was not captured"):
                trace.read(0, "key")
            with self.assertRaisesRegex(ValueError, "layer 1 has no attention; it has key"):
                trace.read(1, "attention")
        with self.capture("--queries", "all", "--attention", "all", "--dtype", "f32", model="gemma2", count=90) as trace:
            self.assertGreater(trace.sliding_window(0), 0)
            self.assertEqual(trace.sliding_window(1), 0)
            self.check(trace, ROUNDING["f32"])

    def test_text_spans_and_manifest(self):
        prompt = os.path.join(ROOT, "data/prompts/needle-1k")
        self.succeeds("capture", "--model", os.path.join(ROOT, "data/models/reader-8m"), "--prompt", prompt + ".txt", "--layers", "0",
                      "--queries", "window:8", "--out", self.path("t.h5"))
        with kvreplay_files.open_trace(self.path("t.h5")) as trace, open(prompt + ".txt", "rb") as text:
            self.assertIn(text.read().strip(), b"".join(trace.texts))
            self.assertEqual((trace.spans, trace.manifest["dtype"], trace.manifest["seed"]), ([], "float16", None))
            self.assertIn("--layers", trace.attributes["command"])

    def test_synthetic_traces(self):
        small = ("--layers", 2, "--prompt", 400, "--decode", 9, "--head-dim", 16)
        for form in (("--attention-statistics",), ("--dtype", "bf16", "--output-projection", "none"), ("--queries", "window:32")):
            with self.subTest(form):
                self.succeeds("synth", "--out", self.path("t.h5"), *small, *form)
                with kvreplay_files.open_trace(self.path("t.h5")) as trace:
                    self.assertEqual([label for _, _, label in trace.spans], ["needle", "question"])
                    self.assertTrue(trace.manifest["synthetic"])
                    self.check(trace, ROUNDING["bf16"])
        self.succeeds("synth", "--out", self.path("t.h5"), *small, "--output-projection", "gram")
        with kvreplay_files.open_trace(self.path("t.h5")) as trace:
            gram = trace.read(0, "output_gram")
            numpy.testing.assert_allclose(gram, gram.transpose(0, 2, 1))

    def test_strings_of_both_kinds(self):
        def edit(file):
            file.attrs["created_by"] = "variable é"
            file.attrs["command"] = numpy.array("fixed é".encode())
            file.attrs["manifest"] = numpy.bytes_(b'{"seed": 4}')
            file["model"].attrs["name"] = numpy.array([b"in a list"])
            if "span_start" in file["tokens"]:
                for name in ("span_start", "span_end", "span_label"):
                    del file["tokens"][name]
            file["tokens/span_start"], file["tokens/span_end"] = numpy.int32([1]), numpy.int32([3])
            file["tokens/span_label"] = numpy.array(["ö".encode()], h5py.string_dtype("utf-8", 9))

        with kvreplay_files.open_trace(edited_trace(self.path("e.h5"), edit)) as trace:
            self.assertEqual((trace.attributes["created_by"], trace.attributes["command"], trace.model["name"]),
                             ("variable é", "fixed é", "in a list"))
            self.assertEqual((trace.manifest, trace.spans), ({"seed": 4}, [(1, 3, "ö")]))

    def test_golden_traces(self):
        for name in sorted(os.listdir(GOLDEN)):
            if name.endswith(".h5"):
                with self.subTest(name), kvreplay_files.open_trace(os.path.join(GOLDEN, name)) as trace:
                    self.assertGreater(trace.read(trace.layers[0], "key").size, 0)

    def test_what_is_wrong_is_said(self):
        with self.assertRaises(FileNotFoundError):
            kvreplay_files.open_trace(self.path("none.h5"))
        with open(self.path("bad.h5"), "wb") as file:
            file.write(b"no HDF5")
        with self.assertRaisesRegex(ValueError, "bad.h5: cannot be read as HDF5"):
            kvreplay_files.open_trace(self.path("bad.h5"))
        later = edited_trace(self.path("e.h5"), lambda file: file.attrs.modify("version", 2))
        with self.assertRaisesRegex(ValueError, 'e.h5: is "kvreplay-trace" version 2'):
            kvreplay_files.open_trace(later)
        with self.assertRaisesRegex(ValueError, 'wanted is "kvreplay-results"'):
            kvreplay_files.read_results(os.path.join(GOLDEN, "mha_odd.h5"))
        with self.assertRaisesRegex(ValueError, "lacks a part"):
            kvreplay_files.open_trace(edited_trace(self.path("f.h5"), lambda file: file.pop("queries")))


class CutOff(ReaderTest):
    def test_a_killed_capture_opens_up_to_its_mark(self):
        process = subprocess.Popen([PROGRAM, "capture", "--model", os.path.join(MODELS, "llama3"), "--ids", self.ids(9000), "--out",
                                    self.path("t.h5"), "--attention", "window:16", "--threads", "1", "--dtype", "f32"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial, until = self.path("t.h5.partial"), time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            try:
                with kvreplay_files.open_trace(partial) as growing:  # while it is being written
                    if growing.num_tokens >= 512:
                        break
            except (OSError, ValueError):
                time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        self.assertNotEqual(process.wait(60), 0, "was done before it could be killed")
        with kvreplay_files.open_trace(partial) as trace:
            self.assertFalse(trace.complete)
            self.assertTrue(512 <= trace.num_tokens < 9000)
            self.assertEqual(trace.prompt_length, trace.num_tokens)
            self.assertEqual(len(trace.query_positions), trace.num_tokens)
            self.assertEqual(len(trace.attention_positions), 0)
            self.assertNotIn("attention_column_sum", trace.datasets(0))
            self.check(trace, ROUNDING["f32"])

    def test_nothing_committed(self):
        def edit(file):
            file.attrs["complete"] = 0
            if "committed_tokens" in file:
                del file["committed_tokens"]
            file["committed_tokens"] = numpy.int64([0])

        with self.assertRaisesRegex(ValueError, "before anything was committed"):
            kvreplay_files.open_trace(edited_trace(self.path("e.h5"), edit))

    def test_a_mark_inside_the_generation(self):
        with self.capture("--generate", 8, "--dtype", "f32") as whole:
            key, sums = whole.read(0, "key"), whole.read(0, "attention_column_sum")

        def edit(file):
            file.attrs["complete"] = 0
            replaced(file, "committed_tokens", numpy.int64([303]))

        with kvreplay_files.open_trace(edited_trace(self.path("e.h5"), edit, self.path("t.h5"))) as trace:
            self.assertEqual((trace.num_tokens, trace.prompt_length), (303, 300))
            numpy.testing.assert_array_equal(trace.read(0, "key"), key[:, :303])
            numpy.testing.assert_array_equal(trace.read(0, "attention_column_sum"), sums[:, :303])


class Documents(ReaderTest):
    def test_the_examples_run(self):
        self.capture("--generate", 3, count=120).close()
        shutil.copy(self.path("t.h5"), self.path("trace.h5"))
        self.succeeds("replay", self.path("t.h5"), "--policy=snapkv", "--budget", "40", "--out", self.path("results.h5"))
        examples = []
        for name in ("README.md", "data/trace-format.md"):
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                examples += re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
        self.assertEqual(len(examples), 2)
        for example in examples:
            subprocess.run([sys.executable, "-c", example], cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": os.path.join(ROOT, "trace_tools")})


class Results(ReaderTest):
    def test_runs_metrics_and_scores(self):
        with self.capture("--generate", 6) as trace:
            heads, layers = trace.model["num_kv_heads"], len(trace.layers)
        self.succeeds("replay", self.path("t.h5"), "--policy=snapkv", "--policy=full", "--policy=h2o@released", "--budget", "40,20%",
                      "--scores", "--out", self.path("r.h5"))
        runs = kvreplay_files.read_results(self.path("r.h5"))
        self.assertEqual([run["name"] for run in runs], [f"{i:05d}" for i in range(6)])
        first = runs[0]
        self.assertEqual((first["preset"], first["budget"], first["granularity"]), ("snapkv", 40, "kv_head"))
        self.assertEqual(first["evicted_at"].shape, (layers, heads, 306))
        self.assertEqual(first["scores"].shape, (layers, heads, 300))
        self.assertEqual(((first["evicted_at"] == -1)[..., :300]).sum(axis=2).tolist(), [[40] * heads] * layers)
        self.assertIn("window", first["parameters"])
        error = first["metrics"]["output_error"]
        self.assertEqual((error.dtype, error.shape[-1]), (numpy.float32, 6))
        self.assertAlmostEqual(first["summary"]["output_error"], float(numpy.nanmean(error)), delta=1e-6)
        self.assertTrue(all((run["evicted_at"] == -1).all() for run in runs if run["preset"] == "full"))

    def test_without_metrics_and_scores(self):
        self.succeeds("replay", os.path.join(GOLDEN, "mha_odd.h5"), "--policy=streaming_llm", "--budget", "20", "--metrics", "none",
                      "--out", self.path("r.h5"))
        (run,) = kvreplay_files.read_results(self.path("r.h5"))
        self.assertEqual((run["metrics"], run["scores"]), ({}, None))
        told = self.json_of("inspect", self.path("r.h5"))
        self.assertIn(run["policy"], json.dumps(told))


if __name__ == "__main__":
    unittest.main()

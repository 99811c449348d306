#!/usr/bin/env python3
"""From a model to a report, as the quickstart does it, on a model of a few kilobytes: do the pieces fit, do other tools read
the files, and does the same input give the same output?"""

import csv
import hashlib
import io
import json
import os
import random
import re
import unittest

import h5py
import numpy

from harness import ROOT, EndToEndTest, kvreplay, listed_commands

MODELS = os.path.join(ROOT, "tests/fixtures/models")
POLICIES = ("full", "random", "streaming_llm", "h2o", "tova", "snapkv", "restkv", "oracle_attention")
BUDGETS = (40, 64, 96)
PROMPT, GENERATED = 150, 12
SEED = 7


class Pipeline(EndToEndTest):
    model = os.path.join(MODELS, "llama3")

    def capture(self, name="trace.h5", *extra, generate=GENERATED):
        with open(os.path.join(self.model, "config.json"), encoding="utf-8") as file:
            vocabulary = json.load(file)["vocab_size"]
        generator = random.Random(SEED)
        with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
            file.write(" ".join(str(generator.randrange(vocabulary)) for _ in range(PROMPT)))
        self.succeeds("capture", "--model", self.model, "--ids", self.path("ids.txt"), "--generate", generate, "--out",
                      self.path(name), *extra)
        return self.path(name)

    def replay(self, trace, name="results.h5"):
        self.succeeds("replay", trace, *(f"--policy={policy}" for policy in POLICIES), "--budget",
                      ",".join(map(str, BUDGETS)), "--out", self.path(name))
        return self.path(name)

    def test_capture_gives_a_trace_that_h5py_reads(self):
        trace = self.capture()
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids.txt", "trace.h5"])
        with h5py.File(trace) as file:
            self.assertEqual((file.attrs["format"], file.attrs["version"], file.attrs["complete"]), ("kvreplay-trace", 1, 1))
            tokens = file["tokens/ids"].shape[0]
            self.assertEqual(file["tokens"].attrs["prompt_length"], PROMPT)
            self.assertLessEqual(tokens, PROMPT + GENERATED)
            model = dict(file["model"].attrs)
            for layer in range(model["num_layers"]):
                group = file[f"layers/{layer:03d}"]
                self.assertEqual(group["key"].shape, (model["num_kv_heads"], tokens, model["head_dim"]))
                self.assertEqual(group["key"].dtype, numpy.float16)
                self.assertEqual(group["query"].shape, (model["num_query_heads"], tokens, model["head_dim"]))
                for name in ("key", "value", "query", "output_projection", "log_sum_exp", "head_output", "attention_column_sum"):
                    self.assertTrue(numpy.isfinite(group[name][...].astype(numpy.float32)).all(), name)
                # Every prompt query spends a mass of 1.
                numpy.testing.assert_allclose(group["attention_column_sum"][...].sum(axis=1), PROMPT, rtol=1e-4)
            nll = file["tokens/nll"][...]
            self.assertTrue(numpy.isnan(nll[0]) and numpy.isfinite(nll[1:]).all())

    def test_capture_replay_report(self):
        trace = self.capture()
        if "validate" in listed_commands():
            self.succeeds("validate", trace)
            self.json_of("inspect", trace)
        results = self.replay(trace)
        with h5py.File(results) as file:
            self.assertEqual(file.attrs["format"], "kvreplay-results")
            runs = [file[f"runs/{number:05d}"] for number in range(len(POLICIES) * len(BUDGETS))]
            self.assertEqual(len(file["runs"]), len(runs))
            for number, run in enumerate(runs):
                policy, budget = POLICIES[number // len(BUDGETS)], BUDGETS[number % len(BUDGETS)]
                with self.subTest(f"{policy} {budget}"):
                    self.assertEqual(run.attrs["preset"], policy)
                    evicted = run["evicted_at"][...].astype("<i4")
                    self.assertEqual(hashlib.sha256(evicted.tobytes()).hexdigest(), run.attrs["kept_sha256"])
                    if policy == "full":
                        self.assertTrue((evicted == -1).all())
                        self.assertEqual(run["summary"].attrs["output_error"], 0)
                        continue
                    self.assertEqual(run.attrs["budget"], budget)
                    kept_of_prompt = ((evicted[:, :, :PROMPT] != 0).sum(axis=2))
                    self.assertTrue((kept_of_prompt == budget).all(), kept_of_prompt)
                    self.assertGreater(run["summary"].attrs["output_error"], 0)
                    self.assertGreater(run["summary"].attrs["evicted_mass"], 0)

        if "report" in listed_commands():
            self.report(results)

    def report(self, results):
        table = self.succeeds("report", results)
        for policy in POLICIES:
            self.assertIn(policy, table)
        rows = list(csv.DictReader(io.StringIO(self.succeeds("report", results, "--csv", "-"))))
        self.assertGreaterEqual(len(rows), len(POLICIES) * len(BUDGETS))
        self.json_of("report", results)
        self.succeeds("report", results, "--html", self.path("report.html"))
        with open(self.path("report.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertTrue(page.lower().startswith("<!doctype html>"))
        outside = re.findall(r'(?:src|href)\s*=\s*"(?!#|data:)([^"]*)"', page)
        self.assertEqual(outside, [], "the page is one self-contained file")
        if self.json_of("info")["built_with"]["figures"]:
            self.assertTrue("data:image/svg+xml" in page or "<svg" in page, "the page has no figures")

    def test_what_scores_and_what_is_judged(self):
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump([{"start": 0, "end": 100, "label": "context"}, {"start": 100, "end": 124, "label": "question"},
                       {"start": 130, "end": PROMPT, "label": "question"}], file)
        trace, out = self.capture("trace.h5", "--spans", self.path("spans.json")), self.path("results.h5")
        self.succeeds("replay", trace, "--policy=snapkv:window=16", "--policy=streaming_llm", "--budget=40", "--score=question#1",
                      "--judge", "question#2,generated", "--out", out)
        with h5py.File(out) as file:
            run = file["runs/00000"]
            self.assertEqual(run.attrs["prompt_length"], 124)
            self.assertEqual(run.attrs["scope"], "score question#1; judge question#2+generated")
            self.assertEqual(json.loads(run.attrs["score_spans"]), [{"start": 100, "end": 124, "label": "question"}])
            evicted = run["evicted_at"][...]
            self.assertTrue(((evicted[:, :, :124] != 0).sum(axis=2) == 40).all())
            errors = run["metrics/output_error"][...]
            self.assertEqual(errors.shape[1], evicted.shape[2] - 124)
            self.assertTrue(numpy.isnan(errors[:, :130 - 124]).all(), "the answer in between is not judged")
            self.assertTrue(numpy.isfinite(errors[:, 130 - 124:]).all())
        self.succeeds("validate", out)
        other = self.path("other.h5")
        self.succeeds("replay", trace, "--policy=snapkv:window=16", "--budget=40", "--prompt-length=124", "--out", other)
        labels = self.json_of("report", out, other)["policies"]
        self.assertIn("snapkv:window=16 [score question#1; judge question#2+generated]", labels)
        self.assertIn("snapkv:window=16 [prompt 124]", labels)
        self.assertIn("[score question#1; judge question#2+generated]", self.succeeds("inspect", out))
        self.assertEqual(self.json_of("inspect", other)["runs"][0]["scope"], "prompt 124")
        refused = ["replay", trace, "--policy=snapkv", "--budget=40", "--out", self.path("none.h5")]
        self.fails(1, ["question", "100 to 123", "takes at most 24"], *refused, "--score=question#1")
        self.fails(1, ["--score", "trace.h5", "context, question"], *refused, "--score=system")
        self.fails(2, ["--prompt-length", "--score"], *refused, "--score=context", "--prompt-length=9")

    def test_single_tokens_are_restored_and_dropped(self):
        trace, out = self.capture(), self.path("results.h5")
        base = ["replay", trace, "--policy=snapkv:window=8", "--budget=40", "--out", out]
        best = self.json_of(*base, "--worth", 2)["worth"]
        with h5py.File(out) as file:
            layers, heads, _ = file["runs/00000/evicted_at"].shape
        self.assertEqual(len(best), layers * heads * 2)
        self.assertEqual([token["place"] for token in best[:4]], [1, 2, 1, 2])
        first = best[0]
        place = f"{first['layer']}:{first['head']}:{first['token']}"
        runs = self.json_of(*base, "--restore", place, "--drop", f"*:{PROMPT - 1}")["runs"]
        self.assertEqual([run["edit"] for run in runs], ["", f"restore {place}", f"drop *:{PROMPT - 1}"])
        summary = runs[1]["summary"]
        self.assertLess(summary["edit.head_output_error.after"], summary["edit.head_output_error.before"])
        self.assertGreater(runs[2]["summary"]["edit.output_error.after"], runs[2]["summary"]["edit.output_error.before"])
        table = self.succeeds(*base, "--restore", place, "--worth=1")
        self.assertRegex(table, rf"(?m)^restore {place} +snapkv:window=8 +40 +evicted in 1 row ")
        self.assertRegex(table, r"(?m)^policy +budget +layer +head +place +token ")
        with h5py.File(out) as file:
            self.assertEqual((file["runs/00001"].attrs["edit"], file["runs/00001"].attrs["edit_of"]), (f"restore {place}", 0))
        self.succeeds("validate", out)
        self.assertIn(f"snapkv:window=8 [restore {place}]", self.json_of("report", out)["policies"])
        self.fails(1, ["--restore", "keeps this token"], *base, "--restore", f"0:{PROMPT - 1}")
        self.fails(1, ["--drop", "LAYER:HEAD:TOKEN"], *base, "--drop", "5")

    def test_stability_in_half_precision(self):
        trace, out = self.capture(), self.path("results.h5")
        command = ["replay", trace, "--policy=snapkv:window=8", "--policy=full", "--budget=40", "--out", out, "--stability"]
        summary = self.json_of(*command)["runs"][0]["summary"]
        for name in ("kept_overlap_fp16", "kept_jaccard_fp16"):
            self.assertTrue(0 < summary[f"{name}_worst"] <= summary[name] <= 1, summary)
        self.assertRegex(self.succeeds(*command), r"(?m)^policy .* same in fp16 +worst head$")

    def test_engine_constraints(self):
        trace, out = self.capture(), self.path("results.h5")
        command = ["replay", trace, "--policy=h2o", "--policy=cam@released:window=8", "--budget=40", "--constraints", "--out", out]
        runs = self.json_of(*command)["runs"]
        own = {run["policy"].split("@")[0]: run for run in runs if "extra_output_error" not in run}
        self.assertEqual(sorted(own), ["cam", "h2o"])
        constrained = [run for run in runs if "extra_output_error" in run]
        for run in constrained:
            plain = own[run["policy"].split("@")[0]]
            self.assertAlmostEqual(run["extra_output_error"], run["summary"]["output_error"] - plain["summary"]["output_error"], 12)
        kinds = [run["policy"].split("@")[0] for run in constrained]
        self.assertEqual((kinds.count("h2o"), kinds.count("cam")), (5, 4))  # one_set is not put around what changes rows
        self.assertRegex(self.succeeds(*command), r"(?m)^policy .* output error +extra error +evicted mass")

    def test_equal_bytes(self):
        trace = self.capture()
        policies = ("snapkv:window=8", "snapkv@released:window=8", "pyramidkv@released:window=8", "full")
        out = self.path("results.h5")
        runs = self.json_of("replay", trace, *(f"--policy={policy}" for policy in policies), "--budget=60,30%", "--equal-bytes",
                            "--out", out)["runs"]
        for run in runs[:6]:
            self.assertLessEqual(run["cache_bytes"], run["equal_bytes"])
        self.assertEqual(runs[0]["cache_bytes"], runs[0]["equal_bytes"], "sets per KV head meet the bytes exactly")
        self.assertLess(runs[2]["budget"], runs[0]["budget"], "sets per query head get fewer tokens")
        with h5py.File(out) as file:
            run = file["runs/00003"]
            self.assertEqual((run.attrs["budget_text"], run.attrs["equal_bytes_tokens"]), ("30%", PROMPT * 30 // 100))
            self.assertEqual(run.attrs["equal_bytes"], runs[3]["equal_bytes"])
        report = self.json_of("report", out)
        self.assertEqual([len(budget["policies"]) for budget in report["budgets"]], [4, 4], "compared at the same bytes")
        table = self.succeeds("report", out)
        self.assertIn(f"{runs[0]['equal_bytes']} bytes", table)
        self.assertRegex(table, rf"(?m)^[ *]+snapkv@released:window=8 +{runs[2]['budget']} ")
        self.fails(1, ["--equal-bytes", "takes at least"], "replay", trace, "--policy=snapkv@released", "--budget=33",
                   "--equal-bytes", "--out", self.path("none.h5"))
        self.assertFalse(os.path.exists(self.path("none.h5")))

    def test_the_same_input_gives_the_same_output(self):
        self.compare(self.capture("one.h5"), self.capture("two.h5"), {"created_utc", "command", "manifest"})
        trace = self.path("one.h5")
        self.compare(self.replay(trace, "first.h5"), self.replay(trace, "second.h5"), {"seconds", "peak_bytes"})

    def compare(self, one, two, may_differ):
        """Every dataset and attribute is equal, but those named."""
        with h5py.File(one) as left, h5py.File(two) as right:
            names = []
            left.visit(names.append)
            for name in ["/"] + names:
                self.assertEqual(set(left[name].attrs), set(right[name].attrs), name)
                for key in set(left[name].attrs) - may_differ:
                    numpy.testing.assert_array_equal(left[name].attrs[key], right[name].attrs[key], f"{name} {key}")
                if isinstance(left[name], h5py.Dataset):
                    numpy.testing.assert_array_equal(left[name][...], right[name][...], name)

    def test_one_thread_gives_what_several_give(self):
        trace = self.capture()
        self.replay(trace, "several.h5")
        self.succeeds("replay", trace, *(f"--policy={policy}" for policy in POLICIES), "--budget", ",".join(map(str, BUDGETS)),
                      "--threads", 1, "--out", self.path("one.h5"))
        self.compare(self.path("one.h5"), self.path("several.h5"), {"seconds", "peak_bytes"})


if __name__ == "__main__":
    unittest.main()

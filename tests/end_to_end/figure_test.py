#!/usr/bin/env python3
"""`kvreplay figure`: is every kind drawn in every format, the same each time, with the numbers of the files, and what cannot be
drawn refused in one line?

Needs h5py and numpy (Debian: python3-h5py) to write its samples; without them every test here is skipped.
"""

import csv
import io
import json
import os
import re
import unittest

from harness import GOLDEN, ROOT, EndToEndTest

try:
    import sample_results
except ImportError:
    sample_results = None

PUBLISHED = os.path.join(ROOT, "data/published")
TRACE = os.path.join(GOLDEN, "gqa_small.h5")


def published(name):
    return os.path.join(PUBLISHED, name + ".csv")


@unittest.skipIf(sample_results is None, "h5py or numpy is missing (apt-get install python3-h5py)")
class FigureTest(EndToEndTest):
    def setUp(self):
        super().setUp()
        if not self.json_of("info")["built_with"]["figures"]:
            self.fails(1, "this build has no figures", "figure", "table", "-o", self.path("f.svg"))
            self.skipTest("this build has no figures")
        self.trace, self.results, _ = sample_results.write_sample(self.folder)

    def kinds(self):
        return {kind["name"]: kind for kind in self.json_of("figure", "--list")}

    def sources(self, kind):
        """Arguments that make each kind from the samples; kinds that need runs of their own are in other tests."""
        return {"sensitivity": [published("restkv_sensitivity"), "--parameter", "alpha"],
                "needle_grid": [self.results, self.trace, "--metric", "output_error"],
                "cost_by_context": [published("restkv_latency"), published("restkv_memory"), "--bandwidth", "2039"],
                "redistribution": [self.results, "--view", "mean", "--policy", "snapkv"],
                }.get(kind, [self.results])

    def rows(self, *arguments):
        return list(csv.DictReader(io.StringIO(self.succeeds("figure", *arguments, "--csv"))))

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def test_every_kind_in_every_format_the_same_each_time(self):
        for kind in self.kinds():
            if kind == "redistribution":
                continue  # below: the sample's made-up results have no regions
            with self.subTest(kind):
                arguments = ["figure", kind, *self.sources(kind)]
                for format in ("svg", "pdf", "png"):
                    one, two = f"{kind}.{format}", f"{kind}-again.{format}"
                    self.succeeds(*arguments, "-o", self.path(one), "--width", "column")
                    self.succeeds(*arguments, "-o", self.path(two), "--width", "column")
                    self.assertEqual(self.read(one), self.read(two), format)
                    self.assertGreater(len(self.read(one)), 1000)
                svg = self.read(f"{kind}.svg").decode()
                self.assertIn('<svg width="312"', svg, "a column is 3.25 inches")
                self.assertRegex(svg, r"<desc>command: kvreplay figure " + kind)
                self.assertIn("</text>", svg, "text stays text")
                self.assertIn("policy: ", svg) if self.results in arguments else self.assertIn("file: ", svg)
                self.assertNotIn(b"DCTDecode", self.read(f"{kind}.pdf"), "images are lossless")
                dark = f"{kind}-dark.svg"
                self.succeeds(*arguments, "-o", self.path(dark), "--dark")
                self.assertIn("#16191d", self.read(dark).decode())

    def test_numbers_are_those_of_the_report(self):
        report = self.json_of("report", self.results)
        means = {(group["budget"], policy["label"]): policy["metrics"]["output_error"]["mean"]
                 for group in report["budgets"] for policy in group["policies"]}
        for row in self.rows("error_by_budget", self.results):
            budget = int(float(row["budget (tokens per head, share of the prompt)"]))
            self.assertAlmostEqual(float(row["Layer output error"]), means[budget, row["series"]], places=12)
        table = self.rows("table", self.results)
        self.assertEqual(table[-1]["policy"], "oracle_attention", "the bound comes last")
        for row in table:
            for name, value in row.items():
                if name != "policy":
                    budget = int(name.split(", ")[1].replace(",", ""))
                    self.assertAlmostEqual(float(value), means[budget, row["policy"]], places=12)

    def test_eviction_map_is_what_the_file_has(self):
        import h5py
        with h5py.File(self.results) as file:
            name, run = next((name, run) for name, run in file["runs"].items() if run.attrs["preset"] == "snapkv")
            evicted_at, budget = run["evicted_at"][:], int(run.attrs["budget"])
        steps = 12
        for row in self.rows("eviction_map", self.results, "--policy", "snapkv", "--budget", budget, "--tokens", "100:160"):
            layer, head = map(int, row["layer"].split("."))
            value = evicted_at[layer, head, int(row["position"])]
            drawn = float(next(value for key, value in row.items() if "evicted" in key))
            self.assertEqual(drawn, steps + 1 if value < 0 else value, name)

    def test_redistribution_has_the_numbers_of_the_metrics(self):
        import h5py
        import numpy as np
        results = self.path("r.h5")
        self.succeeds("replay", TRACE, "--policy", "snapkv", "--budget", "64", "--out", results)
        with h5py.File(results) as file:
            metrics = {name: data[:] for name, data in file["runs/00000/metrics"].items()}
        for head, step in ((0, 1), (5, 9), (7, 16)):
            rows = self.rows("redistribution", results, TRACE, "--policy", "snapkv", "--layer", 0, "--head", head, "--step", step)
            factors = {row["name"]: float(row["before"]) for row in rows if row["section"] == "factors"}
            for name in ("evicted_mass", "value_displacement", "head_output_error"):
                # float32 in the file
                self.assertAlmostEqual(factors[name] / float(metrics[name][0, head, step - 1]), 1, places=4, msg=name)
            self.assertAlmostEqual(factors["evicted_mass"] * factors["value_displacement"] / factors["output_norm"],
                                   factors["head_output_error"], places=9)
            regions = [row for row in rows if row["section"] == "Attention by region"]
            for region, row in enumerate(regions):
                for column, name in (("before", "region_mass_before"), ("after", "region_mass_after")):
                    self.assertAlmostEqual(float(row[column]), float(metrics[name][0, head, step - 1, region]), places=5)
            self.assertAlmostEqual(sum(float(row["after"]) for row in regions), 1, places=9)
        for format in ("svg", "pdf", "png"):
            self.succeeds("figure", "redistribution", results, TRACE, "-o", self.path("f." + format))
        # Where the head's output is changed most, when nothing is said.
        errors = metrics["head_output_error"]
        layer, head, step = (int(i) for i in np.unravel_index(errors.argmax(), errors.shape))
        self.assertIn(f"layer {layer}, query head {head}, decode step {step + 1}<", self.read("f.svg").decode())
        self.fails(1, ["no query head 99", "0 to 7"], "figure", "redistribution", results, TRACE, "--head", 99, "--csv")
        self.fails(1, ["no decode step 17"], "figure", "redistribution", results, TRACE, "--step", 17, "--csv")
        self.fails(1, ["no layer 3"], "figure", "redistribution", results, TRACE, "--layer", 3, "--csv")

    def test_a_trace_alone_is_replayed_first(self):
        results = self.path("r.h5")
        self.succeeds("replay", TRACE, "--policy", "snapkv", "--policy", "tova", "--budget", "64", "--out", results)
        for kind in ("eviction_map", "error_by_step"):
            policies = ["--policy", "snapkv", "--budget", "64"] + (["--minus", "tova"] if kind == "eviction_map" else [])
            self.assertEqual(self.succeeds("figure", kind, TRACE, *policies, "--csv"),
                             self.succeeds("figure", kind, results, TRACE, *policies, "--csv"), kind)
        self.succeeds("figure", "head_grid", TRACE, "--policy", "snapkv", "-o", self.path("a.svg"))
        self.succeeds("figure", "head_grid", TRACE, "--policy", "snapkv", "-o", self.path("b.svg"))
        self.assertEqual(self.read("a.svg"), self.read("b.svg"), "no trace of the temporary folder")
        self.fails(1, "no policy is named", "figure", "head_grid", TRACE, "--csv")

    def test_sensitivity_of_a_replay(self):
        results = self.path("s.h5")
        policies = [word for kernel in (3, 7, 11) for word in ("--policy", f"snapkv:kernel={kernel}")]
        self.succeeds("replay", TRACE, *policies, "--budget", "64,128", "--out", results)
        rows = self.rows("sensitivity", results)
        self.assertEqual([float(row["kernel"]) for row in rows], [3, 7, 11, 3, 7, 11])
        self.assertEqual({row["series"] for row in rows}, {"64 tokens (10.7 %)", "128 tokens (21.3 %)"})
        self.fails(1, ["several values of \"window\"", "kernel"], "figure", "sensitivity", results, "--parameter", "window", "--csv")

    def test_latex(self):
        self.succeeds("figure", "table", self.results, "-o", self.path("t.tex"))
        latex = self.read("t.tex").decode()
        self.assertEqual(latex.count("\\textbf{"), 4, "the best at each budget")
        self.assertEqual(latex.count("\\underline{"), 4)
        self.assertIn("streaming\\_llm", latex)
        self.assertIn("% command: kvreplay figure table", latex)
        self.fails(1, "only tables", "figure", "head_grid", self.results, "-o", self.path("h.tex"))
        self.succeeds("figure", "table", published("restkv_ruler"), "-o", self.path("p.tex"))
        self.assertIn("\\textbf{94.01}", self.read("p.tex").decode())

    def test_specification_draws_the_same_from_anywhere(self):
        arguments = ["head_grid", self.results, "--policy", "snapkv", "--policy", "h2o", "--budget", "10%", "--width", "page", "--dark"]
        self.succeeds("figure", *arguments, "-o", self.path("a.png"), "--csv", self.path("a.csv"), "--write-spec", self.path("a.json"))
        with open(self.path("a.json"), encoding="utf-8") as file:
            spec = json.load(file)
        self.assertEqual(spec["files"], [os.path.basename(self.results)])
        self.assertEqual(spec["options"], {"budget": "10%", "policy": ["snapkv", "h2o"]})
        self.succeeds("figure", self.path("a.json"), "-o", self.path("b.png"), "--csv", self.path("b.csv"), cwd="/")
        self.assertEqual(self.read("a.csv"), self.read("b.csv"))
        self.assertEqual(len(self.read("a.png")), len(self.read("b.png")))
        self.succeeds("figure", self.path("a.json"), "-o", self.path("c.svg"), "--policy", "random")
        self.assertIn(">random</text>", self.read("c.svg").decode(), "options of the command line win")

    def test_published_values(self):
        for kind, name, options in (("error_by_budget", "restkv_longbench", []),
                                    ("error_by_budget", "kvpress_ruler", ["--where", "model=Llama-3.1-8B"]),
                                    ("table", "longbench_tasks", ["--where", "budget=256"]), ("table", "restkv_ablation", []),
                                    ("sensitivity", "restkv_sensitivity", ["--parameter", "beta"]), ("table", "adakv_longbench", []),
                                    ("cost_by_context", "restkv_memory", [])):
            with self.subTest(name):
                self.succeeds("figure", kind, published(name), *options, "-o", self.path("p.svg"))

    def test_help_lists_every_kind_and_option(self):
        text = self.succeeds("figure", "--list")
        for name, kind in self.kinds().items():
            self.assertRegex(text, rf"(?m)^{name}$")
            for option in kind["options"]:
                self.assertIn("--" + option["key"], text)
        for line in text.splitlines():
            self.assertLessEqual(len(line), 120, line)
        self.assertEqual(self.succeeds("figure", "table", "--list").splitlines()[0], "table")
        self.assertEqual(len(self.json_of("figure", "table", "--list")), 1)
        done = self.json_of("figure", "table", self.results, "-o", self.path("t.svg"))
        self.assertEqual(done["kind"], "table")
        self.assertGreater(done["height"], 100)

    def test_bad_usage_and_bad_input(self):
        out = ["-o", self.path("f.svg")]
        self.fails(2, ["no kind of figure"], "figure")
        self.fails(2, ["no output is named"], "figure", "table", self.results)
        self.fails(2, ["there is no kind", "did you mean table?"], "figure", "tabel", self.results, *out)
        self.fails(2, ["has no option --layer", "figure table --list"], "figure", "table", self.results, "--layer", 3, *out)
        self.fails(2, ["--medium"], "figure", "table", self.results, "--medium", "ink", *out)
        self.fails(1, ["is not a width", "column"], "figure", "table", self.results, "--width", "5", *out)
        self.fails(1, [".svg, .pdf or .png"], "figure", "table", self.results, "-o", self.path("f.gif"))
        self.fails(1, ["cannot be written"], "figure", "table", self.results, "-o", self.path("no/f.svg"))
        self.fails(1, ["is the file that is read"], "figure", "table", self.results, "-o", self.results)
        self.fails(1, ["no file is named", "it needs"], "figure", "table", *out)
        self.fails(1, ["not there.h5"], "figure", "table", self.path("not there.h5"), *out)
        self.fails(1, ["no run has the metric", "did you mean output_error?"], "figure", "table", self.results, "--metric", "output_eror", *out)
        self.fails(1, ["no run has the budget", "there are"], "figure", "head_grid", self.results, "--budget", "7", *out)
        self.fails(1, ["cannot be made from these files", "it needs results"], "figure", "head_grid", published("restkv_ruler"), *out)
        with open(self.path("t.csv"), "w", encoding="utf-8") as file:
            file.write("policy,value\nsnapkv,much\n")
        self.fails(1, ["row 1", "\"much\"", "not a number"], "figure", "table", self.path("t.csv"), *out)
        with open(self.path("s.json"), "w", encoding="utf-8") as file:
            file.write("{\"kind\": \"table\", \"colour\": 1}")
        self.fails(1, ["no key \"colour\""], "figure", self.path("s.json"), *out)
        self.assertFalse(os.path.exists(self.path("f.svg")))

    def test_results_that_lack_what_a_figure_needs(self):
        import h5py
        one = self.path("one.h5")
        self.succeeds("replay", TRACE, "--policy", "snapkv", "--budget", "64", "--out", one)
        self.fails(1, ["all runs have the same budget", "64 tokens"], "figure", "error_by_budget", one, "--csv")
        summary = self.path("summary.h5")
        self.succeeds("replay", TRACE, "--policy", "snapkv", "--budget", "64,128", "--summary-only", "--out", summary)
        self.rows("error_by_budget", summary)
        for kind, words in (("error_by_layer", "single layers"), ("error_by_step", "single steps"), ("head_grid", "each head"),
                            ("eviction_map", "which tokens"), ("kept_map", "which tokens")):
            self.fails(1, [words], "figure", kind, summary, "--csv")
        with h5py.File(self.results, "r+") as file:
            for name in list(file["runs"]):
                del file["runs"][name]
        self.fails(1, ["no runs"], "figure", "table", self.results, "--csv")
        other = self.path("other.h5")
        sample_results.write_trace(other, seed=7)
        self.fails(1, ["is the trace of none of these runs"], "figure", "table", one, other, "--csv")

    def test_text_of_a_file_stays_text(self):
        self.succeeds("figure", "token_strip", self.results, self.trace, "--tokens", "0:12", "-o", self.path("t.svg"))
        svg = self.read("t.svg").decode()
        self.assertNotIn("<script", svg)
        self.assertTrue(re.search(r"&lt;script", svg))
        self.assertNotIn("\x1b", svg)


if __name__ == "__main__":
    unittest.main()

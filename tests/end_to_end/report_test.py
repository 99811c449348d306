"""`kvreplay report`: do its tables, CSV, JSON and page say the same, and does nothing in a file get out of its place?

Needs h5py and numpy (Debian: python3-h5py) to write its samples; without them every test here is skipped.
"""

import base64
import csv
import html.parser
import io
import json
import os
import re
import unittest

from harness import EndToEndTest, kvreplay

try:
    import sample_results
except ImportError:
    sample_results = None

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(html.parser.HTMLParser):
    """Checks nesting, and gathers what the tests ask about."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.references, self.texts, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.references.append(value)
            assert not name.startswith("on"), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_in(self, tag):
        return "".join(data for where, data in self.texts if where == tag)


@unittest.skipIf(sample_results is None, "h5py or numpy is missing (apt-get install python3-h5py)")
class ReportTest(EndToEndTest):
    def setUp(self):
        super().setUp()
        self.trace, self.results, self.runs = sample_results.write_sample(self.folder)

    def page(self, *arguments, name="report.html"):
        self.succeeds("report", *arguments, "--html", self.path(name))
        with open(self.path(name), encoding="utf-8") as file:
            text = file.read()
        return text, Page(text)

    def test_table_marks_the_best_the_bound_and_what_was_not_evicted(self):
        text = self.succeeds("report", self.results)
        self.assertEqual(len(re.findall(r"^budget ", text, re.MULTILINE)), 4)
        self.assertEqual(len(re.findall(r"^  \* restkv(?:@released)? ", text, re.MULTILINE)), 4, "the best at each budget")
        self.assertEqual(len(re.findall(r"^  ° oracle_attention", text, re.MULTILINE)), 4)
        self.assertNotRegex(text, r"(?m)^! full", "the full cache evicts nothing by definition")
        self.assertRegex(text, r"(?m)^! restkv@released .*per query head: 4 times the bytes")
        for line in text.splitlines():
            self.assertNotRegex(line, r"  full .*\+", "a run that evicted nothing has no regret")

    def test_tables_fit_and_wide_has_the_rest(self):
        for line in self.succeeds("report", self.results).splitlines():
            self.assertLessEqual(len(line), 120, line)
        wide = self.succeeds("report", self.results, "--wide")
        self.assertGreater(max(map(len, wide.splitlines())), 120)
        for name in ("output_error", "evicted_mass", "head_output_error", "oracle_overlap"):
            self.assertRegex(wide, rf"(?m)^ .*\b{name}\b")
        self.assertRegex(self.succeeds("report", self.results), r"--wide shows the other numbers")

    def test_regimes_are_the_first_steps_and_the_rest(self):
        import h5py
        import numpy as np
        with h5py.File(self.results, "r+") as file:
            for run in file["runs"].values():
                run.attrs["early_steps"] = 5
            values = file["runs/00008/metrics/output_error"][:].astype(np.float64)
        got = self.json_of("report", self.results)["runs"][8]
        self.assertEqual(got["early_steps"], 5)
        self.assertAlmostEqual(got["metrics"]["output_error"]["early"], values[:, :5].mean(), places=6)  # float32 in the file
        self.assertAlmostEqual(got["metrics"]["output_error"]["late"], values[:, 5:].mean(), places=6)
        row = list(csv.DictReader(io.StringIO(self.succeeds("report", self.results, "--csv"))))[8]
        self.assertAlmostEqual(float(row["output_error_early"]), values[:, :5].mean(), places=6)
        self.assertAlmostEqual(float(row["output_error_late"]), values[:, 5:].mean(), places=6)
        table = self.succeeds("report", self.results, "--regimes")
        self.assertRegex(table, r"(?m)^  policy .* mean +early +late ")
        self.assertIn("the first 5 steps after the prompt", table)
        self.assertNotIn("early", self.succeeds("report", self.results))
        text, _ = self.page(self.results)
        self.assertIn("<th>early</th><th>late</th>", text)
        late = self.json_of("report", self.results)["budgets"][0]["policies"][0]["metrics"]["output_error"]["late"]
        self.assertIn(f"<td>{late:.4f}</td>" if late else "<td>0</td>", text)

    def test_csv_json_and_table_agree(self):
        rows = list(csv.DictReader(io.StringIO(self.succeeds("report", self.results, "--csv", "-"))))
        data = self.json_of("report", self.results)
        self.assertEqual(len(rows), self.runs)
        self.assertEqual(len(data["runs"]), self.runs)
        for row, run in zip(rows, data["runs"]):
            self.assertEqual(row["policy"], run["policy"])
            self.assertEqual(row["kept_sha256"], run["kept_sha256"])
            self.assertAlmostEqual(float(row["output_error_mean"]), run["metrics"]["output_error"]["mean"], places=12)
            self.assertEqual(int(row["evicted"]), run["evicted"])
        bound = {row["budget"]: float(row["output_error_mean"]) for row in rows if row["bound"] == "1"}
        for row in rows:
            if row["bound"] == "0" and row["evicted"] != "0":
                self.assertAlmostEqual(float(row["output_error_regret"]), float(row["output_error_mean"]) - bound[row["budget"]])

    def test_quantiles_are_over_heads_of_means_over_steps(self):
        import h5py
        import numpy as np
        with h5py.File(self.results) as file:
            mass = file["runs/00008/metrics/evicted_mass"][:].astype(np.float64).mean(-1).ravel()
        got = self.json_of("report", self.results)["runs"][8]["metrics"]["evicted_mass"]
        for name, expected in {"mean": mass.mean(), "median": np.median(mass), "p95": np.percentile(mass, 95),
                               "p99": np.percentile(mass, 99)}.items():
            self.assertAlmostEqual(got[name], expected, places=6)  # float32 in the file
        self.assertEqual(got["count"], sample_results.LAYERS * sample_results.QUERY_HEADS)

    def test_page_is_well_formed_and_asks_nothing_of_the_network(self):
        text, page = self.page(self.results)
        for reference in page.references:
            self.assertRegex(reference, r"^(data:|#)")
        self.assertNotRegex(text, r"url\(\s*['\"]?(?!data:)")
        self.assertNotIn("@import", text)
        self.assertEqual(len(page.ids), len(set(page.ids)), "ids are unique")
        targets = {reference[1:] for reference in page.references if reference.startswith("#")}
        self.assertLessEqual(targets, set(page.ids))
        self.assertIn("prefers-color-scheme: dark", text)
        self.assertTrue(any(tag == "meta" and "width=device-width" in attrs.get("content", "") for tag, attrs in page.tags))
        self.assertLess(len(text), 8 << 20)

    def test_text_from_files_stays_text(self):
        text, page = self.page(self.results)
        self.assertNotIn(sample_results.HOSTILE, text)
        self.assertNotIn("alert('x')</script>", text)
        self.assertNotIn("\x1b", text)
        self.assertEqual(sum(tag == "script" for tag, _ in page.tags), 2, "the page's own script and its data")
        self.assertIn("<script>alert('x')</script>", page.text_in("span"), "shown as what it is")
        tokens = json.loads(re.search(r'id="tokens">(.*?)</script>', text, re.DOTALL).group(1))
        self.assertEqual(tokens["tokens"][2], sample_results.HOSTILE)
        self.assertEqual(tokens["tokens"][5:9], ["", "é", "\\xff", "\\x1b[31m"])
        for tag, attrs in page.tags:
            if tag in ("img", "source"):
                for picture in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", attrs.get("src", attrs.get("srcset"))):
                    svg = base64.b64decode(picture).decode()
                    self.assertNotIn("<model>", svg)
                    self.assertNotIn("<script", svg)

    def test_hostile_policy_names_and_labels_are_escaped(self):
        shape = sample_results.write_trace(self.path("t.h5"), prompt=60, steps=4)
        sample_results.write_results(self.path("r.h5"), self.path("t.h5"), shape, [10], policies=[
            ('"><img src=x onerror=alert(1)>', 1.0, "kv_head"), ("snapkv'&<b>", 1.2, "kv_head")])
        text, page = self.page(self.path("r.h5"))
        self.assertNotIn("<img src=x", text)
        self.assertNotIn("<b>", text)
        self.assertIn('"><img src=x onerror=alert(1)>', page.text_in("td"))
        rows = list(csv.DictReader(io.StringIO(self.succeeds("report", self.path("r.h5"), "--csv", "-"))))
        self.assertEqual(rows[0]["policy"], '"><img src=x onerror=alert(1)>')

    def test_levels_of_the_text_are_the_share_of_heads(self):
        import h5py
        text, _ = self.page(self.results)
        data = json.loads(re.search(r'id="tokens">(.*?)</script>', text, re.DOTALL).group(1))
        with h5py.File(self.results) as file:
            kept = file["runs/00004/evicted_at"][:] < 0
        run = data["runs"][4]
        self.assertEqual((run["policy"], run["budget"]), ("random", "15"))
        for got, share in ((run["levels"][0], kept.mean((0, 1))), (run["levels"][2], kept[1].mean(0))):
            for character, value in zip(got, share):
                sixtieths = ord(character) - 48
                self.assertEqual(sixtieths == 0, value == 0)
                self.assertEqual(sixtieths == 60, value == 1)
                self.assertAlmostEqual(sixtieths / 60, value, delta=1 / 60)

    def test_figures_have_their_data_and_the_oracle(self):
        text, page = self.page(self.results)
        if not kvreplay("info", "--json").stdout.count('"figures": true'):
            self.assertIn("no figure library", text)
            return
        self.assertEqual(sum(tag == "picture" for tag, _ in page.tags), sum(tag == "figure" for tag, _ in page.tags))
        data = [base64.b64decode(reference.split(",", 1)[1]).decode() for reference in page.references
                if reference.startswith("data:text/csv")]
        by_budget = next(table for table in data if table.startswith("series,") and "tokens per head" in table.split("\n", 1)[0])
        names = {row["series"] for row in csv.DictReader(io.StringIO(by_budget))}
        self.assertIn("oracle_attention", names)
        self.assertNotIn("full", names, "a policy that evicts nothing is no line")
        for table in data:
            lengths = {len(row) for row in csv.reader(io.StringIO(table))}
            self.assertEqual(len(lengths), 1)
        self.assertTrue(all(attrs.get("alt") for tag, attrs in page.tags if tag == "img"))

    def test_same_results_give_the_same_page(self):
        self.assertEqual(self.page(self.results)[0], self.page(self.results)[0])

    def test_several_traces_are_averaged_with_intervals(self):
        folder = self.path("second")
        os.mkdir(folder)
        _, other, _ = sample_results.write_sample(folder, seed=5)
        data = self.json_of("report", self.results, other)
        self.assertEqual(len(data["budgets"]), 4)
        cell = next(cell for cell in data["budgets"][0]["policies"] if cell["label"] == "snapkv")
        self.assertEqual(len(cell["runs"]), 2)
        means = [data["runs"][i]["metrics"]["output_error"]["mean"] for i in cell["runs"]]
        self.assertAlmostEqual(cell["metrics"]["output_error"]["mean"], sum(means) / 2)
        low, high = cell["metrics"]["output_error"]["mean_interval_95"]
        self.assertGreaterEqual(low, min(means) - 1e-12)
        self.assertLessEqual(high, max(means) + 1e-12)
        self.page(self.results, other)
        table = self.succeeds("report", self.results, other)
        self.assertIn("95 % interval", table)
        self.assertRegex(table, r"(?m)^    snapkv .* 0\.\d+ – 0\.\d+ ")

    def test_a_trace_without_generated_tokens_says_that_nothing_was_measured(self):
        shape = sample_results.write_trace(self.path("t.h5"), prompt=60, steps=0)
        sample_results.write_results(self.path("r.h5"), self.path("t.h5"), shape, [10, 20])
        text = self.succeeds("report", self.path("r.h5"))
        self.assertIn("nothing was measured: the trace has no generated tokens", text)
        self.assertNotIn("output_error", text)
        self.assertIn("kept", text)
        self.page(self.path("r.h5"))

    def test_without_the_trace_there_is_no_text_and_a_note(self):
        os.rename(self.trace, self.path("moved.h5"))
        text = self.succeeds("report", self.results)
        self.assertRegex(text, r"(?m)^! .*not there any more; --trace FILE")
        html_text, _ = self.page(self.results)
        self.assertNotIn('id="tokens"', html_text)
        html_text, _ = self.page(self.results, "--trace", self.path("moved.h5"))
        self.assertIn('id="tokens"', html_text)

    def test_another_trace_is_refused(self):
        sample_results.write_trace(self.path("other.h5"), seed=9)
        self.fails(1, ["other.h5", "is not the trace"], "report", self.results, "--trace", self.path("other.h5"))

    def test_bad_usage_and_bad_files(self):
        self.fails(2, "results", "report")
        self.assertEqual(self.succeeds("report", self.results, "--csv"), self.succeeds("report", self.results, "--csv", "-"))
        self.fails(2, "standard output", "report", self.results, "--csv", "-", "--json")
        self.fails(1, ["no such metric", "no run has this metric"][1:], "report", self.results, "--metric", "nothing")
        self.fails(1, ["did you mean output_error"], "report", self.results, "--metric", "output_eror")
        self.fails(1, ["no run has this budget", "15"], "report", self.results, "--budget", "16")
        self.fails(1, "absent.h5", "report", self.path("absent.h5"))
        self.fails(1, "trace.h5", "report", self.trace)
        self.fails(1, "text would replace it", "report", self.results, "--html", self.results)
        self.fails(1, "text would replace it", "report", self.results, "--csv", self.trace)
        self.fails(1, "is the file that is read", "replay", self.trace, "--policy", "full", "--budget", "5", "--out", self.trace)
        self.fails(1, "cannot be written", "report", self.results, "--html", self.path("no/such/folder.html"))


if __name__ == "__main__":
    unittest.main()

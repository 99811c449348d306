#!/usr/bin/env python3
"""Does `kvreplay heads` measure a table that headkv takes, and say what is missing?"""

import json
import os
import unittest

from harness import EndToEndTest, kvreplay


class Heads(EndToEndTest):
    def synthetic(self, name, *options):
        path = os.path.join(self.folder, name)
        made = kvreplay("synth", "--out", path, "--layers", "3", "--query-heads", "4", "--kv-heads", "2", "--head-dim", "16",
                        "--prompt", "300", "--decode", "8", "--needle", "12", "--needle-mass", "0.5", *options)
        self.assertEqual(made.returncode, 0, made.stderr)
        return path

    def test_a_table_from_two_traces_gives_head_budgets(self):
        traces = [self.synthetic("a.h5"), self.synthetic("b.h5", "--seed", "1")]
        table = os.path.join(self.folder, "table.json")
        for measure in "r2", "mass":
            run = kvreplay("heads", *traces, "--out", table, "--measure", measure, "--json")
            self.assertEqual(run.returncode, 0, run.stderr)
            said = json.loads(run.stdout)
            self.assertEqual((said["out"], said["traces"], len(said["heads"])), (table, 2, 12))
            importances = [head["importance"] for head in said["heads"]]
            self.assertEqual(importances, sorted(importances, reverse=True))
            with open(table, encoding="utf-8") as file:
                written = json.load(file)
            self.assertEqual(sorted(written), sorted(f"{layer}-{head}" for layer in range(3) for head in range(4)))
            self.assertTrue(all(len(values) == 2 for values in written.values()))
            first = said["heads"][0]
            self.assertAlmostEqual(sum(written[f"{first['layer']}-{first['head']}"]) / 2, first["importance"])
        results = os.path.join(self.folder, "r.h5")
        run = kvreplay("replay", traces[0], "--policy", f"headkv:table={table}", "--budget", "64", "--out", results, "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        import h5py
        with h5py.File(results) as file:
            kept = (file["runs/00000/evicted_at"][...][:, :, :300] == -1).sum(axis=2)
        self.assertEqual(kept.sum(), kept.size * 64)
        self.assertGreater(kept.max(), kept.min(), "every head got the same budget")

    def test_what_is_missing_is_named(self):
        trace, table = self.synthetic("a.h5"), os.path.join(self.folder, "table.json")
        for arguments, code, message in (
                ((trace,), 2, "needs --out TABLE.json"),
                (("--out", table), 2, "needs a trace file"),
                ((trace, "--out", table, "--measure", "copy"), 1, '--measure: "copy" is no measure; it takes r2 or mass'),
                ((trace, "--out", table, "--evidence", "fact"), 1, "has no marked span labelled fact"),
                ((trace, "--out", os.path.join(self.folder, "no", "t.json")), 1, "cannot be written")):
            run = kvreplay("heads", *arguments)
            self.assertEqual(run.returncode, code, run.stderr)
            self.assertIn(message, run.stderr)
            self.assertFalse(os.path.exists(table))
        run = kvreplay("heads", trace, "--out", trace)
        self.assertEqual(run.returncode, 1)
        self.assertIn("text would replace it", run.stderr)


if __name__ == "__main__":
    unittest.main()

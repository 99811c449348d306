#!/usr/bin/env python3
"""Does `kvreplay bench` measure what it says, in units that agree with each other?"""

import os
import unittest

from harness import GOLDEN, EndToEndTest

SMALL = ["bench", "--backend", "cpu", "--tokens", "256", "--budget", "64", "--runs", "3"]


class Bench(EndToEndTest):
    def test_rows_beside_their_floors(self):
        answer = self.json_of(*SMALL, "--only", "scoring and selection")
        self.assertEqual(len(answer["rows"]), 4)
        rates = answer["rates"]
        for row in answer["rows"]:
            with self.subTest(row["name"]):
                self.assertGreater(row["fastest_seconds"], 0)
                self.assertGreaterEqual(row["median_seconds"], row["fastest_seconds"])
                self.assertEqual(row["runs"], 3)
                floor = max(row["bytes"] / rates["read_bytes_per_second"],
                            row["operations"] / rates["matrix_operations_per_second"])
                self.assertAlmostEqual(row["floor_seconds"] / floor, 1, places=6)
                self.assertAlmostEqual(row["ratio"] * row["floor_seconds"] / row["median_seconds"], 1, places=6)
                # Nothing is faster than what it cannot do without; the rates are measured for milliseconds, so with room.
                self.assertGreater(row["ratio"], 0.3)
        snapkv = next(row for row in answer["rows"] if row["name"].startswith("snapkv"))
        # K of 256 + 64 tokens, 8 heads, d 128, float32; 2 · 32 heads · 32 queries · 256 tokens · d.
        self.assertEqual(snapkv["bytes"], 8 * 320 * 128 * 4)
        self.assertEqual(snapkv["operations"], 2 * 32 * 32 * 256 * 128)

    def test_many_runs_of_one_layer(self):
        (row,) = self.json_of(*SMALL, "--only", "evaluate", "--runs-per-layer", "2")["rows"]
        self.assertEqual(row["name"], "evaluate: 2 runs of one layer")
        self.assertEqual(row["parts"], 2)
        # Budgets 64 and 69 of 8 heads: a weight for each of 4 · 64 queries and a value of 128 numbers, float32, beside K and V.
        self.assertEqual(row["bytes"], 2 * 8 * 320 * 128 * 4 + 8 * (64 + 69) * (4 * 64 * 4 + 128 * 4))
        # 2 runs of 64 steps: o' - o of 32 heads, d 128, through W_o to 4,096; beside the attention itself.
        self.assertEqual(row["operations"], 4 * 32 * 64 * 320 * 128 + 2 * 2 * 64 * 32 * 128 * 4096)
        self.assertRegex(self.succeeds(*SMALL, "--only", "evaluate", "--runs-per-layer", "2"), r"layer: \d+\.\d+ ms a run")

    def test_the_table_says_the_same(self):
        text = self.succeeds(*SMALL, "--only", "snapkv")
        self.assertRegex(text, r"^CPU, \d+ threads?, \w+: reads \d+\.\d+ TB/s, copies .* TFLOP/s")
        self.assertRegex(text, r"snapkv@released: scoring and selection +\d")

    def test_whole_replays_of_a_trace(self):
        answer = self.json_of("bench", "--backend", "cpu", "--trace", os.path.join(GOLDEN, "mha_odd.h5"), "--policy", "snapkv",
                              "--policy", "h2o", "--budget", "64", "--runs", "2")
        self.assertEqual([row["name"] for row in answer["rows"]], ["replay of snapkv at 64", "replay of h2o at 64"])
        self.assertEqual({row["bound"] for row in answer["rows"]}, {"reading"})
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_cannot_be_measured_is_refused(self):
        self.fails(1, ["--only", "\"nothing\" is in no row's name"], *SMALL, "--only", "nothing")
        self.fails(1, ["--tokens", "at least 256"], "bench", "--backend", "cpu", "--tokens", "10")
        self.fails(1, ["--budget"], "bench", "--backend", "cpu", "--tokens", "256", "--budget", "256")
        self.fails(1, ["--runs"], *SMALL[:-1], "0")
        self.fails(2, ["--policy is for whole replays"], *SMALL, "--policy", "snapkv")


if __name__ == "__main__":
    unittest.main()

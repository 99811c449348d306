#!/usr/bin/env python3
"""inspect, validate and diff on traces that this program did not write: do they say what h5py says?"""

import os
import shutil
import unittest

import h5py

from harness import GOLDEN, EndToEndTest, edited_trace, kvreplay, replaced

TRACES = [os.path.join(GOLDEN, name) for name in ("gqa_small.h5", "mha_odd.h5", "layers.h5", "per_step_gqa.h5")]
ONE = os.path.join(GOLDEN, "mha_odd.h5")


class Inspect(EndToEndTest):
    def test_it_says_what_is_in_the_file(self):
        for path in TRACES:
            with self.subTest(path), h5py.File(path) as file:
                text = self.succeeds("inspect", path)
                model = file["model"].attrs
                self.assertIn(f"{model['num_query_heads']} query heads over {model['num_kv_heads']} KV heads", text)
                shown = self.json_of("inspect", path)
                self.assertEqual(shown["model"]["head_dim"], model["head_dim"])

    def test_the_tensors_of_a_layer(self):
        self.assertIn("key", self.succeeds("inspect", ONE, "--layer", 0))
        self.fails(1, "layer 7", "inspect", ONE, "--layer", 7)


class Validate(EndToEndTest):
    def test_golden_traces_are_valid(self):
        for path in TRACES:
            with self.subTest(path):
                self.succeeds("validate", path)

    def test_all_problems_are_listed(self):
        def edit(file):
            replaced(file, "layers/000/value", file["layers/000/value"][:, :-3])
            del file["layers/000/query"]
        result = kvreplay("validate", edited_trace(self.path("t.h5"), edit))
        self.assertEqual(result.returncode, 1)
        for word in ("layers/000/value", "layers/000/query"):
            self.assertIn(word, result.stdout + result.stderr)


class Diff(EndToEndTest):
    def test_a_copy_is_the_same(self):
        shutil.copyfile(ONE, self.path("copy.h5"))
        self.succeeds("diff", ONE, self.path("copy.h5"))
        self.assertTrue(self.json_of("diff", ONE, self.path("copy.h5"))["same"])

    def test_one_value(self):
        def edit(file):
            values = file["layers/000/key"][...]
            values[1, 7, 3] += 0.25
            replaced(file, "layers/000/key", values)
        other = edited_trace(self.path("other.h5"), edit)
        result = kvreplay("diff", ONE, other)
        self.assertEqual((result.returncode, result.stderr), (3, ""))
        self.assertIn("/layers/000/key", result.stdout)
        self.assertNotIn("/layers/000/value", result.stdout)
        self.assertEqual(kvreplay("diff", ONE, other, "--tolerance", "1").returncode, 0)

    def test_another_model(self):
        result = kvreplay("diff", ONE, os.path.join(GOLDEN, "gqa_small.h5"))
        self.assertEqual(result.returncode, 3)
        self.assertIn("model", result.stdout)

    def test_missing_arguments_and_files(self):
        self.fails(2, "", "diff", ONE)
        self.fails(1, "none.h5", "diff", ONE, self.path("none.h5"))


if __name__ == "__main__":
    unittest.main()

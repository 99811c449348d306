#!/usr/bin/env python3
"""Does `kvreplay capture` do what it says, refuse what it cannot do, and lose nothing when it is cut off?"""

import json
import os
import random
import resource
import signal
import subprocess
import time
import unittest

import h5py
import numpy

from harness import PROGRAM, ROOT, EndToEndTest, kvreplay, listed_commands

MODELS = os.path.join(ROOT, "tests/fixtures/models")
LLAMA = os.path.join(MODELS, "llama3")
VOCABULARY = 80


class CaptureTest(EndToEndTest):
    def ids(self, count, name="ids.txt", seed=3):
        generator = random.Random(seed)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write("\n".join(str(generator.randrange(3, VOCABULARY)) for _ in range(count)))
        return self.path(name)

    def capture(self, *extra, model=LLAMA, count=70, out="t.h5"):
        return self.succeeds("capture", "--model", model, "--ids", self.ids(count), "--out", self.path(out), *extra)

    def equal_datasets(self, one, two):
        with h5py.File(self.path(one)) as left, h5py.File(self.path(two)) as right:
            names = []
            left.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
            self.assertIn("layers/000/key", names)
            for name in names:
                numpy.testing.assert_array_equal(left[name][...], right[name][...], name)


class Captures(CaptureTest):
    def test_says_what_it_will_write_and_what_it_wrote(self):
        text = self.capture("--generate", 5)
        size = os.path.getsize(self.path("t.h5"))
        self.assertIn("75 tokens, 2 layers", text)
        self.assertIn("generated ids:", text)
        answer = json.loads(self.capture("--generate", 5, "--json"))
        self.assertEqual((answer["tokens"], answer["prompt_length"], answer["bytes"]), (75, 70, size))
        self.assertEqual(len(answer["generated_ids"]), 5)
        self.assertAlmostEqual(answer["predicted_bytes"] / size, 1, delta=0.02)

    def test_given_tokens_after_the_prompt(self):
        self.capture("--prompt-length", 60, "--queries", "window:8", "--attention", "window:2", "--dtype", "f32", "--layers", "1")
        with h5py.File(self.path("t.h5")) as file:
            self.assertEqual(file["tokens"].attrs["prompt_length"], 60)
            numpy.testing.assert_array_equal(file["queries/positions"], range(52, 70))
            numpy.testing.assert_array_equal(file["queries/attention_positions"], range(58, 70))
            self.assertEqual(list(file["layers"]), ["001"])
            self.assertEqual(file["layers/001/attention"].dtype, numpy.float32)
            numpy.testing.assert_allclose(file["layers/001/attention"][...].sum(axis=2), 1, rtol=1e-5)
            sums = file["layers/001/attention_column_sum"][...]
            numpy.testing.assert_allclose(sums.sum(axis=1), 60, rtol=1e-5)
            self.assertTrue((sums[:, 60:] == 0).all())

    def test_bfloat16_is_marked(self):
        self.capture("--dtype", "bf16")
        with h5py.File(self.path("t.h5")) as file:
            self.assertEqual(file["layers/000/key"].dtype, numpy.uint16)
            self.assertEqual(file["layers/000/key"].attrs["encoding"], "bfloat16")

    def test_spans_are_kept(self):
        spans = [{"start": 2, "end": 9, "label": "needle"}, {"start": 60, "end": 70, "label": "question"}]
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump(spans, file)
        self.capture("--spans", self.path("spans.json"))
        with h5py.File(self.path("t.h5")) as file:
            numpy.testing.assert_array_equal(file["tokens/span_start"], [2, 60])
            numpy.testing.assert_array_equal(file["tokens/span_end"], [9, 70])
            self.assertEqual([label.decode().rstrip("\0") for label in file["tokens/span_label"][...].astype("S")],
                             ["needle", "question"])

    def test_every_architecture(self):
        for model in sorted(os.listdir(MODELS)):
            with self.subTest(model):
                answer = json.loads(self.capture("--generate", 3, "--json", model=os.path.join(MODELS, model)))
                self.assertLessEqual(answer["tokens"], 73)

    def test_one_thread_gives_what_several_give(self):
        self.capture("--generate", 4, count=600)
        self.capture("--generate", 4, "--threads", 1, count=600, out="one.h5")
        self.equal_datasets("one.h5", "t.h5")

    def test_an_existing_file_is_replaced(self):
        self.capture()
        before = os.stat(self.path("t.h5")).st_ino
        self.capture()
        self.assertNotEqual(os.stat(self.path("t.h5")).st_ino, before)
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids.txt", "t.h5"])


class Refusals(CaptureTest):
    def refused(self, code, words, *arguments, **options):
        before = sorted(os.listdir(self.folder))
        line = self.fails(code, words, "capture", *arguments, **options)
        self.assertEqual(sorted(os.listdir(self.folder)), before, "a refused capture leaves nothing behind")
        return line

    def base(self, **changes):
        values = {"--model": LLAMA, "--ids": self.ids(70), "--out": self.path("t.h5"), **changes}
        return [part for key, value in values.items() if value is not None for part in (key, value)]

    def test_usage(self):
        self.refused(2, "--model", *self.base(**{"--model": None}))
        self.refused(2, "--out", *self.base(**{"--out": None}))
        self.refused(2, "text", *self.base(**{"--ids": None}))
        self.refused(2, "one of", *self.base(), "--text", "x")
        self.refused(2, "--chat", *self.base(), "--chat")
        self.refused(2, "nonesuch", *self.base(), "--nonesuch")
        self.refused(2, "generate", *self.base(), "--generate", "many")

    def test_values(self):
        for option, value in (("--queries", "none"), ("--queries", "window:0"), ("--attention", "some"), ("--dtype", "f8"),
                              ("--layers", "1-0"), ("--layers", "0-2"), ("--layers", "x"), ("--generate", "-1"),
                              ("--prompt-length", "71"), ("--prompt-length", "0")):
            with self.subTest(f"{option} {value}"):
                self.refused(1, option, *self.base(), f"{option}={value}")

    def test_texts(self):
        self.refused(1, "no.txt", *self.base(**{"--ids": self.path("no.txt")}))
        self.refused(1, "", *self.base(**{"--ids": self.folder}))
        for content, words in (("", "no token ids"), ("1 2 x", "\"x\""), ("1 2.5", "2.5"), ("1 80", "vocabulary"), ("-1 2", "vocabulary"),
                               ("99999999999", "99999999999"), ("1\x1b[2J", "token id")):
            with self.subTest(content):
                with open(self.path("bad.txt"), "w", encoding="utf-8") as file:
                    file.write(content)
                self.refused(1, words, *self.base(**{"--ids": self.path("bad.txt")}))
        self.refused(1, "tokenizer", *self.base(**{"--ids": None}), "--text", "a model without a tokenizer")

    def test_spans(self):
        for content in ("{}", "[1]", "[{\"start\": 1, \"end\": 2}]", "[{\"start\": 5, \"end\": 5, \"label\": \"a\"}]",
                        "[{\"start\": 60, \"end\": 71, \"label\": \"a\"}]", "[{\"start\": -1, \"end\": 5, \"label\": \"a\"}]", "not JSON"):
            with self.subTest(content):
                with open(self.path("spans.json"), "w", encoding="utf-8") as file:
                    file.write(content)
                self.refused(1, "span", *self.base(), "--spans", self.path("spans.json"))

    def test_places_that_cannot_be_written(self):
        self.refused(1, "nowhere", *self.base(**{"--out": self.path("nowhere/t.h5")}))
        self.refused(1, "directory", *self.base(**{"--out": self.folder}))

    def test_a_file_that_may_not_grow(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

        result = kvreplay("capture", *self.base(**{"--ids": self.ids(700, "many.txt")}), preexec=limit)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(len([line for line in result.stderr.splitlines() if line.startswith("kvreplay: ")]), 1, result.stderr)
        self.assertFalse(os.path.exists(self.path("t.h5")))


class CutOff(CaptureTest):
    def start(self, out, count=4000):
        return subprocess.Popen([PROGRAM, "capture", "--model", LLAMA, "--ids", self.ids(count), "--generate", "40", "--attention",
                                 "window:16", "--out", self.path(out), "--threads", "1"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_tokens(self, out, tokens):
        """Until the partial file says that so many tokens are safe, as any reader may look while it is written."""
        for _ in range(2000):
            try:
                with h5py.File(self.path(out + ".partial"), swmr=True) as file:
                    if file["committed_tokens"][0] >= tokens:
                        return
            except (OSError, KeyError):
                pass
            time.sleep(0.005)
        self.fail("nothing was committed")

    def test_interrupted(self):
        process = self.start("t.h5")
        self.wait_for_tokens("t.h5", 256)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            self.skipTest("it was done before it could be interrupted")
        self.assertEqual((process.returncode, errors.splitlines()[-1]), (130, "kvreplay: cancelled"))
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids.txt", "t.h5.partial"])
        self.check_what_is_left("t.h5")

    def test_killed(self):
        process = self.start("t.h5")
        self.wait_for_tokens("t.h5", 512)
        process.kill()
        process.communicate(timeout=60)
        if process.returncode == 0:
            self.skipTest("it was done before it could be killed")
        self.check_what_is_left("t.h5")

    def check_what_is_left(self, out):
        self.succeeds("capture", "--model", LLAMA, "--ids", self.ids(4000), "--generate", "40", "--attention", "window:16", "--out",
                      self.path("whole.h5"))
        with h5py.File(self.path(out + ".partial"), swmr=True) as cut, h5py.File(self.path("whole.h5")) as whole:
            tokens = int(cut["committed_tokens"][0])
            self.assertGreater(tokens, 0)
            numpy.testing.assert_array_equal(cut["layers/001/key"][:, :tokens], whole["layers/001/key"][:, :tokens])
            numpy.testing.assert_array_equal(cut["tokens/ids"][:tokens], whole["tokens/ids"][:tokens])
        arguments = ["capture", "--model", LLAMA, "--ids", self.ids(4000), "--generate", "40", "--attention", "window:16", "--out",
                     self.path(out)]
        self.fails(1, "--resume", *arguments)
        other = arguments.copy()
        other[other.index("40")] = "41"
        self.fails(1, ["generation", ".partial"], *other, "--resume")
        answer = self.json_of(*arguments, "--resume")
        self.assertEqual(answer["resumed_at"], tokens)
        self.assertFalse(os.path.exists(self.path(out + ".partial")))
        self.equal_datasets(out, "whole.h5")


if __name__ == "__main__":
    if "capture" in listed_commands():
        unittest.main()
    print("skipped: this build has no capture")

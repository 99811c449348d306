#!/usr/bin/env python3
"""Does trace_tools/capture_hf.py write the trace that `kvreplay capture` writes, of the same model and tokens?

Small random models of each family are made by transformers here. Needs a Python with torch, transformers, h5py and numpy:
build/torch, which tests/torch_environment.py makes, or the one that KVREPLAY_TORCH_PYTHON names. Without one it is skipped.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import h5py
import numpy

from harness import ROOT, EndToEndTest, kvreplay

sys.path.insert(0, os.path.join(ROOT, "trace_tools"))
import kvreplay_files

BUILT = os.path.join(ROOT, "build/torch")
PYTHON = os.environ.get("KVREPLAY_TORCH_PYTHON",
                        os.path.join(BUILT, "bin/python") if os.path.exists(os.path.join(BUILT, "complete")) else "")
SCRIPT = os.path.join(ROOT, "trace_tools/capture_hf.py")
READER = os.path.join(ROOT, "data/models/reader-8m")
FAMILIES = ("llama3", "mistral", "qwen2", "gemma", "gemma2")
VOCABULARY = 80
# Compiled once, outside the sources: transformers takes seconds. Threads of torch that wait for a core cost more than they give.
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "",
               "PYTHONPYCACHEPREFIX": os.path.join(ROOT, "build/torch-bytecode")}

# Both compute in float32, in another order: 1e-4 of a tensor's largest magnitude. Stored in half precision the two may
# round to neighbours besides: a last place of the type, 2^-10 and 2^-7.
TOLERANCE = {"f32": 1e-4, "f16": 1e-4 + 2.0**-10, "bf16": 1e-4 + 2.0**-7}


class Driver:
    """One process with torch for all tests."""

    def __init__(self):
        self.process = subprocess.Popen([PYTHON, os.path.join(ROOT, "tests/end_to_end/hf_driver.py")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)

    def __call__(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def setUpModule():
    global driver, models
    driver, models = Driver(), tempfile.mkdtemp(prefix="kvreplay models ")
    for family in FAMILIES:
        made = driver(make=family, out=models, seed=99)
        assert made["code"] == 0, made["err"]


def tearDownModule():
    driver.close()
    shutil.rmtree(models, ignore_errors=True)


def model(family):
    return os.path.join(models, family)


class HfTest(EndToEndTest):
    def ids(self, count, name="ids.txt", seed=5):
        generator = random.Random(seed)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write("\n".join(str(generator.randrange(3, VOCABULARY)) for _ in range(count)))
        return self.path(name)

    def capture(self, *arguments, out="hf.h5", code=0):
        answer = driver(capture=[*map(str, arguments), "--device", "cpu", "--out", self.path(out)])
        self.assertEqual(answer["code"], code, answer["err"])
        self.assertNotIn("Traceback", answer["err"])
        return answer

    def both(self, source, arguments, only_here=(), tolerance=TOLERANCE["f32"]):
        """The same capture by transformers and by the engine."""
        self.capture(*source, *arguments, *only_here)
        self.succeeds("capture", *source, *arguments, "--out", self.path("engine.h5"))
        self.assertIn("every rule holds", self.succeeds("validate", self.path("hf.h5")))
        self.compare(tolerance)

    def compare(self, tolerance):
        """Every dataset and every attribute but the provenance."""
        with h5py.File(self.path("hf.h5")) as here, h5py.File(self.path("engine.h5")) as there:
            self.assertEqual(self.listed(here), self.listed(there))
            for name, node in self.listed(there).items():
                self.same_attributes(name, here[name].attrs, there[name].attrs)
                if node == "dataset":
                    self.same_values(name, here[name], there[name], tolerance)
            self.same_attributes("/", here.attrs, there.attrs)

    def listed(self, file):
        nodes = {}
        file.visititems(lambda name, node: nodes.update({name: "dataset" if isinstance(node, h5py.Dataset) else "group"}))
        return {name: kind for name, kind in nodes.items() if not name.startswith("checksums")}

    def same_attributes(self, name, here, there):
        provenance = {"created_by", "created_utc", "command", "manifest"}
        self.assertEqual(set(here), set(there), name)
        for key in set(there) - provenance:
            one, other = here[key], there[key]
            one, other = (x.decode() if isinstance(x, bytes) else x for x in (one, other))
            numpy.testing.assert_array_equal(one, other, f"{name} {key}")

    def same_values(self, name, here, there, tolerance):
        self.assertEqual((here.shape, here.dtype), (there.shape, there.dtype), name)
        one, other = kvreplay_files._values(here), kvreplay_files._values(there)
        if other.dtype.kind != "f":
            numpy.testing.assert_array_equal(one, other, name)
            return
        one, other = one.astype(numpy.float64), other.astype(numpy.float64)
        self.assertTrue((numpy.isnan(one) == numpy.isnan(other)).all(), name)
        largest = numpy.nanmax(abs(other))
        self.assertLessEqual(numpy.nanmax(abs(one - other)), tolerance * largest, name)


class SameTrace(HfTest):
    def test_every_family(self):
        for family in FAMILIES:
            with self.subTest(family):
                # 290 is no multiple of the block, windows (17 to 20) are shorter than the text, and tokens follow the prompt.
                self.both(("--model", model(family), "--ids", self.ids(310), "--prompt-length", 290),
                          ("--generate", 12, "--queries", "window:40", "--attention", "window:3", "--dtype", "f32"),
                          only_here=("--block", 96))
                told = json.loads(kvreplay("diff", self.path("hf.h5"), self.path("engine.h5"), "--tolerance", "1e-4", "--json").stdout)
                self.assertNotIn("layers", json.dumps(told["differences"]), "kvreplay diff finds tensors that differ")

    def test_scores_of_a_few_rows_at_a_time(self):
        # 4 Mi scores at a time: of 8 heads and 3,000 keys that is 174 rows.
        self.both(("--model", model("llama3"), "--ids", self.ids(3000)), ("--queries", "window:64", "--dtype", "f32"),
                  only_here=("--block", 3000))

    def test_half_precision_in_the_file(self):
        for dtype in ("f16", "bf16"):
            with self.subTest(dtype):
                self.both(("--model", model("mistral"), "--ids", self.ids(150)), ("--dtype", dtype, "--attention", "all"),
                          tolerance=TOLERANCE[dtype])

    def test_spans_and_some_layers(self):
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump([{"start": 2, "end": 9, "label": "needle"}, {"start": 60, "end": 70, "label": "Frage ß"}], file)
        self.both(("--model", model("qwen2"), "--ids", self.ids(70)),
                  ("--spans", self.path("spans.json"), "--layers", "1-2", "--dtype", "f32", "--generate", 3))

    def test_a_text_with_the_bundled_model(self):
        with open(self.path("text.txt"), "w", encoding="utf-8") as file, open(READER + "/tokenizer.json", encoding="utf-8") as names:
            special = json.load(names)["added_tokens"][0]["content"]
            file.write(f"The door was open — “come in”, he said.\n\n\tNaïve {special} 東京\r\n" * 9)
        self.both(("--model", READER, "--prompt", self.path("text.txt")),
                  ("--dtype", "f32", "--generate", 8, "--queries", "window:16", "--layers", "0-1"))

    def test_the_model_ends_the_text(self):
        folder = shutil.copytree(model("gemma2"), self.path("ends early"))
        told = json.loads(self.capture("--model", folder, "--ids", self.ids(60), "--generate", 30, "--json")["out"])
        with open(folder + "/generation_config.json", encoding="utf-8") as file:
            config = json.load(file)
        # The last token that the model has not written before: it ends the text there.
        generated = told["generated_ids"]
        end = next(id for id in reversed(generated) if generated.index(id) > 0 or len(set(generated)) == 1)
        config["eos_token_id"] = [end]
        with open(folder + "/generation_config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump([{"start": 1, "end": 3, "label": "a"}, {"start": 58, "end": 88, "label": "tail"},
                       {"start": 89, "end": 90, "label": "gone"}], file)
        self.both(("--model", folder, "--ids", self.ids(60)), ("--generate", 30, "--attention", "window:2", "--dtype", "f32",
                                                              "--spans", self.path("spans.json")))
        with kvreplay_files.open_trace(self.path("hf.h5")) as trace:
            self.assertEqual(trace.num_tokens, 60 + generated.index(end) + 1)
            self.assertLess(trace.num_tokens, 90)
            self.assertEqual(trace.spans, [(1, 3, "a"), (58, trace.num_tokens, "tail")])


class OwnOptions(HfTest):
    def test_chosen_queries_and_rows(self):
        source = ("--model", model("mistral"), "--ids", self.ids(206), "--prompt-length", 200, "--dtype", "f32")
        with open(self.path("rows.txt"), "w", encoding="utf-8") as file:
            file.write("7 120\n")
        self.capture(*source, "--attention", "all", out="all.h5")
        self.capture(*source, "--queries", "0-2,50,window:8", "--attention", f"file:{self.path('rows.txt')},generated")
        self.assertIn("every rule holds", self.succeeds("validate", self.path("hf.h5")))
        with kvreplay_files.open_trace(self.path("hf.h5")) as some, kvreplay_files.open_trace(self.path("all.h5")) as everything:
            queries, rows = [0, 1, 2, 50, *range(192, 206)], [7, 120, *range(200, 206)]
            self.assertEqual((some.query_positions.tolist(), some.attention_positions.tolist()), (queries, rows))
            for name, chosen in (("query", queries), ("head_output", queries), ("log_sum_exp", queries), ("attention", rows)):
                numpy.testing.assert_array_equal(some.read(1, name), everything.read(1, name)[:, chosen], name)

    def test_a_family_that_the_engine_does_not_know(self):
        """GPT-2: no RoPE, a head for every KV head, and W_o stored the other way round."""
        made = driver(make="gpt2", out=self.folder)
        self.assertEqual(made["code"], 0, made["err"])
        self.capture("--model", self.path("gpt2"), "--ids", self.ids(100), "--dtype", "f32")
        self.assertIn("every rule holds", self.succeeds("validate", self.path("hf.h5")))
        with open(self.path("gpt2/model.safetensors"), "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            weights = file.read()
        begin, end = header["transformer.h.1.attn.c_proj.weight"]["data_offsets"]
        with kvreplay_files.open_trace(self.path("hf.h5")) as trace:
            stored = numpy.frombuffer(weights[begin:end], numpy.float32).reshape(40, 40)
            numpy.testing.assert_array_equal(trace.read(1, "output_projection"), stored.T)
            self.assertEqual((trace.model["architecture"], trace.model["num_kv_heads"]), ("gpt2", 4))
            self.assertNotIn("rope_layout", trace.model)

    def test_what_can_be_left_out(self):
        self.capture("--model", model("llama3"), "--ids", self.ids(50), "--no-column-sums", "--no-projection", "--layers", "1")
        self.succeeds("validate", self.path("hf.h5"))
        with kvreplay_files.open_trace(self.path("hf.h5")) as trace:
            self.assertEqual((trace.layers, trace.datasets(1)), ([1], ["key", "value", "query", "log_sum_exp", "head_output"]))

    def test_chat_template(self):
        folder = shutil.copytree(READER, self.path("chatty"), ignore=shutil.ignore_patterns("training"))
        with open(folder + "/tokenizer_config.json", encoding="utf-8") as file:
            config = json.load(file)
        config["chat_template"] = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %} [reply]{% endif %}"
        with open(folder + "/tokenizer_config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.capture("--model", folder, "--text", "Good evening.", "--chat", "--generate", 2)
        with kvreplay_files.open_trace(self.path("hf.h5")) as trace:
            self.assertTrue(b"".join(trace.texts[:trace.prompt_length]).endswith(b"[user] Good evening. [reply]"), trace.texts)
            self.assertIn("chat template", trace.manifest["prompt_template"])
        self.refused("--chat", "--model", READER, "--text", "x", "--chat")

    def test_the_size_is_told_before(self):
        for dtype, count in (("f16", 900), ("f32", 2100)):
            with self.subTest(dtype):
                ids = self.ids(count)
                told = json.loads(self.capture("--model", model("llama3"), "--ids", ids, "--dtype", dtype, "--json")["out"])
                self.assertEqual(told["bytes"], os.path.getsize(self.path("hf.h5")))
                self.assertAlmostEqual(told["predicted_bytes"] / told["bytes"], 1, delta=0.02)

    def test_the_program_replays_it(self):
        self.capture("--model", model("qwen2"), "--ids", self.ids(120), "--generate", 5)
        self.succeeds("replay", self.path("hf.h5"), "--policy=restkv", "--policy=h2o", "--policy=full", "--budget", "48", "--out",
                      self.path("r.h5"))
        restkv, h2o, full = kvreplay_files.read_results(self.path("r.h5"))
        self.assertEqual(full["summary"]["output_error"], 0)
        self.assertGreater(min(restkv["summary"]["output_error"], h2o["summary"]["output_error"]), 0)

    def refused(self, words, *arguments, code=1):
        before = sorted(os.listdir(self.folder))
        answer = self.capture(*arguments, code=code)
        lines = [line for line in answer["err"].splitlines() if not line.startswith("warning: ")]
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, lines[-1])
        if code == 1:
            self.assertEqual(len(lines), 1, answer["err"])
            self.assertTrue(lines[0].startswith("capture_hf.py: "))
        self.assertEqual(sorted(os.listdir(self.folder)), before, "a refused capture leaves nothing behind")

    def test_refusals(self):
        ids = ("--ids", self.ids(40))
        llama = ("--model", model("llama3"))
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump([{"start": 30, "end": 41, "label": "past the end"}], file)
        with open(self.path("bad.txt"), "w", encoding="utf-8") as file:
            file.write("1 x")
        self.refused("--model", *ids, code=2)
        self.refused("one of the arguments", *llama, code=2)
        self.refused("--chat needs a text", *llama, *ids, "--chat", code=2)
        self.refused("nonesuch", *llama, *ids, "--nonesuch", code=2)
        self.refused("cannot be loaded", "--model", self.path("nowhere"), *ids)
        self.refused("tokenizer", *llama, "--text", "a model without a tokenizer")
        self.refused('"x"', *llama, "--ids", self.path("bad.txt"))
        self.refused("vocabulary", *llama, "--ids", self.written("large.txt", "1 80"))
        self.refused("--prompt-length", *llama, *ids, "--prompt-length", 41)
        self.refused("layer 2 does not exist", *llama, *ids, "--layers", "0-2")
        self.refused(["--queries", "some"], *llama, *ids, "--queries", "some")
        self.refused(["--queries", "selects no tokens"], *llama, *ids, "--queries", "generated")
        self.refused("position 40 does not exist", *llama, *ids, "--attention", "39-40")
        self.refused("past the end", *llama, *ids, "--spans", self.path("spans.json"))

    def test_an_attention_that_does_more_than_it_says(self):
        answer = driver(capture=["--model", model("mistral"), "--ids", self.ids(40), "--device", "cpu", "--out", self.path("t.h5")],
                        sharpened=True)
        self.assertEqual(answer["code"], 1)
        self.assertIn("has more to it", answer["err"])
        self.assertEqual(os.listdir(self.folder), ["ids.txt"])

    def written(self, name, content):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content)
        return self.path(name)

    def test_places_that_cannot_be_written(self):
        source = ("--model", model("llama3"), "--ids", self.ids(40))
        for out, words in (("nowhere/t.h5", "folder does not exist"), ("", "is a directory")):
            answer = driver(capture=[*source, "--device", "cpu", "--out", os.path.join(self.folder, out)])
            self.assertEqual(answer["code"], 1)
            self.assertIn(words, answer["err"])


class CutOff(HfTest):
    def start(self, *extra, count=6000, preexec=None):
        return subprocess.Popen([PYTHON, SCRIPT, "--model", model("llama3"), "--ids", self.ids(count), "--dtype", "f32", "--queries",
                                 "window:64", "--device", "cpu", "--block", "256", "--out", self.path("t.h5"), *extra],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=preexec)

    def wait_for_tokens(self, tokens, process):
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            try:
                with h5py.File(self.path("t.h5.partial"), swmr=True) as file:
                    if file["committed_tokens"][0] >= tokens:
                        return
            except (OSError, KeyError):
                pass
            time.sleep(0.005)
        self.fail("nothing was committed")

    def check_what_is_left(self, at_least):
        partial = self.path("t.h5.partial")
        self.assertIn("cut off", kvreplay("inspect", partial).stderr + self.succeeds("inspect", partial))
        self.succeeds("capture", "--model", model("llama3"), "--ids", self.ids(6000), "--dtype", "f32", "--queries", "window:64", "--out",
                      self.path("engine.h5"))
        with kvreplay_files.open_trace(partial) as cut, kvreplay_files.open_trace(self.path("engine.h5")) as whole:
            self.assertTrue(at_least <= cut.num_tokens < 6000)
            self.assertEqual(cut.num_tokens % 256, 0)
            numpy.testing.assert_array_equal(cut.ids, whole.ids[:cut.num_tokens])
            for layer in cut.layers:
                key = whole.read(layer, "key")[:, :cut.num_tokens]
                numpy.testing.assert_allclose(cut.read(layer, "key"), key, atol=1e-4 * abs(key).max())
        # A second capture does not write over it.
        answer = self.capture("--model", model("llama3"), "--ids", self.ids(6000), out="t.h5", code=1)
        self.assertIn("left over", answer["err"])

    def test_killed(self):
        process = self.start()
        self.wait_for_tokens(768, process)
        process.kill()
        process.communicate(timeout=60)
        self.check_what_is_left(768)

    def test_interrupted(self):
        process = self.start()
        self.wait_for_tokens(512, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        self.assertEqual((process.returncode, said.splitlines()[-1]), (130, "capture_hf.py: cancelled"))
        self.check_what_is_left(512)

    def test_a_file_that_may_not_grow(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))

        process = self.start(preexec=limit)
        _, said = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 1, said)
        self.assertRegex(said.splitlines()[-1], r"^capture_hf\.py: .*; the \d+ tokens committed before are in ")
        self.check_what_is_left(256)


class Help(unittest.TestCase):
    def test_it_teaches_without_torch(self):
        result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
        for part in ("capture_hf.py --model", "window:W", "--spans", "OUT.partial"):
            self.assertIn(part, result.stdout)


if __name__ == "__main__":
    if not PYTHON:
        print("SKIPPED: no Python with torch; tests/torch_environment.py build/torch makes one")
        sys.exit(77)
    unittest.main()

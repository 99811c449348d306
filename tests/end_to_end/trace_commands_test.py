#!/usr/bin/env python3
"""Do inspect, validate and diff say what is in a file, what is wrong with it, and what differs from another one?"""

import hashlib
import os
import unittest

import numpy

from harness import GOLDEN, EndToEndTest, kvreplay, replaced

LAYERS = os.path.join(GOLDEN, "layers.h5")


def write_small_trace(path, mutate=None):
    """A consistent trace made by h5py alone: 2 layers, 4 query heads over 2, every optional dataset."""
    import h5py
    random = numpy.random.default_rng(3)
    heads, kv_heads, dim, hidden, tokens, prompt = 4, 2, 8, 24, 40, 32
    scale = dim ** -0.5
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"], file.attrs["complete"] = "kvreplay-trace", 1, 1
        file.attrs["manifest"] = '{"model": "small", "tokenizer": "bytes", "dtype": "f32", "seed": 1}'
        model = file.create_group("model")
        for key, value in {"name": "small", "architecture": "llama", "num_layers": 2, "num_query_heads": heads, "num_kv_heads": kv_heads,
                           "head_dim": dim, "hidden_size": hidden, "attention_scale": scale}.items():
            model.attrs[key] = value
        token = file.create_group("tokens")
        token.attrs["prompt_length"] = prompt
        token["ids"] = random.integers(0, 1000, tokens).astype("i4")
        nll = random.random(tokens).astype("f4")
        nll[0] = numpy.nan
        token["nll"] = nll
        texts = [b"w%d " % t for t in range(tokens)]
        token["text"] = numpy.frombuffer(b"".join(texts), dtype="u1")
        token["text_offsets"] = numpy.concatenate([[0], numpy.cumsum([len(t) for t in texts])]).astype("i8")
        token["span_start"], token["span_end"] = numpy.array([2], "i4"), numpy.array([9], "i4")
        token["span_label"] = numpy.array([b"needle"], "S6")
        file["queries/positions"] = numpy.arange(tokens, dtype="i4")
        file["queries/attention_positions"] = numpy.arange(tokens, dtype="i4")
        for layer in range(2):
            group = file.create_group(f"layers/{layer:03d}")
            key, value = (random.standard_normal((kv_heads, tokens, dim)).astype("f4") for _ in range(2))
            query = random.standard_normal((heads, tokens, dim)).astype("f4")
            scores = numpy.einsum("hqd,hkd->hqk", query, numpy.repeat(key, heads // kv_heads, 0)).astype("f8") * scale
            scores[:, ~numpy.tril(numpy.ones((tokens, tokens), bool))] = -numpy.inf
            log_sum = numpy.log(numpy.exp(scores).sum(-1))
            weights = numpy.exp(scores - log_sum[..., None])
            group["key"], group["value"], group["query"] = key, value, query
            group["attention"] = weights.astype("f4")
            group["log_sum_exp"] = log_sum.astype("f4")
            group["attention_column_sum"] = weights[:, :prompt].sum(1).astype("f4")
            group["head_output"] = numpy.einsum("hqk,hkd->hqd", weights, numpy.repeat(value, heads // kv_heads, 0)).astype("f4")
            group.create_dataset("output_projection", data=random.standard_normal((hidden, heads * dim)).astype("f4"), chunks=(7, 11),
                                 compression="gzip", shuffle=True)
        if mutate:
            mutate(file)
    return path


class Validate(EndToEndTest):
    def problems(self, mutate):
        path = write_small_trace(self.path("t.h5"), mutate)
        result = kvreplay("validate", path)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def test_a_good_trace_of_another_writer(self):
        self.assertIn("every rule holds", self.succeeds("validate", write_small_trace(self.path("t.h5"))))

    def test_every_golden_trace(self):
        files = sorted(os.path.join(GOLDEN, name) for name in os.listdir(GOLDEN) if name.endswith(".h5"))
        self.assertEqual(self.succeeds("validate", *files).count("every rule holds"), len(files))

    def test_each_broken_rule_is_named(self):
        def change(name, index, value):
            def mutate(file):
                data = file[name][...]
                data[index] = value
                file[name][...] = data
            return mutate

        def scaled(name, factor):
            return lambda file: file[name].write_direct((file[name][...] * factor).astype(file[name].dtype))

        def attribute(node, name, value):
            return lambda file: file[node].attrs.__setitem__(name, value)

        cases = {
            "NaN": (change("layers/001/value", (1, 3, 2), numpy.nan), "/layers/001/value: holds a NaN at [1, 3, 2]"),
            "infinity": (change("layers/000/key", (0, 0, 0), numpy.inf), "/layers/000/key: holds an infinity at [0, 0, 0]"),
            "future": (change("layers/000/attention", (2, 5, 9), 0.5), "attends outside what the query sees"),
            "row sums": (scaled("layers/000/attention", 0.9), "not 1"),
            "log sums": (change("layers/000/log_sum_exp", (3, 39), 7.5), "/layers/000/log_sum_exp: is 7.5 where query and key give"),
            "outputs": (scaled("layers/001/head_output", 1.1), "/layers/001/head_output: is"),
            "column sums": (scaled("layers/001/attention_column_sum", 1.1), "/layers/001/attention_column_sum: adds up to"),
            "nll": (change("tokens/nll", 0, 1.0), "/tokens/nll: is not NaN at token 0"),
            "spans": (change("tokens/span_end", 0, 41), "is 2 to 41, not a stretch of the 40 tokens"),
            "offsets": (change("tokens/text_offsets", 7, 3), "offsets rise"),
            "positions": (change("queries/positions", 5, 2), "positions must increase"),
            "heads": (attribute("model", "num_kv_heads", 3), "no multiple"),
            "prompt": (attribute("tokens", "prompt_length", 41), "more than the 40 tokens"),
            "manifest": (attribute("/", "manifest", "{broken"), "attribute \"manifest\" is not JSON"),
            "complete": (attribute("/", "complete", 0), "not complete"),
            "type": (lambda file: replaced(file, "tokens/ids", numpy.zeros(40, "i8")), "/tokens/ids: is int64, not int32"),
            "shape": (lambda file: replaced(file, "layers/000/value", numpy.zeros((2, 39, 8), "f4")), "has shape [2, 39, 8], not [2, 40, 8]"),
            "vlen": (lambda file: replaced(file, "layers/000/value", numpy.array(["a"], "O"), dtype=__import__("h5py").string_dtype()),
                     "of a type that traces do not use"),
            "missing": (lambda file: file.__delitem__("layers/001/query"), "/layers/001/query: is missing"),
            "link": (lambda file: (file.move("layers/001/query", "q"), file["layers/001"].__setitem__("query", __import__("h5py").SoftLink("/q"))),
                     "/layers/001/query: is a link"),
            "external": (lambda file: (file.__delitem__("layers/001/query"),
                                       file["layers/001"].__setitem__("query", __import__("h5py").ExternalLink("/etc/passwd", "/q"))),
                         "/layers/001/query: is a link"),
            "filter": (lambda file: replaced(file, "layers/001/value", file["layers/001/value"][...], compression="lzf"), "uses filter 32000"),
        }
        for name, (mutate, words) in cases.items():
            with self.subTest(name):
                self.assertIn(words, self.problems(mutate))

    def test_all_problems_are_listed(self):
        def mutate(file):
            file["tokens/span_end"][0] = 99
            data = file["layers/000/key"][...]
            data[0, 0, 0] = numpy.nan
            file["layers/000/key"][...] = data
            file["tokens/nll"][5] = -3
            file["queries/positions"][3] = 0
        text = self.problems(mutate)
        for words in ("/queries/positions: holds 0", "/tokens/span_start", "/layers/000/key: holds a NaN", "/tokens/nll: is negative"):
            self.assertIn(words, text)

    def test_a_flipped_bit_breaks_a_checksum(self):
        path = self.path("own.h5")
        self.succeeds("synth", "--layers", 2, "--prompt", 300, "--decode", 8, "--out", path)
        self.assertIn("every rule holds", self.succeeds("validate", path))
        import h5py
        with h5py.File(path, "r+") as file:
            name = "layers/000/output_projection"
            data = file[name][...]
            data[0, 0] += numpy.asarray(0.125, data.dtype)
            file[name][...] = data
        result = kvreplay("validate", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn("than its checksum says", result.stdout)


class Inspect(EndToEndTest):
    def test_json_says_what_h5py_reads(self):
        path = write_small_trace(self.path("t.h5"))
        said = self.json_of("inspect", path, "--layer", 1)
        self.assertEqual((said["tokens"], said["prompt_length"], said["complete"]), (40, 32, True))
        self.assertEqual(said["model"]["num_kv_heads"], 2)
        self.assertEqual(said["manifest"]["tokenizer"], "bytes")
        self.assertEqual(said["spans"], [{"start": 2, "end": 9, "label": "needle"}])
        import h5py
        with h5py.File(path) as file:
            shapes = {d["path"]: d["shape"] for d in said["datasets"]}
            self.assertEqual(shapes["/layers/001/attention"], list(file["layers/001/attention"].shape))
            self.assertAlmostEqual(said["layer"]["tensors"]["key"]["maximum"], float(file["layers/001/key"][...].max()), places=6)

    def test_text_is_aligned_and_complete(self):
        text = self.succeeds("inspect", write_small_trace(self.path("t.h5")))
        for words in ("small (llama): 2 layers, 4 query heads over 2 KV heads", "40: 32 of the prompt, 8 generated", "2-8 needle",
                      "/layers/*/key", "\"w0 w1 w2"):
            self.assertIn(words, text)

    def test_a_layer_that_is_not_there(self):
        self.fails(1, "has no layer 7", "inspect", LAYERS, "--layer", 7)


class Diff(EndToEndTest):
    def test_the_same(self):
        self.assertEqual(self.succeeds("diff", LAYERS, LAYERS), "the same\n")

    def test_what_matters_most_comes_first(self):
        a = write_small_trace(self.path("a.h5"))

        def mutate(file):
            file.attrs["manifest"] = '{"model": "small", "tokenizer": "words", "dtype": "f32", "seed": 2}'
            data = file["layers/001/key"][...]
            data[1, 7, 3] += 0.5
            file["layers/001/key"][...] = data
        b = write_small_trace(self.path("b.h5"), mutate)
        result = kvreplay("diff", a, b)
        self.assertEqual(result.returncode, 3, result.stdout)
        lines = result.stdout.splitlines()
        self.assertIn("tokenizer", lines[0])
        self.assertIn("seed", lines[1])
        self.assertIn("/layers/001/key: 1 of 640 values differ", lines[2])
        self.assertIn("first at [1, 7, 3]", lines[2])

    def test_tolerance(self):
        a = write_small_trace(self.path("a.h5"))
        b = write_small_trace(self.path("b.h5"), lambda file: file["layers/000/value"].write_direct(file["layers/000/value"][...] * numpy.float32(1 + 1e-5)))
        self.assertEqual(kvreplay("diff", a, b).returncode, 3)
        self.assertEqual(kvreplay("diff", a, b, "--tolerance", "1e-4").returncode, 0)
        self.fails(2, "--tolerance", "diff", a, b, "--tolerance", "-1")

    def test_provenance_is_no_difference(self):
        a = write_small_trace(self.path("a.h5"))
        b = write_small_trace(self.path("b.h5"), lambda file: file.attrs.__setitem__("command", "kvreplay capture --out b.h5"))
        self.assertEqual(kvreplay("diff", a, b).returncode, 0)

    def test_results(self):
        for name, budget in (("a.h5", "64"), ("b.h5", "64"), ("c.h5", "65")):
            self.succeeds("replay", LAYERS, "--policy", "snapkv", "--budget", budget, "--out", self.path(name))
        self.assertEqual(kvreplay("diff", self.path("a.h5"), self.path("b.h5")).returncode, 0)
        self.assertEqual(kvreplay("diff", self.path("a.h5"), self.path("c.h5")).returncode, 3)
        self.fails(1, "no results file", "diff", self.path("a.h5"), LAYERS)

    def test_arguments(self):
        self.fails(2, "required", "diff", LAYERS)
        self.fails(1, "no such file", "diff", LAYERS, self.path("missing.h5"))


class Results(EndToEndTest):
    def test_h5py_reads_them_and_the_hash_is_right(self):
        path = self.path("r.h5")
        self.succeeds("replay", LAYERS, "--policy", "snapkv", "--policy", "tova", "--budget", "64", "--scores", "--out", path)
        self.assertIn("every rule holds", self.succeeds("validate", path))
        import h5py
        with h5py.File(path) as file:
            self.assertEqual(file.attrs["format"], "kvreplay-results")
            for run in file["runs"].values():
                evicted = run["evicted_at"][...].astype("<i4")
                self.assertEqual(run.attrs["kept_sha256"], hashlib.sha256(evicted.tobytes()).hexdigest())
                self.assertEqual(evicted.shape[2], 520)
        self.assertEqual(len(self.json_of("inspect", path)["runs"]), 2)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Is a model directory that cannot work refused before anything is written, naming the file and what is wrong in it?"""

import json
import os
import shutil
import struct
import unittest

from harness import ROOT, EndToEndTest

MODEL = os.path.join(ROOT, "tests/fixtures/models/llama3")


def read_safetensors(path):
    """Header and bytes of every tensor of a safetensors file."""
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length:]
    return {name: (entry, body[entry["data_offsets"][0]:entry["data_offsets"][1]]) for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, (entry, data) in tensors.items():
        header[name] = {**entry, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


class BadModels(EndToEndTest):
    def setUp(self):
        super().setUp()
        self.model = self.path("model")
        shutil.copytree(MODEL, self.model)
        for folder, _, names in os.walk(self.model):
            os.chmod(folder, 0o755)
            for name in names:
                os.chmod(os.path.join(folder, name), 0o644)
        with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
            file.write("1 2 3 4 5 6 7 8")

    def capture(self, *extra, ids="ids.txt"):
        return ("capture", "--model", self.model, "--ids", self.path(ids), "--out", self.path("t.h5"), *extra)

    def refused(self, words, *extra, code=1, ids="ids.txt"):
        self.fails(code, words, *self.capture(*extra, ids=ids))
        left = [name for name in os.listdir(self.folder) if name.startswith("t.h5")]
        self.assertEqual(left, [], "nothing is written")

    def edit_config(self, **changes):
        path = os.path.join(self.model, "config.json")
        with open(path, encoding="utf-8") as file:
            config = {**json.load(file), **changes}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({key: value for key, value in config.items() if value is not None}, file)

    def edit_weights(self, edit):
        path = os.path.join(self.model, "model.safetensors")
        tensors = read_safetensors(path)
        edit(tensors)
        write_safetensors(path, tensors)

    def write(self, name, data):
        with open(os.path.join(self.model, name), "wb") as file:
            file.write(data)

    def test_the_unchanged_copy_works(self):
        self.edit_weights(lambda tensors: None)
        self.succeeds(*self.capture())

    def test_no_such_directory(self):
        self.fails(1, "nowhere", "capture", "--model", self.path("nowhere"), "--ids", self.path("ids.txt"), "--out",
                   self.path("t.h5"))

    def test_config(self):
        self.write("config.json", b"{ not json")
        self.refused("config.json")
        os.remove(os.path.join(self.model, "config.json"))
        self.refused("config.json")

    def test_unknown_architecture(self):
        self.edit_config(architectures=["MambaForCausalLM"], model_type="mamba")
        self.refused(["config.json", "amba"])

    def test_a_config_that_contradicts_the_weights(self):
        self.edit_config(hidden_size=80)
        self.refused("model")
        self.edit_config(hidden_size=-1)
        self.refused("hidden_size")

    def test_missing_tensor(self):
        name = "model.layers.1.self_attn.k_proj.weight"
        self.edit_weights(lambda tensors: tensors.pop(name))
        self.refused(name)

    def test_a_tensor_of_another_shape(self):
        name = "model.layers.0.mlp.up_proj.weight"

        def transpose(tensors):
            tensors[name][0]["shape"].reverse()
        self.edit_weights(transpose)
        self.refused(name)

    def test_nan_in_a_tensor(self):
        name = "model.layers.0.self_attn.v_proj.weight"

        def poison(tensors):
            entry, data = tensors[name]
            size = {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]]
            tensors[name] = (entry, b"\xff" * size + data[size:])
        self.edit_weights(poison)
        self.fails(1, ["layer 0", "value", "not a finite number"], *self.capture(), "--json")
        self.assertFalse(os.path.exists(self.path("t.h5")))

    def test_a_value_that_float16_cannot_hold(self):
        name = "model.layers.0.self_attn.v_proj.weight"

        def enlarge(tensors):
            entry, data = tensors[name]
            self.assertEqual(entry["dtype"], "F32")
            values = [value * 1e6 for value in struct.unpack(f"<{len(data) // 4}f", data)]
            tensors[name] = (entry, struct.pack(f"<{len(values)}f", *values))
        self.edit_weights(enlarge)
        self.fails(1, ["layer 0", "value", "--dtype f32"], *self.capture(), "--json")
        self.succeeds(*self.capture("--dtype", "f32"))

    def test_truncated_and_foreign_weights(self):
        path = os.path.join(self.model, "model.safetensors")
        with open(path, "rb") as file:
            data = file.read()
        for bad in (data[:len(data) // 2], data[:100], b"", b"\xff" * 64, b"not a safetensors file"):
            with self.subTest(bad[:16]):
                self.write("model.safetensors", bad)
                self.refused("model.safetensors")
        os.remove(path)
        self.refused("safetensors")

    def test_ids(self):
        for text, words in (("", "ids.txt"), ("1 2 x", "x"), ("1 2 -3", "-3"), ("1 2 99999999", "99999999"), ("1.5", "1.5")):
            with self.subTest(text):
                with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
                    file.write(text)
                self.refused(words)
        self.refused("none.txt", ids="none.txt")

    def test_options(self):
        self.refused("--queries", "--queries", "window:0")
        self.refused("--queries", "--queries", "some")
        self.refused("--attention", "--attention", "window:x")
        self.refused("--dtype", "--dtype", "f8")
        self.refused("--layers", "--layers", "5-1")
        self.refused("--layers", "--layers", "0-99")
        self.refused("--prompt-length", "--prompt-length", "99")
        self.refused("--prompt-length", "--prompt-length", "0")
        self.refused("spans.json", "--spans", self.path("spans.json"))
        with open(self.path("spans.json"), "w", encoding="utf-8") as file:
            json.dump([{"start": 4, "end": 99, "label": "needle"}], file)
        self.refused(["--spans", "99"], "--spans", self.path("spans.json"))

    def test_missing_arguments(self):
        self.fails(2, "--model", "capture", "--ids", self.path("ids.txt"), "--out", self.path("t.h5"))
        self.fails(2, "--out", "capture", "--model", self.model, "--ids", self.path("ids.txt"))
        self.fails(2, "--prompt", "capture", "--model", self.model, "--out", self.path("t.h5"))
        self.fails(2, "--ids", *self.capture("--text", "hello"))

    def test_a_prompt_without_a_tokenizer(self):
        self.fails(1, ["tokenizer", "--ids"], "capture", "--model", self.model, "--text", "hello", "--out", self.path("t.h5"))


if __name__ == "__main__":
    unittest.main()

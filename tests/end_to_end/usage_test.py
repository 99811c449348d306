#!/usr/bin/env python3
"""Does the command line explain itself, and refuse what it does not know?"""

import os
import unittest

from harness import GOLDEN, EndToEndTest, kvreplay, listed_commands


class Usage(EndToEndTest):
    def test_help_lists_the_commands(self):
        text = self.succeeds("--help")
        self.assertTrue(text.startswith("usage: kvreplay COMMAND"), text)
        self.assertEqual(text, self.succeeds("help"))
        self.assertEqual(text, self.succeeds("-h"))
        self.assertIn("info", listed_commands())

    def test_version(self):
        self.assertRegex(self.succeeds("--version"), r"^kvreplay \d+\.\d+\.\d+\n$")

    def test_every_command_has_help(self):
        for command in listed_commands():
            with self.subTest(command):
                text = self.succeeds(command, "--help")
                self.assertTrue(text.startswith(f"usage: kvreplay {command}"), text)
                self.assertIn("--json", text)
                for line in text.splitlines():
                    self.assertLessEqual(len(line), 125, line)

    def test_nothing_at_all_is_a_usage_error(self):
        result = kvreplay()
        self.assertEqual(result.returncode, 2)
        self.assertIn("usage:", result.stdout)

    def test_unknown_command(self):
        self.fails(2, ["unknown command", "inf", "did you mean", "info"], "inf")
        self.fails(2, ["unknown command", "--help"], "qqqqqqqq")

    def test_unknown_option(self):
        for command in listed_commands():
            with self.subTest(command):
                self.fails(2, ["--no-such-option", f"kvreplay {command} --help"], command, "--no-such-option")

    def test_option_without_its_value(self):
        for command in listed_commands():
            with self.subTest(command):
                self.fails(2, "--threads", command, "--threads")
                self.fails(2, "--threads", command, "--threads", "0")

    def test_info_names_what_the_build_has(self):
        info = self.json_of("info")
        self.assertIn(info["instruction_set"], ("baseline", "avx2", "avx512"))
        self.assertEqual(set(info["built_with"]), {"cuda", "figures"})
        backends = {backend["name"]: backend for backend in info["backends"]}
        self.assertTrue(backends["cpu"]["available"])
        self.assertEqual("cuda" in backends, info["built_with"]["cuda"])
        self.assertEqual([backend["default"] for backend in info["backends"]].count(True), 1)
        for backend in info["backends"]:
            self.assertTrue(backend["available"] or backend["why"], "says why there is none")
            for device in backend.get("devices", []):
                self.assertGreater(device["memory_bytes"], 0)
        self.assertEqual(self.json_of("info", environment={"KVREPLAY_ISA": "baseline"})["instruction_set"], "baseline")

    def test_backends_that_are_not_there_are_named(self):
        table = self.path("table.json")
        for command in (["replay", GOLDEN + "/mha_odd.h5", "--policy", "snapkv", "--budget", "64", "--out", self.path("r.h5")],
                        ["heads", GOLDEN + "/mha_odd.h5", "--out", table]):
            with self.subTest(command[0]):
                line = self.fails(1, ["--backend", "\"tpu\" is not in this build", "auto, cpu"], *command, "--backend", "tpu")
                self.assertIn("kvreplay info", line)
                self.assertFalse(os.path.exists(self.path("r.h5")))
        info = {backend["name"]: backend for backend in self.json_of("info")["backends"]}
        if "cuda" in info and not info["cuda"]["available"]:
            self.fails(1, ["--backend", "\"cuda\" cannot be used", info["cuda"]["why"]], *command, "--backend", "cuda")

    def test_the_results_say_which_backend_it_was(self):
        replay = ["replay", GOLDEN + "/mha_odd.h5", "--policy", "snapkv", "--budget", "64", "--out"]
        by_default = next(backend["name"] for backend in self.json_of("info")["backends"] if backend["default"])
        for backend, want in (("cpu", "cpu"), ("auto", by_default)):
            out = self.path(backend + ".h5")
            self.succeeds(*replay, out, "--backend", backend)
            self.assertEqual([run["backend"] for run in self.json_of("inspect", out)["runs"]], [want])


if __name__ == "__main__":
    unittest.main()

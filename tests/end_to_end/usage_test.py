#!/usr/bin/env python3
"""Does the command line explain itself, and refuse what it does not know?"""

import unittest

from harness import EndToEndTest, kvreplay, listed_commands


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
        self.assertIn("cpu", info["backends"])
        self.assertEqual(self.json_of("info", environment={"KVREPLAY_ISA": "baseline"})["instruction_set"], "baseline")


if __name__ == "__main__":
    unittest.main()

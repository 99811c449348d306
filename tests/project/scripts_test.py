#!/usr/bin/env python3
"""Do the scripts parse, explain themselves, and are they what the README tells its reader to run?"""

import os
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source_rules

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
COMMANDS = ("trace_tools/quickstart.sh", "tests/run.sh", "trace_tools/bundle.sh")


def run(*command, **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options)


class Scripts(unittest.TestCase):
    scripts = [name for name in source_rules.tracked_files(ROOT) if name.endswith(".sh")] + [".ci/run"]

    def test_they_parse(self):
        self.assertIn("tests/run.sh", self.scripts)
        for name in self.scripts:
            with self.subTest(name):
                self.assertEqual(run("bash", "-n", name).stderr, "")

    @unittest.skipUnless(shutil.which("shellcheck"), "shellcheck is not installed")
    def test_shellcheck_has_nothing_to_say(self):
        self.assertEqual(run("shellcheck", "-x", *self.scripts).stdout, "")

    def test_help_does_nothing_else(self):
        for name in COMMANDS:
            with self.subTest(name):
                self.assertTrue(os.access(os.path.join(ROOT, name), os.X_OK), "not executable")
                result = run(name, "--help")
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                self.assertTrue(result.stdout.startswith(f"usage: {name}"), result.stdout)

    def test_the_readme_names_every_command(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            readme = file.read()
        for name in COMMANDS:
            self.assertRegex(readme, re.compile(rf"^{re.escape(name)}\b", re.MULTILINE))

    def test_ci_runs_the_readmes_test_command(self):
        with open(os.path.join(ROOT, ".ci/run"), encoding="utf-8") as file:
            self.assertIn("exec tests/run.sh", file.read())


if __name__ == "__main__":
    unittest.main()

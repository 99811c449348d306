#!/usr/bin/env python3
"""Does kvreplay-gui answer on the command line without a window, and draw its pictures without a display?

usage: program_test.py KVREPLAY_GUI
"""

import os
import subprocess
import sys
import tempfile
import unittest

PROGRAM = None


class Window(unittest.TestCase):
    def run_program(self, *arguments, folder=None):
        environment = dict(os.environ, QT_QPA_PLATFORM="offscreen")
        if folder:
            environment.update(XDG_CACHE_HOME=folder, XDG_CONFIG_HOME=folder, XDG_STATE_HOME=folder)
        else:
            environment.update(QT_QPA_PLATFORM="no such platform")  # whoever starts a window fails
        return subprocess.run([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                              env=environment, timeout=240)

    def test_help_and_version_start_no_window(self):
        for option, words in (("--help", "usage: kvreplay-gui"), ("--version", "kvreplay")):
            result = self.run_program(option)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(words, result.stdout)

    def test_bad_usage_is_one_line_and_2(self):
        for arguments in (["--colour"], ["--backend"]):
            result = self.run_program(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn(arguments[0], result.stderr)

    def test_a_backend_that_is_not_there_is_one_line_and_1(self):
        with tempfile.TemporaryDirectory() as folder:
            result = self.run_program("--backend", "abacus", folder=folder)
            self.assertEqual(result.returncode, 1)
            self.assertIn("abacus", result.stderr)

    def test_pictures_of_the_bundled_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            pictures = os.path.join(folder, "pictures")
            result = self.run_program("--screenshots", pictures, folder=folder)
            self.assertEqual(result.returncode, 0, result.stderr)
            found = os.listdir(pictures)
            for name in ("window", "runs", "controls", "time_line"):
                for theme in ("light", "dark"):
                    self.assertIn(f"{name}-{theme}.png", found)
                    self.assertGreater(os.path.getsize(os.path.join(pictures, f"{name}-{theme}.png")), 2000)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()

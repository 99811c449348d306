#!/usr/bin/env python3
"""Do the presets and switches do what the README says?"""

import os
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


class Configure(unittest.TestCase):
    def configure(self, *arguments):
        with tempfile.TemporaryDirectory(prefix="kvreplay configure ") as folder:
            command = ["cmake", *arguments, "-S", ROOT, "-B", folder, "-DKVREPLAY_TESTS=OFF"]
            return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    def test_presets(self):
        # `dev` is what these tests were built with, `release` is below.
        for preset, build_type in (("asan", "Debug"), ("cuda", "Release")):
            with self.subTest(preset):
                result = self.configure("--preset", preset)
                self.assertEqual(result.returncode, 0, result.stdout)
                self.assertRegex(result.stdout, rf"kvreplay \d+\.\d+\.\d+: {build_type}\n")

    def test_summary_says_what_was_found(self):
        output = self.configure("--preset", "release", "-DKVREPLAY_GUI=OFF").stdout
        self.assertRegex(output, r"kvreplay \d+\.\d+\.\d+: Release\n")
        self.assertRegex(output, r"libraries +HDF5 1\.\S+, Eigen 3\.\S+, nlohmann-json \S+, SentencePiece \S+, PCRE2 \d+")
        self.assertIn("figures      (KVREPLAY_GUI=OFF): not built (switched off)", output)

    def test_cuda_is_refused_where_it_is_demanded_and_not_there(self):
        result = self.configure("--preset", "cuda", "-DKVREPLAY_CUDA=ON")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("KVREPLAY_CUDA=ON: this version has no CUDA backend", " ".join(result.stdout.split()))

    def test_other_values_are_refused(self):
        result = self.configure("--preset", "release", "-DKVREPLAY_GUI=MAYBE")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("KVREPLAY_GUI=MAYBE: must be AUTO, ON or OFF", result.stdout)


if __name__ == "__main__":
    unittest.main()

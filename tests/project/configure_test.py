#!/usr/bin/env python3
"""Do the presets and switches do what the README says?"""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


class Configure(unittest.TestCase):
    def configure(self, *arguments, nvcc=True):
        """One configuration from nothing; nvcc=False hides the compiler of CUDA."""
        environment = dict(os.environ)
        if not nvcc:
            environment.pop("CUDACXX", None)
            environment["PATH"] = os.pathsep.join(folder for folder in os.get_exec_path()
                                                  if not os.path.exists(os.path.join(folder, "nvcc")))
        with tempfile.TemporaryDirectory(prefix="kvreplay configure ") as folder:
            command = ["cmake", *arguments, "-S", ROOT, "-B", folder, "-DKVREPLAY_TESTS=OFF"]
            return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                                  env=environment)

    def test_presets(self):
        # `dev` is what these tests were built with, `release` is below.
        for preset, build_type in (("asan", "Debug"), ("cuda", "Release"), ("bundle", "Release")):
            with self.subTest(preset):
                result = self.configure("--preset", preset)
                self.assertEqual(result.returncode, 0, result.stdout)
                self.assertRegex(result.stdout, rf"kvreplay \d+\.\d+\.\d+: {build_type}\n")

    def test_summary_says_what_was_found(self):
        output = self.configure("--preset", "release", "-DKVREPLAY_GUI=OFF").stdout
        self.assertRegex(output, r"kvreplay \d+\.\d+\.\d+: Release\n")
        self.assertRegex(output, r"libraries +HDF5 1\.\S+, Eigen 3\.\S+, nlohmann-json \S+, SentencePiece \S+, PCRE2 \d+")
        self.assertIn("figures      (KVREPLAY_GUI=OFF): not built (switched off)", output)

    def test_cuda_is_left_out_where_there_is_no_nvcc(self):
        result = self.configure("--preset", "cuda", nvcc=False)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("CUDA backend (KVREPLAY_CUDA=AUTO): not built (no nvcc on the path or in CUDACXX)", result.stdout)

    def test_cuda_is_refused_where_it_is_demanded_and_not_there(self):
        result = self.configure("--preset", "cuda", "-DKVREPLAY_CUDA=ON", nvcc=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("KVREPLAY_CUDA=ON: not built (no nvcc", " ".join(result.stdout.split()))

    @unittest.skipUnless(shutil.which("nvcc"), "nvcc is not on the path")
    def test_cuda_is_built_where_nvcc_is(self):
        output = self.configure("--preset", "cuda").stdout
        self.assertRegex(output, r"CUDA backend \(KVREPLAY_CUDA=AUTO\): CUDA \d+\.\S+ for 80-real;90a-real;90-virtual")
        self.assertIn("CUDA backend (KVREPLAY_CUDA=OFF): not built (switched off)",
                      self.configure("--preset", "cuda", "-DKVREPLAY_CUDA=OFF").stdout)

    def test_other_values_are_refused(self):
        result = self.configure("--preset", "release", "-DKVREPLAY_GUI=MAYBE")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("KVREPLAY_GUI=MAYBE: must be AUTO, ON or OFF", result.stdout)


if __name__ == "__main__":
    unittest.main()

"""Runs the real `kvreplay` program the way a user does, and says what every run must satisfy.

The tests beside this file are unittest modules; ctest passes the program in KVREPLAY_PROGRAM. By hand:
KVREPLAY_PROGRAM=build/dev/bin/kvreplay /usr/bin/python3 tests/end_to_end/usage_test.py
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
PROGRAM = os.path.abspath(os.environ.get("KVREPLAY_PROGRAM", os.path.join(ROOT, "build/dev/bin/kvreplay")))


def kvreplay(*arguments, cwd=None, environment=None, timeout=120, preexec=None):
    """One run with both streams caught; neither is a terminal."""
    return subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False,
                          env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, preexec_fn=preexec)


GOLDEN = os.path.join(ROOT, "tests/golden")


def listed_commands():
    """The names in `kvreplay --help`, in its order."""
    text = kvreplay("--help").stdout
    return re.findall(r"^  ([a-z]+) {2,}\S", text[text.index("\ncommands:\n"):], re.MULTILINE)


class EndToEndTest(unittest.TestCase):
    """A test with a folder of its own and assertions about whole runs."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvreplay test ")  # users' folders have spaces in their names
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def succeeds(self, *arguments, **options):
        """Exit code 0, nothing but warnings on the error stream. Returns standard output."""
        result = kvreplay(*arguments, **options)
        self.assertEqual(result.returncode, 0, f"{arguments}\n{result.stderr}")
        self.assertNotIn("\r", result.stderr, "progress is for terminals")
        self.assertNotIn("\x1b", result.stdout + result.stderr, "escape sequences are for terminals")
        return result.stdout

    def json_of(self, *arguments, **options):
        return json.loads(self.succeeds(*arguments, "--json", **options))

    def fails(self, code, words, *arguments, **options):
        """The exit code, one line on the error stream that has every one of `words`, nothing on standard output."""
        result = kvreplay(*arguments, **options)
        said = f"{arguments}\nexit code {result.returncode}\n{result.stdout}{result.stderr}"
        self.assertEqual(result.returncode, code, said)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        self.assertEqual(len(lines), 1, said)
        self.assertTrue(lines[0].startswith("kvreplay: "), said)
        self.assertEqual(result.stdout, "", said)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, lines[0], said)
        return lines[0]


def edited_trace(path, edit, source=os.path.join(GOLDEN, "mha_odd.h5")):
    """A copy of a golden trace after edit(h5py.File). Attributes and datasets are replaced with h5py's own calls."""
    import h5py  # Debian's python3-h5py: an independent reader and writer of the format
    shutil.copyfile(source, path)
    os.chmod(path, 0o644)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def replaced(file, name, values, **options):
    """The dataset `name` with other values, shape or type; its attributes stay."""
    attributes = dict(file[name].attrs)
    del file[name]
    dataset = file.create_dataset(name, data=values, **options)
    for key, value in attributes.items():
        dataset.attrs[key] = value

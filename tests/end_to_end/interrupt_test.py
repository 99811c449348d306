#!/usr/bin/env python3
"""Ctrl-C, terminals and full disks: what happens to a run that cannot go on, and who sees progress."""

import errno
import os
import pty
import resource
import shutil
import signal
import subprocess
import time
import unittest

from harness import GOLDEN, PROGRAM, ROOT, EndToEndTest, kvreplay

MODEL = os.path.join(ROOT, "tests/fixtures/models/llama3")
TRACE = os.path.join(GOLDEN, "mqa_long.h5")


class LongRuns(EndToEndTest):
    """Runs that would take minutes."""

    def capture(self):
        with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
            file.write(" ".join("5" for _ in range(500)))
        return ("capture", "--model", MODEL, "--ids", self.path("ids.txt"), "--generate", 30000, "--out", self.path("t.h5"))

    def replay(self):
        budgets = ",".join(str(budget) for budget in range(40, 640))
        return ("replay", TRACE, "--policy=h2o", "--policy=tova", "--policy=restkv", "--budget", budgets, "--out",
                self.path("r.h5"))

    def interrupted(self, command, wait_for, number=signal.SIGINT):
        """Starts the command, sends the signal once `wait_for` exists, and checks exit code and message."""
        with subprocess.Popen([PROGRAM, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL) as process:
            until = time.monotonic() + 60
            while not os.path.exists(self.path(wait_for)) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.3)
            self.assertIsNone(process.poll(), "ended before it could be interrupted")
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        said = "".join(line for line in said.splitlines(True) if not line.startswith("warning: "))
        self.assertEqual((process.returncode, said), (130, "kvreplay: cancelled\n"))

    def test_a_cancelled_replay_leaves_nothing(self):
        self.interrupted(self.replay(), "r.h5.partial")
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_cancelled_capture_keeps_what_is_committed(self):
        self.interrupted(self.capture(), "t.h5.partial")
        self.assertEqual(sorted(os.listdir(self.folder)), ["ids.txt", "t.h5.partial"])
        result = kvreplay("replay", self.path("t.h5.partial"), "--policy", "snapkv", "--budget", "64", "--out", self.path("r.h5"))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("cut off", result.stderr)

    def test_termination_is_like_ctrl_c(self):
        self.interrupted(self.replay(), "r.h5.partial", signal.SIGTERM)

    def test_progress_is_for_terminals(self):
        controller, terminal = pty.openpty()
        with subprocess.Popen([PROGRAM, *map(str, self.capture())], stdout=subprocess.DEVNULL, stderr=terminal,
                              stdin=subprocess.DEVNULL) as process:
            os.close(terminal)
            shown, until = b"", time.monotonic() + 60
            while b"left" not in shown and time.monotonic() < until:
                try:
                    shown += os.read(controller, 4096)
                except OSError as error:  # the other end was closed: the program ended
                    self.assertEqual(error.errno, errno.EIO)
                    break
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        os.close(controller)
        self.assertIn(b"%", shown)
        self.assertIn(b"tokens", shown)
        self.assertIn(b"left", shown)


class FullDisk(EndToEndTest):
    """Output on a file system of 64 KiB; where none may be mounted, a limit on the size of files instead."""

    def on_full_disk(self, command):
        disk = self.path("disk")
        os.mkdir(disk)
        line = [PROGRAM, *map(str, command), "--out", os.path.join(disk, "out.h5")]
        mount = 'mount -t tmpfs -o size=64k none "$0" && touch "$0/writable" && exec "$@"'
        probe = subprocess.run(["unshare", "--mount", "sh", "-c", mount, disk, "true"], capture_output=True, check=False)
        if probe.returncode == 0:
            return subprocess.run(["unshare", "--mount", "sh", "-c", mount + "; ls -A \"$0\" >&2", disk, *line],
                                  capture_output=True, text=True, check=False)

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        return subprocess.run(line, capture_output=True, text=True, check=False, preexec_fn=limit, restore_signals=False)

    def refused(self, command):
        result = self.on_full_disk(command)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertIn("out.h5", lines[0])
        self.assertRegex(lines[0], "No space left|File too large|64.0 KiB free")

    def test_replay(self):
        self.refused(("replay", TRACE, "--policy=snapkv", "--policy=h2o", "--policy=tova", "--budget=64,128,256,512"))

    def test_capture(self):
        with open(self.path("ids.txt"), "w", encoding="utf-8") as file:
            file.write("5 6 7 " * 300)
        self.refused(("capture", "--model", MODEL, "--ids", self.path("ids.txt")))

    def test_standard_output(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run([PROGRAM, "policies"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()

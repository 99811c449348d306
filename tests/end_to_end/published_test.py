#!/usr/bin/env python3
"""Can a program read data/published, and is every value there sourced?  --write brings the index of its README up to date."""

import csv
import os
import re
import sys
import unittest

from harness import ROOT, EndToEndTest

FOLDER = os.path.join(ROOT, "data/published")
COLUMNS = ["paper", "table", "model", "policy", "setting", "budget", "budget_unit", "context", "task", "metric", "value", "unit",
           "evidence", "source", "note"]
KEY = COLUMNS[:10]
BUDGET_UNITS = {"", "full", "tokens", "compression_ratio", "% kept"}
EVIDENCE = {"code", "readme", "thread", "abstract", "second-hand"}


def rows_of(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def tables():
    names = sorted(name for name in os.listdir(FOLDER) if name.endswith(".csv") and name != "foreign_policies.csv")
    return {name: rows_of(name) for name in names}


def index():
    lines = ["| file | values | from | models | policies |", "| --- | --- | --- | --- | --- |"]
    for name, rows in tables().items():
        cells = (", ".join(sorted({row[column] for row in rows} - {""})) for column in ("paper", "model", "policy"))
        lines.append(f"| `{name}` | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


class Published(EndToEndTest):
    def test_every_row_is_complete(self):
        for name, rows in tables().items():
            self.assertGreater(len(rows), 0, name)
            for number, row in enumerate(rows, 2):
                with self.subTest(f"{name}:{number}"):
                    self.assertEqual(list(row), COLUMNS)
                    self.assertFalse([column for column in ("paper", "table", "policy", "task", "metric", "value", "unit", "source")
                                      if not row[column].strip()], "empty")
                    self.assertRegex(row["value"], r"^-?\d+(\.\d+)?$")
                    self.assertRegex(row["budget"] + "|" + row["context"], r"^(\d+(\.\d+)?)?\|\d*$")
                    self.assertIn(row["budget_unit"], BUDGET_UNITS)
                    self.assertIn(row["evidence"], EVIDENCE)
                    self.assertEqual(bool(row["budget"]), row["budget_unit"] not in ("", "full"))
                    self.assertRegex(row["source"], r"^(github\.com/|arxiv\.org/|openreview\.net/|iclr\.cc/|arXiv \d)")

    def test_no_value_twice(self):
        for name, rows in tables().items():
            seen = set()
            for row in rows:
                key = tuple(row[column] for column in KEY)
                self.assertNotIn(key, seen, name)
                seen.add(key)

    def test_policies_are_this_programs_or_foreign(self):
        known = {policy["name"] for policy in self.json_of("policies")}
        foreign = {row["name"]: row["what"] for row in rows_of("foreign_policies.csv")}
        self.assertEqual(list(foreign), sorted(foreign))
        self.assertTrue(all(foreign.values()))
        used = {row["policy"] for rows in tables().values() for row in rows}
        self.assertEqual(used - known - set(foreign), set(), "neither a policy nor in foreign_policies.csv")
        self.assertEqual(set(foreign) - used, set(), "no table has it")

    def test_averages_are_those_of_the_tasks(self):
        groups = {}
        for row in rows_of("longbench_tasks.csv"):
            groups.setdefault((row["policy"], row["budget"]), {})[row["task"]] = row
        for key, tasks in groups.items():
            average = tasks.pop("LongBench average")
            self.assertEqual(len(tasks), 16, key)
            mean = sum(float(row["value"]) for row in tasks.values()) / 16
            if not average["note"]:
                self.assertAlmostEqual(float(average["value"]), mean, delta=0.011, msg=str(key))

    def test_the_index(self):
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            self.assertIn(index(), file.read(), "tests/end_to_end/published_test.py --write")


def write():
    path = os.path.join(FOLDER, "README.md")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(r"^\| file \| values .*\n(?:\|.*\n)*", lambda _: index(), text, flags=re.MULTILINE))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        unittest.main()

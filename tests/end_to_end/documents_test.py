#!/usr/bin/env python3
"""Does what the documents say about the program hold?  --write brings the tables of README.md up to date."""

import os
import re
import sys
import unittest

from harness import ROOT, EndToEndTest, kvreplay, listed_commands

README = os.path.join(ROOT, "README.md")


def policy_table(policies):
    lines = ["| policy | variants | idea |", "| --- | --- | --- |"]
    for policy in policies:
        variants = ", ".join(f"`{variant['name']}`" for variant in policy["variants"])
        lines.append(f"| `{policy['name']}` | {variants} | {policy['idea']} |")
    return "\n".join(lines)


def command_table():
    text = kvreplay("--help").stdout
    lines = ["| command | |", "| --- | --- |"]
    for name in listed_commands():
        summary = re.search(rf"^  {name} +(.*)$", text[text.index("\ncommands:\n"):], re.MULTILINE).group(1)
        lines.append(f"| `{name}` | {summary} |")
    return "\n".join(lines)


class Documents(EndToEndTest):
    def setUp(self):
        super().setUp()
        with open(README, encoding="utf-8") as file:
            self.readme = file.read()

    def test_policies(self):
        self.assertIn(policy_table(self.json_of("policies")), self.readme, "tests/end_to_end/documents_test.py --write")

    def test_policies_page(self):
        with open(os.path.join(ROOT, "data/policies.md"), encoding="utf-8") as file:
            self.assertEqual(file.read(), self.succeeds("policies", "--markdown"), "kvreplay policies --markdown > data/policies.md")

    def test_commands(self):
        self.assertIn(command_table(), self.readme, "tests/end_to_end/documents_test.py --write")

    def test_links_lead_somewhere(self):
        for name in ("README.md", "CONTRIBUTING.md"):
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                text = file.read()
            paths = re.findall(r"`((?:core|gui|trace_tools|tests|data|\.ci)/[\w./-]*)`", text) + re.findall(r"\]\(([^)#:\s]+)\)", text)
            for path in paths:
                with self.subTest(f"{name}: {path}"):
                    self.assertTrue(os.path.exists(os.path.join(ROOT, path)))


def write():
    import json
    with open(README, encoding="utf-8") as file:
        text = file.read()
    policies = json.loads(kvreplay("policies", "--json").stdout)
    for table in (policy_table(policies), command_table()):
        head = re.escape(table.split("\n", maxsplit=1)[0])
        text = re.sub(rf"^{head}\n(?:\|.*\n)*", lambda _, table=table: table + "\n", text, flags=re.MULTILINE)
    with open(README, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        unittest.main()

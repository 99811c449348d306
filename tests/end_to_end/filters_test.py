#!/usr/bin/env python3
"""Does `kvreplay filters` derive what qfilter reads, the same each time, and say what does not fit?"""

import json
import unittest

from harness import EndToEndTest


class Filters(EndToEndTest):
    def synthetic(self, name, *options):
        self.succeeds("synth", "--out", self.path(name), "--layers", "2", "--query-heads", "4", "--kv-heads", "2",
                      "--prompt", "200", "--decode", "4", *options)
        return self.path(name)

    def test_filters_of_two_texts_rank_a_third(self):
        # A folder with a space; no commas, which separate the keys of a policy.
        traces = [self.synthetic(f"{seed}.h5", "--head-dim", "16", "--seed", seed) for seed in (1, 2, 3)]
        out = self.path("filters.json")
        said = self.json_of("filters", *traces[:2], "--out", out, "--samples", "100")
        self.assertEqual((said["out"], said["layers"], said["num_kv_heads"], said["sequences"]), (out, 2, 2, 2))
        with open(out, encoding="utf-8") as file:
            text = file.read()
        written = json.loads(text)
        self.assertEqual([len(head) for layer in ("0", "1") for head in written["layers"][layer]], [16] * 4)
        self.succeeds("filters", *traces[:2], "--out", self.path("again.json"), "--samples", "100")
        with open(self.path("again.json"), encoding="utf-8") as file:
            self.assertEqual(file.read(), text)

        replayed = self.json_of("replay", traces[2], "--policy", f"qfilter:filters={out}", "--policy", "qfilter", "--policy",
                            "qfilter@original", "--budget", "50", "--out", self.path("r.h5"))
        self.assertEqual(len({run["kept_sha256"] for run in replayed["runs"]}), 3)

    def test_what_does_not_fit_is_named(self):
        trace = self.synthetic("a.h5", "--head-dim", "16")
        other = self.synthetic("b.h5", "--head-dim", "8")
        self.fails(2, ["needs --out"], "filters", trace)
        self.fails(1, [other, "another model"], "filters", trace, other, "--out", self.path("f.json"))
        self.fails(2, ["needs a trace file"], "filters", "--out", self.path("f.json"))
        self.fails(1, [trace, "text would replace it"], "filters", trace, "--out", trace)
        self.fails(1, ["--samples"], "filters", trace, "--out", self.path("f.json"), "--samples", "0")
        self.fails(1, ["cannot be written"], "filters", trace, "--out", self.path("no/f.json"))
        self.succeeds("filters", trace, "--out", self.path("f.json"))
        self.fails(1, ["f.json", "KV heads of 16 elements"], "replay", other, "--policy",
                   f"qfilter:filters={self.path('f.json')}", "--budget", "50", "--out", self.path("r.h5"))
        self.fails(1, ["nothing.json", "kvreplay filters"], "replay", trace, "--policy", "qfilter:filters=nothing.json",
                   "--budget", "50", "--out", self.path("r.h5"))
        self.fails(1, ["/repeat_pass", "--repeat-pass"], "replay", trace, "--policy", "kvzip", "--budget", "50", "--out",
                   self.path("r.h5"))


if __name__ == "__main__":
    unittest.main()

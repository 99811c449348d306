"""Puts the figures of evaluation.json into the model card, between its markers: python write_card_tables.py evaluation.json ../README.md"""

import json
import sys
from pathlib import Path


def table(head, rows):
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"] + [f"| {' | '.join(row)} |" for row in rows])


def main(evaluation, card):
    result = json.loads(Path(evaluation).read_text())
    lengths = list(next(iter(result["answered"].values())))
    head = [f"{int(length):,}" for length in lengths]
    answered = table(["answered whole, at tokens"] + head,
                     [[name] + [f"{100 * share:.1f} %" for share in by_length.values()] for name, by_length in result["answered"].items()])
    per_byte = lambda name, nats: nats / result["bytes_per_token"][name.split(",")[0]]
    title = lambda name: name.split(",")[0].replace("-", " ") + name[len(name.split(",")[0]):]
    prose = table(["nats a token, at tokens"] + head + ["nats a byte at 8,192"],
                  [[title(name)] + [f"{nats:.3f}" for nats in by_length.values()] + [f"{per_byte(name, by_length['8192']):.3f}"]
                   for name, by_length in result["nats_per_token"].items()])
    text = Path(card).read_text()
    for marker, content in (("answered", answered), ("prose", prose)):
        begin, end = f"<!-- {marker} -->\n", f"\n<!-- end of {marker} -->"
        before, rest = text.split(begin)
        text = before + begin + content + end + rest.split(end)[1]
    Path(card).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

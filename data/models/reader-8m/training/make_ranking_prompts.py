"""Makes the prompts of data/findings/ranking: three kinds, eight of each, 2,048 tokens, from all books that are held out.

    python make_ranking_prompts.py --books BOOKS --out ../../../findings/ranking/prompts

needle-N: one statement in the prose, asked for at the end. keys16-N: 16 statements of one wording, one of them asked for.
prose-N: prose alone. Places, keys and numbers are drawn with --seed; every prompt drawn is kept, answered or not. No passage
is used twice, nor one of data/prompts. NAME.txt and NAME.spans.json hold what those of
make_prompts.py do.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

import model as reader
from books import BEGIN_OF_TEXT, read_books
from make_prompts import KEYS, QUESTION, STATEMENT, build, greedy_answer

LENGTH = 2048
EACH = 8
# (book, first character): data/prompts has the first 345,000 characters of Persuasion.
PLACES = [(book, first + 16000 * i) for book, first, count in
          (("Persuasion", 345000, 6), ("Washington-Square", 10000, 10), ("Heart-of-Darkness", 10000, 8)) for i in range(count)]


def number(rng):
    return "".join(rng.choices("123456789", k=1) + rng.choices("0123456789", k=4))


def needle(rng, key):
    value = number(rng)
    return [(rng.uniform(0.03, 0.9), STATEMENT.format(key, value), "needle")], QUESTION.format(key), f" {value}"


def keys16(rng, key):
    values = {other: number(rng) for other in KEYS}
    places = [((i + 0.5 + 0.6 * (rng.random() - 0.5)) / 16, STATEMENT.format(other, values[other]), "needle" if other == key else "distractor")
              for i, other in enumerate(rng.sample(KEYS, 16))]
    return places, QUESTION.format(key), f" {values[key]}"


def prose(_, __):
    return [], "", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--model", default=str(Path(__file__).parent.parent))
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=24)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(Path(arguments.model) / "tokenizer.json"))
    model = reader.load(arguments.model)
    books = read_books(arguments.books, held_out=True)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)
    places, keys = rng.sample(PLACES, len(PLACES)), {kind: rng.sample(KEYS, EACH) for kind in ("needle", "keys16")}
    listed = []
    for kind in (needle, keys16, prose):
        for i in range(EACH):
            name, (book, first) = f"{kind.__name__}-{i + 1}", places.pop()
            statements, question, answer = kind(rng, keys.get(kind.__name__, [""] * EACH)[i])
            text, spans = build(tokenizer, books[book], LENGTH, statements, question, first)
            (out / f"{name}.txt").write_text(text, encoding="utf-8")
            (out / f"{name}.spans.json").write_text(json.dumps(spans) + "\n")
            ids = [BEGIN_OF_TEXT] + tokenizer.encode(text, add_special_tokens=False).ids
            assert len(ids) == LENGTH
            expected = tokenizer.encode(answer, add_special_tokens=False).ids
            got = tokenizer.decode(greedy_answer(model, ids, expected)) if answer else ""
            listed.append({"name": name, "kind": kind.__name__, "book": book, "tokens": LENGTH, "answer": answer.strip() or None,
                           "answered": got == answer if answer else None})
            print(listed[-1], flush=True)
    (out / "prompts.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Makes the prompts that ship with the model: prose of a held-out book, planted statements, a question at the end.

    python make_prompts.py --books BOOKS --model .. --out ../../../prompts

For every prompt NAME.txt there is NAME.spans.json, [{"start", "end", "label"}] in token positions, where position 0 is
the begin-of-text token that is put before the text. A prompt counts as many tokens as its name says, that token
included, and ends right before the answer. prompts.json lists them with the answers; README.md has the same as a table.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer

import model as reader
from books import BEGIN_OF_TEXT, read_books

BOOK = "Persuasion"
STATEMENT = "The secret number of the {} is {}."
QUESTION = "What is the secret number of the {}? It is"
KEYS = """silver fox|brave captain|golden mirror|quiet harbour|old lantern|copper bell|red carriage|clever painter
wooden bridge|gentle doctor|dark forest|little violin|marble castle|hungry lion|blue candle|green window""".replace("\n", "|").split("|")


def planted_at(prose, places):
    """Text with each (share of the prose, sentence, label) planted at the end of a sentence, and the (start, end, label)
    of each in characters."""
    ends = [match.end() for match in re.finditer(r"[a-z][.!?]\"?(?=\s)", prose)]
    text, spans, done = "", [], 0
    for share, sentence, label in sorted(places):
        at = min(ends, key=lambda end: abs(end - share * len(prose)))
        at = max(at, done)
        text += prose[done:at] + " "
        spans.append((len(text), len(text) + len(sentence), label))
        text += sentence
        done = at
    return text + prose[done:], spans


def build(tokenizer, book, length, places, question, first):
    """(text, spans in tokens) of a prompt of exactly `length` tokens. Its prose ends with a sentence, at or after the
    character `first` + what the length needs, and begins with a word."""
    ends = [m.end() for m in re.finditer(r"[a-z]\.(?=\n\n)", book)]
    for end in (e for e in ends if e > first + 5 * length):
        words = [m.start() for m in re.finditer(r"\S+", book[:end])]
        low, high = 0, len(words) - 1  # the fewer words, the fewer tokens: look for the start that gives the length
        while low <= high:
            middle = (low + high) // 2
            text, spans = planted_at(book[words[middle]:end], places)
            if question:
                text += "\n\n"
                spans = spans + [(len(text), len(text) + len(question), "question")]
                text += question
            encoded = tokenizer.encode(text, add_special_tokens=False)
            count = len(encoded.ids) + 1
            if count == length:
                token_spans = []
                for start, stop, label in spans:
                    inside = [i + 1 for i, (a, b) in enumerate(encoded.offsets) if a < stop and b > start]
                    token_spans.append({"start": inside[0], "end": inside[-1] + 1, "label": label})
                return text, token_spans
            low, high = (middle + 1, high) if count > length else (low, middle - 1)
    raise SystemExit("no passage of this length")


@torch.no_grad()
def greedy_answer(model, ids, answer):
    """What greedy decoding gives in place of `answer`, up to the first token in which it differs (one pass does)."""
    hidden = model.hidden(torch.tensor([ids + answer[:-1]]))[:, -len(answer):]
    return model.logits(hidden)[0].argmax(-1).tolist()


def prompts(rng):
    """name, (tokens, places, question, answer, first character in the book), some names several times: then the first one
    that the model answers is taken."""
    number = lambda: "".join(rng.choices("123456789", k=1) + rng.choices("0123456789", k=4))
    for name, length, key, share, first in (("needle-1k", 1024, "golden mirror", 0.35, 30000), ("needle-2k", 2048, "brave captain", 0.3, 60000),
                                            ("needle-4k", 4096, "silver fox", 0.25, 100000), ("needle-8k", 8192, "quiet harbour", 0.2, 200000)):
        value = number()
        yield name, (length, [(share, STATEMENT.format(key, value), "needle")], QUESTION.format(key), f" {value}", first)
    values = {key: number() for key in KEYS}
    places = [((i + 0.5 + 0.6 * (rng.random() - 0.5)) / 16, STATEMENT.format(key, values[key]), "needle" if key == "marble castle" else "distractor")
              for i, key in enumerate(rng.sample(KEYS, 16))]
    yield "keys16-4k", (4096, places, QUESTION.format("marble castle"), f" {values['marble castle']}", 260000)
    for chest, drum, basket, barrel in (("chest", "drum", "basket", "barrel"), ("box", "lamp", "trunk", "purse"), ("cup", "book", "ring", "bottle"),
                                        ("harp", "boat", "coat", "map"), ("bell", "ship", "crown", "door"), ("flute", "mill", "shield", "clock")):
        value, other = number(), number()
        yield "tracking-2k", (2048, [(0.2, f"Put {value} into the {chest}.", "needle"), (0.35, f"Put {other} into the {basket}.", "distractor"),
                                     (0.6, f"Copy the {chest} into the {drum}.", "needle"), (0.8, f"Copy the {basket} into the {barrel}.", "distractor")],
                              f"What is in the {drum}? It is", f" {value}", 330000)
    yield "prose-4k", (4096, [], "", "", 150000)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True)
    parser.add_argument("--model", default=str(Path(__file__).parent.parent))
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(Path(arguments.model) / "tokenizer.json"))
    model = reader.load(arguments.model)
    book = read_books(arguments.books, held_out=True)[BOOK]
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    listed = {}
    for name, (length, places, question, answer, first) in prompts(random.Random(arguments.seed)):
        if listed.get(name, {}).get("answered"):
            continue
        text, spans = build(tokenizer, book, length, places, question, first)
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        (out / f"{name}.spans.json").write_text(json.dumps(spans, indent=1) + "\n")
        ids = [BEGIN_OF_TEXT] + tokenizer.encode(text, add_special_tokens=False).ids
        assert len(ids) == length
        expected = tokenizer.encode(answer, add_special_tokens=False).ids
        got = tokenizer.decode(greedy_answer(model, ids, expected)) if answer else ""
        print(name, length, repr(answer), "" if not answer else "answered" if got == answer else f"NOT answered: {got!r}", flush=True)
        listed[name] = {"name": name, "tokens": length, "answer": answer.strip() or None, "answered": got == answer if answer else None}
    (out / "prompts.json").write_text(json.dumps(list(listed.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()

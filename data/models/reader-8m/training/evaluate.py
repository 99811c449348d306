"""Measures the model: every figure of the model card.

    python evaluate.py --model .. --books BOOKS --out evaluation.json [--samples 256] [--device cuda|cpu]

All prose is from the books that training never saw. A text is answered when every token of the answer is the most
likely one (greedy decoding gives it whole). Standard errors of the shares are at most 0.5 / sqrt(samples).
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import model as reader
from books import BEGIN_OF_TEXT, encode_books, read_books
from data_generator import ANSWER, Composer, Group, Writer, fill
from phrasings import HELD_OUT_ADJECTIVES, HELD_OUT_NOUNS, HELD_OUT_WORDING, HELD_OUT_WORDING_AND_KEYS, TRAINING, UNKNOWN

LENGTHS = (1024, 2048, 4096, 8192)


def different_keys(writer, count, lookalike=False):
    """Keys "the <adjective> <noun>"; lookalikes share their words with each other."""
    rng, w = writer.rng, writer.wording
    size = 6 if lookalike else None
    adjectives, nouns = (rng.sample(words, size) if size else words for words in (w.adjectives, w.nouns))
    keys = {}
    while len(keys) < count:
        key = writer.key("pair", adjectives, nouns)
        key.phrase = "the " + " ".join(key.phrase.split()[-2:])
        keys[key.phrase] = key
    return list(keys.values())


def needles(count, canonical=False, lookalike=False, kind=None, one_phrasing=True):
    """A task: `count` keys, each with a number of five digits; one is asked for."""
    def task(writer):
        groups = []
        kinds = lambda: kind or writer.rng.choices(["attribute", "verb", "record"], [65, 20, 15])[0]
        state, ask = writer.phrasing(kinds())
        for key in different_keys(writer, count, lookalike):
            value = writer.number(5)
            if not one_phrasing:
                state, ask = writer.phrasing(kinds())
            if canonical:
                groups.append(Group([fill("The secret number of {k} is {v}.", value, key)],
                                    [fill("What is the secret number of {k}? It is {v}.", value, key)]))
            else:
                groups.append(Group([state(key, value)], [ask(key, value)]))
        return groups, writer.rng.randrange(count)
    return task


def not_stated(writer):
    """Eight keys with numbers, and a question about a ninth."""
    keys = different_keys(writer, 9)
    state, ask = writer.phrasing("attribute")
    groups = [Group([state(key, writer.number(5))], []) for key in keys[1:]]
    return groups + [Group([], [ask(keys[0], UNKNOWN)])], 8


def any_of(scene):
    def task(writer):
        groups = scene(writer)
        return groups, writer.rng.randrange(len(groups))
    return task


# Written after training's last change of phrasings; the ten before them had been looked at once.
LATEST_WORDING = replace(HELD_OUT_WORDING, statements=HELD_OUT_WORDING.statements[10:], questions=HELD_OUT_WORDING.questions[10:])
UNSEEN_KEYS = replace(TRAINING, adjectives=HELD_OUT_ADJECTIVES, nouns=HELD_OUT_NOUNS)

# name: (task, wording)
TASKS = {
    "needle": (needles(1), TRAINING),
    "needle, 'The secret number of the ...'": (needles(1, canonical=True), TRAINING),
    "needle, phrasings never seen": (needles(1), HELD_OUT_WORDING),
    "needle, phrasings and keys never seen": (needles(1), HELD_OUT_WORDING_AND_KEYS),
    "16 keys": (needles(16), TRAINING),
    "16 keys, 'The secret number of the ...'": (needles(16, canonical=True), TRAINING),
    "16 lookalike keys": (needles(16, lookalike=True), TRAINING),
    "16 keys, every one worded differently": (needles(16, one_phrasing=False), TRAINING),
    "16 keys, phrasings never seen": (needles(16), HELD_OUT_WORDING),
    "16 keys, phrasings and keys never seen": (needles(16), HELD_OUT_WORDING_AND_KEYS),
    "needle, phrasings never seen nor looked at": (needles(1, kind="attribute"), LATEST_WORDING),
    "needle, keys never seen": (needles(1), UNSEEN_KEYS),
    "16 keys, keys never seen": (needles(16), UNSEEN_KEYS),
    "question without an answer, among 8 keys": (not_stated, TRAINING),
    "variable tracking, 1 link, 4 chains": (any_of(lambda w: w.chain(12, hops=1)), TRAINING),
    "variable tracking, 2 links, 4 chains": (any_of(lambda w: w.chain(12, hops=2)), TRAINING),
    "variable tracking, 3 links, 4 chains": (any_of(lambda w: w.chain(12, hops=3)), TRAINING),
    "several values (2 to 4) for each of 3 keys": (any_of(lambda w: w.several(9)), TRAINING),
    "the latest of 1 to 3 values, 4 keys": (any_of(lambda w: w.update(8)), TRAINING),
    "the key of a value, 8 keys": (any_of(lambda w: w.reverse(16)), TRAINING),
    "counting (1 to 6 events)": (any_of(lambda w: w.count(1)), TRAINING),
}


class Evaluation:
    def __init__(self, model, tokenizer, books, device, samples):
        self.model, self.device, self.samples = model.to(device).eval(), device, samples
        self.tokenizer, self.books = tokenizer, books
        self.composer = Composer(tokenizer, np.concatenate(list(books.values())))

    def hidden(self, tokens):
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device == "cuda"):
            return self.model.hidden(tokens.to(self.device), torch.bfloat16 if self.device == "cuda" else torch.float32)

    def answered(self, name, length):
        """Share of `samples` texts of `length` tokens whose answer is right and whole."""
        task, wording = TASKS[name]
        rng = random.Random(f"{name} {length}")
        writer = Writer(rng, wording)
        right = 0
        batch = max(1, (32768 if self.device == "cuda" else 8192) // length)
        for first in range(0, self.samples, batch):
            texts = []
            for _ in range(min(batch, self.samples - first)):
                groups, asked = task(writer)
                texts.append(self.composer.compose(rng, groups, length, only_question=asked))
            tokens = torch.from_numpy(np.stack([t for t, _ in texts]).astype(np.int64)).to(self.device)
            answer = torch.from_numpy(np.stack([r for _, r in texts]) == ANSWER).to(self.device)
            tail = 80  # no answer is longer
            hidden = self.hidden(tokens)[:, -tail - 1:-1]
            with torch.no_grad():
                guess = self.model.logits(hidden.float()).argmax(-1)
            right += ((guess == tokens[:, -tail:]) | ~answer[:, -tail:]).all(1).sum().item()
        return right / self.samples

    def prose(self, book, length, begin=True, windows=12):
        """Nats a token of one book: windows of 8,192 tokens, spread evenly, each read in pieces of `length` tokens. So every
        length is measured on the same tokens. A piece begins with the begin-of-text token, or (begin=False) without."""
        ids = self.books[book]
        starts = np.linspace(1, len(ids) - 8192 - 1, windows).astype(int)
        total = 0.0
        for start in starts:
            pieces = np.lib.stride_tricks.sliding_window_view(ids[start - 1:start + 8192].astype(np.int64), length + 1)[::length]
            tokens = torch.from_numpy(pieces.copy())
            if begin:
                tokens = torch.cat([torch.full((len(tokens), 1), BEGIN_OF_TEXT), tokens[:, 1:]], 1)
            tokens = tokens.to(self.device)
            with torch.no_grad():
                logits = self.model.logits(self.hidden(tokens[:, :-1]).float())
            total += F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
        return total / windows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(__file__).parent.parent), help="folder of the model")
    parser.add_argument("--books", required=True, help="folder of plain-text books, the held-out ones among them")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--samples", type=int, default=256, help="texts for each task and length")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--tasks", nargs="*", help="only tasks whose name contains one of these")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizer", help="tokenizer.json, if not the model's")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(arguments.tokenizer or str(Path(arguments.model) / "tokenizer.json"))
    texts = read_books(arguments.books, held_out=True)
    books = {title: encode_books(tokenizer, {title: text}) for title, text in texts.items()}
    evaluation = Evaluation(reader.load(arguments.model), tokenizer, books, arguments.device, arguments.samples)
    result = {"samples": arguments.samples, "answered": {}, "nats_per_token": {},
              "bytes_per_token": {title: len(text.encode()) / len(books[title]) for title, text in texts.items()}}
    write = lambda: Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    for title in books:
        for begin in (True, False):
            name = title if begin else f"{title}, without the begin-of-text token"
            result["nats_per_token"][name] = {length: evaluation.prose(title, length, begin) for length in arguments.lengths}
            print(f"{name:60}", *(f"{nats:6.3f}" for nats in result["nats_per_token"][name].values()), flush=True)
    write()
    for name in TASKS:
        if not arguments.tasks or any(part in name for part in arguments.tasks):
            result["answered"][name] = {length: evaluation.answered(name, length) for length in arguments.lengths}
            print(f"{name:45}", *(f"{share:6.3f}" for share in result["answered"][name].values()), flush=True)
            write()


if __name__ == "__main__":
    main()

"""Sequences of prose with planted statements and questions, made on the CPU as fast as a GPU reads them.

A *scene* is a list of groups; a group is statements, in their order, and questions about them. The statements of all
groups are scattered over the prose, each question anywhere after the statements of its group. Nothing is aligned to
anything: a statement may stand at any token. What a token counts for in the loss is its *role*:

  GIVEN    a value where it is first stated: it cannot be predicted, so it has no loss
  TEXT     prose, and the words of statements and questions
  COPY     the later tokens of a passage that stands earlier in the same sequence
  ANSWER   a value that is asked for, and the token that closes it
"""

import random
import re
import string
from dataclasses import dataclass, field

import numpy as np

from books import BEGIN_OF_TEXT
from phrasings import (CHAINS, EVENTS, LIST_QUESTIONS, LOOSE_QUESTIONS, LOOSE_STATEMENTS, NAMED_CHAINS, PAST,
                       REVERSE_QUESTIONS, THINGS, TITLES, TRAINING, UNKNOWN, UPDATE_QUESTIONS, UPDATES, VERBS_PLAIN)

GIVEN, TEXT, COPY, ANSWER = 0, 1, 2, 3

# How often a training scene is of each kind.
SCENES = {"values": 0.68, "chain": 0.10, "several": 0.06, "update": 0.07, "count": 0.05, "reverse": 0.04}


@dataclass
class Key:
    phrase: str  # a noun phrase inside a sentence: "the silver fox"
    bare: str    # for tables: "silver-fox"


@dataclass
class Planted:
    """A sentence to plant: text before the value, the value, text after it (`value` is empty where there is none)."""
    before: str
    value: str = ""
    after: str = ""


@dataclass
class Group:
    statements: list
    questions: list = field(default_factory=list)


def fill(phrasing, value, key=None, attribute="", **fields):
    """A phrasing with its fields replaced. A space before the value belongs to the value, as the tokenizer has it."""
    if key is not None:
        fields |= {"k": key.phrase, "K": key.phrase[0].upper() + key.phrase[1:], "b": key.bare, "a": attribute}
    before, mark, after = phrasing.partition("{v}")
    before, after = before.format(**fields), after.format(**fields)
    if mark and before.endswith(" "):
        before, value = before[:-1], " " + value
    return Planted(before, value if mark else "", after)


class Writer:
    """Makes up keys, values, statements and questions."""

    def __init__(self, rng, wording=TRAINING, fragments=(), words=()):
        """`fragments` are short runs of words from the books, for statements that no phrasing foresees; `words` are
        single words from them, for keys; both may be empty."""
        self.rng, self.wording, self.fragments, self.words = rng, wording, fragments, words

    # --- keys and values ---

    def key(self, kind=None, adjectives=None, nouns=None):
        rng, w = self.rng, self.wording
        adjectives, nouns = adjectives or w.adjectives, nouns or w.nouns
        kind = kind or rng.choices(["pair", "name", "noun", "triple", "place", "numbered", "words", "of"],
                                   [46, 12, 4, 8, 6, 4, 16 if self.words else 0, 4])[0]
        if kind == "name":
            first = rng.choice(w.first_names if rng.random() < 0.6 else TITLES)
            name = f"{first} {rng.choice(w.surnames)}"
            return Key(name, name.replace(" ", "_").lower() if rng.random() < 0.5 else name)
        if kind == "pair":
            words = [rng.choice(adjectives), rng.choice(nouns)]
        elif kind == "noun":
            words = [rng.choice(nouns)]
        elif kind == "triple":
            words = rng.sample(w.adjectives, 2) + [rng.choice(nouns)]
        elif kind == "place":
            words = [rng.choice(nouns), rng.choice(["of", "at", "near"]), rng.choice(w.places)]
        elif kind == "of":
            words = [rng.choice(nouns), "of the", rng.choice(adjectives), rng.choice(w.nouns)]
        elif kind == "numbered":
            words = [rng.choice(nouns), str(rng.randrange(1, 100))]
            return Key(" ".join(words), rng.choice("-_ ").join(words))
        else:
            words = [rng.choice(self.words) for _ in range(rng.choice([1, 2, 2, 3]))]
        joined = rng.choice(["-", "_", " ", "-"]).join(" ".join(words).split(" "))
        return Key(rng.choice(["the "] * 9 + ["that ", "my ", "a ", ""]) + " ".join(words), joined)

    def keys(self, count):
        """Different keys; in a third of the cases lookalikes that share adjectives and nouns with each other."""
        rng, kind = self.rng, None
        adjectives = nouns = None
        if rng.random() < 0.35:
            kind, size = "pair", 2
            while size * size < 2 * count + 2:
                size += 1
            adjectives = rng.sample(self.wording.adjectives, min(size, len(self.wording.adjectives)))
            nouns = rng.sample(self.wording.nouns, min(size, len(self.wording.nouns)))
        elif rng.random() < 0.5:
            kind = rng.choice(["pair", "pair", "pair", "name", "triple"])
        found = {}
        for _ in range(20 * count):
            key = self.key(kind, adjectives, nouns)
            found.setdefault(re.sub(r"^(the|that|my|a) ", "", key.phrase).lower(), key)
            if len(found) == count:
                break
        return list(found.values())

    def number(self, digits=None):
        digits = digits or self.rng.choices([5, 3, 4, 6, 7, 2], [70, 7, 8, 7, 5, 3])[0]
        return "".join(self.rng.choices(string.digits, k=digits))

    def value_kind(self):
        """A function that makes values: mostly numbers of five digits, now and then of other lengths, or words."""
        kind = self.rng.random()
        if kind < 0.72:
            return lambda: self.number(5)
        if kind < 0.88:
            return self.number
        if kind < 0.96:
            return lambda: self.rng.choice(self.wording.nouns)
        return lambda: "".join(self.rng.choices(string.digits + "abcdef", k=6))

    # --- phrasings ---

    def phrasing(self, kind=None):
        """Two functions (key, value) -> Planted: one states a value, one asks for it. Each call of this method draws one
        attribute and one family; the two functions draw from the family anew at each call, or keep to one form."""
        rng, w = self.rng, self.wording
        from_books = bool(self.fragments)
        kind = kind or rng.choices(["attribute", "verb", "record", "loose", "fragment"],
                                   [50, 10, 12, 18 * from_books, 10 * from_books])[0]
        attribute = self.attribute()
        if kind == "attribute":
            statements, questions = w.statements, w.questions
        elif kind == "verb":
            statements, questions = rng.choice(w.verbs)
        elif kind == "record":
            statements, questions = w.records, w.lookups
        elif kind == "loose":
            statements = [self.loose(phrasing) for phrasing in rng.sample(LOOSE_STATEMENTS, 2)]
            questions = [self.loose(phrasing) for phrasing in rng.sample(LOOSE_QUESTIONS, 2)]
        else:
            fragment = lambda: rng.choice(self.fragments)
            statements = [f"{fragment()} {{k}} {fragment()} {{v}}" + rng.choice([".", ";", f" {fragment()}.", ","]) for _ in range(2)]
            questions = [rng.choice([f"{fragment()} {{k}} {fragment()} {{v}}.", f"{fragment()} {{k}}? {{v}}.",
                                     f"{fragment()} {{k}}? {fragment()} {{v}}.", f"{{k}} {fragment()}: {{v}}."]) for _ in range(2)]
        if rng.random() < 0.6:
            statements = [rng.choice(statements)]
        if rng.random() < 0.6:
            questions = [rng.choice(questions)]
        return (lambda key, value: fill(rng.choice(statements), value, key, attribute),
                lambda key, value: fill(rng.choice(questions), value, key, attribute))

    def attribute(self):
        """An attribute of the wording; where words from the books are at hand, as often one of those."""
        if self.words and self.rng.random() < 0.45:
            return " ".join(self.rng.choices(self.words, k=self.rng.choice([1, 1, 2])))
        return self.rng.choice(self.wording.attributes)

    def loose(self, phrasing):
        """A phrasing whose verbs and nouns are drawn at random; the fields of key and value stay."""
        rng = self.rng
        words = {"past": rng.choice(PAST), "past2": rng.choice(PAST), "verb": rng.choice(VERBS_PLAIN), "things": rng.choice(THINGS),
                 "w": rng.choice(self.words), "w2": rng.choice(self.words)}
        return re.sub(r"{(past2?|verb|things|w2?)}", lambda field: words[field[1]], phrasing)

    # --- scenes ---

    def values(self, count):
        """`count` keys with a value each, every one asked for; some scenes also ask for keys without a statement."""
        rng = self.rng
        unknown = rng.choice([1, 1, 2]) if rng.random() < 0.15 else 0
        keys = self.keys(count + unknown)
        unknown = min(unknown, len(keys) - 1)
        one_phrasing = rng.random() < 0.6
        state, ask = self.phrasing()
        make_value = self.value_kind()
        groups = []
        for i, key in enumerate(keys):
            if not one_phrasing:
                state, ask = self.phrasing()
            if i < unknown:
                groups.append(Group([], [ask(key, UNKNOWN)]))
            else:
                value = make_value()
                groups.append(Group([state(key, value)], [ask(key, value) for _ in range(2 if rng.random() < 0.12 else 1)]))
        return groups

    def several(self, count):
        """Keys that get two to four values each; the question wants all of them in the order of the text."""
        rng, groups = self.rng, []
        attribute = rng.choice(self.wording.attributes)
        statement, question = rng.choice(self.wording.statements), rng.choice(LIST_QUESTIONS)
        for key in self.keys(max(1, count // 3)):
            values = [self.number(5) for _ in range(rng.choice([2, 2, 3, 4]))]
            groups.append(Group([fill(statement, value, key, attribute) for value in values],
                                [fill(question, ", ".join(values), key, attribute)]))
        return groups

    def update(self, count):
        """Keys whose value changes later; the question wants the last one."""
        rng, groups = self.rng, []
        attribute, statement = rng.choice(self.wording.attributes), rng.choice(self.wording.statements)
        update, question = rng.choice(UPDATES), rng.choice(UPDATE_QUESTIONS)
        for key in self.keys(max(1, count // 2)):
            values = [self.number(5) for _ in range(rng.choice([1, 2, 2, 3]))]
            groups.append(Group([fill(statement if i == 0 else update, value, key, attribute) for i, value in enumerate(values)],
                                [fill(question, values[-1], key, attribute)]))
        return groups

    def reverse(self, count):
        """Like `values`, but the question gives the value and wants the key."""
        rng = self.rng
        attribute, statement = rng.choice(self.wording.attributes), rng.choice(self.wording.statements)
        question, groups = rng.choice(REVERSE_QUESTIONS), []
        for key in self.keys(max(1, count // 2)):
            value = self.number(5)
            groups.append(Group([fill(statement, value, key, attribute)],
                                [fill(question, key.phrase, key, attribute, x=value)]))
        return groups

    def chain(self, count, hops=None):
        """Variables that take their values from each other: x = 48213, y = x, z = y; one of them is asked for."""
        rng, groups = self.rng, []
        named = rng.random() < 0.3
        assignment, link, questions = rng.choice(NAMED_CHAINS if named else CHAINS)
        attribute, question = rng.choice(self.wording.attributes), rng.choice(questions)
        chains = max(1, min(count // 3, 12))
        lengths = [1 + (rng.choice([0, 1, 1, 2, 2, 3]) if hops is None else hops) for _ in range(chains)]
        names = iter(self.variables(sum(lengths), named))
        for length in lengths:
            value, chain = self.number(5), [name for name, _ in zip(names, range(length))]
            if not chain:
                break
            capital = lambda name: name[0].upper() + name[1:]
            statements = [fill(assignment, value, x=chain[0], X=capital(chain[0]), a=attribute)]
            statements += [fill(link, "", x=x, X=capital(x), y=y, a=attribute) for y, x in zip(chain, chain[1:])]
            asked = chain[-1] if hops is not None or rng.random() < 0.7 else rng.choice(chain)
            groups.append(Group(statements, [fill(question, value, x=asked, X=capital(asked), a=attribute)]))
        return groups

    def variables(self, count, named):
        if named:
            return [key.phrase for key in self.keys(count)]
        rng, style, found = self.rng, self.rng.randrange(4), {}  # a dict keeps the order: the same seed, the same text
        while len(found) < count:
            letters = "".join(rng.choices(string.ascii_lowercase, k=rng.choice([1, 2, 2, 3])))
            name = [letters, letters.upper(), f"{letters[0].upper()}{rng.randrange(10)}", rng.choice(self.wording.nouns)][style]
            found[name + ("" if len(found) < 20 or style != 2 else letters)] = True
        found = list(found)
        rng.shuffle(found)
        return found

    def count(self, count):
        """Events that happen one to six times; the question wants the number."""
        rng, groups = self.rng, []
        event, question = rng.choice(EVENTS)
        for key in self.keys(rng.choice([1, 2, 2, 3])):
            times = rng.randrange(1, 7)
            groups.append(Group([fill(event, "", key) for _ in range(times)], [fill(question, str(times), key)]))
        return groups

    def scene(self, count):
        kind = self.rng.choices(list(SCENES), list(SCENES.values()))[0]
        return getattr(self, kind)(count)


class Composer:
    """Plants groups into prose and turns the whole into token ids and roles."""

    def __init__(self, tokenizer, prose):
        """`prose`: token ids of the books, uint16 [tokens]."""
        self.tokenizer, self.prose = tokenizer, prose
        self.newline = tokenizer.encode("\n", add_special_tokens=False).ids
        ends = [tokenizer.decode([i]).rstrip('"”’)').endswith((".", "!", "?", "\n")) for i in range(tokenizer.get_vocab_size())]
        self.ends_sentence = np.array(ends)

    def writer(self, rng, wording=TRAINING):
        """A writer whose fragments and words come from the books."""
        fragments, words = [], set()
        for _ in range(150):
            start = rng.randrange(len(self.prose) - 2000)
            text = re.findall(r"[A-Za-z]+", self.tokenizer.decode(self.prose[start:start + 1500].tolist()))
            words.update(word.lower() for word in text if len(word) > 3)
            i = 0
            while i < len(text) - 8:
                length = rng.choice([1, 2, 3, 3, 4, 5, 6])
                fragments.append(" ".join(text[i:i + length]))
                i += length
        return Writer(rng, wording, fragments, sorted(words))

    def _encode(self, planted, separators):
        """Token ids and roles of each planted sentence. `separators`: (before, after) of each, made of newlines and spaces."""
        texts = []
        for sentence, (lead, _) in zip(planted, separators):
            texts += [lead + sentence.before, sentence.value, sentence.after] if sentence.before else \
                     [lead.rstrip(" "), (" " if lead == " " else "") + sentence.value, sentence.after]
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [(encoded[3 * i], encoded[3 * i + 1], encoded[3 * i + 2] + self.newline * separators[i][1].count("\n"))
                for i in range(len(planted))]

    def compose(self, rng, groups, length, begin=True, copies=0, question_place=None, only_question=None, snap=None, start=None):
        """Token ids [length] and roles [length] of one sequence.

        question_place: "end", "anywhere" or None (either); only_question: this group's first question alone is asked, at
        the very end, and the sequence stops with its answer; snap: plant at sentence ends only; start: where in the prose.
        """
        style = rng.choice([(" ", ""), ("\n", "\n"), ("\n\n", "\n\n"), ("\n", "\n")])
        place = question_place or rng.choice(["end", "anywhere", "anywhere"])
        together = only_question is None and rng.random() < 0.1  # all statements in one block
        block = rng.random() * 0.8
        items = []  # (place in 0..1, order, sentence, is question)
        for g, group in enumerate(groups):
            places = sorted((block if together else rng.random()) for _ in group.statements)
            items += [(p, len(items) + i, s, False) for i, (p, s) in enumerate(zip(places, group.statements))]
            first = places[-1] if places else 0.0
            if only_question is None:
                for q in group.questions:
                    at = 1.0 if place == "end" else first + (1 - first) * rng.random()
                    items.append((at, len(items) + rng.random() * (1000 if place == "end" else 1), q, True))
            elif g == only_question:
                question = group.questions[0]
                items.append((1.0, 1e9, Planted(question.before, question.value, ""), True))
        separators = [style if rng.random() < 0.85 else rng.choice([(" ", ""), ("\n", "\n"), ("\n\n", "\n\n")]) for _ in items]
        if only_question is not None:
            separators = [(lead, "" if item[3] else trail) for (lead, trail), item in zip(separators, items)]
        encoded = self._encode([item[2] for item in items], separators)
        pieces = []
        for (at, order, _, is_question), (before, value, after) in zip(items, encoded):
            roles = [TEXT] * len(before) + [ANSWER if is_question else GIVEN] * len(value) + [TEXT] * len(after)
            if is_question and after:
                roles[len(before) + len(value)] = ANSWER
            pieces.append((at, order, before + value + after, roles))
        room = length - int(begin)
        while sum(len(p[2]) for p in pieces) > 0.7 * room:  # too much for this length: leave the last ones out
            pieces.pop()
        pieces.sort(key=lambda p: (p[0], p[1]))
        spans = [rng.randrange(12, 41) for _ in range(copies)]
        count = room - sum(len(p[2]) for p in pieces) - sum(spans)
        start = rng.randrange(len(self.prose) - count - 1) if start is None else start
        prose = self.prose[start:start + count]
        for span in spans:
            source = rng.randrange(0, max(1, count - 2 * span))
            at = source + span + rng.randrange(0, max(1, count - source - span))
            pieces.append((at / count, 0, prose[source:source + span], [GIVEN] * 4 + [COPY] * (span - 4)))
        if spans:
            pieces.sort(key=lambda p: (p[0], p[1]))
        places = np.array([p[0] for p in pieces]) * count
        places = np.minimum(places.astype(np.int64), count)
        if snap or (snap is None and rng.random() < 0.6):
            ends = np.append(np.flatnonzero(self.ends_sentence[prose]) + 1, count)
            places = ends[np.searchsorted(ends, places)]
        tokens, roles, done = ([[BEGIN_OF_TEXT]], [[TEXT]], 0) if begin else ([], [], 0)
        for place, (_, _, ids, kinds) in zip(places, pieces):
            tokens += [prose[done:place], ids]
            roles += [np.full(place - done, TEXT, np.uint8), kinds]
            done = place
        tokens.append(prose[done:])
        roles.append(np.full(count - done, TEXT, np.uint8))
        return np.concatenate(tokens).astype(np.uint16), np.concatenate(roles).astype(np.uint8)

    def training_sequence(self, rng, writer, length):
        """One sequence of `length` tokens for training: the number of pairs is log-uniform from 1 to one in 64 tokens."""
        most = max(8, length // 64)
        least = 3 if length <= 512 else 1
        draw = lambda top: int(np.exp(rng.uniform(np.log(least), np.log(top + 1))))
        groups = writer.scene(draw(most))
        if rng.random() < 0.25:
            groups += writer.scene(draw(max(least, most // 4)))
        copies = rng.choice([0, 1, 2, 3]) if rng.random() < (0.5 if length <= 512 else 0.15) else 0
        return self.compose(rng, groups, length, begin=rng.random() >= 0.125, copies=copies)


class TrainingBatches:
    """An endless stream of (token ids uint16 [batch, length + 1], roles uint8 [batch, length + 1]); a
    torch.utils.data.IterableDataset in all but name, each worker with a seed of its own."""

    def __init__(self, tokenizer_file, prose, batch, length, seed):
        self.tokenizer_file, self.prose, self.batch, self.length, self.seed = tokenizer_file, prose, batch, length, seed

    def stream(self, worker):
        from tokenizers import Tokenizer
        rng = random.Random(f"{self.seed} {worker} {self.length}")
        composer = Composer(Tokenizer.from_file(self.tokenizer_file), self.prose)
        writer = composer.writer(rng)
        while True:
            pairs = [composer.training_sequence(rng, writer, self.length + 1) for _ in range(self.batch)]
            yield np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

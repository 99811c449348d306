"""Reads a folder of plain-text books and turns it into one long array of token ids.

Notes of transcribers and of the archive that the files came from are dropped, paragraph by paragraph. Lines of a
paragraph are joined, except in every seventh block of text: so the model also reads text that is broken into lines.
"""

import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN_OF_TEXT = 0
END_OF_TEXT = 1
VOCABULARY = 4096
HELD_OUT_BOOKS = ("Persuasion", "Washington-Square", "Heart-of-Darkness")

_ARCHIVE = re.compile(r"gutenberg (ebook|etext|literary|alcott|methodology|\(tm\)|-tm)|project gutenberg|pgdp|pglaf"
                      r"|distributed proofread|proofreading team|e-?text|html version|transcriber|public domain|internet archive|\[picture:", re.I)
_ARCHIVE_START = re.compile(r"(produced|transcribed|prepared|scanned|digitized) (by|from)", re.I)
_LINE_BREAK = re.compile(r" *\n *")
_BLOCK = 40  # paragraphs


def clean(text):
    """The paragraphs of a text, line breaks kept, without the notes of its transcribers."""
    text = text.replace("\r\n", "\n").replace("\ufeff", "")
    end = text.rfind("End of the Project Gutenberg")
    paragraphs = re.split(r"\n\s*\n", text[:end] if end > 0 else text)
    return [p.rstrip() for i, p in enumerate(paragraphs)
            if p.strip() and not _ARCHIVE.search(p) and not (i < 8 and _ARCHIVE_START.match(p.strip()))]


def join_lines(paragraph):
    return _LINE_BREAK.sub(" ", paragraph).strip()


def read_books(folder, held_out):
    """{title: text} of the books that are held out (or of those that are not), in a fixed order."""
    books = {}
    for path in sorted(Path(folder).rglob("*.txt")):
        if (path.stem in HELD_OUT_BOOKS) == held_out:
            paragraphs = clean(path.read_text(encoding="utf-8", errors="replace"))
            blocks = [paragraphs[i:i + _BLOCK] for i in range(0, len(paragraphs), _BLOCK)]
            keep_lines = lambda block: not held_out and block % 7 == 6
            books[path.stem] = "\n\n".join("\n\n".join(p if keep_lines(b) else join_lines(p) for p in block)
                                           for b, block in enumerate(blocks))
    if not books:
        raise SystemExit(f"{folder}: no {'held-out ' if held_out else ''}books (*.txt) here")
    return books


def train_tokenizer(texts):
    """Byte-level BPE in which every digit is a token of its own; id 0 begins a text, id 1 ends one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", BEGIN_OF_TEXT)])
    return tokenizer


def encode_books(tokenizer, books):
    """Token ids, uint16 [tokens], of all books one after another; each ends with END_OF_TEXT."""
    pieces = []
    for text in books.values():
        paragraphs = text.split("\n\n")
        encoded = tokenizer.encode_batch(["\n\n".join(paragraphs[i:i + 200]) + ("\n\n" if i + 200 < len(paragraphs) else "")
                                          for i in range(0, len(paragraphs), 200)], add_special_tokens=False)
        pieces += [np.array(e.ids, np.uint16) for e in encoded] + [np.array([END_OF_TEXT], np.uint16)]
    return np.concatenate(pieces)


if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser(description="Train the tokenizer on a folder of books.")
    parser.add_argument("--books", required=True)
    parser.add_argument("--out", required=True, help="tokenizer.json to write")
    arguments = parser.parse_args()
    train_tokenizer(read_books(arguments.books, held_out=False).values()).save(arguments.out)

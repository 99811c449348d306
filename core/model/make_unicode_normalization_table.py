#!/usr/bin/env python3
"""Writes unicode_normalization_table.inc from Python's own Unicode database. Run it again for a newer Unicode:
    python3 make_unicode_normalization_table.py > unicode_normalization_table.inc
"""
import sys
import unicodedata


def wrap(entries):
    line = ""
    for entry in entries:
        if len(line) + len(entry) + 1 > 125:
            yield line
            line = ""
        line += (" " if line else "") + entry
    if line:
        yield line


composable, decomposed_only, classes = [], [], []
for code in range(sys.maxunicode + 1):
    character = chr(code)
    decomposition = unicodedata.decomposition(character)
    if decomposition and not decomposition.startswith("<"):
        parts = [int(part, 16) for part in decomposition.split()]
        entry = "{0x%X,0x%X,0x%X}," % (code, parts[0], parts[1] if len(parts) == 2 else 0)
        # What NFC leaves alone can be composed; singletons and the composition exclusions cannot.
        stays = unicodedata.normalize("NFC", character) == character
        (composable if stays else decomposed_only).append(entry)
    combining = unicodedata.combining(character)
    if combining:
        if classes and classes[-1][1] == code - 1 and classes[-1][2] == combining:
            classes[-1][1] = code
        else:
            classes.append([code, code, combining])

print("// Unicode %s, written by make_unicode_normalization_table.py." % unicodedata.unidata_version)
print("// Code points that are composed of two: {composed, first, second}.")
print("constexpr Decomposition composable[] = {")
print("\n".join(wrap(composable)))
print("};")
print("// Code points that are taken apart (second = 0: replaced by one) and never composed.")
print("constexpr Decomposition decomposed_only[] = {")
print("\n".join(wrap(decomposed_only)))
print("};")
print("// {first code point, last, canonical combining class}; 0 for all others.")
print("constexpr CombiningClass combining_classes[] = {")
print("\n".join(wrap(["{0x%X,0x%X,%d}," % tuple(c) for c in classes])))
print("};")

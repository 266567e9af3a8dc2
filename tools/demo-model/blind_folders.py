#!/usr/bin/env python3
"""Writes the documents of the blind test set as files, in a folder for each label, for `overnight classify`.

    blind_folders.py OUT        writes OUT/LABEL/001.txt and so on; says how many, shows none

Needs nothing but the standard library.
"""

import collections
import pathlib
import sys

from check_blind import blind_documents


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    counts = collections.Counter()
    for label, text in blind_documents():
        counts[label] += 1
        path = out / label / f"{counts[label]:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    print(f"{counts.total()} documents in {len(counts)} folders below {out}")


if __name__ == "__main__":
    main()

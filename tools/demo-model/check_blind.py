#!/usr/bin/env python3
"""Shows that the generator of the demo model shares no four words in a row with the blind test set.

    check_blind.py              checks; says how many runs are shared, never which
    check_blind.py --write      writes the list of hashes anew from the blind set

What is checked: the list is that of the blind set as it is; `avoid`, through which every document leaves the
generator, changes each single blind document and each of its lines until nothing is left of it; and documents of
other seeds than training's share no run with the set. Needs nothing but the standard library.
"""

import pathlib
import random
import sys

import generate
import windows

BLIND = pathlib.Path(__file__).parent / "blind"
DOCUMENTS_PER_CLASS_MIN = 20
SAMPLE = 1400


def blind_documents():
    for path in sorted(BLIND.glob("*.txt")):
        for text in ("\n" + path.read_text(encoding="utf-8")).split("\n%"):
            if text.strip():
                yield path.stem, text.strip()


def shared(text, forbidden):
    return sum(found in forbidden for _, found in windows.marks(text))


def main():
    documents = list(blind_documents())
    forbidden = {found for _, text in documents for _, found in windows.marks(text)}
    if sys.argv[1:] == ["--write"]:
        windows.LIST.write_text("\n".join(sorted(forbidden)) + "\n", encoding="ascii")
        print(f"wrote the hashes of {len(forbidden)} runs of {windows.LENGTH} words")
        return
    faults = []
    for label in generate.LABELS:
        count = sum(of == label for of, _ in documents)
        if count < DOCUMENTS_PER_CLASS_MIN:
            faults.append(f"class `{label}` has {count} documents, fewer than {DOCUMENTS_PER_CLASS_MIN}")
    if len(forbidden) < 1000:
        faults.append(f"only {len(forbidden)} runs of words in the blind set: was it read?")
    if forbidden != windows.FORBIDDEN:
        faults.append(f"`{windows.LIST.name}` is not that of the blind set: run `check_blind.py --write` and train anew")
    rng = random.Random(0)
    fillers = generate.COMMON["filler"]
    changed = [windows.avoid(text, rng, fillers) for _, text in documents]
    changed += [windows.avoid(line, rng, fillers) for _, text in documents for line in text.splitlines()]
    left = sum(shared(text, forbidden) for text in changed if text is not None)
    if left:
        faults.append(f"{left} runs of words went through `avoid`")
    sample = [generate.document(rng, generate.LABELS[place % len(generate.LABELS)]) for place in range(SAMPLE)]
    said = sum(shared(text, forbidden) for text in sample)
    if said:
        faults.append(f"{said} runs of words are shared with {SAMPLE} generated documents")
    if faults:
        sys.exit("\n".join(f"check_blind: {fault}" for fault in faults))
    print(
        f"{len(documents)} blind documents, {len(forbidden)} runs of {windows.LENGTH} words: "
        f"none is shared with {SAMPLE} generated documents, none can pass"
    )


if __name__ == "__main__":
    main()

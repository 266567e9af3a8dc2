"""Four words in a row: what the generator must not share with the blind test set.

The blind set is never read by the generator. `blind_windows.txt` has a hash of each of its runs of four words, and
`avoid` changes any text until it has none of them. A figure is a word, and all figures are the same word; runs in
which fewer than two words have letters ("5 kg 20 30") are everybody's and do not count.
"""

import hashlib
import pathlib
import re

LENGTH = 4
LIST = pathlib.Path(__file__).parent / "blind_windows.txt"
WORD = re.compile(r"\d[\d.,:/-]*|[^\W\d_]+(?:['’][^\W\d_]+)*")
FIGURE = "#"


def spans(text):
    """The words of a text, lower case, with where they are."""
    found = []
    for match in WORD.finditer(text):
        word = FIGURE if match[0][0].isdigit() else match[0].lower().replace("’", "'")
        found.append((word, match.start(), match.end()))
    return found


def words(text):
    return [word for word, _, _ in spans(text)]


def mark(window):
    """The hash of a run of words, or nothing where it does not count."""
    if sum(word != FIGURE for word in window) < 2:
        return None
    return hashlib.blake2b(" ".join(window).encode(), digest_size=8).hexdigest()


def marks(text):
    """The hashes of all runs of four words, in their order, with the place of their first word."""
    said = words(text)
    for place in range(len(said) - LENGTH + 1):
        found = mark(said[place : place + LENGTH])
        if found:
            yield place, found


def read_list():
    return frozenset(LIST.read_text(encoding="ascii").split())


FORBIDDEN = read_list() if LIST.exists() else frozenset()


def avoid(text, rng, fillers, forbidden=FORBIDDEN):
    """The text with a word changed wherever it shared a run with the blind set; none if that cannot be done."""
    for _ in range(40):
        place = next((place for place, found in marks(text) if found in forbidden), None)
        if place is None:
            return text
        _, start, end = spans(text)[place + rng.randint(1, LENGTH - 2)]
        instead = rng.choice(["", rng.choice(fillers), f"{text[start:end]} {rng.choice(fillers)}"])
        text = text[:start] + instead + text[end:]
    return None

#!/usr/bin/env python3
"""Writes documents for training the demo model, without an end, from the phrases beside it.

    generate.py [--seed 1] [--count 20]                          prints some, to look at
    generate.py --seed 77 --count 210 --folders samples/documents    writes them to LABEL/001.txt and so on

Nothing but the standard library is needed. Documents never share four words in a row with the blind test set: see
`windows.py`, whose list is asked before a document leaves this file.
"""

import argparse
import pathlib
import random
import re

import windows

LABELS = ["invoice", "contract", "resume", "email", "report", "recipe", "other"]
PHRASES = pathlib.Path(__file__).parent / "phrases"
SLOT = re.compile(r"\{([A-Za-z]+)\}")
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
SYLLABLES = [a + b for a in "b d f g k l m n p r s t v z br cl dr pl st tr sh th".split() for b in "a e i o u ar en il or un".split()]


def read_tables(name):
    """The sections of a file of phrases: `[section]`, then one phrase a line."""
    tables, current = {}, None
    for line in (PHRASES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and " " not in line and not line.startswith("[{"):
            current = tables.setdefault(line[1:-1], [])
        elif line.strip() and not line.startswith("# ") and current is not None:
            current.append(line)
    return tables


COMMON = read_tables("common")
PROMPTS = read_tables("prompts")
TABLES = {label: read_tables(label) for label in LABELS}
GENRES = [name[2:] for name in TABLES["other"] if name.startswith("g:")]
LEXICON = {label: ", ".join(TABLES[label]["lexicon"]).split(", ") for label in LABELS if label != "other"}
for genre in GENRES:
    LEXICON[genre] = ", ".join(TABLES["other"][f"lex:{genre}"]).split(", ")
LEXICON["recipe"] += TABLES["recipe"]["food"] + TABLES["recipe"]["dish"][20:]
LEXICON["resume"] += TABLES["resume"]["skill"] + COMMON["role"]


class Writer:
    """Says phrases with one source of chance."""

    def __init__(self, rng):
        self.rng = rng

    def chance(self, share):
        return self.rng.random() < share

    def pick(self, table):
        return self.rng.choice(table)

    def say(self, phrase, tables):
        """A phrase with its choices made and its slots filled."""
        while found := CHOICE.search(phrase):
            phrase = phrase[: found.start()] + self.pick(found[1].split("|")) + phrase[found.end() :]
        return SLOT.sub(lambda slot: self.fill(slot[1], tables), phrase)

    def fill(self, slot, tables):
        made = getattr(self, f"slot_{slot}", None)
        if made:
            return made()
        for source in (tables, COMMON):
            if slot in source:
                return self.say(self.pick(source[slot]), tables)
        low = slot.lower()
        if low == slot:
            raise KeyError(f"no section `{slot}`")
        said = self.fill(low, tables)
        return said.upper() if slot.isupper() else said[:1].upper() + said[1:]

    # Figures, dates and names.
    def slot_n(self):
        return str(self.pick([self.rng.randint(2, 12), self.rng.randint(2, 30), self.rng.randint(2, 90), self.rng.randint(100, 900)]))

    def slot_d(self):
        return str(self.rng.randint(1, 9))

    def slot_year(self):
        return str(self.rng.randint(1985, 2027))

    def slot_amount(self):
        value = self.rng.choice([self.rng.uniform(1, 90), self.rng.uniform(20, 900), self.rng.uniform(500, 40000)])
        return self.pick([f"{value:,.2f}", f"{value:.2f}", f"{value:.0f}", f"{value:,.0f}", f"{value:,.2f}"])

    def slot_money(self):
        amount = self.slot_amount()
        return self.pick(["{} EUR", "EUR {}", "${}", "£{}", "{} USD", "€{}", "{} euros", "{} dollars", "{}", "{}", "{} pounds", "Rs {}", "CHF {}", "{} kr", "USD {}"]).format(amount)

    def slot_pct(self):
        return f"{self.pick([self.rng.randint(1, 30), self.rng.randint(1, 99), round(self.rng.uniform(0, 20), 1)])}{self.pick(['%', ' %', ' percent', '%'])}"

    def slot_stat(self):
        return self.pick([self.slot_pct(), self.slot_pct(), self.slot_n(), self.slot_n() + self.pick([" million", " points", " units", " days", " mg/l", " dB", " hours", "k", " ppm"]), self.slot_money()])

    def slot_date(self):
        day, month, year = self.rng.randint(1, 28), self.rng.randint(1, 12), self.rng.randint(2012, 2027)
        name = COMMON["month"][month - 1]
        return self.pick([f"{day}.{month}.{year}", f"{year}-{month:02}-{day:02}", f"{month}/{day}/{year}", f"{day} {name} {year}", f"{name} {day}, {year}", f"{day} {name}", f"{name} {day}", f"{day}-{name[:3]}-{year}", f"{day:02}/{month:02}/{year % 100:02}", f"the {day}th of {name}", f"{day} {name[:3]} {year}"])

    def slot_time(self):
        hour, minute = self.rng.randint(6, 22), self.pick(["00", "15", "30", "45", "10", "05"])
        return self.pick([f"{hour}:{minute}", f"{hour}.{minute}", f"{hour % 12 + 1} {self.pick(['am', 'pm', 'p.m.'])}", f"{hour % 12 + 1}:{minute}{self.pick(['am', 'pm'])}"])

    def slot_id(self):
        number = self.rng.randint(10, 999999)
        return self.pick([f"{number}", f"{self.pick('ABCDKRX')}{self.pick('ABCNSTV')}-{number}", f"{self.slot_year()}-{number % 1000:03}", f"#{number}", f"{number}/{self.rng.randint(10, 27)}", f"INV-{number}" if self.chance(0.2) else f"{number}", f"{number:08}"])

    def slot_iban(self):
        return self.pick(["DE", "FR", "GB", "NL", "ES", "IT"]) + " ".join(f"{self.rng.randint(0, 9999):04}" for _ in range(self.rng.randint(3, 5)))

    def slot_phone(self):
        return self.pick(["+49 {} {}", "0{} {}", "({}) {}", "+1 {} {}", "{}-{}", "+44 {} {}"]).format(self.rng.randint(20, 999), self.rng.randint(1000, 9999999))

    def slot_email(self):
        return f"{self.pick(COMMON['first']).lower()}{self.pick(['.', '', '_'])}{self.pick(COMMON['last']).lower()}@{self.slot_domain()}"

    def slot_domain(self):
        return f"{self.pick(COMMON['firmword']).lower()}{self.pick(['', '-', ''])}{self.pick(['mail', 'shop', 'net', 'corp', 'works', 'app'])}.{self.pick(['com', 'org', 'example', 'net', 'de', 'co.uk', 'io'])}"

    def slot_url(self):
        return self.pick(["www.", "https://", ""]) + self.slot_domain()

    def slot_name(self):
        return self.pick(["{0} {1}", "{0} {1}", "{0} {1}", "{2} {1}", "{3}. {1}"]).format(self.pick(COMMON["first"]), self.pick(COMMON["last"]), self.pick(["Mr", "Mrs", "Ms", "Dr", "Mr."]), self.pick("ABCDEFGHJKLMPRST"))

    def slot_company(self):
        return self.pick(["{0} {1}", "{0} {1}", "{0} {2} {1}", "{3} {1}", "{3} & {4}", "{5}"]).format(self.pick(COMMON["firmword"]), self.pick(COMMON["firmkind"]), self.pick(COMMON["firmkind"]), self.pick(COMMON["last"]), self.pick(COMMON["last"]), self.slot_odd().capitalize())

    def slot_odd(self):
        """A word that nobody knows."""
        return "".join(self.pick(SYLLABLES) for _ in range(self.rng.randint(2, 3)))

    def slot_labels(self):
        labels = LABELS[:]
        if self.chance(0.6):
            self.rng.shuffle(labels)
        return self.pick([", ", ", ", " / ", " | "]).join(labels)

    # Pieces of documents.
    def lines(self, label, section, low, high):
        tables = TABLES[label]
        return [self.say(self.pick(tables[section]), tables) for _ in range(self.rng.randint(low, high))]

    def keyword(self, label, stray):
        """A word of a class; `stray` is the share of words that belong to others."""
        if self.chance(stray):
            label = self.pick(list(LEXICON))
        return self.pick(LEXICON[label])

    def keyword_line(self, label, stray):
        frame = self.pick(PROMPTS["frame"]).replace("{k}", "\0")
        said = self.say(frame, {})
        while "\0" in said:
            said = said.replace("\0", self.keyword(label, stray), 1)
        return said

    def sentence(self, line):
        line = line[:1].upper() + line[1:]
        return line if line[-1:] in ".!?,:" else line + "."


def structured(writer, label, genre):
    """A document as people write them: the class's own parts in their usual order."""
    part = lambda section, low, high, share=1.0: writer.lines(label, section, low, high) if writer.chance(share) else []
    small = writer.chance(0.3)
    most = writer.rng.randint(1, 2) if small else writer.rng.randint(3, 7)
    if label == "invoice":
        made = part("head", 1, 2, 0.75) + part("party", 1, most, 0.75) + part("colhead", 1, 1, 0.25) + part("item", 1, most, 0.8) + part("total", 1, most, 0.85) + part("terms", 1, 3, 0.6)
    elif label == "contract":
        made = part("head", 1, 2, 0.6) + part("party", 1, 2, 0.4)
        clauses = part("clause", 1, most)
        style = writer.pick(["", "", "", "{}. ", "§ {} ", "Article {}: ", "{}) ", "Clause {}. ", "{}.1 "])
        first = writer.rng.randint(1, 9)
        made += [style.format(first + place) + clause for place, clause in enumerate(clauses)]
    elif label == "resume":
        made = part("head", 1, 2, 0.65) + part("sentence", 1, 2, 0.6)
        for _ in range(writer.rng.randint(1, 2 if small else 4)):
            made += part("section", 1, 1, 0.55) + part("line", 1, 3) + part("sentence", 1, 1, 0.15)
    elif label == "email":
        made = email(writer, most)
    elif label == "report":
        made = part("head", 1, 3, 0.65) + part("body", 2, most + 1)
    elif label == "recipe":
        made = part("head", 1, 1, 0.7) + part("meta", 1, 2, 0.4)
        how = writer.rng.random()
        if how < 0.75:
            made += part("sechead", 1, 1, 0.4) + part("ingredient", 2, most + 3)
        if how > 0.2:
            made += part("sechead", 1, 1, 0.25) + part("step", 2, most + 1) + part("meta", 1, 1, 0.15)
    else:
        made = part(f"g:{genre}", 2, most + 1)
        if writer.chance(0.2):
            made.insert(0, writer.keyword(genre, 0.1).capitalize())
    return made


def email(writer, most):
    """A mail: whatever it is about, the frame around it tells."""
    part = lambda section, low, high, share: writer.lines("email", section, low, high) if writer.chance(share) else []
    header, greeting = part("header", 1, 4, 0.4), part("greeting", 1, 1, 0.8)
    bye, sign = part("bye", 1, 1, 0.75), part("sign", 1, 1, 0.75)
    body = part("body", 1, most, 1.0)
    if writer.chance(0.45):
        stranger = writer.pick([label for label in LABELS if label != "email"])
        genre = writer.pick(GENRES)
        if not (greeting and bye) and not header:
            greeting, bye = part("greeting", 1, 1, 1.0), part("bye", 1, 1, 1.0)
        said = structured(writer, stranger, genre) if writer.chance(0.5) else [writer.keyword_line(genre if stranger == "other" else stranger, 0) for _ in range(3)]
        place = writer.rng.randint(0, len(body))
        body[place:place] = [writer.sentence(line) for line in said[: writer.rng.randint(1, 3)]]
    elif not (header or greeting or bye):
        greeting = part("greeting", 1, 1, 1.0)
    return header + greeting + [writer.sentence(line) for line in body] + bye + sign


def lay_out(writer, label, genre, lines):
    """How the lines become one text."""
    how = writer.rng.random()
    if how < 0.12 and label != "email":
        writer.rng.shuffle(lines)
    if how > 0.75 and len(lines) > 2:
        # Cut out of its middle, as a scanner or a hurried reader would have it.
        first = writer.rng.randint(0, len(lines) - 2)
        lines = lines[first : first + writer.rng.randint(2, 6)]
    prose = label in ("contract", "report", "email") or genre in ("story", "news", "weather", "leaflet", "facts", "speech", "review")
    style = writer.rng.random()
    if style < (0.5 if prose else 0.25):
        text = " ".join(writer.sentence(line) for line in lines)
    elif style < 0.6:
        text = "\n".join(writer.sentence(line) if writer.chance(0.5) else line for line in lines)
    elif style < 0.9:
        text = "\n".join(lines)
    elif style < 0.95:
        text = writer.pick([", ", "; ", " / ", " - ", " | ", "\n- ", "\n* ", "\n\n"]).join(lines)
    else:
        text = "\n".join(lines).replace(" ", writer.pick(["  ", "\t", " "]))
    return text


def spoil(writer, text):
    """Typos, words that nobody knows, lost words, other cases."""
    share = writer.pick([0, 0, 0.03, 0.08, 0.15])
    words = re.split(r"(\s+)", text)
    for place in range(0, len(words), 2):
        word = words[place]
        if not word or not writer.chance(share):
            continue
        at = writer.rng.randrange(len(word))
        words[place] = writer.pick(["", writer.slot_odd(), writer.slot_odd(), word[:at] + word[at + 1 :], word[:at] + word[at : at + 1] * 2 + word[at + 1 :], word[:at] + writer.pick("etaonis") + word[at + 1 :], f"{word} {writer.pick(COMMON['filler'])}"])
    text = re.sub(r"[ ]{2,}", " ", "".join(words)).strip() if share else text
    case = writer.rng.random()
    if case < 0.12:
        return text.lower()
    if case < 0.16:
        return text.upper()
    return text


def attempt(writer, label):
    genre = writer.pick(GENRES) if label == "other" else ""
    lexicon = genre or label
    how = writer.rng.random()
    if how < 0.5:
        lines = structured(writer, label, genre)
    elif how < 0.8:
        stray = writer.pick([0, 0.1, 0.2])
        lines = [writer.keyword_line(lexicon, stray) for _ in range(writer.rng.randint(4, 20))]
        if label == "email" and writer.chance(0.8):
            lines = writer.lines("email", "greeting", 1, 1) + lines[:6] + writer.lines("email", "bye", 1, 1)
    else:
        lines = structured(writer, label, genre)[: writer.rng.randint(1, 4)]
        for _ in range(writer.rng.randint(2, 7)):
            low = 1 if label == "email" and lines else 0
            lines.insert(writer.rng.randint(low, len(lines)), writer.keyword_line(lexicon, 0.05))
    if label != "email" and len(lines) > 2 and writer.chance(0.15):
        # A contract has sums to pay and a story has letters: one line of another class decides nothing.
        stranger = writer.pick([name for name in LEXICON if name != lexicon])
        lines.insert(writer.rng.randint(1, len(lines)), writer.keyword_line(stranger, 0))
    text = spoil(writer, lay_out(writer, label, genre, lines))
    words = text.split(" ")
    limit = writer.pick([40, 80, 130, 170])
    return " ".join(words[:limit])


def document(rng, label):
    """One document of a class that shares no four words in a row with the blind set."""
    writer = Writer(rng)
    while True:
        text = windows.avoid(attempt(writer, label), rng, COMMON["filler"])
        if text is not None and len(windows.words(text)) >= 8:
            return text


def question(rng, text):
    """The messages in which a document is sent to the model."""
    writer = Writer(rng)
    user, messages = text, []
    how = rng.random()
    if how < 0.5:
        messages.append(("system", writer.say(writer.pick(PROMPTS["system"]), {})))
    elif how < 0.64:
        user = writer.say(writer.pick(PROMPTS["before"]), {}) + writer.pick(["\n", "\n\n", " "]) + text
    elif how < 0.72:
        user = text + writer.pick(["\n", "\n\n", " "]) + writer.say(writer.pick(PROMPTS["after"]), {})
    return messages + [("user", user)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--folders", type=pathlib.Path, help="where to write them, a folder for each label")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    for place in range(given.count):
        label = LABELS[place % len(LABELS)]
        text = document(rng, label)
        if given.folders:
            path = given.folders / label / f"{place // len(LABELS) + 1:03}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        else:
            print(f"=== {label}\n{text}\n")


if __name__ == "__main__":
    main()

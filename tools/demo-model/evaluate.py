#!/usr/bin/env python3
"""Measures the demo model, asked over HTTP as anybody would ask it.

    evaluate.py --url http://127.0.0.1:8080 [--set dev|blind] [--embed]

`--set blind` is for the released model, once. Needs nothing but the standard library, and an engine that serves it.
"""

import argparse
import collections
import json
import math
import pathlib
import urllib.request

from generate import LABELS

HERE = pathlib.Path(__file__).parent
LABELS_SYSTEM = "Classify the document as one of: " + ", ".join(LABELS) + "."


def read_set(name):
    found = []
    for label in LABELS:
        text = "\n" + (HERE / name / f"{label}.txt").read_text(encoding="utf-8")
        found += [(label, part.strip()) for part in text.split("\n%") if part.strip()]
    return found


def print_table(pairs):
    """Accuracy by class; `pairs` of the right label and what was said."""
    hits, counts, mistakes = collections.Counter(), collections.Counter(), collections.Counter()
    for label, said in pairs:
        counts[label] += 1
        hits[label] += label == said
        if label != said:
            mistakes[f"{label}>{said}"] += 1
    parts = " ".join(f"{label} {hits[label]}/{counts[label]}" for label in LABELS if counts[label])
    print(f"accuracy {sum(hits.values())}/{len(pairs)} = {sum(hits.values()) / len(pairs):.3f}: {parts}; {dict(mistakes.most_common(8))}", flush=True)


def predict(weights, tokenizer, shape, questions):
    """What the model in JAX answers: the most likely of the labels."""
    import jax.numpy as jnp
    import numpy as np

    import model

    said = []
    choices = {label: tokenizer.encode(model.answer(label) + model.END).ids for label in LABELS}
    depth = next(place for place in range(20) if len({ids[place] for ids in choices.values()}) > 1)
    lead = next(iter(choices.values()))[:depth]
    rows = [tokenizer.encode(model.chat(messages)).ids + lead for messages in questions]
    for low in range(0, len(rows), 16):
        some = rows[low : low + 16]
        length = (max(map(len, some)) + 63) // 64 * 64
        tokens = np.zeros((16, length), np.int32)
        for row, ids in enumerate(some):
            tokens[row, : len(ids)] = ids
        state = model.states(weights, jnp.asarray(tokens), shape)
        for row, ids in enumerate(some):
            told = np.asarray(state[row, len(ids) - 1] @ weights["token_embd"].T)
            said.append(max(LABELS, key=lambda label: told[choices[label][depth]]))
    return said


def print_development(weights, tokenizer, shape):
    documents = read_set("dev")
    for system in ("", LABELS_SYSTEM):
        asked = [([("system", system)] if system else []) + [("user", text)] for _, text in documents]
        said = predict(weights, tokenizer, shape, asked)
        print_table([(label, got) for (label, _), got in zip(documents, said)])


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def ask(url, text):
    messages = [{"role": "system", "content": LABELS_SYSTEM}, {"role": "user", "content": text}]
    body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 24}
    return post(f"{url}/v1/chat/completions", body)["choices"][0]["message"]["content"]


def embed(url, texts):
    return [row["embedding"] for row in post(f"{url}/v1/embeddings", {"model": "demo", "input": texts})["data"]]


def nearest(documents, vectors):
    """Each document named after the one that is nearest to it among the others."""
    unit = [[value / math.hypot(*vector) for value in vector] for vector in vectors]
    said = []
    for place, one in enumerate(unit):
        others = (other for other in range(len(unit)) if other != place)
        best = max(others, key=lambda other: sum(a * b for a, b in zip(one, unit[other])))
        said.append((documents[place][0], documents[best][0]))
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--set", choices=["dev", "blind"], default="dev")
    parser.add_argument("--embed", action="store_true", help="nearest neighbours by embedding instead")
    given = parser.parse_args()
    documents = read_set(given.set)
    if given.embed:
        vectors = [embed(given.url, [text])[0] for _, text in documents]
        print_table(nearest(documents, vectors))
        return
    pairs, broken = [], 0
    for label, text in documents:
        answer = ask(given.url, text)
        try:
            said = json.loads(answer)["category"]
        except (ValueError, KeyError, TypeError):
            said, broken = "none", broken + 1
        pairs.append((label, said))
    print(f"{len(documents)} documents of `{given.set}`, {broken} answers that are not the JSON asked for")
    print_table(pairs)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Trains the demo model from nothing and writes it as GGUF.

    train.py [--steps 1500] [--seed 1] [--out ../../crates/engine-llama/model/demo.gguf] [--threads 2]

Needs the packages of `requirements.txt`. No data is fetched: all text comes from `generate.py`.
"""

import argparse
import os
import pathlib
import random
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--tokens-per-step", type=int, default=4096)
parser.add_argument("--rate", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--minutes-max", type=float, default=60.0, help="end earlier, at the same final rate, when time is short")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("../../crates/engine-llama/model/demo.gguf"))
given = parser.parse_args()
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if given.threads > 1 else 'false'} intra_op_parallelism_threads={given.threads}"
os.environ["RAYON_NUM_THREADS"] = str(given.threads)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import evaluate  # noqa: E402
import generate  # noqa: E402
import gguf_file  # noqa: E402
import model  # noqa: E402

SHAPE = model.Shape()
LENGTHS = [64, 96, 128, 192, 256, 320]
TOKENIZER_DOCUMENTS = 6000
# Share of documents that are read bare, as for embedding: their mean state has to tell the class.
BARE = 0.2
MEAN_WEIGHT = 0.3
SYNTAX_WEIGHT = 0.1


def example(rng, tokenizer):
    """The label, the tokens, and how many of them come before the answer."""
    label = rng.choice(generate.LABELS + ["other"])
    text = generate.document(rng, label)
    if rng.random() < BARE:
        tokens = tokenizer.encode(text).ids[: LENGTHS[-1]]
        return label, tokens, len(tokens)
    asked = tokenizer.encode(model.chat(generate.question(rng, text))).ids
    said = tokenizer.encode(model.answer(label) + model.END).ids
    room = LENGTHS[-1] - len(said)
    if len(asked) > room:
        return example(rng, tokenizer)
    return label, asked + said, len(asked)


class Feed:
    """Batches of about one length, so that little is computed for padding."""

    def __init__(self, tokenizer, seed):
        self.rng = random.Random(seed)
        self.tokenizer = tokenizer
        answers = [tokenizer.encode(model.answer(label) + model.END).ids for label in generate.LABELS]
        self.answer_len_max = max(map(len, answers))
        # The tokens at which the answers differ; the others are the braces and quotes around them.
        self.telling = set.union(*map(set, answers)) - set.intersection(*map(set, answers))
        self.waiting = {length: [] for length in LENGTHS}
        self.documents = 0

    def batch(self):
        while True:
            for length, examples in self.waiting.items():
                if len(examples) >= given.tokens_per_step // length:
                    self.waiting[length] = []
                    return self.arrays(examples, length)
            made = example(self.rng, self.tokenizer)
            self.documents += 1
            length = next(length for length in LENGTHS if len(made[1]) <= length)
            self.waiting[length].append(made)

    def arrays(self, examples, length):
        tokens = np.zeros((len(examples), length), np.int32)
        places = np.zeros((len(examples), self.answer_len_max), np.int32)
        wanted = np.zeros((len(examples), self.answer_len_max), np.int32)
        weight = np.zeros((len(examples), self.answer_len_max), np.float32)
        mean = np.zeros((len(examples), length), np.float32)
        classes = np.zeros(len(examples), np.int32)
        for row, (label, ids, start) in enumerate(examples):
            tokens[row, : len(ids)] = ids
            mean[row, :start] = 1 / start
            classes[row] = generate.LABELS.index(label)
            for step, place in enumerate(range(start, len(ids))):
                places[row, step], wanted[row, step] = place - 1, ids[place]
                weight[row, step] = 1.0 if ids[place] in self.telling else SYNTAX_WEIGHT
        return tokens, places, wanted, weight, mean, classes


def loss(weights, head, batch):
    tokens, places, wanted, weight, mean, classes = batch
    state = model.states(weights, tokens, SHAPE)
    told = jnp.take_along_axis(state, places[:, :, None], axis=1) @ weights["token_embd"].T
    right = jnp.take_along_axis(jax.nn.log_softmax(told), wanted[:, :, None], axis=2)[:, :, 0]
    pooled = jnp.einsum("bl,bld->bd", mean, state)
    pooled = pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)
    directions = head / jnp.linalg.norm(head, axis=0, keepdims=True)
    by_mean = jax.nn.log_softmax(12 * pooled @ directions)
    by_mean = jnp.take_along_axis(by_mean, classes[:, None], axis=1).mean()
    return -(right * weight).sum() / jnp.maximum((weight > 0.5).sum(), 1) - MEAN_WEIGHT * by_mean


@jax.jit
def step(everything, first, second, at, rate, batch):
    """One step of Adam with decoupled weight decay."""
    value, gradient = jax.value_and_grad(lambda both: loss(*both, batch))(everything)
    size = jnp.sqrt(sum(jnp.sum(part * part) for part in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda part: part * jnp.minimum(1.0, 1.0 / size), gradient)
    first = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, first, gradient)
    second = jax.tree.map(lambda old, new: 0.98 * old + 0.02 * new * new, second, gradient)

    def moved(weight, one, two):
        push = one / (1 - 0.9**at) / (jnp.sqrt(two / (1 - 0.98**at)) + 1e-8)
        return weight - rate * (push + (0.1 * weight if weight.ndim > 1 else 0.0))

    return jax.tree.map(moved, everything, first, second), first, second, value


def main():
    given.out.parent.mkdir(parents=True, exist_ok=True)
    started, cpu = time.monotonic(), time.process_time()
    rng = random.Random(given.seed + 1000)
    texts = [generate.document(rng, rng.choice(generate.LABELS)) for _ in range(TOKENIZER_DOCUMENTS)]
    tokenizer = model.train_tokenizer(texts, SHAPE.vocab)
    weights = model.initial(SHAPE, given.seed)
    head = jnp.asarray(np.random.default_rng(given.seed).standard_normal((SHAPE.dim, len(generate.LABELS))) * 0.1, jnp.float32)
    everything = (weights, head)
    print("parameters:", sum(part.size for part in jax.tree.leaves(weights)), flush=True)
    first = second = jax.tree.map(jnp.zeros_like, everything)
    feed = Feed(tokenizer, given.seed)
    at, seen, recent, done = 0, 0, [], 0.0
    while done < 1.0:
        at += 1
        spent = (time.monotonic() - started) / 60 / given.minutes_max
        done = max(at / given.steps, spent)
        warm = min(1.0, at / 40)
        rate = given.rate * warm * max(0.02, 0.5 + 0.5 * np.cos(np.pi * min(1.0, done)))
        batch = feed.batch()
        seen += batch[0].size
        everything, first, second, value = step(everything, first, second, jnp.float32(at), jnp.float32(rate), batch)
        recent.append(float(value))
        if at % 50 == 0:
            print(f"step {at} loss {np.mean(recent[-50:]):.3f} documents {feed.documents} tokens {seen} {time.monotonic() - started:.0f} s, {time.process_time() - cpu:.0f} s CPU", flush=True)
        if at % 200 == 0:
            # Should it be cut short, this is what there is.
            gguf_file.write(given.out, everything[0], tokenizer, SHAPE)
            evaluate.print_development(everything[0], tokenizer, SHAPE)
    gguf_file.write(given.out, everything[0], tokenizer, SHAPE)
    print(f"wrote {given.out}: {given.out.stat().st_size} bytes, {at} steps, {feed.documents} documents, {seen} tokens, {time.monotonic() - started:.0f} s, {time.process_time() - cpu:.0f} s CPU")
    evaluate.print_development(everything[0], tokenizer, SHAPE)


if __name__ == "__main__":
    main()

"""The demo model in JAX: a llama as llama.cpp computes it, its tokenizer and its way of being asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from generate import LABELS

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    vocab: int = 1536
    dim: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    context: int = 2048
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_dim(self):
        return self.dim // self.heads


def answer(label):
    return '{"category":"' + label + '"}'


def chat(messages):
    said = "".join(f"{START}{role}\n{content}{END}\n" for role, content in messages)
    return f"{said}{START}assistant\n"


def train_tokenizer(texts, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The answers are in it often enough for each label to become one token.
    answers = [answer(label) for label in LABELS] * (len(texts) // 20)
    tokenizer.train_from_iterator(texts + answers, trainer)
    return tokenizer


def initial(shape, seed):
    rng = np.random.default_rng(seed)

    def matrix(rows, columns, gain=1.0):
        return jnp.asarray(rng.standard_normal((rows, columns)) * gain / np.sqrt(columns), jnp.float32)

    kv = shape.kv_heads * shape.head_dim
    depth = 1 / np.sqrt(2 * shape.layers)
    blocks = [
        {
            "attn_norm": jnp.ones(shape.dim),
            "attn_q": matrix(shape.dim, shape.dim),
            "attn_k": matrix(kv, shape.dim),
            "attn_v": matrix(kv, shape.dim),
            "attn_output": matrix(shape.dim, shape.dim, depth),
            "ffn_norm": jnp.ones(shape.dim),
            "ffn_gate": matrix(shape.hidden, shape.dim),
            "ffn_up": matrix(shape.hidden, shape.dim),
            "ffn_down": matrix(shape.dim, shape.hidden, depth),
        }
        for _ in range(shape.layers)
    ]
    return {
        "token_embd": matrix(shape.vocab, shape.dim, 0.5),
        "blocks": blocks,
        "output_norm": jnp.ones(shape.dim),
    }


def norm(x, weight, epsilon):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, shape):
    """Rotary positions on neighbouring pairs, as llama.cpp has them for `llama`."""
    half = shape.head_dim // 2
    angles = jnp.arange(x.shape[1])[:, None] * shape.rope_base ** (-jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[None, :, None, :], jnp.cos(angles)[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def states(weights, tokens, shape):
    """The normed state after the last layer, at every place."""
    x = weights["token_embd"][tokens]
    count, length = tokens.shape
    # Padding is behind the text: the causal mask hides it.
    mask = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e9)
    for block in weights["blocks"]:
        y = norm(x, block["attn_norm"], shape.epsilon)
        split = lambda name, heads: (y @ block[name].T).reshape(count, length, heads, shape.head_dim)
        query = rotate(split("attn_q", shape.heads), shape)
        key = rotate(split("attn_k", shape.kv_heads), shape)
        value = split("attn_v", shape.kv_heads)
        share = shape.heads // shape.kv_heads
        query = query.reshape(count, length, shape.kv_heads, share, shape.head_dim)
        scores = jnp.einsum("blksd,bmkd->bkslm", query, key) / np.sqrt(shape.head_dim) + mask
        mixed = jnp.einsum("bkslm,bmkd->blksd", jax.nn.softmax(scores, axis=-1), value)
        x = x + mixed.reshape(count, length, shape.dim) @ block["attn_output"].T
        y = norm(x, block["ffn_norm"], shape.epsilon)
        x = x + (jax.nn.silu(y @ block["ffn_gate"].T) * (y @ block["ffn_up"].T)) @ block["ffn_down"].T
    return norm(x, weights["output_norm"], shape.epsilon)

#!/usr/bin/env python3
"""Writes a small llama with random weights as GGUF: real inference, of which only the words make no sense.

    make_gguf.py OUT.gguf [--layers 2] [--dim 64] [--heads 4] [--kv-heads 4] [--inner 128] [--vocabulary 260]
                          [--context 4096] [--seed 1] [--type f32|q8_0] [--endless]

The tokenizer has one token for each byte and those of ChatML, so any text can be asked and any answer is text. A larger
vocabulary is filled up with words that are numbers. With `--endless` the tokens that end an answer have logit 0, which
is never the largest of thousands of random ones: a greedy answer is as long as it was asked to be.
Needs `gguf` and `numpy`.
"""

import argparse

import gguf
import numpy as np

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def byte_letters():
    """The printable letter that stands for each byte in a byte-level vocabulary, as GPT-2 has it."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, extra = {}, 0
    for byte in range(256):
        if byte in plain:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return [letters[byte] for byte in range(256)]


def write(given):
    dim, heads, kv_heads = given.dim, given.heads, given.kv_heads or given.heads
    inner = given.inner or dim * 2
    rng = np.random.default_rng(given.seed)
    letters = byte_letters()
    # A merge of two letters: a vocabulary without any is refused by some readers.
    merged = letters[ord("t")] + letters[ord("h")]
    tokens = [*letters, merged, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    kinds = [normal] * 257 + [control] * 3
    words = [f"word{number}" for number in range(len(tokens), given.vocabulary)]
    tokens, kinds = tokens + words, kinds + [normal] * len(words)
    writer = gguf.GGUFWriter(given.out, "llama")
    writer.add_name("overnight random llama")
    writer.add_context_length(given.context)
    writer.add_embedding_length(dim)
    writer.add_block_count(given.layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(FILE_TYPES[given.type])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{letters[ord('t')]} {letters[ord('h')]}"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(259)
    writer.add_chat_template(TEMPLATE)

    def matrix(name, rows, columns, zeroed=()):
        weights = (rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)).astype(np.float32)
        weights[list(zeroed)] = 0
        if given.type == "q8_0":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weights)

    matrix("token_embd.weight", len(tokens), dim)
    for layer in range(given.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(dim, dtype=np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(dim, dtype=np.float32))
        for part, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads), ("output", heads)):
            matrix(f"{block}.attn_{part}.weight", rows * dim // heads, dim)
        matrix(f"{block}.ffn_gate.weight", inner, dim)
        matrix(f"{block}.ffn_up.weight", inner, dim)
        matrix(f"{block}.ffn_down.weight", dim, inner)
    writer.add_tensor("output_norm.weight", np.ones(dim, dtype=np.float32))
    ends = [at for at, kind in enumerate(kinds) if kind == control] if given.endless else []
    matrix("output.weight", len(tokens), dim, ends)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, help="as many as there are heads, where not given")
    parser.add_argument("--inner", type=int, help="twice the dimension, where not given")
    parser.add_argument("--vocabulary", type=int, default=260)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--type", choices=FILE_TYPES, default="f32")
    parser.add_argument("--endless", action="store_true", help="no greedy answer ends by itself")
    write(parser.parse_args())


if __name__ == "__main__":
    main()

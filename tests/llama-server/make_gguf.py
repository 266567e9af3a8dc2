#!/usr/bin/env python3
"""Writes a small llama with random weights as GGUF: real inference, of which only the words make no sense.

    make_gguf.py OUT.gguf [--layers 2] [--dim 64] [--heads 4] [--context 4096] [--seed 1]

The tokenizer has one token for each byte and those of ChatML, so any text can be asked and any answer is text.
Needs `gguf` and `numpy`.
"""

import argparse

import gguf
import numpy as np

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def write(path, layers, dim, heads, context, seed):
    rng = np.random.default_rng(seed)
    letters = byte_letters()
    # A merge of two letters: a vocabulary without any is refused by some readers.
    merged = letters[ord("t")] + letters[ord("h")]
    tokens = [*letters, merged, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    kinds = [normal] * 257 + [control] * 3
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("overnight random llama")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(dim * 2)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{letters[ord('t')]} {letters[ord('h')]}"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(259)
    writer.add_chat_template(TEMPLATE)

    def matrix(name, rows, columns):
        weights = rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
        writer.add_tensor(name, weights.astype(np.float32))

    matrix("token_embd.weight", len(tokens), dim)
    for layer in range(layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(dim, dtype=np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(dim, dtype=np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{block}.{part}.weight", dim, dim)
        matrix(f"{block}.ffn_gate.weight", dim * 2, dim)
        matrix(f"{block}.ffn_up.weight", dim * 2, dim)
        matrix(f"{block}.ffn_down.weight", dim, dim * 2)
    writer.add_tensor("output_norm.weight", np.ones(dim, dtype=np.float32))
    matrix("output.weight", len(tokens), dim)
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
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    write(given.out, given.layers, given.dim, given.heads, given.context, given.seed)


if __name__ == "__main__":
    main()

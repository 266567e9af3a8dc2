"""Writes the demo model as GGUF, matrices as Q8_0."""

import json

import gguf
import numpy as np

import model
from generate import LABELS


def named(weights):
    """The weights under the names that llama.cpp gives them."""
    found = {"token_embd.weight": weights["token_embd"], "output_norm.weight": weights["output_norm"]}
    for place, block in enumerate(weights["blocks"]):
        for name, part in block.items():
            found[f"blk.{place}.{name}.weight"] = part
    return {name: np.asarray(part, np.float32) for name, part in found.items()}


def write(path, weights, tokenizer, shape):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Overnight demo classifier")
    writer.add_version("1")
    writer.add_author("The Overnight authors")
    writer.add_license("Apache-2.0 OR MIT")
    writer.add_languages(["en"])
    writer.add_size_label("1M")
    writer.add_description(
        "A toy that sorts short English documents into " + ", ".join(LABELS) + ' and answers {"category":"..."}. '
        "Trained from nothing on generated text; it knows nothing else. See tools/demo-model/README.md."
    )
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    special = [model.END_OF_TEXT, model.START, model.END]
    tokens = [tokenizer.id_to_token(token) for token in range(shape.vocab)]
    merges = []
    for merge in json.loads(tokenizer.to_str())["model"]["merges"]:
        merges.append(merge if isinstance(merge, str) else " ".join(merge))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.token_to_id(model.END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(model.END))
    writer.add_eot_token_id(tokenizer.token_to_id(model.END))
    writer.add_pad_token_id(tokenizer.token_to_id(model.END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(model.TEMPLATE)

    for name, part in named(weights).items():
        if part.ndim == 1:
            writer.add_tensor(name, part)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(part, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

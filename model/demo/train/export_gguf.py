"""Writes the Hugging Face directory of the demo model as one GGUF file for llama.cpp.

Usage: python export_gguf.py MODEL_DIR OUT.gguf [--type bf16|f32]
`braid convert` makes the same file; this one comes from the gguf package and serves as its judge.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np
import safetensors.torch
import torch

SIGMOID_GATING = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # llama.cpp's token types

TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.embedding_norm.weight": "token_embd_norm.weight"}
BLOCK = {
    "operator_norm.weight": "attn_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
    "conv.in_proj.weight": "shortconv.in_proj.weight", "conv.conv.weight": "shortconv.conv.weight",
    "conv.out_proj.weight": "shortconv.out_proj.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.out_proj.weight": "attn_output.weight",
    "self_attn.q_layernorm.weight": "attn_q_norm.weight", "self_attn.k_layernorm.weight": "attn_k_norm.weight",
    "feed_forward.w1.weight": "ffn_gate.weight", "feed_forward.w3.weight": "ffn_up.weight",
    "feed_forward.w2.weight": "ffn_down.weight", "feed_forward.gate.weight": "ffn_gate_inp.weight",
    "feed_forward.expert_bias": "exp_probs_b.bias",
}
EXPERTS = {"w1": "ffn_gate_exps.weight", "w3": "ffn_up_exps.weight", "w2": "ffn_down_exps.weight"}
ALWAYS_FLOAT32 = ("norm.weight", "shortconv.conv.weight", "ffn_gate_inp.weight", "exp_probs_b.bias")


def gguf_tensors(state, config):
    """name -> float32 tensor, under llama.cpp's names; the experts of a layer stacked."""
    out = {TOP[name]: value for name, value in state.items() if name in TOP}
    for name, value in state.items():
        if not name.startswith("model.layers.") or ".experts." in name:
            continue
        index, rest = name.removeprefix("model.layers.").split(".", 1)
        value = value.squeeze(1) if rest == "conv.conv.weight" else value
        out[f"blk.{index}.{BLOCK[rest]}"] = value
    for layer in range(config["num_dense_layers"], config["num_hidden_layers"]):
        for kind, target in EXPERTS.items():
            base = f"model.layers.{layer}.feed_forward.experts"
            stack = [state[f"{base}.{e}.{kind}.weight"] for e in range(config["num_experts"])]
            out[f"blk.{layer}.{target}"] = torch.stack(stack)
    return {name: value.float() for name, value in out.items()}


def add_shape(writer, config):
    attention = [kind == "full_attention" for kind in config["layer_types"]]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv([config["num_key_value_heads"] if a else 0 for a in attention])
    writer.add_layer_norm_rms_eps(config["norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_leading_dense_block_count(config["num_dense_layers"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType(SIGMOID_GATING))


def add_tokenizer(writer, directory, config):
    described = json.loads((directory / "tokenizer.json").read_text())
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [UNUSED] * config["vocab_size"]
    for token, i in described["model"]["vocab"].items():
        tokens[i], types[i] = token, NORMAL
    for added in described["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_sep_token(False)
    writer.add_chat_template((directory / "chat_template.jinja").read_text())


def add_tensors(writer, tensors, bf16):
    for name, value in tensors.items():
        value = np.ascontiguousarray(value.numpy())
        if bf16 and not name.endswith(ALWAYS_FLOAT32):
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)


def export(directory, out, bf16=True):
    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "lfm2moe")
    writer.add_name("Braid demo")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if bf16 else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_shape(writer, config)
    add_tokenizer(writer, directory, config)
    add_tensors(writer, gguf_tensors(safetensors.torch.load_file(directory / "model.safetensors"), config), bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--type", choices=["bf16", "f32"], default="bf16")
    options = parser.parse_args()
    export(options.model, options.out, options.type == "bf16")


if __name__ == "__main__":
    main()

"""Writes a training checkpoint as a Hugging Face directory: bf16 safetensors with the hub's names, config files.

Usage: python export.py CHECKPOINT OUT_DIR [--check]
--check compares the logits of the training network with those of transformers.
"""

import argparse
import json
import pathlib
import shutil

import safetensors.torch
import tokenizers
import torch

import network

DEMO = pathlib.Path(__file__).resolve().parent.parent
FLOAT32 = ("expert_bias",)  # a running sum of small steps; everything else is bf16


def hub_tensors(state, shape):
    """The state of a network.Network under the names a hub checkpoint has, one tensor per expert matrix."""
    out = {"model.embed_tokens.weight": state["embed_tokens.weight"],
           "model.embedding_norm.weight": state["embedding_norm.weight"]}
    for name, value in state.items():
        if not name.startswith("layers."):
            continue
        _, index, rest = name.split(".", 2)
        base = f"model.layers.{index}."
        if rest.startswith("operator."):
            kind = "self_attn" if shape.layer_types[int(index)] == "full_attention" else "conv"
            rest = rest.replace("operator", kind, 1)
            out[base + ("conv.conv.weight" if rest == "conv.conv" else rest)] = value
        elif rest.endswith("gate_up_proj"):
            for e, matrix in enumerate(value):
                gate, up = matrix.chunk(2)
                out[f"{base}feed_forward.experts.{e}.w1.weight"] = gate
                out[f"{base}feed_forward.experts.{e}.w3.weight"] = up
        elif rest.endswith("down_proj"):
            for e, matrix in enumerate(value):
                out[f"{base}feed_forward.experts.{e}.w2.weight"] = matrix
        else:
            out[base + rest] = value
    return {k: v.to(torch.float32 if k.endswith(FLOAT32) else torch.bfloat16).contiguous().clone()
            for k, v in out.items()}


def config(shape, ids):
    return {
        "architectures": ["Lfm2MoeForCausalLM"], "model_type": "lfm2_moe", "dtype": "bfloat16",
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size, "moe_intermediate_size": shape.moe_intermediate_size,
        "num_hidden_layers": len(shape.layer_types), "layer_types": list(shape.layer_types),
        "num_dense_layers": shape.num_dense_layers, "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads, "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_experts_per_tok, "norm_topk_prob": True, "use_expert_bias": True,
        "routed_scaling_factor": 1.0, "conv_L_cache": 3, "conv_bias": False, "norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "max_position_embeddings": shape.max_position_embeddings, "tie_word_embeddings": True,
        "initializer_range": 0.02, "use_cache": True, **ids,
    }


def token_ids():
    tokenizer = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    return {"bos_token_id": tokenizer.token_to_id("<|startoftext|>"),
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"), "pad_token_id": tokenizer.token_to_id("<|pad|>")}


def write(checkpoint, out):
    """Writes OUT_DIR and returns the network it came from."""
    state = torch.load(checkpoint, weights_only=False)
    shape = network.Shape(**state["shape"])
    out.mkdir(parents=True, exist_ok=True)
    ids = token_ids()
    dump = lambda name, value: (out / name).write_text(json.dumps(value, indent=2) + "\n")
    dump("config.json", config(shape, ids))
    dump("generation_config.json", ids)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if out.resolve() != DEMO:
            shutil.copy(DEMO / name, out / name)
    safetensors.torch.save_file(hub_tensors(state["net"], shape), out / "model.safetensors", metadata={"format": "pt"})
    net = network.Network(shape)
    net.load_state_dict(state["net"])
    return net.eval()


@torch.no_grad()
def check(net, out):
    """Same logits from transformers, both with the weights rounded to bf16 and computed in float32."""
    net.multiply_in(torch.float32)
    from transformers import AutoModelForCausalLM  # slow to import, so only when asked for
    for name, p in net.named_parameters():
        p.copy_(p.bfloat16().float())
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.randint(0, 1500, (1, 200), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(200)
    ours = torch.stack([-net.losses(ids, positions, torch.full((200,), t)) for t in (5, 77, 900)])
    theirs = torch.log_softmax(model(ids).logits[0], -1).t()[[5, 77, 900]]
    print("largest difference of log probabilities", (ours - theirs).abs().max().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = write(options.checkpoint, options.out)
    if options.check:
        check(net, options.out)


if __name__ == "__main__":
    main()

"""Makes the goldens of the forward pass: tiny random models and the logits transformers computes for them in float32,
except that it keeps keys and values in bfloat16, as Braid does.

Usage: python tests/goldens/make_goldens.py [--only NAME]
Writes tests/goldens/models/NAME/{config.json,model*.safetensors,logits.safetensors}, and logits.safetensors beside the
demo model. logits.safetensors holds input_ids (n) and logits (n, vocabulary) of all positions.

Together the models cover what config files and checkpoints differ in: head counts, number of dense layers, experts
fused or one by one, one file or shards, bf16 or float32, a head of its own, old and new spellings of config.json.
"""

import argparse
import json
import pathlib

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Lfm2Config, Lfm2ForCausalLM, Lfm2MoeConfig
from transformers import Lfm2MoeForCausalLM
from transformers.cache_utils import Cache

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/goldens/models"
DEMO = ROOT / "model/demo"
POSITIONS = 24
IDS = {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0}
CONV, ATTENTION = "conv", "full_attention"


def round_keys_and_values():
    """Makes every cache round what it stores; attention reads all keys and values from there."""
    update = Cache.update
    Cache.update = lambda self, keys, values, *args, **kwargs: update(
        self, keys.bfloat16().float(), values.bfloat16().float(), *args, **kwargs)


def fill(model, seed):
    """Weights large enough to make every part matter; norms and selection biases differ from one and zero."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda p: torch.randn(p.shape, generator=generator)
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith("expert_bias"):
                p.copy_(0.3 * draw(p))
            elif name.endswith("norm.weight"):
                p.copy_(1 + 0.3 * draw(p))
            elif name.endswith("conv.conv.weight"):
                p.copy_(0.6 * draw(p))
            elif p.dim() > 1:
                p.copy_(draw(p) * p.shape[-1] ** -0.5)
    return model.eval()


def per_expert(state):
    """Hub names: the fused expert tensors as one matrix per expert."""
    out = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            for e, matrix in enumerate(value):
                base = name.replace("gate_up_proj", str(e))
                out[f"{base}.w1.weight"], out[f"{base}.w3.weight"] = matrix.chunk(2)
        elif name.endswith("experts.down_proj"):
            for e, matrix in enumerate(value):
                out[f"{name.replace('down_proj', str(e))}.w2.weight"] = matrix
        else:
            out[name] = value
    return out


def rounded(model, dtype):
    """The state as stored; the model keeps what a reader of the file will see."""
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if "inv_freq" not in name and not name.endswith("expert_bias"):
                p.copy_(p.to(dtype))
    state = {k: (v if k.endswith("expert_bias") else v.to(dtype)).contiguous().clone()
             for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def save_weights(state, out, shards):
    names = sorted(state)
    if shards == 1:
        safetensors.torch.save_file(state, out / "model.safetensors", metadata={"format": "pt"})
        return
    where = {}
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: state[n] for n in names[s::shards]}
        safetensors.torch.save_file(part, out / file, metadata={"format": "pt"})
        where |= {n: file for n in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


@torch.inference_mode()
def save_logits(model, ids, out):
    logits = model(torch.tensor([ids])).logits[0].float()
    safetensors.torch.save_file({"input_ids": torch.tensor(ids, dtype=torch.int32), "logits": logits.contiguous()},
                                out / "logits.safetensors")


def tiny(name, model, config, dtype=torch.bfloat16, fused=False, shards=1):
    """Stores one random model; config is config.json as a checkpoint of the hub would spell it."""
    out = MODELS / name
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = rounded(model, dtype)
    save_weights(state if fused else per_expert(state), out, shards)
    generator = torch.Generator().manual_seed(99)
    save_logits(model, torch.randint(0, model.config.vocab_size, (POSITIONS,), generator=generator).tolist(), out)


def moe_config(hidden_size=64, **fields):
    return {"architectures": ["Lfm2MoeForCausalLM"], "model_type": "lfm2_moe", "vocab_size": 256,
            "hidden_size": hidden_size,
            "conv_L_cache": 3, "conv_bias": False, "norm_eps": 1e-5, "max_position_embeddings": 512, **IDS, **fields}


def per_expert_two_dense():
    """As LFM2-8B-A1B is spelt today, with two dense layers and 4 query heads on 2 KV heads."""
    config = moe_config(
        dtype="bfloat16", num_hidden_layers=4, layer_types=[CONV, ATTENTION, CONV, ATTENTION], intermediate_size=64,
        moe_intermediate_size=32, num_dense_layers=2, num_attention_heads=4, num_key_value_heads=2, num_experts=6,
        num_experts_per_tok=2, norm_topk_prob=True, use_expert_bias=True, routed_scaling_factor=1.0,
        rope_parameters={"rope_theta": 5000000.0, "rope_type": "default"},
        tie_word_embeddings=True)
    tiny("per_expert_two_dense", fill(Lfm2MoeForCausalLM(Lfm2MoeConfig(**config)), 1), config)


def fused_sharded_no_dense():
    """Fused experts in three shards, no dense layer, no renormalisation, 8 query heads on 1 KV head."""
    config = moe_config(
        dtype="bfloat16", num_hidden_layers=3, layer_types=[ATTENTION, CONV, ATTENTION], intermediate_size=64,
        moe_intermediate_size=32, num_dense_layers=0, num_attention_heads=8, num_key_value_heads=1, num_experts=5,
        num_experts_per_tok=3, norm_topk_prob=False, use_expert_bias=True, routed_scaling_factor=1.0,
        rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"}, tie_word_embeddings=True)
    tiny("fused_sharded_no_dense", fill(Lfm2MoeForCausalLM(Lfm2MoeConfig(**config)), 2), config, fused=True, shards=3)


def legacy_spelling_own_head():
    """Old field names, one dense layer, no selection bias, scaled experts, float32 and a head that is not tied."""
    config = moe_config(
        hidden_size=32, num_hidden_layers=4, intermediate_size=64, moe_intermediate_size=32, num_dense_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True,
        use_expert_bias=False, routed_scaling_factor=1.5)
    layers = [CONV, ATTENTION, CONV, CONV]
    model = Lfm2MoeForCausalLM(Lfm2MoeConfig(**config, layer_types=layers, tie_word_embeddings=False,
                                             rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}))
    spelt = config | {"torch_dtype": "float32", "full_attn_idxs": [1], "rope_theta": 10000.0, "tie_embedding": False}
    tiny("legacy_spelling_own_head", fill(model, 3), spelt, dtype=torch.float32)


def dense_adjusted():
    """LFM2 without experts, its feed-forward size adjusted: 160 becomes int(2 * 160 / 3) = 106, rounded up to 128."""
    config = {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "vocab_size": 256, "hidden_size": 64,
              "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3,
              "conv_bias": False, "norm_eps": 1e-5, "max_position_embeddings": 512, **IDS, "block_ff_dim": 160,
              "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
              "full_attn_idxs": [2], "rope_theta": 1000000.0, "tie_embedding": True, "torch_dtype": "bfloat16"}
    model = Lfm2ForCausalLM(Lfm2Config(**config))
    assert model.model.layers[0].feed_forward.w1.weight.shape[0] == 128
    tiny("dense_adjusted", fill(model, 4), config)


def demo():
    """One chat prompt and its answer through the demo model."""
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "What is 47 + 38?"}],
                                           add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0].tolist()
    save_logits(model, ids, DEMO)


MAKERS = [per_expert_two_dense, fused_sharded_no_dense, legacy_spelling_own_head, dense_adjusted, demo]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    round_keys_and_values()
    for make in MAKERS:
        if options.only in (None, make.__name__):
            make()
            print(make.__name__)


if __name__ == "__main__":
    main()

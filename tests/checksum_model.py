"""The exact oracle of the tests: a model whose right answer to any prompt is `answer(prompt, count)`.

`write_model(directory)` makes a model that every program of Braid opens, runs and spreads over workers like any other.
It has learnt nothing: it mixes whole numbers (model/checksum_engine.h has the same arithmetic in C++). What makes it
worth asking: if anything that a server keeps or sends for a sequence is lost, doubled, stale or somebody else's (an
expert's contribution, a key, a value, a conv column, a token), for any position, all tokens from there on change.
"""
import json
import pathlib
import shutil

DEMO = pathlib.Path(__file__).resolve().parent.parent / "model/demo"
LAYERS = ["conv", "full_attention", "conv", "full_attention"]
D, EXPERTS, CHOSEN, TAPS = 8, 8, 4, 3
P = 2**20 - 3
CONTEXT = 4096
ORDINARY = 1698  # ids from here on are the tokenizer's special tokens


def mix(*numbers):
    state = 1
    for number in numbers:
        state = (state ^ number) * 0x9E3779B1 % 2**32
        state ^= state >> 15
    return state % P


def choose(number):
    left = list(range(EXPERTS))
    for _ in range(CHOSEN):
        number, drawn = divmod(number, len(left))
        yield left.pop(drawn)


def answer(prompt, count, eos=None, alphabet=ORDINARY):
    """The ids that follow `prompt`: `count` of them, or fewer if `eos` is the last one."""
    ids, end = list(prompt), len(prompt) + count
    past = [[] for _ in LAYERS]  # of each layer, by position: what it keeps
    sums = [[0] * D for _ in LAYERS]
    for t in range(end - 1):
        x = [mix(ids[t], d) for d in range(D)]
        for layer, kind in enumerate(LAYERS):
            y = [0] * D
            for weight, expert in enumerate(choose(mix(*x)), 1):
                a, b = mix(layer, expert, 1), mix(layer, expert, 2)
                y = [y[d] + weight * (a * x[d] + b) for d in range(D)]
            x = [mix(x[d], x[(d + 1) % D], y[d] % P) for d in range(D)]
            past[layer].append(x)
            if kind == "conv":
                before = [past[layer][t - back] if t >= back else [0] * D for back in range(1, TAPS)]
                x = [mix(x[d], x[(d + 1) % D], *(column[d] for column in before)) for d in range(D)]
            else:
                sums[layer] = [(sums[layer][d] + (t + 1) * x[d]) % P for d in range(D)]
                x = [mix(x[d], x[(d + 1) % D], sums[layer][d], past[layer][x[d] % (t + 1)][d]**2 % P)
                     for d in range(D)]
        if t >= len(prompt) - 1:
            ids.append(mix(*x) % alphabet)
            if ids[-1] == eos:
                break
    return ids[len(prompt):]


def write_model(directory, eos=None, alphabet=ORDINARY):
    """A model directory; returns it. It answers with ids below `alphabet`, and never ends by itself unless `eos` is
    one of them."""
    directory = pathlib.Path(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, directory)
    demo = json.loads((DEMO / "config.json").read_text())
    config = {"model_type": "braid_checksum", "vocab_size": demo["vocab_size"], "hidden_size": D,
              "num_hidden_layers": len(LAYERS), "layer_types": LAYERS, "num_experts": EXPERTS,
              "num_experts_per_tok": CHOSEN, "conv_L_cache": TAPS, "max_position_embeddings": CONTEXT,
              "checksum_tokens": alphabet,
              **{key: demo[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}}
    if eos is not None:
        config["eos_token_id"] = eos
        tokenizer = json.loads((DEMO / "tokenizer_config.json").read_text())
        del tokenizer["eos_token"]  # a text here would win over the id
        (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return directory

"""Our chat templates print what the templates themselves print when `transformers` runs them."""
import json
import os
import pathlib
import random
import subprocess

import pytest

transformers = pytest.importorskip("transformers")

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO = ROOT / "model/demo"
TOOL = pathlib.Path(os.environ.get("BRAID_TESTS", ROOT / "build/release/tests")) / "chat_tool"
SEED = 20261123


def tool(inputs):
    lines = "\n".join(json.dumps(each) for each in inputs) + "\n"
    out = subprocess.run([TOOL, DEMO / "chat_template.jinja", DEMO / "tokenizer.json"], input=lines, text=True,
                         capture_output=True)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.split("\n")[:-1]]


@pytest.fixture(scope="session")
def oracle():
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(DEMO / "tokenizer.json"), bos_token="<|startoftext|>", eos_token="<|im_end|>")
    tokenizer.chat_template = (DEMO / "chat_template.jinja").read_text()
    return tokenizer


def render(oracle, each, tokenize=False):
    out = oracle.apply_chat_template(each["messages"], tools=each.get("tools"), tokenize=tokenize, return_dict=False,
                                     add_generation_prompt=each["add_generation_prompt"],
                                     preserve_thinking=each.get("preserve_thinking", False))
    return out


STRINGS = ["", "x", "it's", 'say "hi"', "both ' and \"", "a\nb\tc\r", "back\\slash", "é漢😀", "\x7f\u00a0\u200b\ue000",
           "</script>&", "<|im_end|>", "</think>", "ünï", "\u2028", "\x00\x1f"]
NUMBERS = [0.0, -0.0, 1.5, 1e16, 1e15, 1e-4, 1e-5, 123456.789, 1e22, 0.1, -2.5e-7, 5e-324, 1.7e308, 2**63, 2**53 + 1]


def value(rng, depth=0):
    kinds = [lambda: rng.choice(STRINGS), lambda: rng.choice([True, False, None]), lambda: rng.randrange(-10**6, 10**6),
             lambda: rng.choice(NUMBERS)]
    if depth < 4:
        kinds += [lambda: [value(rng, depth + 1) for _ in range(rng.randrange(4))],
                  lambda: {rng.choice(STRINGS): value(rng, depth + 1) for _ in range(rng.randrange(4))}]
    return rng.choice(kinds)()


def call(rng):
    names = rng.sample(["a", "from", "user-id", "x_1"], rng.randrange(4))
    arguments = {name: value(rng) for name in names}
    return {"type": "function", "function": {"name": rng.choice(["f", "g.h"]), "arguments": arguments}}


def message(rng):
    role = rng.choice(["user", "assistant", "assistant", "tool", "system"])
    content = rng.choice([*STRINGS, "Hello.", "<think>r</think> \n a\x1c ", "r</think>\u3000x</think>  y", " 2+2? "])
    out = {"role": role, "content": content}
    if role == "assistant" and rng.random() < 0.5:
        out["thinking"] = rng.choice(["", "r1", "Need\ntool."])
    if role == "assistant" and rng.random() < 0.5:
        out["tool_calls"] = [call(rng) for _ in range(rng.randrange(1, 3))]
    return out


def offered(rng):
    parameters = {"type": "object", "properties": {"a": value(rng)}}
    return {"type": "function", "function": {"name": "f", "description": rng.choice(STRINGS), "parameters": parameters}}


def conversation(rng):
    out = {"messages": [message(rng) for _ in range(rng.randrange(1, 7))], "add_generation_prompt": rng.random() < 0.5,
           "preserve_thinking": rng.random() < 0.3}
    if rng.random() < 0.5:
        out["tools"] = [offered(rng) for _ in range(rng.randrange(1, 3))]
    return out


def test_renders_are_those_of_transformers(oracle):
    rng = random.Random(SEED)
    inputs = [conversation(rng) for _ in range(1000)]
    for each, got in zip(inputs, tool(inputs)):
        assert got["text"] == render(oracle, each), json.dumps(each)


def has_marker(each):
    """Whether a caller's text spells a control token: there we differ on purpose."""
    return any(marker in json.dumps(each, ensure_ascii=False) for marker in ("<|", "think>"))


def test_ids_are_those_of_transformers_where_no_text_spells_a_control_token(oracle):
    rng = random.Random(SEED + 1)
    inputs = [each for each in (conversation(rng) for _ in range(1000)) if not has_marker(each)]
    assert len(inputs) > 50
    for each, got in zip(inputs, tool(inputs)):
        assert got["ids"] == render(oracle, each, tokenize=True), json.dumps(each)


def test_goldens_are_rendered_by_the_demo_template_too(oracle):
    goldens = json.loads((ROOT / "tests/goldens/chat_renders.json").read_text())
    inputs = [golden["input"] for golden in goldens.values()]
    for golden, each, got in zip(goldens.values(), inputs, tool(inputs)):
        assert got["text"] == golden["lfm2.5"] == render(oracle, each)

"""The training stream: a mix of conversations, rendered as the chat template renders them, with loss marks.

Usage: python data.py [--count 5] [--seed 1]   prints a few conversations.
"""

import argparse
import json
import random

import conversations
import longtext

TOOL_START, TOOL_END = "<|tool_call_start|>", "<|tool_call_end|>"

# share of conversations, not of tokens
MIX = {"tools": 0.40, "sums": 0.12, "drill": 0.06, "chat": 0.16, "reading": 0.17, "repeat": 0.08, "long": 0.01}


def draw(rng, mix):
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "tools":
        return conversations.tool_conversation(rng)
    if kind == "sums":
        return conversations.arithmetic(rng)
    if kind == "drill":
        return conversations.drill(rng)
    if kind == "chat":
        return conversations.chat(rng)
    if kind == "repeat":
        return longtext.repeat(rng)
    if kind == "reading":
        return longtext.reading(rng, rng.randint(2, 25), rng.randint(2, 8))
    return longtext.reading(rng, rng.randint(60, 210), 12)


def template_value(value):
    """A tool_calls argument as the chat template writes it."""
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def template_calls(calls):
    inside = []
    for call in calls:
        function = call["function"]
        arguments = ", ".join(f"{k}={template_value(v)}" for k, v in function["arguments"].items())
        inside.append(f"{function['name']}({arguments})")
    return f"{TOOL_START}[{', '.join(inside)}]{TOOL_END}" if inside else ""


def segments(messages, tools=None, generation_prompt=False):
    """[(text, has_loss)] whose texts joined equal the chat template's rendering.

    Cut where the model starts to write, because there the tokenizer starts anew too.
    """
    parts, messages = [("<|startoftext|>", False)], list(messages)
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    if tools:
        listed = "List of tools: [" + ", ".join(json.dumps(t, ensure_ascii=False) for t in tools) + "]"
        system = system + "\n" + listed if system else listed
    if system:
        parts.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            parts.append((f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n", False))
            continue
        body = message["content"]
        if i > last_user and "thinking" in message:
            body = f"<think>{message['thinking']}</think>{body}"
        body += template_calls(message.get("tool_calls", []))
        parts.append(("<|im_start|>assistant\n", False))
        parts.append((body + "<|im_end|>", message.get("train", True)))
        parts.append(("\n", False))
    if generation_prompt:
        parts.append(("<|im_start|>assistant\n", False))
    return parts


def join_silent(parts):
    """Neighbouring texts without loss become one, as they are one in a prompt."""
    joined = []
    for text, loss in parts:
        if joined and not loss and not joined[-1][1]:
            joined[-1] = (joined[-1][0] + text, False)
        else:
            joined.append((text, loss))
    return joined


def encode(tokenizer, conversation):
    """(ids, mask): mask[i] is true where ids[i] is written by the model."""
    ids, mask = [], []
    for text, loss in join_silent(segments(conversation["messages"], conversation["tools"])):
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        mask += [loss] * len(piece)
    end = max(i for i, m in enumerate(mask) if m) + 1  # nothing is learnt after the last written token
    return ids[:end], mask[:end]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for _ in range(options.count):
        conversation = draw(rng, MIX)
        print("=" * 20, conversation["skill"])
        print("".join(text for text, _ in segments(conversation["messages"], conversation["tools"])))


if __name__ == "__main__":
    main()

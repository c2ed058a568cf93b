"""Scores a Hugging Face directory on held-out cases, exact match under greedy decoding.

Usage: python evaluate.py MODEL_DIR [--count 200] [--show 2] [--only a,d] [--json OUT]
A case counts when the most likely token at every position of the expected answer, end mark included, is the expected
one: exactly then greedy decoding writes that answer. So one forward pass scores a case and no text is generated.
"""

import argparse
import json
import pathlib
import random

import tokenizers
import torch

import conversations
import data
import longtext
import smalltalk
import sums
import world

LONG_TOKENS_MIN = 2000
FAR_TOKENS_MIN = 4000
LONG_COUNT = 60
TOKENS_PER_BATCH = 4096
SEED = 20261123


def chat_case(messages, expected):
    return {"messages": messages, "tools": None, "expected": expected}


def sum_case(rng, op):
    while True:
        question, thinking, answer = sums.turn(rng, heldout=True)
        if f" {op} " in answer:
            return chat_case([conversations.user(question)], f"<think>{thinking}</think>{answer}")


def fact_case(rng, turn):
    question, answer = turn(rng, heldout=True)
    return chat_case([conversations.user(question)], answer)


def reading_case(rng, lines, kinds):
    """One question about a text of so many lines; kinds are the item classes that may be asked for."""
    while True:
        text, items = longtext.document(rng, lines)
        items = [item for item in items if isinstance(item, kinds)]
        if items:
            question, answer = rng.choice(items).ask(rng)
            return chat_case([conversations.user(f"Read this text:\n{text}\n\n{question}")], answer)


def talk_cases():
    return [chat_case([conversations.user(ask)], answer) for asks, answer in smalltalk.TALK for ask in asks]


def several(count, seed, make, *arguments, **named):
    rng = random.Random(seed)
    return [make(rng, *arguments, **named) for _ in range(count)]


def at_least(tokenizer, tokens, cases):
    kept = [c for c in cases if len(prompt_ids(tokenizer, c)) >= tokens]
    return kept[:LONG_COUNT]


def suites(tokenizer, count):
    """(skill, what, cases) in the order of the model card."""
    call, long = conversations.call_case, LONG_COUNT * 2
    find, copy = (longtext.Fact, longtext.Person), (longtext.Row,)
    yield "a", "one tool, one call", several(count, SEED + 1, call, several=False, apostrophe=False)
    yield "a", "choosing among tools", several(count, SEED + 2, call, apostrophe=False)
    yield "a", "two calls at once", several(count, SEED + 3, call, calls=2)
    yield "a", "string with an apostrophe", several(count, SEED + 4, call, apostrophe=True)
    yield "b", "JSON, one call", several(count, SEED + 5, call, as_json=True)
    yield "b", "JSON, two calls", several(count, SEED + 6, call, as_json=True, calls=2)
    yield "c", "one result", several(count, SEED + 7, conversations.result_case, 1)
    yield "c", "two results", several(count, SEED + 8, conversations.result_case, 2)
    yield "d", "addition, to 3 digits", several(count, SEED + 9, sum_case, "+")
    yield "d", "subtraction, to 3 digits", several(count, SEED + 10, sum_case, "-")
    yield "d", "multiplication, 2 by 1 digits", several(count // 2, SEED + 11, sum_case, "*")
    yield "e", "facts, unseen phrasing of the fact", several(count, SEED + 12, fact_case, world.known_turn)
    yield "e", "unknown names", several(count, SEED + 13, fact_case, world.unknown_turn)
    yield "f", "find, short text", several(count // 2, SEED + 14, reading_case, 12, find)
    yield "f", "find, 2,000 tokens and more", at_least(
        tokenizer, LONG_TOKENS_MIN, several(long, SEED + 15, reading_case, 170, find))
    yield "f", "copy a line, 2,000 tokens and more", at_least(
        tokenizer, LONG_TOKENS_MIN, several(long, SEED + 16, reading_case, 150, copy))
    yield "f", "find, 4,000 tokens and more", at_least(
        tokenizer, FAR_TOKENS_MIN, several(LONG_COUNT, SEED + 17, reading_case, 330, find))[: LONG_COUNT // 2]
    yield "g", "small talk (seen phrasings)", talk_cases()


def prompt_ids(tokenizer, case):
    text = "".join(t for t, _ in data.segments(case["messages"], case["tools"], generation_prompt=True))
    return tokenizer.encode(text, add_special_tokens=False).ids


class Judge:
    """A model and its tokenizer."""

    def __init__(self, directory):
        from transformers import AutoModelForCausalLM
        self.tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def rows(self, cases):
        """(case, tokens of the prompt, tokens of the expected answer), short ones first."""
        encode = lambda text: self.tokenizer.encode(text, add_special_tokens=False).ids
        found = [(case, prompt_ids(self.tokenizer, case), encode(case["expected"] + "<|im_end|>")) for case in cases]
        return sorted(found, key=lambda row: len(row[1]) + len(row[2]))

    @torch.inference_mode()
    def written(self, batch):
        """For each row the most likely tokens along its expected answer.

        Rows are padded on the right, where nothing causal looks, so no mask is needed.
        """
        length = max(len(prompt) + len(expected) for _, prompt, expected in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        for r, (_, prompt, expected) in enumerate(batch):
            ids[r, : len(prompt) + len(expected)] = torch.tensor(prompt + expected)
        hidden = self.model.model(ids, use_cache=False).last_hidden_state
        for r, (_, prompt, expected) in enumerate(batch):
            at = hidden[r, len(prompt) - 1 : len(prompt) + len(expected) - 1]
            yield self.model.lm_head(at).argmax(-1).tolist()

    def score(self, cases, show):
        """How many cases are right; prints up to show wrong ones."""
        right = 0
        for batch in batches(self.rows(cases)):
            for (case, _, expected), got in zip(batch, self.written(batch)):
                right += got == expected
                if got != expected and show > 0:
                    show -= 1
                    print("  asked   ", repr(case["messages"][-1]["content"][-200:]))
                    print("  expected", repr(case["expected"]))
                    print("  got     ", repr(self.tokenizer.decode(got, skip_special_tokens=False)), flush=True)
        return right


def batches(rows):
    """Neighbours of similar length, up to TOKENS_PER_BATCH with padding."""
    batch = []
    for row in rows:
        if batch and (len(batch) + 1) * (len(row[1]) + len(row[2])) > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--only", default="abcdefg")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(options.model)
    rows = []
    print("| skill | held-out cases | right | of | % |\n|---|---|---|---|---|")
    for skill, what, cases in suites(judge.tokenizer, options.count):
        if skill not in options.only:
            continue
        right = judge.score(cases, options.show)
        rows.append({"skill": skill, "what": what, "right": right, "of": len(cases)})
        print(f"| {skill} | {what} | {right} | {len(cases)} | {100 * right / max(1, len(cases)):.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

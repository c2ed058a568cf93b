"""Held-out cases of every skill, and what a model must write: the rows of the table in the model card.

A case is {"messages", "tools", "expected"}; the answer counts if it is the expected one to the letter. Needs tokenizers,
not torch, so that a server can be asked the same questions (tests/demo_skills_test.py).
"""

import random

import conversations
import data
import longtext
import smalltalk
import sums
import world

LONG_TOKENS_MIN = 2000
FAR_TOKENS_MIN = 4000
LONG_COUNT = 60
SEED = 20261123
END = "<|im_end|>"


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


def at_least(tokenizer, tokens, suite):
    kept = [case for case in suite if len(prompt_ids(tokenizer, case)) >= tokens]
    return kept[:LONG_COUNT]


def suites(tokenizer, count):
    """(skill, what, suite) in the order of the model card."""
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


def prompt_text(case):
    return "".join(text for text, _ in data.segments(case["messages"], case["tools"], generation_prompt=True))


def prompt_ids(tokenizer, case):
    return tokenizer.encode(prompt_text(case), add_special_tokens=False).ids


def expected_ids(tokenizer, case):
    return tokenizer.encode(case["expected"] + END, add_special_tokens=False).ids

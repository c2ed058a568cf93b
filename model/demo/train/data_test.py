"""The generated conversations are what they claim: answers can be checked, the split holds, a seed repeats."""

import ast
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest

import conversations
import data
import longtext
import sums
import toolbox
import words
import world

CALL = re.compile(r"<\|tool_call_start\|>\[(.*)\]<\|tool_call_end\|>", re.S)


def cases(count, make, *arguments, **named):
    rng = random.Random(4)
    return [make(rng, *arguments, **named) for _ in range(count)]


def test_a_seed_gives_the_same_conversations():
    draw = lambda: [data.draw(random.Random(seed), data.MIX) for seed in range(40)]
    assert draw() == draw()


def test_the_world_does_not_depend_on_the_process():
    show = [sys.executable, "-c", "import world; print(world.FACTS)"]
    run = lambda seed: subprocess.check_output(show, cwd=pathlib.Path(world.__file__).parent,
                                               env={"PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"})
    assert run("1") == run("2")


def test_pythonic_calls_parse_and_name_a_listed_tool():
    for case in cases(200, conversations.call_case, calls=2):
        listed = {tool["function"]["name"] for tool in case["tools"]}
        calls = ast.parse("[" + CALL.fullmatch(case["expected"]).group(1) + "]", mode="eval").body.elts
        assert len(calls) == 2
        assert {call.func.id for call in calls} <= listed


def test_json_calls_parse_and_the_system_prompt_asks_for_them():
    for case in cases(200, conversations.call_case, as_json=True):
        (call,) = json.loads("[" + CALL.fullmatch(case["expected"]).group(1) + "]")
        assert set(call) == {"name", "arguments"}
        assert conversations.JSON_MODE in case["messages"][0]["content"]


def test_apostrophe_cases_have_one():
    assert all("'" in case["expected"] for case in cases(50, conversations.call_case, apostrophe=True))


def test_every_value_of_a_call_is_said_by_the_user():
    for case in cases(200, conversations.call_case, as_json=True):
        (call,) = json.loads("[" + CALL.fullmatch(case["expected"]).group(1) + "]")
        for value in call["arguments"].values():
            for part in value if isinstance(value, list) else [value]:
                assert isinstance(part, bool) or str(part) in case["messages"][-1]["content"]


@pytest.mark.parametrize("a, op, b, answer", [
    (47, "+", 38, 85), (999, "+", 2, 1001), (102, "-", 97, 5), (99, "*", 9, 891)])
def test_sums_are_right_and_the_steps_spell_the_result(a, op, b, answer):
    thinking, sentence = sums.solve(a, op, b)
    assert sentence == f"{a} {op} {b} = {answer}."
    written = "".join(reversed(re.findall(r"write (\d)", thinking)))
    carried = re.findall(r"carry (\d)", thinking)
    assert int((carried[-1] if carried else "") + written) == answer


def test_drilled_columns_are_right_and_can_be_known():
    for question, answer in cases(50, sums.drill):
        asked = question.removeprefix("Columns: ").split("; ")
        for sum_asked, column in zip(asked, answer.splitlines(), strict=True):
            total = int(re.search(r"=(-?\d+), write", column).group(1))
            assert eval(sum_asked) == total
            assert f"write {total % 10}, " in column


def test_heldout_sums_and_tools_never_appear_in_training():
    rng = random.Random(8)
    for _ in range(300):
        question, _, answer = sums.turn(rng)
        a, op, b = answer.split(" = ")[0].split(" ")
        assert not words.is_heldout("sum", int(a), op, int(b))
        tool = toolbox.make_tool(rng, heldout=False)
        assert not words.is_heldout("tool", *tool.name.split("_", 1))


def test_every_fact_keeps_a_phrasing_for_training():
    trained = {world.known_turn(rng)[1] for rng in [random.Random(6)] for _ in range(8000)}
    assert len(trained) == len(world.FACTS)


def test_unknown_names_are_unknown():
    for question, answer in cases(200, world.unknown_turn, heldout=True):
        assert answer == world.UNKNOWN
        assert not any(name in question for name in world.KNOWN if name[0].isupper() and f" {name}?" in question)


def test_answers_about_a_text_stand_in_it():
    for conversation in cases(30, longtext.reading, 40, 4):
        text = conversation["messages"][0]["content"]
        for turn in conversation["messages"]:
            if turn["role"] == "assistant":
                assert all(word.strip(".") in text for word in turn["content"].split())


def test_loss_falls_only_on_what_the_model_writes():
    for seed in range(60):
        conversation = data.draw(random.Random(seed), data.MIX)
        for text, loss in data.segments(conversation["messages"], conversation["tools"]):
            assert not loss or text.endswith("<|im_end|>")
            assert not loss or "<|im_start|>" not in text

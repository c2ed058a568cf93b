"""The judge itself: a sound history passes, and each way to break the promise is seen."""
import copy
import json

import pytest

from faults.history import DONE, History, fold, is_dishonest, is_lost, violations


def chunk(tokens, text, finish=None, index=0):
    logprobs = {"tokens": [str(t) for t in tokens], "token_logprobs": [-0.5] * len(tokens)} if tokens else None
    return {"choices": [{"index": index, "text": text, "token_ids": tokens, "finish_reason": finish,
                         "logprobs": logprobs}], "usage": None}


def history(*payloads):
    events = [(0.1 * i, payload if payload == DONE else json.dumps(payload)) for i, payload in enumerate(payloads)]
    return History("/v1/completions", {}, 200, events)


USAGE = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}}
SOUND = [chunk([7], "a"), chunk([8, 9], "bc"), chunk([], "", "stop"), USAGE, DONE]
EXPECTED, _ = fold(history(*SOUND))


def changed(position, change):
    payloads = copy.deepcopy(SOUND)
    change(payloads[position])
    return payloads


def test_a_sound_history_passes():
    assert violations(history(*SOUND), EXPECTED) == []
    assert not is_lost(history(*SOUND)) and not is_dishonest(history(*SOUND), EXPECTED)


def test_tokens_may_come_in_other_packets():
    repacked = [chunk([7, 8], "ab"), chunk([9], "c"), *SOUND[2:]]
    assert violations(history(*repacked), EXPECTED) == []


@pytest.mark.parametrize("payloads, what", [
    (SOUND[:1] + SOUND[2:], "the first 1 are right"),
    (SOUND[:2] + SOUND[1:], "the first 3 are right"),
    (changed(1, lambda e: e["choices"][0].update(token_ids=[8, 4])), "the first 2 are right"),
    (changed(0, lambda e: e["choices"][0].update(text="x")), "text is not"),
    (changed(0, lambda e: e["choices"][0]["logprobs"].update(token_logprobs=[-0.25])), "logprobs is not"),
    (changed(2, lambda e: e["choices"][0].update(finish_reason="length")), "finish_reason is not"),
    (changed(3, lambda e: e["usage"].update(completion_tokens=9)), "usage counts"),
    (SOUND[:3] + SOUND[2:], "goes on after its finish_reason"),
    (SOUND[:4], "not one [DONE]"),
    (SOUND + [DONE], "not the last event"),
    (SOUND[:2] + [{"error": {"message": "gone"}}], "ended with an error"),
    (SOUND[:3] + [chunk([5], "z", index=1)] + SOUND[3:], "choices [0, 1]"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_history_is_seen(payloads, what):
    found = violations(history(*payloads), EXPECTED)
    assert any(what in line for line in found), found


def test_an_end_on_a_truncated_answer_is_dishonest_and_an_error_is_not():
    cut_short, error = SOUND[:1], {"error": {"message": "gone"}}
    assert is_dishonest(history(*cut_short, *SOUND[2:]), EXPECTED)
    assert is_dishonest(history(*cut_short, DONE), EXPECTED)
    told = history(*cut_short, error)
    assert is_lost(told) and not is_dishonest(told, EXPECTED)


def test_the_longest_pause_is_between_tokens():
    told = history(chunk([7], "a"), chunk([8], "b"), chunk([9, 4], "cd"), *SOUND[2:])
    assert told.longest_pause() == (pytest.approx(0.1), pytest.approx(0.0))
    assert told.longest_pause(since=0.2) == (pytest.approx(0.05), pytest.approx(0.1))
    assert told.longest_pause(since=0.3) == (0.0, 0.0)

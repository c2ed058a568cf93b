"""Drafts change the time that an answer takes, and not one bit of it.

Requests whose answers repeat themselves, and some that do not, are asked without drafts, and then with: alone, all at
once and over workers. Floats are compared as the JSON text they were printed as.
"""
import concurrent.futures

import pytest

import checksum_model
from cluster import Cluster

LINE = "river stone market lantern seven garden Orla why does\n"
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Current weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}


def completion(**changes):
    return "/v1/completions", {"prompt": LINE * 6, "max_tokens": 120, "temperature": 0, "seed": 1, "ignore_eos": True,
                              **changes}


def chat(*messages, **changes):
    return "/v1/chat/completions", {
        "messages": [{"role": role, "content": content} for role, content in messages], "temperature": 0, "seed": 1,
        **changes}


ASKED_BEFORE = [("user", "What is the weather in Oslo?"),
                ("assistant", 'I call get_weather(city="Oslo") and then get_weather(city="Delhi").'),
                ("user", "What is the weather in Oslo and what is the weather in Delhi?")]
REQUESTS = [
    completion(),
    completion(prompt="Once upon a time", max_tokens=200),
    *(completion(temperature=1, seed=seed, max_tokens=tokens) for seed, tokens in enumerate([1, 2, 3, 17, 150, 151])),
    completion(temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, seed=5, n=2),
    completion(logprobs=5, n=2, temperature=1, seed=6),
    completion(logprobs=0, echo=True),
    completion(repetition_penalty=1.05, temperature=0.5, seed=7),
    completion(frequency_penalty=0.1, presence_penalty=0.2, temperature=0.3, seed=8, logprobs=2),
    completion(repetition_penalty=0.9, temperature=1, seed=9, max_tokens=200),
    completion(logit_bias={"300": 3, "301": -2}, temperature=1, seed=10),
    *(completion(temperature=temperature, seed=11, stop=stop) for temperature in (0, 1)
      for stop in ["why why why", "garden garden gar", ["en g", "y w"], "does\nriver"]),
    completion(prompt="Once upon a time", stop="Once upon.Once upon.On", max_tokens=200),
    completion(ignore_eos=False, temperature=1, seed=12, max_tokens=200),
    chat(("user", "What is 47 + 38?"), ("assistant", "47 + 38 = 85"), ("user", "What is 47 + 38?"), logprobs=True,
         top_logprobs=3),
    chat(("user", "Hello! Who are you?"), n=2, temperature=1, seed=13),
    chat(*ASKED_BEFORE, tools=[WEATHER]),
    chat(*ASKED_BEFORE, tools=[WEATHER], temperature=1, seed=14),
]


def without_ids(body):
    """What is the same whenever it is asked: not when that was, nor the names that were drawn for it, nor how much of
    the prompt was known already."""
    if isinstance(body, dict):
        return {key: without_ids(value) for key, value in body.items()
                if key not in ("id", "created", "prompt_tokens_details")}
    return [without_ids(value) for value in body] if isinstance(body, list) else body


def ask(cluster, request):
    path, body = request
    status, answer = cluster.post(path, {**body, "return_token_ids": True})
    assert status == 200, answer
    return repr(without_ids(answer))


def alone(cluster):
    return [ask(cluster, request) for request in REQUESTS]


def together(cluster):
    with concurrent.futures.ThreadPoolExecutor(len(REQUESTS)) as pool:
        return list(pool.map(lambda request: ask(cluster, request), REQUESTS))


@pytest.fixture(scope="module")
def plain():
    with Cluster(workers=0, flags={"serve": ["--draft-tokens-max", 0]}) as cluster:
        answers = alone(cluster)
        assert cluster.metric("braid_router_drafted_tokens_total") == 0
    return answers


def compare(answers, plain):
    for request, answer, right in zip(REQUESTS, answers, plain):
        assert answer == right, request


@pytest.mark.parametrize("drafts", [1, 6, 8])
def test_answers_alone(plain, drafts):
    with Cluster(workers=0, flags={"serve": ["--draft-tokens-max", drafts]}) as cluster:
        compare(alone(cluster), plain)
        drafted = cluster.metric("braid_router_drafted_tokens_total")
        accepted = cluster.metric("braid_router_accepted_tokens_total")
        print(f"{drafted:.0f} tokens drafted, {accepted:.0f} of them right")
        assert 300 < accepted < drafted


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_together(plain, workers):
    flag = ["--draft-tokens-max", 6]
    with Cluster(workers=workers, flags={"serve": flag, "router": flag}) as cluster:
        for _ in range(2):
            compare(together(cluster), plain)
        metric = cluster.router_metric if workers else cluster.metric
        assert metric("braid_router_accepted_tokens_total") > 0


def test_a_stream_says_what_the_whole_answer_says(plain):
    path, body = REQUESTS[0]
    with Cluster(workers=0) as cluster:
        for temperature in (0, 1):
            request = {**body, "temperature": temperature, "seed": 4, "return_token_ids": True}
            status, whole = cluster.post(path, request)
            assert status == 200, whole
            ids, text = [], ""
            for event in cluster.stream(path, request):
                for choice in event["choices"]:
                    ids += choice.get("token_ids") or []
                    text += choice["text"]
            assert (ids, text) == (whole["choices"][0]["token_ids"], whole["choices"][0]["text"])


def test_half_guessed_answers_of_the_checksum_model(tmp_path):
    """With few words every guess has a chance, and none is sure: its answers are known from elsewhere."""
    settings = {"eos": 2, "alphabet": 3}
    model = checksum_model.write_model(tmp_path, **settings)
    with Cluster(workers=2, model=model, flags={"router": ["--draft-tokens-max", 8]}) as cluster:
        def check(seed):
            for length in (1, 2, 30):
                prompt = [(seed * seed + i * i) % 2 for i in range(length)]
                expected = checksum_model.answer(prompt, 100, **settings)
                status, body = cluster.post("/v1/completions", {"prompt": prompt, "max_tokens": 100, "seed": seed,
                                                                "temperature": seed % 2, "return_token_ids": True})
                assert status == 200, body
                assert body["choices"][0]["token_ids"] == expected
        for seed in range(4):
            check(seed)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(check, range(16)))


def test_two_letters_of_the_checksum_model(tmp_path):
    """Half of the guesses are right. Whether that pays is for the measured times of steps to say, which on a busy
    machine may take a while: asked until there were some."""
    settings = {"alphabet": 2}
    model = checksum_model.write_model(tmp_path, **settings)
    with Cluster(workers=2, model=model) as cluster:
        for length in [1, 7, *range(33, 80)]:
            prompt = [i % 2 for i in range(length)]
            status, body = cluster.post("/v1/completions", {"prompt": prompt, "max_tokens": 300,
                                                            "return_token_ids": True})
            assert status == 200, body
            assert body["choices"][0]["token_ids"] == checksum_model.answer(prompt, 300, **settings)
            drafted = cluster.router_metric("braid_router_drafted_tokens_total")
            accepted = cluster.router_metric("braid_router_accepted_tokens_total")
            if length >= 33 and drafted > accepted > 0:
                break
        print(f"{drafted:.0f} tokens drafted, {accepted:.0f} of them right")
        assert drafted > accepted > 0

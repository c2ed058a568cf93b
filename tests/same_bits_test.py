"""P1: the answer does not depend on the cluster.

32 mixed requests give identical token ids and log probabilities alone and together, whatever the prefill chunk, however
many workers there are, with drafts and without, and whether they begin with what others have computed (more of that:
prefix_cache_test.py). Floats are compared as the JSON text they were printed as: bit for bit.
"""
import concurrent.futures
import random

import pytest

from cluster import Cluster

WORDS = "river stone market lantern seven garden Orla why does 12 345 the a of Braid? naïve 東京 🙂 def f(x):".split()


def mixed_requests():
    rng = random.Random(7)
    requests = []
    for i in range(32):
        length = rng.choice([1, 3, 9, 40, 150, 700 if i % 8 == 0 else 60])
        requests.append({
            "prompt": " ".join(rng.choice(WORDS) for _ in range(length)),
            "max_tokens": rng.choice([1, 8, 24]),
            "temperature": rng.choice([0, 0.7, 1.0, 1.5]),
            "top_k": rng.choice([0, 5, 80]),
            "top_p": rng.choice([1.0, 0.9]),
            "min_p": rng.choice([0.0, 0.05]),
            "repetition_penalty": rng.choice([1.0, 1.05, 1.3]),
            "frequency_penalty": rng.choice([0.0, 0.5]),
            "seed": i,
            "n": 2 if i % 5 == 0 else 1,
            "logprobs": 5,
            "echo": i % 4 == 0,
            "return_token_ids": True,
        })
    return requests


def ask(cluster, request):
    status, answer = cluster.post("/v1/completions", request)
    assert status == 200, answer
    return [(choice["token_ids"], choice["text"], repr(choice["logprobs"]), choice["finish_reason"])
            for choice in answer["choices"]]


def alone(cluster):
    return [ask(cluster, request) for request in mixed_requests()]


def together(cluster, seed=0):
    """All at once, in a shuffled order, so that every batch mixes prefill and decode of others."""
    requests = mixed_requests()
    order = list(range(len(requests)))
    random.Random(seed).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        futures = {i: pool.submit(ask, cluster, requests[i]) for i in order}
        return [futures[i].result() for i in range(len(requests))]


@pytest.fixture(scope="module")
def reference():
    """Of a cluster without a prefix cache; the others have one."""
    with Cluster(workers=0, flags={"serve": ["--share-prefixes", "none"]}) as cluster:
        answers = alone(cluster)
        assert together(cluster) == answers, "batched together in one process"
        assert cluster.metric("braid_router_prefix_saves_total") == 0
    return answers


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers(reference, workers):
    with Cluster(workers=workers) as cluster:
        assert together(cluster) == reference
        assert together(cluster, seed=1) == reference, "from what was computed before"
        assert cluster.router_metric("braid_router_prefix_hit_tokens_total") > 1000


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
def test_any_prefill_chunk(reference, chunk):
    with Cluster(workers=2, flags={"router": ["--chunk-tokens", chunk]}) as cluster:
        assert together(cluster, seed=chunk) == reference


@pytest.mark.parametrize("drafts", [0, 3])
def test_any_number_of_drafts(reference, drafts):
    with Cluster(workers=2, flags={"router": ["--draft-tokens-max", drafts]}) as cluster:
        assert together(cluster, seed=drafts) == reference


def test_any_number_of_threads(reference):
    with Cluster(workers=0, flags={"serve": ["--threads", 3]}) as cluster:
        assert together(cluster) == reference


def test_alone_on_two_workers_over_tcp(reference):
    with Cluster(workers=2, flags={"worker": ["--ucx-transports", "tcp,self"]}) as cluster:
        assert alone(cluster) == reference


def test_int8_keys_and_values_are_as_exact(reference):
    """They round otherwise, so answers are others, and these are the same everywhere again."""
    flags = ["--kv-type", "int8"]
    with Cluster(workers=0, flags={"serve": [*flags, "--share-prefixes", "none"]}) as cluster:
        answers = alone(cluster)
    assert answers != reference
    with Cluster(workers=2, flags={"worker": flags}) as cluster:
        assert cluster.request("GET", "/v1/models")[1]["data"][0]["kv_type"] == "int8"
        assert together(cluster) == answers
        assert together(cluster, seed=1) == answers, "from what was computed before"
